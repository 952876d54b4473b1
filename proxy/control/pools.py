"""Who is ready: membership → `PoolSnapshot`, one per service.

The only place that decides the status of an instance. It does no I/O and reads no clock:
`now` is an argument (monotonic seconds). What it costs is proportional to what changed:
a service whose instances are the identical tuple as before is not looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from proxy.model import Instance, Membership, PoolNode, PoolSnapshot, Status

FORGET_AFTER = 600.0
"""Seconds for which a service that left the registry keeps an empty pool. Its template routes
answer 503 ("come back") meanwhile and 404 ("there is no such thing") after; ten minutes is
longer than a slow deployment has nothing running."""

SLOT_REST = 5.0
"""Seconds a freed board column stays unused. A worker that has not applied the removal yet may
still pick the old instance; that takes milliseconds, or a worker is about to be replaced."""

_SLOT_LOOKS = 8
"""Resting columns looked at for each new instance, so that a mass registration while thousands
of tunnels hold their columns stays cheap."""


class Slots:
    """Owns the columns of the in-flight board: which instance counts where.

    Column 0 belongs to nobody; an instance gets it when all others are taken, and is then
    counted within each worker only.
    """

    def __init__(self, capacity: int, idle: Callable[[int], bool]) -> None:
        """`capacity`: columns of the board, column 0 included; `idle`: is it zero in all rows?"""
        self._capacity = capacity
        self._idle = idle
        self._held: dict[tuple[str, str], int] = {}
        self._resting: dict[tuple[str, str], tuple[int, float]] = {}
        """In the order they were freed."""
        self._fresh = 1

    def take(self, service: str, key: str, now: float) -> int:
        """The column of this instance. One that comes back gets the column it had, because
        requests from before it left may still count there."""
        name = (service, key)
        if name in self._held:
            return self._held[name]
        if name in self._resting:
            slot, _ = self._resting.pop(name)
        else:
            slot = self._reusable(now)
            if not slot and self._fresh < self._capacity:
                slot = self._fresh
                self._fresh += 1
        if slot:
            self._held[name] = slot
        return slot

    def _reusable(self, now: float) -> int:
        # Old columns before new ones: workers compare the board up to the highest in use.
        for name, (slot, since) in list(itertools.islice(self._resting.items(), _SLOT_LOOKS)):
            if now - since < SLOT_REST:
                break
            del self._resting[name]
            if self._idle(slot):
                return slot
            self._resting[name] = (slot, now)
        return 0

    def free(self, service: str, key: str, now: float) -> None:
        """The instance left. Its column rests until nothing counts in it any more."""
        slot = self._held.pop((service, key), 0)
        if slot:
            self._resting[(service, key)] = (slot, now)


@dataclass(frozen=True, slots=True)
class Member:
    """One instance of a pool with the verdict on it."""

    instance: Instance
    status: Status
    reason: str
    """Why it is not ready; empty when it is."""
    slot: int


@dataclass(slots=True)
class Tally:
    """What was seen of one service in the registry, counted since the pool exists."""

    discoveries: int = 0
    """Times its set of instances was learnt anew: the first list and each change."""
    registered: int = 0
    deregistered: int = 0
    updated: int = 0
    health: dict[str, int] = field(default_factory=dict)
    """`healthy | draining | unhealthy` → statements read from the registry."""


@dataclass(slots=True)
class Pool:
    """One service as the control process knows it. Only `PoolBook` writes to it."""

    service: str
    static: bool
    source: tuple[Instance, ...] = ()
    members: tuple[Member, ...] = ()
    snapshot: PoolSnapshot = field(default_factory=lambda: PoolSnapshot("", 0, ()))
    empty_since: float | None = None
    """When the registry last named it, if it does not now."""
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True)
class Changes:
    """What one update did."""

    pools: tuple[str, ...] = ()
    """Services whose snapshot is a new one."""
    gone: tuple[str, ...] = ()
    """Services that have no pool any more."""
    registered: int = 0
    deregistered: int = 0
    updated: int = 0
    panic_began: tuple[str, ...] = ()
    panic_ended: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pools or self.gone)


def judge(instance: Instance) -> tuple[Status, str]:
    """Status of an instance by what the registry says of it, and the reason if not ready."""
    if instance.health == "draining":
        return "draining", _because("draining in the registry", instance.health_message)
    if instance.health != "healthy":
        return "unhealthy", _because(
            f"{instance.health!r} in the registry", instance.health_message
        )
    if instance.weight == 0:
        return "draining", "weight 0"
    return "ready", ""


def _because(reason: str, message: str) -> str:
    return f"{reason}: {message}" if message else reason


def panics(statuses: Iterable[Status]) -> bool:
    """Nobody is ready, but some would serve if health were ignored: then it is ignored, because
    an instance that is wrongly believed dead serves better than none. Those that drain were
    taken out on purpose and stay out."""
    failing = False
    for status in statuses:
        if status == "ready":
            return False
        failing = failing or status != "draining"
    return failing


class PoolBook:
    """Owns the pools of all services, and through `Slots` the columns of the board."""

    def __init__(
        self,
        static: Mapping[str, tuple[Instance, ...]],
        slots: Slots,
        now: float,
    ) -> None:
        """`static`: services whose instances stand in the configuration. What the registry
        says of a service of that name is ignored."""
        self._slots = slots
        self._pools: dict[str, Pool] = {}
        self._generations = itertools.count(1)
        self.complete = False
        """The first full set of the registry is known."""
        self.changed_at = now
        """When a pool last changed."""
        for service, instances in static.items():
            pool = self._pools[service] = Pool(service, static=True)
            self._fill(pool, instances, now)

    @property
    def pools(self) -> Mapping[str, Pool]:
        """All pools by service, for reading."""
        return MappingProxyType(self._pools)

    def snapshot(self, service: str) -> PoolSnapshot | None:
        """The current snapshot, None if there is no such pool."""
        pool = self._pools.get(service)
        return None if pool is None else pool.snapshot

    def apply(self, membership: Membership, now: float) -> Changes:
        """Take over a whole membership; also forget pools that were empty for long."""
        self.complete = True
        update = _Update()
        for service, instances in membership.services.items():
            pool = self._pools.get(service)
            if pool is None:
                if not instances:
                    continue
                pool = self._pools[service] = Pool(service, static=False)
            elif pool.static or pool.source is instances:
                continue
            self._learn(pool, instances, now, update)
        for service, pool in self._pools.items():
            if pool.source and not pool.static and service not in membership.services:
                self._learn(pool, (), now, update)
        self._forget(now, update)
        return self._finish(update, now)

    def expire(self, now: float) -> Changes:
        """Forget pools that were empty for long. Call every now and then."""
        update = _Update()
        self._forget(now, update)
        return self._finish(update, now)

    def _finish(self, update: _Update, now: float) -> Changes:
        changes = update.changes()
        if changes:
            self.changed_at = now
        return changes

    def _forget(self, now: float, update: _Update) -> None:
        expired = [
            service
            for service, pool in self._pools.items()
            if pool.empty_since is not None and now - pool.empty_since >= FORGET_AFTER
        ]
        for service in expired:
            del self._pools[service]
        update.gone += expired

    def _learn(
        self, pool: Pool, instances: tuple[Instance, ...], now: float, update: _Update
    ) -> None:
        """The registry's view of one service is another tuple than before."""
        if instances != pool.source:
            pool.tally.discoveries += 1
        _count(pool, instances, update)
        had_panic = pool.snapshot.panic
        if self._fill(pool, instances, now):
            update.pools.append(pool.service)
        if pool.snapshot.panic != had_panic:
            (update.panic_ended if had_panic else update.panic_began).append(pool.service)
        pool.empty_since = None if instances else now

    def _fill(self, pool: Pool, instances: tuple[Instance, ...], now: float) -> bool:
        """Judge the instances of one service; True if that gave a new snapshot."""
        before = pool.snapshot
        known = {
            member.instance.id: (member, node)
            for member, node in zip(pool.members, before.nodes, strict=True)
        }
        members: list[Member] = []
        nodes: list[PoolNode] = []
        for instance in instances:
            old = known.pop(instance.id, None)
            if old is not None and old[0].instance is instance:
                # The usual case, which keeps a change in a pool of thousands cheap.
                member, node = old
            else:
                slot = self._slot(pool.service, instance, None if old is None else old[0], now)
                member = Member(instance, *judge(instance), slot)
                node = _node(member)
            members.append(member)
            nodes.append(node)
        for _, node in known.values():
            self._slots.free(pool.service, node.key, now)
        pool.source = instances
        pool.members = tuple(members)
        if before.generation and before.nodes == tuple(nodes):
            return False
        pool.snapshot = PoolSnapshot(
            service=pool.service,
            generation=next(self._generations),
            nodes=tuple(nodes),
            panic=panics(member.status for member in members),
        )
        return True

    def _slot(self, service: str, instance: Instance, old: Member | None, now: float) -> int:
        """The column of an instance that is new or reads differently than `old`."""
        key = instance.key
        if old is not None:
            if old.instance.key == key:
                # One that came while the board was full stays uncounted, too: a column that
                # it got later would miss what it has in flight.
                return old.slot
            self._slots.free(service, old.instance.key, now)
        return self._slots.take(service, key, now)


@dataclass(slots=True)
class _Update:
    """`Changes` while they are being collected."""

    pools: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    registered: int = 0
    deregistered: int = 0
    updated: int = 0
    panic_began: list[str] = field(default_factory=list)
    panic_ended: list[str] = field(default_factory=list)

    def changes(self) -> Changes:
        return Changes(
            pools=tuple(self.pools),
            gone=tuple(self.gone),
            registered=self.registered,
            deregistered=self.deregistered,
            updated=self.updated,
            panic_began=tuple(self.panic_began),
            panic_ended=tuple(self.panic_ended),
        )


def _node(member: Member) -> PoolNode:
    instance = member.instance
    return PoolNode(
        key=instance.key,
        id=instance.id,
        address=instance.address,
        port=instance.port,
        weight=instance.weight,
        status=member.status,
        slot=member.slot,
    )


def _count(pool: Pool, instances: tuple[Instance, ...], update: _Update) -> None:
    """Registrations by id: a record that reads differently is an update, even of its address."""
    before = {instance.id: instance for instance in pool.source}
    registered = updated = 0
    for instance in instances:
        old = before.pop(instance.id, None)
        if old == instance:
            continue
        if old is None:
            registered += 1
        else:
            updated += 1
        # Three words, whatever the registry says: a label must not grow with its input.
        status = instance.health if instance.health in ("healthy", "draining") else "unhealthy"
        pool.tally.health[status] = pool.tally.health.get(status, 0) + 1
    pool.tally.registered += registered
    pool.tally.updated += updated
    pool.tally.deregistered += len(before)
    update.registered += registered
    update.updated += updated
    update.deregistered += len(before)
