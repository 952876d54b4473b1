"""Whatever clients, instances, the control process and time do, and in whatever order: once they
have all gone, everything that was counted is given back, and nobody waits for anything."""

from __future__ import annotations

import sys
from contextlib import suppress
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from proxy.engine.deadlines import NEVER
from proxy.engine.exchange import Exchange
from proxy.engine.hedge import Hedge, SecondAttempt
from proxy.engine.node import Node
from proxy.engine.resilience.breaker import State
from proxy.engine.upstream.unreachable import AT_ONCE
from proxy.settings.balancer import BalancerSpec
from proxy.settings.hedge import HedgeSettings
from proxy.settings.route import RouteSpec
from proxy.settings.service import (
    BreakerSettings,
    DrainSettings,
    QueueSettings,
    RateLimitSettings,
    RetrySettings,
    ServiceSettings,
    Timeouts,
)
from tests.support.balancer_nodes import Faulty
from tests.support.wire import OK, Peer, Wire, request

NAMES = ("a", "b", "c")
ROUTES = (RouteSpec(path_prefix="/", service="s"),)
EVERYTHING = ServiceSettings(
    max_inflight=1,
    queue=QueueSettings(size=3),
    retry=RetrySettings(
        max_retries=2, on=("connect", "reset", "first_byte", "502", "503", "504"), budget=1.0
    ),
    circuit_breaker=BreakerSettings(failure_ratio=0.5, min_requests=1, window=5.0, open=1.0),
    timeouts=Timeouts(total=9.0, first_byte=2.0, queue=1.5, connect=1.0, idle=3.0),
    drain=DrainSettings(tunnels="close", close_after=1.0),
)
SETTINGS = (
    EVERYTHING,
    ServiceSettings(),
    replace(EVERYTHING, max_inflight=0),
    replace(EVERYTHING, max_inflight=1, queue=QueueSettings(size=1)),
    replace(
        EVERYTHING, circuit_breaker=None, rate_limit=RateLimitSettings(requests=3, per=1.0, burst=3)
    ),
    replace(
        EVERYTHING,
        circuit_breaker=BreakerSettings(failure_ratio=0.5, min_requests=1, window=5.0, open=0.5),
        timeouts=Timeouts(queue=0.0),
    ),
    replace(EVERYTHING, balancer=BalancerSpec(type="least_connections"), circuit_breaker=None),
    replace(
        EVERYTHING,
        balancer=BalancerSpec(type="consistent_hash", key="path"),
        max_inflight=2,
        circuit_breaker=None,
        timeouts=Timeouts(connect=0.0),
    ),
    replace(EVERYTHING, max_inflight=0, hedge=HedgeSettings(after="300ms", max_share=1.0)),
    replace(
        EVERYTHING,
        max_inflight=2,
        hedge=HedgeSettings(after="1ms", max_share=1.0),
        balancer=BalancerSpec(type="peak_ewma"),
        circuit_breaker=None,
        timeouts=Timeouts(connect=5.0),
    ),
)
REQUESTS = (
    *(request("GET /x"),) * 9,  # Most are plain, or little else would happen.
    request("HEAD /x"),
    request("GET /1") + request("POST /2", "Content-Length: 2", body=b"ab"),
    request("POST /x", "Content-Length: 4", body=b"ab"),
    request("PUT /x", "Transfer-Encoding: chunked", body=b"1\r\na\r\n"),
    request("POST /x", "Content-Length: 4", "Expect: 100-continue"),
    request("PUT /x", "Content-Length: 200000", body=b"x" * 100_000),
    request("GET /x", "Connection: Upgrade", "Upgrade: x"),
    b"cd",
    b"0\r\n\r\n",
    b"x" * 100_000,
)
ANSWERS = (
    *(OK,) * 4,
    OK[:-1],
    OK[-1:],
    b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy",
    b"HTTP/1.1 502 Bad\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
    b"0\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\n\r\n",
    b"HTTP/1.1 504 Late\r\n\r\nuntil the end",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"y" * 100_000,
    b"y" * 100_000,
)
END = ("eof", "reset")
who = st.integers(0, 5)


class Life(RuleBasedStateMachine):
    """One worker, some clients and three instances."""

    @initialize(which=st.integers(0, len(SETTINGS) - 1), late_pause=st.booleans())
    def begin(self, which: int, late_pause: bool) -> None:
        self.wire = Wire(*NAMES, settings=SETTINGS[which], late_pause=late_pause)
        self.clients: list[Peer] = []
        self.instances: list[Peer] = []
        self.taken = self.wire.pool.take
        with suppress(AttributeError, TypeError):  # What is compiled takes no hooks.
            self.wire.pool.take = self.take  # type: ignore[method-assign]

    def take(self, node: Node) -> None:
        """An exchange has chosen `node`."""
        exchange = sys._getframe(1).f_locals["self"]
        pool = self.wire.pool
        assert node.admitted
        if isinstance(exchange, SecondAttempt):
            first = exchange._first
            assert first.node is not None
            assert node not in (*first.tried, first.node)
            assert not node.unreachable
            self.taken(node)
            return
        assert isinstance(exchange, Exchange)
        if node.unreachable:
            others = [
                other
                for other in pool.nodes.values()
                if other.usable and not other.unreachable and other not in exchange.tried
            ]
            # A retry cannot wait in line.
            assert not [o for o in others if exchange.attempts == 1 or pool.has_room(o)]
        elif node.on_probation and (
            exchange.admission is None or exchange.admission.probe is not node
        ):
            others = [
                other
                for other in pool.nodes.values()
                if other.usable and not other.impaired and other not in exchange.tried
            ]
            assert not [o for o in others if pool.has_room(o) and o is not exchange.stale_node]
        self.taken(node)

    def one(self, peers: list[Peer], index: int) -> Peer | None:
        there = [peer for peer in peers if not peer.closed]
        return there[index % len(there)] if there else None

    # -- clients

    @rule(index=who, what=st.sampled_from(REQUESTS))
    def ask(self, index: int, what: bytes) -> None:
        there = [client for client in self.clients if not client.closed]
        if index >= len(there):
            self.clients.append(self.wire.client())
        client = self.one(self.clients, index)
        if client is not None:
            client.send(what)

    @rule(index=who, how=st.sampled_from((*END, "stall", *("read_on",) * 4)))
    def client_does(self, index: int, how: str) -> None:
        client = self.one(self.clients, index)
        if client is not None:
            getattr(client, how)()

    # -- instances

    @rule(index=who, what=st.sampled_from(ANSWERS))
    def answer(self, index: int, what: bytes) -> None:
        instance = self.one(self.instances, index)
        if instance is not None:
            instance.send(what)

    @rule(index=who, how=st.sampled_from((*END, "stall", *("read_on",) * 4)))
    def instance_does(self, index: int, how: str) -> None:
        instance = self.one(self.instances, index)
        if instance is not None:
            getattr(instance, how)()

    @rule(
        name=st.sampled_from(NAMES),
        how=st.sampled_from((*("accept",) * 4, *("refuse",) * 3, "hang", "slam")),
    )
    def door(self, name: str, how: str) -> None:
        network, address = self.wire.network, self.wire.address(name)
        network.errors.pop(address, None)
        network.slamming.discard(address)
        if address in network.hanging:
            network.answer(address)
        if how != "accept":
            getattr(network, how)(address)
        self.wire.settle()

    # -- the control process, the other worker, and time

    @rule(
        names=st.sets(st.sampled_from(NAMES)),
        out=st.sampled_from((*NAMES, "")),
        status=st.sampled_from(("draining", "unhealthy", "ejected")),
        panic=st.booleans(),
    )
    def serve(self, names: set[str], out: str, status: str, panic: bool) -> None:
        self.wire.serve(*sorted(names), panic=panic, **({out: status} if out else {}))

    @rule(which=st.integers(0, len(SETTINGS) - 1))
    def reload(self, which: int) -> None:
        self.wire.configure(ROUTES, {"s": SETTINGS[which]})
        self.wire.settle()

    @rule(hook=st.sampled_from(("", "", "pick", "load_changed")), times=st.integers(1, 3))
    def a_plug_in_raises(self, hook: str, times: int) -> None:
        pool = self.wire.pool
        balancer = Faulty(list(pool.nodes.values()), Random(1))
        balancer.raising, balancer.times = (hook,), times
        pool._install(balancer)

    @rule(name=st.sampled_from(NAMES), count=st.integers(0, 2))
    def other_worker(self, name: str, count: int) -> None:
        self.wire.board.row(1)[ord(name) - 96] = count

    @rule(seconds=st.sampled_from((0.0, 0.003, 0.4, 1.1, 11.0)))
    def wait(self, seconds: float) -> None:
        self.wire.advance(seconds)

    # -- what holds

    @invariant()
    def own_row_is_what_nodes_count(self) -> None:
        if not hasattr(self, "wire"):
            return
        wire = self.wire
        for waiting in wire.network.accepted.values():
            while waiting:
                self.instances.append(wire.adopt(waiting.popleft(), "instance"))
        assert wire.loop.failures == []
        pool = wire.pool
        row = wire.board.row(0)
        nodes = [*pool.nodes.values(), *pool._departed.values()]
        assert sum(row[slot] for slot in range(32)) == sum(node.in_flight for node in nodes)
        exchanges = [c.exchange for c in wire.worker.connections.clients if c.exchange is not None]
        taken = sum(exchange.node is not None for exchange in exchanges)
        hedges = [e.beside._second for e in exchanges if isinstance(e.beside, Hedge)]
        taken += sum(hedge is not None and hedge.node is not None for hedge in hedges)
        assert sum(node.in_flight for node in nodes) == taken + len(wire.worker.connections.tunnels)
        assert all(node.in_flight >= 0 for node in nodes)
        waiting_ = [exchange for exchange in exchanges if exchange.waiting is not None]
        assert len(pool.policies.queue) == len(waiting_)
        breaker = pool.policies.breaker
        if breaker is not None and breaker.state is State.TRYING:
            admitted = [e.admission for e in exchanges if e.admission is not None]
            trials = [a for a in admitted if (a._breaker, a._turn) == (breaker, breaker.opened)]
            assert breaker._trials - breaker._succeeded == len(trials)

    @invariant()
    def who_cannot_be_reached_is_tried(self) -> None:
        if not hasattr(self, "wire"):
            return
        pool, book = self.wire.pool, self.wire.worker.services.unreachable
        unreachable = {node for node in pool.nodes.values() if node.unreachable}
        assert not any(node.unreachable for node in pool._departed.values())
        assert set(book._due) <= unreachable
        # Those that are not in the book are being tried.
        assert len(unreachable - set(book._due)) <= book._trying
        assert 0 <= book._trying <= min(AT_ONCE, self.wire.worker.services.connector.dialling)
        assert not book._due or book._alarm.deadline != NEVER
        due = [when for when, _ in book._due.values()]
        assert due == sorted(due)
        assert all(of is pool for _, of in book._due.values())

    @invariant()
    def who_is_back_is_tried_out_by_one(self) -> None:
        if not hasattr(self, "wire"):
            return
        pool = self.wire.pool
        exchanges = [
            c.exchange for c in self.wire.worker.connections.clients if c.exchange is not None
        ]
        admitted = [e.admission for e in exchanges if e.admission is not None]
        for node in (*pool.nodes.values(), *pool._departed.values()):
            assert [a.probe for a in admitted].count(node) == node.probes
            assert node.impaired == (node.unreachable or node.on_probation)
        assert pool.on_probation == {node for node in pool.nodes.values() if node.on_probation}
        assert all(node.status == "ready" for node in pool.on_probation)

    def teardown(self) -> None:
        if not hasattr(self, "wire"):
            return
        wire = self.wire
        for name in NAMES:
            self.door(name, "accept")
            self.other_worker(name, 0)
        for client in self.clients:
            if not client.closed:
                client.reset()
        for peer in [*self.clients, *self.instances]:
            peer.read_on()
        wire.advance(15.0)
        wire.worker.pools.others.refresh(wire.loop.time())
        self.own_row_is_what_nodes_count()
        self.who_cannot_be_reached_is_tried()
        self.who_is_back_is_tried_out_by_one()
        assert not any(node.probes for node in wire.pool.nodes.values())
        assert not any(node.unreachable for node in wire.pool.nodes.values() if node.admitted)
        assert len(wire.pool.policies.queue) == 0
        assert not wire.worker.connections.tunnels
        for peer in wire.peers:
            peer.read_on()
            peer.take()
        wire.done()


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=150 * settings.default.max_examples // 40,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
