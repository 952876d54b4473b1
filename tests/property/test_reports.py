"""What a worker tells in pieces, of what changed, adds up to what it has counted."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.control.statistics import Reported
from proxy.engine import reports
from proxy.engine.load import Board
from proxy.engine.node import Node
from proxy.engine.pool import NO_STATE, Pool
from proxy.engine.reports import Reports
from proxy.engine.resilience.queue import Waiter
from proxy.engine.worker import Worker
from proxy.messages import NodeStats, PoolNode, PoolSnapshot, WorkerStats
from proxy.settings.service import BreakerSettings, QueueSettings, ServiceSettings
from tests.support.loop_and_network import SteppedLoop

NAMES = ("a", "b", "c", "d")
SERVICES = ("s", "t")
LIMITED = ServiceSettings(
    max_inflight=1,
    queue=QueueSettings(size=2),
    circuit_breaker=BreakerSettings(failure_ratio=0.5, min_requests=1, window=2.0, open=2.0),
)
WAITERS = [Waiter() for _ in range(4)]


class Telling(RuleBasedStateMachine):
    """Requests, snapshots and reports in any order, and a turn of the loop now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.board = Board.create(1)
        self.told = Reported()
        self.turns: deque[Callable[[], None]] = deque()
        self.answers: list[int] = []
        self.requests: list[tuple[Pool, Node]] = []
        self.now = 0.0
        self.start()

    @initialize(piece=st.integers(1, 3))
    def small_pieces(self, piece: int) -> None:
        self.piece, reports.PIECE = reports.PIECE, piece

    def start(self) -> None:
        loop = SteppedLoop()
        self.worker = Worker(loop, 0, self.board, None, Random(1), loop.time)
        self.worker.pools.configure(LIMITED, {})
        self.reports = Reports(
            self.worker.counters,
            self.worker.pools,
            self.hear,
            self.turns.append,
            lambda: 0,
            lambda: 0,
            self.worker.names,
        )

    def hear(self, message: WorkerStats) -> None:
        self.told.take(message)
        if not message.more:
            self.answers.append(message.number)

    @rule(service=st.sampled_from(SERVICES), names=st.sets(st.sampled_from(NAMES)))
    def snapshot(self, service: str, names: set[str]) -> None:
        nodes = tuple(
            PoolNode(f"{name}@10.0.0.1:80", name, "10.0.0.1", 80, 1, "ready", 0)
            for name in sorted(names)
        )
        pool = self.worker.pools.get(service)
        generation = 0 if pool is None else pool.generation + 1
        self.worker.pools.apply(PoolSnapshot(service, generation, nodes))

    @rule(service=st.sampled_from(SERVICES))
    def request(self, service: str) -> None:
        pool = self.worker.pools.get(service)
        node = None if pool is None else pool.pick(0, ())
        if pool is not None and node is not None:
            pool.take(node)
            self.requests.append((pool, node))

    @rule(outcome=st.sampled_from(("ok", "connect_refused")))
    def end(self, outcome: str) -> None:
        if self.requests:
            pool, node = self.requests.pop()
            pool.release(node, outcome)
            pool.counters.answered(b"GET", 200, 0.0)

    @rule(service=st.sampled_from(SERVICES), who=st.integers(0, 3))
    def wait_or_leave(self, service: str, who: int) -> None:
        pool = self.worker.pools.get(service)
        if pool is not None:
            waiter = WAITERS[who]
            before = len(pool.policies.queue)
            pool.policies.queue.leave(waiter)
            if len(pool.policies.queue) == before and not pool.policies.queue.enqueue(waiter):
                pool.counters.rejected("max_inflight")

    @rule(service=st.sampled_from(SERVICES), bad=st.booleans(), wait=st.floats(0, 2))
    def guarded(self, service: str, bad: bool, wait: float) -> None:
        self.now += wait
        pool = self.worker.pools.get(service)
        if pool is not None and pool.policies.admit(b"", self.now) is None:
            pool.look_at_breaker()
            if (breaker := pool.policies.breaker) is not None:
                breaker.on_result(bad, self.now, breaker.opened)
            pool.look_at_breaker()

    @rule(service=st.sampled_from(SERVICES))
    def tunnel_closed(self, service: str) -> None:
        pool = self.worker.pools.get(service)
        if pool is not None:
            pool.counters.tunnel_closed()

    @rule(listener=st.sampled_from(NAMES), result=st.sampled_from(("full", "resumed")))
    def handshake(self, listener: str, result: str) -> None:
        self.worker.counters.handshake(listener, result)

    @rule(number=st.integers(0, 5))
    def report(self, number: int) -> None:
        self.reports.report(number)

    @rule()
    def turn(self) -> None:
        if self.turns:
            self.turns.popleft()()

    @rule()
    def forget(self) -> None:
        """The control process forgets whoever left the pools."""
        pools = {pool.service: pool for pool in self.worker.pools}
        self.told.forget({(p.service, key) for p in pools.values() for key in p.nodes}, pools)

    @rule()
    def replaced(self) -> None:
        """The worker dies; another one begins, and is told everything anew."""
        self.told = Reported()
        self.turns.clear()
        self.requests.clear()
        self.board.clear_row(0)
        self.start()

    @rule(number=st.integers(6, 9))
    def all_is_told_by_an_answer(self, number: int) -> None:
        self.reports.report(number)
        while self.turns:
            self.turns.popleft()()
        assert self.answers[-1] == number
        self.complete()

    @rule()
    def all_is_told_at_the_end(self) -> None:
        self.reports.report_at_once()
        self.turns.clear()
        self.complete()

    def complete(self) -> None:
        assert self.told.last.handshakes == self.worker.counters.handshakes
        for pool in self.worker.pools:
            for key, node in pool.nodes.items():
                counted = NodeStats(
                    pool.service,
                    key,
                    node.picks,
                    node.outcomes,
                    on_probation=node.on_probation,
                    failure=node.failure,
                    failed_at=node.failed_at,
                )
                assert self.told.nodes[pool.service, key] == counted
            assert self.told.services[pool.service] == pool.counters.snapshot()
            state = pool.policy_state()
            assert self.told.states.get(pool.service, NO_STATE) == state

    @invariant()
    def nothing_runs_ahead(self) -> None:
        for (service, key), told in self.told.nodes.items():
            pool = self.worker.pools.get(service)
            if pool is not None and key in pool.nodes:
                assert told.picks <= pool.nodes[key].picks or pool.nodes[key].reported == -1

    def teardown(self) -> None:
        reports.PIECE = getattr(self, "piece", reports.PIECE)
        os.close(self.board.fd)


TestTelling = Telling.TestCase
TestTelling.settings = settings(deadline=None)
