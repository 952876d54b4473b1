"""Readiness and weight of instances: membership → `PoolSnapshot`, one per service.

The only place that decides the status of an instance. What others found out about it arrives as
overrides (drained by the operator, failed its checks, ejected), which belong to the instance's
identity and so survive every membership. It does no I/O and reads no clock: `now` is an argument
(monotonic seconds). What it costs is proportional to what changed: a service whose instances
are the identical tuple as before, and that got no override, is not looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from proxy.control.derived import Derived
from proxy.control.ejections import PoolCounts
from proxy.control.judging import NO_OVERRIDES, Overrides, judge, panics, weighed
from proxy.control.pool import Changes, Member, Pool, node_of
from proxy.control.slots import Slots
from proxy.control.slow_start import SCALE
from proxy.destinations import Destinations
from proxy.membership import Instance, Membership
from proxy.messages import PoolNode, PoolSnapshot
from proxy.settings.choosing import chosen
from proxy.settings.route import RouteSpec
from proxy.settings.service import PoolSettings

FORGET_AFTER = 600.0
"""Seconds for which a service that left the registry keeps an empty pool. Its template routes
answer 503 meanwhile and 404 after; no slow deployment has nothing running for longer."""

SHORTEST_STEP = 0.05
"""Seconds between two steps of a slow start at least: the time a change has to reach workers."""


class PoolRegistry:
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
        routes: Sequence[RouteSpec] = (),
        derived: Mapping[str, str] = MappingProxyType({}),
        trusted: bool = True,
    ) -> None:
        """`static`: services whose instances stand in the configuration. What the registry
        says of a service of that name is ignored. `settings`: by service; `defaults` for
        those it does not name. `destinations`: where the registry's instances may not lead;
        `routes`: what they ask of metadata is looked for; `derived`: services that have the
        instances of another one; `trusted`: the configuration is all of the machine's own file,
        whose instances may lead anywhere."""
        self._derived = Derived(derived)
        self._trusted = trusted
        self._wheres = _wheres(routes)
        self.slots = slots
        self._destinations = destinations or Destinations()
        self._settings = settings or {}
        self._defaults = defaults or PoolSettings()
        self.overrides: dict[str, Overrides] = {}
        """By service; for reading."""
        self._dirty: dict[str, set[str]] = {}
        """Services with overrides that their pool does not show yet → ids and keys concerned."""
        self._steps: set[str] = set()
        """Services with a `step_at`."""
        self._pools: dict[str, Pool] = {}
        self._on_fallback: set[str] = set()
        """Services that were told of as served by their fallback."""
        self.listed: Mapping[str, tuple[Instance, ...]] = {}
        """The registry's latest view, of all services; for reading."""
        self._to_registry: set[str] = set()
        """Services that stand in the configuration no more, and whose instances from there are
        served until the registry has told all."""
        self._generations = itertools.count(1)
        self.complete = False
        """The first full set of the registry is known."""
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
    def by_service(self) -> Mapping[str, Pool]:
        """All pools by service, for reading."""
        return MappingProxyType(self._pools)

    def snapshot(self, service: str) -> PoolSnapshot | None:
        """The current snapshot, None if there is no such pool."""
        pool = self._pools.get(service)
        return None if pool is None else pool.snapshot

    def settings(self, service: str) -> PoolSettings:
        """The settings of a service, or the defaults."""
        return self._settings.get(service, self._defaults)

    def counts(self, service: str, keys: Collection[str]) -> dict[str, PoolCounts]:
        """Counts for decisions on ejections of these instances, in one walk over the pool; those
        that are not in it are left out."""
        pool = self._pools.get(service)
        total = ready = 0
        found: dict[str, bool] = {}
        for member in () if pool is None else pool.members:
            total += member.status != "draining"
            ready += member.status == "ready"
            if (key := member.instance.key) in keys:
                found[key] = member.status == "ready"
        return {key: PoolCounts(total, ready, is_ready) for key, is_ready in found.items()}

    def named(self, service: str, id_: str) -> Member | None:
        """The instance with this id."""
        pool = self._pools.get(service)
        members = () if pool is None else pool.members
        return next((member for member in members if member.instance.id == id_), None)

    def identities(self) -> set[tuple[str, str]]:
        """Service and key of every member of a pool, and of those that left while busy."""
        return self.slots.left().keys() | {
            (service, member.instance.key)
            for service, pool in self._pools.items()
            for member in pool.members
        }

    # ----------------------------------------------------------------------- overrides
    #
    # An override is seen in the pool after `settle`, so that many of them cost one new snapshot.

    def drain(self, service: str, id_: str, everywhere: str | None = None) -> None:
        """The operator takes an instance out, and whatever else is registered by that id.
        `everywhere`: who had the whole fleet do so, which is undone for itself."""
        if everywhere is None:
            self._overriding(service, id_).drained.add(id_)
        else:
            self._overriding(service, id_).marked[id_] = everywhere

    def undrain(self, service: str, id_: str, everywhere: bool = False) -> None:
        """The operator's drain, or the fleet's, is over. Safe without one."""
        found = self._overriding(service, id_)
        found.marked.pop(id_, None) if everywhere else found.drained.discard(id_)

    def weigh(self, service: str, instance: Instance, weight: int) -> None:
        """The operator gives an instance, as the registry tells it, another weight, until it
        registers anew."""
        self._overriding(service, instance.id).weights[instance.id] = instance, weight

    def check(self, service: str, key: str, unhealthy: str | None) -> None:
        """The verdict of active checks: None = healthy or not checked, else what they say."""
        if unhealthy is None:
            self._overriding(service, key).unhealthy.pop(key, None)
        else:
            self._overriding(service, key).unhealthy[key] = unhealthy

    def eject(self, service: str, key: str, reason: str, until: float) -> None:
        """Out for failing requests."""
        self._overriding(service, key).ejected[key] = (reason, until)

    def reinstate(self, service: str, key: str) -> None:
        """The ejection is over. Safe without one."""
        self._overriding(service, key).ejected.pop(key, None)

    def _overriding(self, service: str, whom: str) -> Overrides:
        self._dirty.setdefault(service, set()).add(whom)
        return self.overrides.setdefault(service, Overrides())

    def settle(self, now: float) -> Changes:
        """Show in the pools the overrides that were set."""
        changes = Changes()
        for service, concerned in self._dirty.items():
            pool = self._pools.get(service)
            if pool is not None:
                self._renew(pool, pool.source, now, changes, concerned)
            if not self.overrides.get(service):
                self.overrides.pop(service, None)
        self._dirty.clear()
        return changes

    # ---------------------------------------------------------------------- membership

    def apply(self, membership: Membership, now: float) -> Changes:
        """Take over a whole membership; also forget pools that were empty for long."""
        changes = Changes()
        services = self.listed = self._derived.follow(membership.services)
        for service in self._to_registry:
            self._pools[service].static = False
        self._to_registry.clear()
        for service, instances in services.items():
            pool = self._pools.get(service)
            if pool is None:
                if not instances:
                    continue
                pool = self._pools[service] = Pool(service, static=False)
            elif pool.static or pool.source is instances:
                continue
            self._learn(pool, instances, now, changes)
        for service, pool in self._pools.items():
            if pool.source and not (pool.static or pool.fallback) and service not in services:
                self._learn(pool, (), now, changes)
        if not self.complete:
            self._tell_fallbacks(changes)
        self.complete = True
        self.revision = membership.revision
        self._forget(now, changes)
        return changes

    def configure(
        self,
        static: Mapping[str, tuple[Instance, ...]],
        settings: Mapping[str, PoolSettings],
        defaults: PoolSettings,
        now: float,
        other_destinations: bool = False,
        other_registry: bool = False,
        routes: Sequence[RouteSpec] = (),
        derived: Mapping[str, str] = MappingProxyType({}),
        trusted: bool = True,
    ) -> Changes:
        """Take over another configuration; see `__init__`. Nothing that was found out about an
        instance is lost, and none that stays is missing in between. `other_destinations`: the
        registry's instances may lead elsewhere now; `other_registry`: one that has not told all
        yet, which is the next that `apply` hears of."""
        changes = Changes()
        other_destinations = other_destinations or trusted != self._trusted
        self._trusted = trusted
        old_settings, old_defaults = self._settings, self._defaults
        self._settings, self._defaults = settings, defaults
        moved = self._derived.configure(derived)
        self.listed = self._derived.services
        old_wheres, self._wheres = self._wheres, _wheres(routes)
        other_wheres = old_wheres != self._wheres
        self._to_registry.clear()
        if other_registry:
            self._to_registry.update(
                name for name, pool in self._pools.items() if pool.static and name not in static
            )
        static = {**static, **{name: self._pools[name].source for name in self._to_registry}}
        for service in {**self._pools, **settings, **static}:
            pool = self._pools.get(service)
            was_static = pool is not None and pool.static
            same = settings.get(service, defaults) == old_settings.get(service, old_defaults)
            if (
                same
                and service not in moved
                and not (was_static or service in static or other_destinations or other_wheres)
            ):
                continue
            if pool is None:
                pool = Pool(service, static=False)
            pool.static = service in static
            listed = static[service] if pool.static else self.listed.get(service, ())
            if listed or self.settings(service).fallback or pool.source:
                self._pools[service] = pool
                pool.fallback = pool.fallback and not pool.static
                concerned = {member.instance.key for member in pool.members}
                if pool.static or (listed and listed == pool.source and not pool.fallback):
                    self._renew(pool, listed, now, changes, concerned)
                    pool.empty_since = None
                else:
                    self._learn(pool, listed, now, changes, concerned)
        return changes

    def serve_unknown(self, now: float) -> Changes:
        """Requests are served from now on though the registry has not said anything yet. Nothing
        becomes another thing, but fallbacks that were only there in case are in use."""
        changes = Changes()
        self._tell_fallbacks(changes)
        return changes

    def step(self, now: float) -> Changes:
        """Give newcomers the weight that is theirs by now. Call at `next_step`."""
        changes = Changes()
        for service in list(self._steps):
            pool = self._pools.get(service)
            if pool is None or pool.step_at is None:
                self._steps.discard(service)
            elif pool.step_at <= now:
                self._renew(pool, pool.source, now, changes)
        return changes

    @property
    def next_step(self) -> float | None:
        """When `step` has something to do."""
        times = [pool.step_at for name in self._steps if (pool := self._pools.get(name))]
        return min((at for at in times if at is not None), default=None)

    def expire(self, now: float) -> Changes:
        """Forget pools that were empty for long. Call every now and then."""
        changes = Changes()
        self._forget(now, changes)
        return changes

    def _forget(self, now: float, changes: Changes) -> None:
        expired = [
            service
            for service, pool in self._pools.items()
            if pool.empty_since is not None and now - pool.empty_since >= FORGET_AFTER
        ]
        for service in expired:
            del self._pools[service]
            self._steps.discard(service)
        changes.gone += expired

    def _learn(
        self,
        pool: Pool,
        instances: tuple[Instance, ...],
        now: float,
        changes: Changes,
        concerned: Collection[str] = (),
    ) -> None:
        """The registry's view of one service is another tuple than before."""
        known = () if pool.fallback else pool.source
        pool.tally.discoveries += instances != known
        changes.learned.append(pool.service)
        _count(pool, known, instances, changes)
        pool.fallback = not instances and bool(self.settings(pool.service).fallback)
        if pool.fallback:
            instances = self.settings(pool.service).fallback
            self._tell_fallback(pool, changes)
        elif pool.service in self._on_fallback:
            self._on_fallback.remove(pool.service)
            changes.fallback_ended.append(pool.service)
        self._renew(pool, instances, now, changes, concerned)
        pool.empty_since = None if instances else now

    def _tell_fallbacks(self, changes: Changes) -> None:
        """At each start all services begin with their fallback, for a moment. That is no news
        until requests are served, and then only of those that still do."""
        for pool in self._pools.values():
            if pool.fallback:
                self._tell_fallback(pool, changes)

    def _tell_fallback(self, pool: Pool, changes: Changes) -> None:
        if pool.service not in self._on_fallback:
            self._on_fallback.add(pool.service)
            changes.fallback_began.append(pool.service)

    def _renew(
        self,
        pool: Pool,
        instances: tuple[Instance, ...],
        now: float,
        changes: Changes,
        concerned: Collection[str] = (),
    ) -> None:
        had_panic = pool.snapshot.panic
        if self._fill(pool, instances, now, concerned):
            changes.pools.append(pool.service)
        if pool.snapshot.panic != had_panic:
            (changes.panic_ended if had_panic else changes.panic_began).append(pool.service)

    def _fill(
        self,
        pool: Pool,
        instances: tuple[Instance, ...],
        now: float,
        concerned: Collection[str] = (),
    ) -> bool:
        """Judge the instances of one service that are new, read differently or are `concerned` (by
        id or key); True if that gave a new snapshot."""
        found = self.overrides.get(pool.service, NO_OVERRIDES)
        before = pool.snapshot
        pool.trusted = self._trusted
        known = {
            member.instance.id: (member, node)
            for member, node in zip(pool.members, before.nodes, strict=True)
        }
        members: list[Member] = []
        nodes: list[PoolNode] = []
        settings = self.settings(pool.service)
        for instance in weighed(chosen(instances, settings.subset), found):
            old = known.pop(instance.id, None)
            if (
                old is not None
                and old[0].instance is instance
                and old[1].local == pool.local
                and not (concerned and (instance.id in concerned or instance.key in concerned))
            ):
                # The usual case, which keeps a change in a pool of thousands cheap.
                member, node = old
            else:
                slot = self._slot(pool.service, instance, None if old is None else old[0], now)
                status, reason = judge(instance, found, self._refusal(pool, instance))
                until = found.ejected[instance.key][1] if status == "ejected" else None
                since = now if old is None or old[0].status != status else old[0].since
                member = Member(instance, status, reason, slot, until, since)
                node = node_of(member, pool.local, settings)
            members.append(member)
            nodes.append(node)
        for member, _ in known.values():
            self.slots.free(pool.service, member.instance, now)
        shares = self._newcomers(pool, members, now)
        if shares or pool.scaled:
            pool.scaled = bool(shares)
            nodes = [node_of(member, pool.local, settings, shares) for member in members]
        pool.source = instances
        pool.members = tuple(members)
        panic = panics(
            (member.status for member in members), self.settings(pool.service).panic_threshold
        )
        # A service that has none any more keeps what it had: its routes answer 503 for a while, as
        # those do that demand nothing.
        published = _published(self._wheres, members) if members else before.published
        same = before.panic == panic and before.published == published
        if before.generation and same and before.nodes == tuple(nodes):
            return False
        pool.snapshot = PoolSnapshot(
            service=pool.service,
            generation=next(self._generations),
            nodes=tuple(nodes),
            panic=panic,
            published=published,
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
            self.slots.free(service, old.instance, now)
        return self.slots.take(service, key, now)


def _published(
    wheres: Mapping[str, Mapping[str, str]], members: Sequence[Member]
) -> tuple[str, ...]:
    """The demands of routes that an instance meets."""
    return tuple(
        text
        for text, where in wheres.items()
        if any(where.items() <= member.instance.metadata.items() for member in members)
    )


def _wheres(routes: Sequence[RouteSpec]) -> Mapping[str, Mapping[str, str]]:
    return {route.published: route.where for route in routes if route.where}


def _count(
    pool: Pool, known: tuple[Instance, ...], instances: tuple[Instance, ...], changes: Changes
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
    changes.registered += registered
    changes.updated += updated
    changes.deregistered += len(before)
