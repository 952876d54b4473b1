"""Who is ready, and with which weight: membership → `PoolSnapshot`, one per service.

The only place that decides the status of an instance. What others found out about it arrives as
marks (drained by the operator, failed its checks, ejected), which belong to the instance's
identity and so survive every membership. It does no I/O and reads no clock: `now` is an argument
(monotonic seconds). What it costs is proportional to what changed: a service whose instances
are the identical tuple as before, and that got no mark, is not looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from proxy.control.ejections import Sight
from proxy.control.slow_start import SCALE, SlowStart, scaled
from proxy.destinations import Destinations
from proxy.membership import Instance, Membership
from proxy.messages import PoolNode, PoolSnapshot, Status
from proxy.settings.service import PoolSettings

FORGET_AFTER = 600.0
"""Seconds for which a service that left the registry keeps an empty pool. Its template routes
answer 503 ("come back") meanwhile and 404 ("there is no such thing") after; ten minutes is
longer than a slow deployment has nothing running."""

SLOT_REST = 5.0
"""Seconds a freed board column stays unused. A worker that has not applied the removal yet may
still pick the old instance; that takes milliseconds, or a worker is about to be replaced."""

SHORTEST_STEP = 0.05
"""Seconds between two steps of a slow start at least: the time a change has to reach workers."""

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
    until: float | None = None
    """When an ejection ends."""

    def told(self, now: float) -> str:
        """The reason, and how long it will hold where that is known."""
        left = self.back_in(now)
        return self.reason if left is None else f"{self.reason}, back in {left:.0f} s"

    def back_in(self, now: float) -> float | None:
        """Seconds until an ejection ends."""
        return None if self.until is None else round(max(0.0, self.until - now), 1)


@dataclass(slots=True)
class Marks:
    """What was found out about instances of one service, beside the registry's word.

    Owned by `PoolBook`; kept for instances that left, because they may be back in a moment.
    """

    drained: set[str] = field(default_factory=set)
    """Ids; the operator's word holds for whatever is registered under that name."""
    sick: dict[str, str] = field(default_factory=dict)
    """Key of an instance that fails its active checks → what the last one said."""
    ejected: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Key → reason, and until when."""

    def __bool__(self) -> bool:
        return bool(self.drained or self.sick or self.ejected)


_NO_MARKS = Marks()


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
    fallback: bool = False
    """`source` is not from the registry, which knows nobody, but `fallback_instances`."""
    members: tuple[Member, ...] = ()
    snapshot: PoolSnapshot = field(default_factory=lambda: PoolSnapshot("", 0, ()))
    empty_since: float | None = None
    """When the registry last named it, if it does not now."""
    tally: Tally = field(default_factory=Tally)
    slow_start: SlowStart = field(default_factory=SlowStart)
    scaled: bool = False
    """Weights in the snapshot are multiplied by `SCALE`, because somebody is new."""
    step_at: float | None = None
    """When the weights of newcomers are to be looked at again."""

    @property
    def local(self) -> bool:
        """Its instances stand in the local file."""
        return self.static or self.fallback

    @property
    def warming(self) -> int:
        """Instances in slow start: those with less than their full weight."""
        if not self.scaled:
            return 0
        return sum(
            node.weight < member.instance.weight * SCALE
            for member, node in zip(self.members, self.snapshot.nodes, strict=True)
        )


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
    fallback_began: tuple[str, ...] = ()
    """Services that `fallback_instances` serve from now on."""
    fallback_ended: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pools or self.gone)


def judge(instance: Instance, marks: Marks = _NO_MARKS, refusal: str = "") -> tuple[Status, str]:
    """Status of an instance, and the reason if it is not ready. `refusal`: why its address must not
    be connected to, as far as that is known before names are resolved.

    Whoever takes an instance out on purpose is believed first; then whoever finds it sick,
    the registry or our own checks: it is served only if neither does.
    """
    if instance.id in marks.drained:
        return "draining", "drained by the operator"
    if instance.health == "draining":
        return "draining", _because("draining in the registry", instance.health_message)
    if instance.health != "healthy":
        return "unhealthy", _because(
            f"{instance.health!r} in the registry", instance.health_message
        )
    if instance.weight == 0:
        return "draining", "weight 0"
    if refusal:
        return "unhealthy", refusal
    key = instance.key
    if key in marks.sick:
        return "unhealthy", _because("fails its checks", marks.sick[key])
    if key in marks.ejected:
        return "ejected", marks.ejected[key][0]
    return "ready", ""


def _because(reason: str, message: str) -> str:
    return f"{reason}: {message}" if message else reason


def panics(statuses: Iterable[Status], threshold: float = 0.0) -> bool:
    """Nobody is ready, or a smaller share than `threshold`, but some would serve if health were
    ignored: then it is ignored, because an instance that is wrongly believed dead serves better
    than none, and few that are overrun serve worse than many of which some are dead. Those
    that drain were taken out on purpose: they stay out and do not count."""
    ready = failing = 0
    for status in statuses:
        if status == "ready":
            ready += 1
        elif status != "draining":
            failing += 1
    # Divided, because 0.28 * 25 is more than 7 for a computer, and 7 / 25 is just 0.28.
    return failing > 0 and (not ready or ready / (ready + failing) < threshold)


class PoolBook:
    """Owns the pools of all services, and through `Slots` the columns of the board."""

    def __init__(
        self,
        static: Mapping[str, tuple[Instance, ...]],
        slots: Slots,
        now: float,
        *,
        settings: Mapping[str, PoolSettings] | None = None,
        defaults: PoolSettings | None = None,
        destinations: Destinations | None = None,
    ) -> None:
        """`static`: services whose instances stand in the configuration. What the registry
        says of a service of that name is ignored. `settings`: by service; `defaults` for
        those it does not name. `destinations`: where the registry's instances may not lead."""
        self._slots = slots
        self._destinations = destinations or Destinations()
        self._settings = settings or {}
        self._defaults = defaults or PoolSettings()
        self._marks: dict[str, Marks] = {}
        self._dirty: dict[str, set[str]] = {}
        """Services with marks that their pool does not show yet → ids and keys marked."""
        self._steps: set[str] = set()
        """Services with a `step_at`."""
        self._pools: dict[str, Pool] = {}
        self._on_fallback: set[str] = set()
        """Services that were told of as served by their fallback."""
        self._generations = itertools.count(1)
        self.complete = False
        """The first full set of the registry is known."""
        self.changed_at = now
        """When a pool last changed."""
        self.revision = 0
        """The registry's, of what the pools show."""
        for service, instances in static.items():
            pool = self._pools[service] = Pool(service, static=True)
            self._fill(pool, instances, now)
        for service in self._settings:
            # They serve until the registry names somebody: it may be down at the start, too.
            if service not in static and (fallback := self.settings(service).fallback):
                pool = self._pools[service] = Pool(service, static=False, fallback=True)
                self._fill(pool, fallback, now)

    @property
    def pools(self) -> Mapping[str, Pool]:
        """All pools by service, for reading."""
        return MappingProxyType(self._pools)

    def snapshot(self, service: str) -> PoolSnapshot | None:
        """The current snapshot, None if there is no such pool."""
        pool = self._pools.get(service)
        return None if pool is None else pool.snapshot

    def settings(self, service: str) -> PoolSettings:
        """The settings of a service, or the defaults."""
        return self._settings.get(service, self._defaults)

    def sights(self, service: str, keys: Collection[str]) -> dict[str, Sight]:
        """What ejections of these instances are decided by, in one walk over the pool; those
        that are not in it are left out."""
        pool = self._pools.get(service)
        total = ready = 0
        found: dict[str, bool] = {}
        for member in () if pool is None else pool.members:
            total += member.status != "draining"
            ready += member.status == "ready"
            if (key := member.instance.key) in keys:
                found[key] = member.status == "ready"
        return {key: Sight(total, ready, is_ready) for key, is_ready in found.items()}

    def named(self, service: str, id_: str) -> Member | None:
        """The instance with this id."""
        pool = self._pools.get(service)
        members = () if pool is None else pool.members
        return next((member for member in members if member.instance.id == id_), None)

    # --------------------------------------------------------------------------- marks
    #
    # A mark is seen in the pool after `settle`, so that many of them cost one new snapshot.

    def drain(self, service: str, id_: str) -> None:
        """The operator takes an instance out, and whatever else is registered by that id."""
        self._marked(service, id_).drained.add(id_)

    def undrain(self, service: str, id_: str) -> None:
        """The operator's drain is over. Safe without one."""
        self._marked(service, id_).drained.discard(id_)

    def drained(self, service: str, id_: str) -> bool:
        """By the operator."""
        return id_ in self._marks.get(service, _NO_MARKS).drained

    def check(self, service: str, key: str, sick: str | None) -> None:
        """The verdict of active checks: None = healthy or not checked, else what they say."""
        if sick is None:
            self._marked(service, key).sick.pop(key, None)
        else:
            self._marked(service, key).sick[key] = sick

    def eject(self, service: str, key: str, reason: str, until: float) -> None:
        """Out for failing requests."""
        self._marked(service, key).ejected[key] = (reason, until)

    def reinstate(self, service: str, key: str) -> None:
        """The ejection is over. Safe without one."""
        self._marked(service, key).ejected.pop(key, None)

    def _marked(self, service: str, whom: str) -> Marks:
        self._dirty.setdefault(service, set()).add(whom)
        return self._marks.setdefault(service, Marks())

    def settle(self, now: float) -> Changes:
        """Show the marks that were set in the pools."""
        update = _Update()
        for service, marked in self._dirty.items():
            pool = self._pools.get(service)
            if pool is not None:
                self._renew(pool, pool.source, now, update, marked)
            if not self._marks.get(service):
                self._marks.pop(service, None)
        self._dirty.clear()
        return self._finish(update, now)

    # ---------------------------------------------------------------------- membership

    def apply(self, membership: Membership, now: float) -> Changes:
        """Take over a whole membership; also forget pools that were empty for long."""
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
            if (
                pool.source
                and not (pool.static or pool.fallback)
                and service not in membership.services
            ):
                self._learn(pool, (), now, update)
        if not self.complete:
            self._tell_fallbacks(update)
        self.complete = True
        self.revision = membership.revision
        self._forget(now, update)
        return self._finish(update, now)

    def serve_unknown(self, now: float) -> Changes:
        """Requests are served from now on though the registry has not said anything yet. Nothing
        becomes another thing, but fallbacks that were only there in case are in use."""
        update = _Update()
        self._tell_fallbacks(update)
        return self._finish(update, now)

    def step(self, now: float) -> Changes:
        """Give newcomers the weight that is theirs by now. Call at `next_step`."""
        update = _Update()
        for service in list(self._steps):
            pool = self._pools.get(service)
            if pool is None or pool.step_at is None:
                self._steps.discard(service)
            elif pool.step_at <= now:
                self._renew(pool, pool.source, now, update)
        return self._finish(update, now)

    @property
    def next_step(self) -> float | None:
        """When `step` has something to do."""
        times = [pool.step_at for name in self._steps if (pool := self._pools.get(name))]
        return min((at for at in times if at is not None), default=None)

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
            self._steps.discard(service)
        update.gone += expired

    def _learn(
        self, pool: Pool, instances: tuple[Instance, ...], now: float, update: _Update
    ) -> None:
        """The registry's view of one service is another tuple than before."""
        known = () if pool.fallback else pool.source
        if instances != known:
            pool.tally.discoveries += 1
        _count(pool, known, instances, update)
        pool.fallback = not instances and bool(self.settings(pool.service).fallback)
        if pool.fallback:
            instances = self.settings(pool.service).fallback
            self._tell_fallback(pool, update)
        elif pool.service in self._on_fallback:
            self._on_fallback.remove(pool.service)
            update.fallback_ended.append(pool.service)
        self._renew(pool, instances, now, update)
        pool.empty_since = None if instances else now

    def _tell_fallbacks(self, update: _Update) -> None:
        """At each start all services begin with their fallback, for a moment. That is no news
        until requests are served, and then only of those that still do."""
        for pool in self._pools.values():
            if pool.fallback:
                self._tell_fallback(pool, update)

    def _tell_fallback(self, pool: Pool, update: _Update) -> None:
        if pool.service not in self._on_fallback:
            self._on_fallback.add(pool.service)
            update.fallback_began.append(pool.service)

    def _renew(
        self,
        pool: Pool,
        instances: tuple[Instance, ...],
        now: float,
        update: _Update,
        marked: Collection[str] = (),
    ) -> None:
        had_panic = pool.snapshot.panic
        if self._fill(pool, instances, now, marked):
            update.pools.append(pool.service)
        if pool.snapshot.panic != had_panic:
            (update.panic_ended if had_panic else update.panic_began).append(pool.service)

    def _fill(
        self,
        pool: Pool,
        instances: tuple[Instance, ...],
        now: float,
        marked: Collection[str] = (),
    ) -> bool:
        """Judge the instances of one service that are new, read differently or are `marked` (by
        id or key); True if that gave a new snapshot."""
        marks = self._marks.get(pool.service, _NO_MARKS)
        before = pool.snapshot
        known = {
            member.instance.id: (member, node)
            for member, node in zip(pool.members, before.nodes, strict=True)
        }
        members: list[Member] = []
        nodes: list[PoolNode] = []
        for instance in instances:
            old = known.pop(instance.id, None)
            if (
                old is not None
                and old[0].instance is instance
                and old[1].local == pool.local
                and not (marked and (instance.id in marked or instance.key in marked))
            ):
                # The usual case, which keeps a change in a pool of thousands cheap.
                member, node = old
            else:
                slot = self._slot(pool.service, instance, None if old is None else old[0], now)
                status, reason = judge(instance, marks, self._refusal(pool, instance))
                until = marks.ejected[instance.key][1] if status == "ejected" else None
                member = Member(instance, status, reason, slot, until)
                node = _node(member, pool.local)
            members.append(member)
            nodes.append(node)
        for _, node in known.values():
            self._slots.free(pool.service, node.key, now)
        shares = self._newcomers(pool, members, now)
        if shares or pool.scaled:
            pool.scaled = bool(shares)
            nodes = [_node(member, pool.local, shares) for member in members]
        pool.source = instances
        pool.members = tuple(members)
        if before.generation and before.nodes == tuple(nodes):
            return False
        pool.snapshot = PoolSnapshot(
            service=pool.service,
            generation=next(self._generations),
            nodes=tuple(nodes),
            panic=panics(
                (member.status for member in members),
                self.settings(pool.service).panic_threshold,
            ),
        )
        return True

    def _refusal(self, pool: Pool, instance: Instance) -> str:
        if pool.local:
            return ""
        return self._destinations.refusal_of(instance.address, instance.port)

    def _newcomers(self, pool: Pool, members: list[Member], now: float) -> Mapping[str, float]:
        """Share of full weight of those that are new to the pool, or back in use. Whoever is there
        when the proxy starts is not: it served before us."""
        window = self.settings(pool.service).slow_start
        if not window:
            return {}
        ready = [m.instance.key for m in members if m.status == "ready"]
        if self.complete:
            before = {m.instance.key for m in pool.members if m.status == "ready"}
            newcomers = [key for key in ready if key not in before]
        else:
            newcomers = []
        pool.slow_start.observe(set(ready), newcomers, now)
        shares = pool.slow_start.shares(ready, window, now)
        pool.step_at = None
        if pool.slow_start:
            pool.step_at = now + max(window / SCALE, SHORTEST_STEP)
            self._steps.add(pool.service)
        return shares

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
    fallback_began: list[str] = field(default_factory=list)
    fallback_ended: list[str] = field(default_factory=list)

    def changes(self) -> Changes:
        return Changes(
            pools=tuple(self.pools),
            gone=tuple(self.gone),
            registered=self.registered,
            deregistered=self.deregistered,
            updated=self.updated,
            panic_began=tuple(self.panic_began),
            panic_ended=tuple(self.panic_ended),
            fallback_began=tuple(self.fallback_began),
            fallback_ended=tuple(self.fallback_ended),
        )


def _node(member: Member, local: bool, shares: Mapping[str, float] | None = None) -> PoolNode:
    """`local`: as in `PoolNode`; `shares`: of those that have not their full weight yet, by key."""
    instance = member.instance
    weight = instance.weight
    if shares:
        weight = scaled(weight, shares.get(instance.key, 1.0))
    return PoolNode(
        key=instance.key,
        id=instance.id,
        address=instance.address,
        port=instance.port,
        weight=weight,
        status=member.status,
        slot=member.slot,
        local=local,
    )


def _count(
    pool: Pool, known: tuple[Instance, ...], instances: tuple[Instance, ...], update: _Update
) -> None:
    """Registrations by id: a record that reads differently is an update, even of its address."""
    before = {instance.id: instance for instance in known}
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
