"""Every pool of a worker, by service, and the way from a column of the board to its node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from balancers.weighted_draw import one_of
from proxy.engine.load import OtherRows
from proxy.engine.node import Node
from proxy.engine.pool import Pool
from proxy.engine.pool_context import PoolContext
from proxy.engine.second_look import ServiceNames
from proxy.engine.telemetry import WorkerCounters
from proxy.messages import PoolChange, PoolSnapshot
from proxy.settings.route import SplitSpec
from proxy.settings.service import ServiceSettings


class Pools:
    """Owns every pool of this worker and the way from a column of the board to its node."""

    def __init__(self, counters: WorkerCounters, shared: PoolContext, others: OtherRows) -> None:
        self._counters = counters
        self._shared = shared
        self.others = others
        self._by_name: dict[str, Pool] = {}  # ≤ 1 KiB + 400 B per service
        self.get = self._by_name.get
        """The pool of a service, or None if nobody has heard of it."""
        self.names = ServiceNames()
        """Not complete while the first full set is not known: others may well exist."""
        self._by_slot: dict[int, tuple[Pool, Node]] = {}  # ≤ 1 KiB + 400 B per instance
        self._defaults = ServiceSettings()
        self._tripped: frozenset[str] = frozenset()  # ≤ services
        self._settings: dict[str, ServiceSettings] = {}  # ≤ 1 KiB + 8 KiB per service

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._by_name.values())

    def configure(
        self,
        defaults: ServiceSettings,
        services: dict[str, ServiceSettings],
        tripped: tuple[str, ...] = (),
    ) -> None:
        """New settings for services known and to come. A service of the file exists without
        instances too: its answer is 503, not 404. Circuit breakers of those that are `tripped`
        begin as `trying`."""
        self._tripped = frozenset(tripped)
        self._defaults = defaults
        self._settings = services
        for name in services:  # ≤ services
            self._pool(name)
        for pool in self._by_name.values():  # ≤ services
            pool.configure(services.get(pool.service, defaults))

    def apply(self, snapshot: PoolSnapshot) -> list[Node]:
        """Swap in one service's snapshot. Returns the nodes whose idle connections must go."""
        pool = self._pool(snapshot.service)
        leaving = pool.apply(snapshot)
        self._follow_slots(pool, pool.nodes.values())
        return leaving

    def change(self, change: PoolChange) -> list[Node]:
        """Change the pool of one service. Returns the nodes whose idle connections must go."""
        pool = self._by_name[change.service]
        leaving = pool.change(change)
        self._follow_slots(pool, [pool.nodes[spec.key] for spec in change.nodes])  # ≤ instances
        return leaving

    def _follow_slots(self, pool: Pool, nodes: Iterable[Node]) -> None:
        """Know whose the columns are that these nodes came to, and that others left."""
        for slot in pool.left_slots:  # ≤ instances
            # A column may have gone to another service's instance already: snapshots of
            # different services come in any order.
            entry = self._by_slot.get(slot)
            if entry is not None and not (entry[1].present and entry[1].slot == slot):
                del self._by_slot[slot]
        for node in nodes:  # ≤ instances
            if node.slot and self._by_slot.get(node.slot, (None, None))[1] is not node:
                self._by_slot[node.slot] = (pool, node)
                self.others.used = max(self.others.used, (node.slot + 1) * 4)
                node.load = node.in_flight + self.others.known(node.slot)
                pool.others_moved(node, 0)

    def remove(self, service: str) -> list[Node]:
        """The service is gone. Settings of the file keep its name alive, with no instance."""
        pool = self._by_name.get(service)
        if pool is None:
            return []
        leaving = self.apply(PoolSnapshot(service, pool.generation + 1, ()))
        if service not in self._settings:
            del self._by_name[service]
            self.names.discard(service)
            self._counters.gone(service)
        return leaving

    def falls_in(self, share: float) -> bool:
        """Whether a random request is among this share of them."""
        return self._shared.rng.random() < share

    def one_of(self, split: Sequence[SplitSpec]) -> str:
        """A service of these, at random by their weights."""
        return one_of(split, self._shared.rng).service

    def look(self, now: float) -> int:
        """Look at what other workers have in flight. Returns how often that was done so far."""
        self.others.refresh(now)
        return self.others.looks

    def slot_changed(self, slot: int, delta: int) -> None:
        """Called by `OtherRows`: the other workers' count of one instance moved."""
        entry = self._by_slot.get(slot)
        if entry is not None:
            entry[0].others_moved(entry[1], delta)

    def _pool(self, service: str) -> Pool:
        pool = self._by_name.get(service)
        if pool is None:
            self.names.add(service)
            pool = self._by_name[service] = Pool(
                service,
                self._settings.get(service, self._defaults),
                self._counters.service(service),
                self._shared,
            )
            if service in self._tripped and pool.policies.breaker is not None:
                pool.policies.breaker.resume()
        return pool
