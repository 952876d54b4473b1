"""Pools as a worker holds them: live nodes, and the balancer over one frozen snapshot.

A snapshot says who there is and who is usable; a node carries what was measured here: requests
in flight, idle connections, counts. Nodes are keyed by identity and outlive snapshots, so a pool
update, however large, loses no count.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import Final, cast

from balancers.base import Balancer, hash_key
from balancers.round_robin import RoundRobin
from proxy import catalog
from proxy.engine.callers import Callers
from proxy.engine.node import Node
from proxy.engine.pool_context import PoolContext
from proxy.engine.queue_turns import QueueTurns
from proxy.engine.resilience.breaker import State
from proxy.engine.resilience.policies import Policies
from proxy.engine.resilience.terms import RouteTerms, Terms
from proxy.engine.room import Room
from proxy.engine.settling import Settling
from proxy.engine.sticky import Sticky
from proxy.engine.telemetry import ServiceCounters
from proxy.engine.tiers import is_divided, spread
from proxy.errors import FAULTS, Side
from proxy.http.properties import source_of
from proxy.messages import NodeStats, PolicyState, PoolChange, PoolNode, PoolSnapshot, Suspect
from proxy.settings.service import ServiceSettings, is_keyed

_PROBE: Final = 5.0
"""Seconds that an instance on probation is left alone with one request. That may be an upload which
takes an hour, or wait for an event: it is well, and somebody else finds that out. And if it does
hang, one client in so many seconds is little."""

_REBUILD: Final = 1e-5
"""Seconds for each node before the balancer hears of who cannot be connected to, or can again. It
takes a tenth of that to build: a rack that is gone costs no more of the worker's time than that."""

NO_STATE: Final = PolicyState()

NEUTRAL: Final = frozenset(
    fault.code for fault in FAULTS.values() if fault.side is not Side.UPSTREAM
)
"""Outcomes that are the client's doing or our own, and say nothing of the instance."""


class Pool:
    """Owns the nodes of one service and the balancer that picks among them."""

    def __init__(
        self,
        service: str,
        settings: ServiceSettings,
        counters: ServiceCounters,
        shared: PoolContext,
    ) -> None:
        self.service = service
        self.settings = settings
        self.requests = 0
        """Requests for which an instance was picked, however often: what retries are earned by."""
        self.policies = Policies(hash_key(service.encode()), settings, shared.buckets)
        self.terms: Terms = Terms(settings)
        self.sticky = None if settings.sticky is None else Sticky(service, settings.sticky)
        self.route_terms: RouteTerms = RouteTerms(settings)
        callers = settings.callers
        self.callers = None if callers is None else Callers(service, callers)
        self.settling = Settling(shared.later, lambda error: shared.raised(error, service))
        self.room = Room(self.has_room, shared.look, shared.rng)
        self.turns = QueueTurns(self.policies.queue, shared.later, self.room.any)
        self.newly_unreachable: set[Node] = set()  # ≤ 1 KiB + 100 B per instance
        """Nodes that have become unreachable since the balancer was built."""
        self.on_probation: set[Node] = set()  # ≤ 1 KiB + 100 B per instance
        """Nodes that are back from an ejection, and have yet to answer."""
        self.copies = 0
        """Of requests of other services, under way."""
        self._rebuilding = False
        """Whether the balancer will be built again in a moment."""
        self._breaker = State.CLOSED
        """State of the breaker that was last told of."""
        self.counters = counters
        self.generation = -1
        self._panic = False
        """Too few are ready: health is ignored."""
        self.published: frozenset[str] = frozenset()
        """See `PoolSnapshot`."""
        self._choosable = 0
        """Nodes that the balancer chooses among."""
        self.unknown: dict[Node, None] = {}  # ≤ 1 KiB + 100 B per instance
        """Nodes that the balancer does not know of: admitted, but one could not connect to them
        when it was told."""
        self._any_will_do = False
        """Whether no node can be connected to, as far as is known, so that all are chosen among."""
        self.nodes: dict[str, Node] = {}  # ≤ 1 KiB + 400 B per instance
        self._departed: dict[str, Node] = {}  # ≤ 1 KiB + 400 B per request
        self.left_slots: list[int] = []  # ≤ 1 KiB + 64 B per instance
        """Columns that the latest snapshot's nodes are no longer in."""
        self.rng = shared.rng
        self._shared = shared
        self._row = shared.row
        self.balancer = self._build_balancer([])  # ≤ 8 KiB + 8 KiB per instance
        self.pick: Callable[[int, Collection[Node]], Node | None]
        """The balancer's choice for one attempt: by key, and not among the nodes tried."""
        self._install(self.balancer)

    def apply(self, snapshot: PoolSnapshot) -> list[Node]:
        """Swap in a snapshot. Returns the nodes whose idle connections must go."""
        known, self.nodes = self.nodes, {}
        self.left_slots = []
        leaving: list[Node] = []
        self._panic = snapshot.panic
        self.published = frozenset(snapshot.published)
        for spec in snapshot.nodes:  # ≤ instances
            self._take_over(spec, known.pop(spec.key, None), leaving)
        for node in known.values():  # ≤ instances
            self._part_with(node, leaving)
        self._end_change(snapshot.generation)
        self._rebuild()
        return leaving

    def change(self, change: PoolChange) -> list[Node]:
        """Change what differs from the snapshot before. Returns the nodes whose idle connections
        must go."""
        if change.before != self.generation:
            raise RuntimeError(f"{self.service}: {change.before} changed, not {self.generation}")
        self.left_slots = []
        leaving: list[Node] = []
        gone: list[Node] = []
        for key in change.gone:  # ≤ instances
            node = self.nodes.pop(key)
            gone.append(node)
            self._choosable -= node.usable and node.weight > 0
            self._part_with(node, leaving)
        nodes: list[Node] = []
        for spec in change.nodes:  # ≤ instances
            old = self.nodes.get(spec.key)
            if old is not None:
                self._choosable -= old.usable and old.weight > 0
            node = self._take_over(spec, old, leaving)
            node.usable = node.admitted and not node.unreachable
            self._choosable += node.usable and node.weight > 0
            self.newly_unreachable.discard(node)
            if node.admitted and not node.usable:
                self.unknown[node] = None
            else:
                self.unknown.pop(node, None)
            nodes.append(node)
        self._end_change(change.generation)
        taken_over = False
        if self._choosable and not self._any_will_do and not is_divided(self.settings):
            try:
                taken_over = self.balancer.changed(nodes, gone)
            except Exception as error:
                self._shared.raised(error, self.service)
        if not taken_over:
            self._rebuild()
            return leaving
        self.settling.begin(self.balancer)
        if self.limited:
            self.room.usable = self._choosable
            for node in (*nodes, *gone):  # ≤ instances
                self.room.note(node)
        return leaving

    def _take_over(self, spec: PoolNode, node: Node | None, leaving: list[Node]) -> Node:
        """Let a node, which may be new, be as the control process says."""
        if node is None:
            node = self._departed.pop(spec.key, None)  # One that is back, with requests in flight.
            if node is None:
                node = Node(spec)
            node.reported = -1  # Whoever is told has forgotten it.
        self.nodes[spec.key] = node
        self._move(node, spec.slot)
        node.present = True
        node.weight = node.stated = spec.weight
        node.share = spec.share
        node.place = (spec.tier, not spec.nearby)
        node.local = spec.local
        http2 = spec.protocol != "h1"
        if node.server_name != spec.server_name or node.http2 != http2:
            node.server_name = spec.server_name
            node.http2 = http2
            node.session = None
            leaving.append(node)
        if node.status == "ejected" and spec.status == "ready":
            self._begin_probation(node)
        elif node.on_probation and spec.status != "ready":
            self.end_probation(node)
        node.status = spec.status
        node.admitted = spec.status == "ready" or (
            self._panic and spec.status in ("unhealthy", "ejected")
        )
        if not node.admitted and (node.idle or node.shared):
            leaving.append(node)
        return node

    def _part_with(self, node: Node, leaving: list[Node]) -> None:
        """A node is not in the pool any more."""
        node.present = False
        node.admitted = False
        node.usable = False
        self.newly_unreachable.discard(node)
        self.unknown.pop(node, None)
        self.end_probation(node)
        leaving.append(node)
        self.left_slots.append(node.slot)
        self._departed[node.key] = node

    def _end_change(self, generation: int) -> None:
        self.generation = generation
        for key in [k for k, node in self._departed.items() if node.in_flight == 0]:  # ≤ instances
            del self._departed[key]

    def configure(self, settings: ServiceSettings) -> None:
        """Take over other settings for the same nodes: nothing that was measured is lost."""
        if settings == self.settings:
            return
        self.settings = settings
        for node in self.nodes.values():  # ≤ instances
            node.weight = node.stated
        self.terms = Terms(settings)
        sticky = settings.sticky
        self.sticky = None if sticky is None else Sticky(self.service, sticky)
        self.route_terms = RouteTerms(settings)
        callers = settings.callers
        self.callers = None if callers is None else Callers(self.service, callers)
        self.policies = Policies(
            hash_key(self.service.encode()), settings, self._shared.buckets, self.policies
        )
        self.look_at_breaker()  # It may be another one, or none any more.
        if not self.policies.suspect_after:
            for node in list(self.on_probation):  # ≤ instances
                self.end_probation(node)
        self._rebuild()

    def reach_changed(self, node: Node) -> None:
        """`node` cannot be connected to any more, or can again."""
        if node.unreachable:
            self.newly_unreachable.add(node)
        elif node in self.newly_unreachable:
            self.newly_unreachable.remove(node)
        elif node.usable:
            self._rebuild()  # Nobody was reachable: now there is one to be preferred.
            return
        if not self._rebuilding:
            self._rebuilding = True
            self._shared.later(len(self.nodes) * _REBUILD, self._rebuild)

    def _begin_probation(self, node: Node) -> None:
        """Put a node on probation whose ejection is over: nobody knows whether it is well."""
        if self.policies.suspect_after:
            node.on_probation = True
            node.reassess()
            self.on_probation.add(node)

    def end_probation(self, node: Node) -> None:
        """End the probation of a node that has answered, or for which it does not matter any
        more."""
        if node.on_probation:
            node.on_probation = False
            node.reassess()
            self.on_probation.discard(node)

    def begin_probe(self, node: Node, now: float) -> bool:
        """A first attempt goes to `node`, which is on probation. True if it is to find out whether
        the instance is well; `end_probe` follows."""
        if node.is_probed(now):
            return False
        node.probes += 1
        node.next_probe = now + _PROBE
        return True

    def end_probe(self, node: Node) -> None:
        """End a probe that has found out, or never will."""
        node.probes -= 1

    def has_room(self, node: Node) -> bool:
        """`node` may have one more request. Reads the board itself: a copy a millisecond old
        would let every worker fill the same gap."""
        if not self.limited:
            return True
        in_flight = self._shared.total(node.slot) if node.slot else node.load
        if in_flight < self.policies.max_inflight:
            return True
        self.room.doubt(node)
        return False

    def tick(self, now: float) -> None:
        """A second has passed."""
        policies = self.policies
        policies.budget.tick(self.requests)
        if policies.hedging is not None:
            policies.hedging.tick(self.requests)
        if policies.breaker is not None:
            policies.breaker.tick(now)
            self.look_at_breaker()

    def look_at_breaker(self) -> None:
        """Tell of it if it is in another state than at the last look. To be called whenever it
        was asked, or told of a result."""
        breaker = self.policies.breaker
        state = State.CLOSED if breaker is None else breaker.state
        if state is not self._breaker:
            self._breaker = state
            if state is State.OPEN:
                self.counters.tripped()
            self._shared.breaker_turned(self.service, state.value)

    def policy_state(self) -> PolicyState:
        """Where its limits stand."""
        policies = self.policies
        if policies.breaker is None and not self.limited and not policies.queue:
            return NO_STATE
        state = "" if policies.breaker is None else policies.breaker.state.value
        return PolicyState(state, len(policies.queue))

    def take(self, node: Node) -> None:
        """Count one more request on `node` as picked and in flight."""
        node.picks += 1
        node.in_flight += 1
        node.load += 1
        self._row[node.slot] += 1
        if self._alert:
            self._tell_load(node)

    def release(self, node: Node, outcome: str, against: bool = True) -> None:
        """Count one request on `node` as no longer in flight. `outcome`: `ok`, the code of a fault,
        or a status that speaks against the instance; `against`: an error does so, too."""
        node.in_flight -= 1
        node.load -= 1
        self._row[node.slot] -= 1
        outcomes = node.outcomes
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if outcome == "ok":
            node.failing = 0
        elif against and outcome not in NEUTRAL:
            self._note_failure(node, outcome)
        if self._alert:
            self._tell_load(node)
            if self.limited and self.policies.queue:
                self.turns.on_freed()

    def _tell_load(self, node: Node) -> None:
        if self._follows_load:
            self._report_load(node)
        if self.limited:
            self.room.note(node)

    def note_answer(self, node: Node, seconds: float, now: float) -> None:
        """Tell a balancer that follows answers of one, `seconds` after the node was asked."""
        try:
            self.balancer.answered(node, seconds, now)
        except Exception as error:
            self._shared.raised(error, self.service)

    def _report_load(self, node: Node) -> None:
        """A balancer may be somebody else's: what it raises must keep nobody from counting on."""
        try:
            self.balancer.load_changed(node)
        except Exception as error:
            self._shared.raised(error, self.service)

    def _note_failure(self, node: Node, outcome: str) -> None:
        node.failing += 1
        node.failure, node.failed_at = outcome, self._shared.now()
        after = self.policies.suspect_after
        if after and (node.failing % after == 0 or (node.on_probation and node.probes > 0)):
            self._shared.suspect(
                Suspect(service=self.service, key=node.key, reason=outcome, failures=node.failing)
            )

    def others_moved(self, node: Node, delta: int) -> None:
        """The other workers' sum for `node` is different now."""
        node.load += delta
        if self._alert and node.present:
            self._tell_load(node)

    def changed_nodes(self) -> list[Node]:
        """Nodes whose counts may be others than `stats_of` last told, of the members and of those
        that still have requests in flight. Costs a path of the request nothing: an outcome follows
        a pick, or a request that was in flight when the node was told of."""
        changed = [node for node in self.nodes.values() if node.picks != node.reported]
        if self._departed:
            # Those with nothing in flight are gone for good; the next snapshot forgets them.
            changed += [node for node in self._departed.values() if node.in_flight]
        return changed

    def stats_of(self, node: Node) -> NodeStats:
        """The counts of a node, which are told with this."""
        node.reported = -1 if node.in_flight else node.picks
        latency, seconds = node.answers()
        return NodeStats(
            self.service,
            node.key,
            node.picks,
            dict(node.outcomes),
            node.unreachable,
            node.on_probation,
            latency,
            seconds,
            node.failure,
            node.failed_at,
        )

    def _rebuild(self) -> None:
        """Let the balancer choose among the nodes as they are now. Those that cannot be connected
        to are to it like ones that must not be used, unless there are no others."""
        self._rebuilding = False
        self.newly_unreachable.clear()
        nodes = list(self.nodes.values())
        for node in nodes:  # ≤ instances
            node.usable = node.admitted and not node.unreachable
        self._any_will_do = not any(node.usable and node.weight for node in nodes)
        if self._any_will_do:
            for node in nodes:  # ≤ instances
                node.usable = node.admitted
        if is_divided(self.settings):
            zone = self.settings.zone
            spread(nodes, 1.0 if zone is None else zone.min_ready, is_keyed(self.settings))
        self._choosable = sum(node.usable and node.weight > 0 for node in nodes)
        self.unknown = {node: None for node in nodes if node.admitted and not node.usable}
        self._install(self._build_balancer(nodes))

    def _build_balancer(self, nodes: list[Node]) -> Balancer:
        spec = self.settings.balancer
        try:
            make: Callable[..., Balancer] = catalog.plug_in("balancers", spec.type)
            balancer = make(nodes, self.rng, **spec.params)
            return balancer if self.sticky is None else self.sticky.around(balancer, nodes)
        except Exception as error:
            # The old one does not know these nodes, and somebody has to choose among them.
            self._shared.raised(error, self.service)
            return RoundRobin(nodes, self.rng)

    def _install(self, balancer: Balancer) -> None:
        if type(balancer) is type(self.balancer):
            balancer.inherit(self.balancer)
        self.balancer = balancer
        self.settling.begin(balancer)
        # The balancer returns one of the nodes it was built with.
        self.pick = cast(Callable[[int, Collection[Node]], Node | None], balancer.pick)
        self.limited = self.policies.max_inflight > 0
        self.uses_key = balancer.uses_key
        self.reads_load = balancer.reads_load
        self._follows_load = balancer.follows_load
        self.follows_answers = balancer.follows_answers
        self._alert = self._follows_load or self.limited
        """Whether it is to be told that a load changed."""
        if self.limited or self.policies.queue:  # Some may wait for a limit that is gone.
            self.room.begin(self.nodes.values(), self.policies.max_inflight or sys.maxsize)
        sticky = self.sticky
        own = source_of(self.settings.balancer.key)
        self.key_source = own if sticky is None else sticky.source
        self.rate_source = source_of(self.policies.rate_key or "")

    def _move(self, node: Node, slot: int) -> None:
        """A node's column on the board changed: take our own count along."""
        if slot != node.slot:
            self.left_slots.append(node.slot)
            self._row[node.slot] -= node.in_flight
            self._row[slot] += node.in_flight
            node.slot = slot
