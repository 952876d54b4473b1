"""Instances that cannot be connected to: clients meet each of them once, and then no more."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from structlog.testing import capture_logs

from balancers.base import NO_KEY
from proxy.engine.selection import first_choice
from proxy.engine.upstream.unreachable import AGAIN, AT_ONCE, LIMIT
from proxy.messages import PoolNode, PoolSnapshot
from proxy.messages import Pools as PoolsMessage
from proxy.settings.balancer import BalancerSpec
from proxy.settings.service import (
    Keepalive,
    QueueSettings,
    RetrySettings,
    ServiceSettings,
    Timeouts,
)
from tests.support.wire import OK, OK_RELAYED, Peer, Wire, forwarded, request
from tests.wire.scenes import GET, answered


def answer(wire: Wire, client: Peer, instances: dict[str, Peer]) -> str:
    """One GET, answered by whoever got it, over a connection kept in `instances` or a new one.
    Returns its name."""
    client.send(GET)
    for name in wire.names:
        if wire.network.accepted.get(wire.address(name)):
            instances[name] = wire.accepted(name)
    name = next(name for name, peer in instances.items() if peer.got(forwarded("GET /x")))
    instances[name].send(OK)
    client.expect(OK_RELAYED)
    return name


def discovered(make: Any, *names: str, **options: Any) -> tuple[Wire, Peer, dict[str, Peer]]:
    """A wire whose instance `a` refuses connections, which has been found out."""
    wire = make(*names, **options)
    wire.network.refuse(wire.address("a"))
    client = wire.client()
    instances: dict[str, Peer] = {}
    while not wire.node("a").unreachable:
        answer(wire, client, instances)
    return wire, client, instances


def dials(wire: Wire, name: str = "a") -> int:
    return wire.network.dialled.count(wire.address(name))


class TestAvoided:
    def test_no_second_request_meets_it(self, make: Any) -> None:
        wire, client, instances = discovered(make, "a", "b", "c")
        wire.pool.counters.retries.clear()
        for _ in range(5 * 60):
            assert answer(wire, client, instances) != "a"
            wire.advance(0.2)
        assert wire.pool.counters.retries == {}
        assert dials(wire) == pytest.approx(60, abs=3)  # One in a second, with nothing to send.

    def test_a_try_that_takes_long_holds_up_nobody(self, make: Any) -> None:
        wire, client, instances = discovered(
            make, "a", "b", settings=ServiceSettings(timeouts=Timeouts(connect=3.0))
        )
        wire.network.errors.clear()
        wire.network.hang(wire.address("a"))
        for _ in range(10):
            answer(wire, client, instances)
            wire.advance(AGAIN)
        # 3 s for each try, a second in between, and the first one a second after the failure.
        assert dials(wire) == 1 + 3
        wire.advance(3.0)

    def test_with_nobody_else_it_is_asked_all_the_same(self, make: Any) -> None:
        wire = make("a")
        wire.network.refuse(wire.address("a"))
        client = wire.client()
        for _ in range(3):
            client.send(GET)
            client.expect_problem(502, "connection_refused")
        assert dials(wire) == 3
        wire.network.errors.clear()
        client.send(GET)
        instance = wire.accepted()
        instance.expect(forwarded("GET /x"))
        assert not wire.node().unreachable
        answered(client, instance)
        wire.advance(10 * AGAIN)
        assert dials(wire) == 4  # It was reached, so nobody tries.

    def test_all_that_refuse_do_not_double_the_load(self, make: Any) -> None:
        wire = make("a", "b")
        wire.network.refuse(wire.address("a"))
        wire.network.refuse(wire.address("b"))
        client = wire.client()
        for _ in range(100):
            client.send(GET)
            client.expect_problem(502, "connection_refused")
        assert 100 < len(wire.network.dialled) <= 100 * 1.2 + 3

    def test_an_instance_is_not_avoided_for_want_of_our_own_descriptors(self, make: Any) -> None:
        wire = make("a")
        wire.network.refuse(wire.address("a"), OSError(errno.EMFILE, "Too many open files"))
        client = wire.client()
        client.send(GET)
        wire.advance(2.0)
        client.expect_problem(503, "no_descriptor")
        assert not wire.node().unreachable

    def test_the_others_get_equal_shares(self, make: Any) -> None:
        """Not the next in line its own share and that of the one that is gone."""
        wire, client, instances = discovered(make, "a", "b", "c", "d")
        names = [answer(wire, client, instances) for _ in range(30)]
        assert [names.count(name) for name in "abcd"] == [0, 10, 10, 10]

    def test_the_first_of_them_that_is_back_gets_all(self, make: Any) -> None:
        wire = make("a", "b", "c")
        for name in "abc":
            wire.network.refuse(wire.address(name))
        client = wire.client()
        while not all(wire.node(name).unreachable for name in "abc"):
            client.send(GET)
            client.expect_problem(502, "connection_refused")
        del wire.network.errors[wire.address("b")]
        wire.advance(AGAIN + 0.02)
        instances: dict[str, Peer] = {}
        assert {answer(wire, client, instances) for _ in range(9)} == {"b"}

    def test_an_instance_of_weight_0_is_no_other_one(self, make: Any) -> None:
        """The only one that is reachable has weight 0, so the other one is asked."""
        wire = make("a")
        nodes = tuple(
            PoolNode(f"{name}@{address[0]}:80", name, *address, weight, "ready", slot)
            for name, weight, slot in (("a", 1, 1), ("b", 0, 2))
            for address in [wire.address(name)]
        )
        wire.worker.on_message(PoolsMessage(seq=9, snapshots=(PoolSnapshot("s", 9, nodes),)))
        wire.network.refuse(wire.address("a"))
        client = wire.client()
        for _ in range(3):
            client.send(GET)
            client.expect_problem(502, "connection_refused")
        assert dials(wire, "b") == 0

    def test_an_unreachable_instance_is_the_last_resort_of_a_retry(self, make: Any) -> None:
        wire, client, instances = discovered(make, "a", "b")
        wire.network.errors.clear()
        wire.network.refuse(wire.address("b"))
        instances.pop("b").eof()
        assert answer(wire, client, instances) == "a"
        assert wire.node("b").unreachable

    def test_an_answer_in_hand_does_not_wait_for_it(self, make: Any) -> None:
        wire, client, instances = discovered(
            make,
            "a",
            "b",
            settings=ServiceSettings(retry=RetrySettings(max_retries=2, on=("connect", "503"))),
        )
        wire.network.errors.clear()
        wire.network.hang(wire.address("a"))
        wire.pool.counters.retries.clear()
        client.send(GET)
        instances["b"].expect(forwarded("GET /x"))
        instances["b"].send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        assert client.take().startswith(b"HTTP/1.1 503 Busy\r\n")
        assert wire.pool.counters.retries == {}
        wire.network.answer(wire.address("a"))

    def test_keys_of_others_stay_and_its_own_come_back(self, make: Any) -> None:
        spec = BalancerSpec(type="consistent_hash", key="path")
        wire = make("a", "b", "c", settings=ServiceSettings(balancer=spec))
        client = wire.client()
        instances: dict[str, Peer] = {}

        def owners() -> list[str]:
            found = []
            for number in range(40):
                client.send(request(f"GET /{number}"))
                for name in wire.names:
                    if wire.network.accepted.get(wire.address(name)):
                        instances[name] = wire.accepted(name)
                found.append(next(name for name, peer in instances.items() if peer.take()))
                instances[found[-1]].send(OK)
                client.expect(OK_RELAYED)
            return found

        before = owners()
        assert set(before) == {"a", "b", "c"}
        wire.network.refuse(wire.address("a"))
        instances.pop("a").eof()
        assert all(
            then == now if then != "a" else now != "a"
            for then, now in zip(before, owners(), strict=True)
        )
        wire.network.errors.clear()
        wire.advance(AGAIN + 0.02)
        assert owners() == before


class TestLimitsAndQueue:
    """Where instances take so many requests and no more."""

    @staticmethod
    def one_busy(make: Any, queue: int = 9) -> tuple[Wire, Peer, Peer, Peer]:
        """`a` is gone, `b` has as much to do as it may, and somebody else asks. Returns the
        wire, who is served, `b`, and who asks."""
        settings = ServiceSettings(max_inflight=1, queue=QueueSettings(size=queue))
        wire, client, instances = discovered(make, "a", "b", settings=settings)
        client.send(GET)
        instances["b"].expect(forwarded("GET /x"))
        second = wire.client()
        second.send(GET)
        return wire, client, instances["b"], second

    def test_a_request_waits_for_one_that_can_be_reached(self, make: Any) -> None:
        wire, client, b, second = self.one_busy(make)
        assert dials(wire) == 1
        second.expect_nothing()
        answered(client, b)
        wire.settle()
        wire.advance(0.001)
        b.expect(forwarded("GET /x"))
        answered(second, b)

    def test_a_request_waits_for_the_other_one_to_come_back(self, make: Any) -> None:
        wire, client, b, second = self.one_busy(make)
        wire.network.errors.clear()
        wire.advance(AGAIN + 0.02)
        a = wire.accepted("a")
        a.expect(forwarded("GET /x"))
        for peer, asker in ((a, second), (b, client)):
            answered(asker, peer)

    def test_with_a_full_queue_it_is_refused(self, make: Any) -> None:
        wire, client, b, second = self.one_busy(make, queue=0)
        second.expect_problem(503, "queue_full")
        assert dials(wire) == 1
        answered(client, b)

    def test_once_nobody_can_be_reached_those_who_wait_find_out(self, make: Any) -> None:
        wire, client, b, second = self.one_busy(make)
        wire.network.refuse(wire.address("b"))
        b.reset()
        client.expect_problem(502, "connection_refused")
        wire.advance(0.01)
        second.expect_problem(502, "connection_refused")


class TestBackInUse:
    def test_a_second_after_it_accepts(self, make: Any) -> None:
        wire, client, instances = discovered(make, "a", "b")
        wire.advance(5 * AGAIN)
        wire.network.errors.clear()
        wire.advance(AGAIN + 0.02)
        assert not wire.node("a").unreachable
        before = dials(wire)
        # The connection that was made to find out is the one that is used.
        assert {answer(wire, client, instances) for _ in range(2)} == {"a", "b"}
        assert dials(wire) == before

    def test_the_connection_that_found_it_is_closed_where_none_are_kept(self, make: Any) -> None:
        wire, _, _ = discovered(
            make, "a", "b", settings=ServiceSettings(keepalive=Keepalive(max_idle=0))
        )
        wire.network.errors.clear()
        wire.advance(AGAIN + 0.02)
        assert not wire.node("a").unreachable
        assert wire.accepted("a").closed

    def test_an_instance_that_closes_what_it_accepts_is_not(self, make: Any) -> None:
        wire, client, instances = discovered(make, "a", "b")
        wire.network.errors.clear()
        wire.network.slam(wire.address("a"))
        wire.advance(5 * AGAIN)
        assert wire.node("a").unreachable
        assert answer(wire, client, instances) == "b"

    def test_a_request_that_was_under_way_finds_out_as_well(self, make: Any) -> None:
        wire = make("a", "b")
        wire.network.hang(wire.address("a"))
        client, instances = wire.client(), {}
        client.send(GET)
        if not dials(wire):
            instances["b"] = wire.accepted("b")
            instances["b"].take()
            instances["b"].send(OK)
            client.expect(OK_RELAYED)
            client.send(GET)
        assert dials(wire) == 1
        wire.worker.services.unreachable.add(wire.pool, wire.node("a"), "as another request found")
        wire.network.answer(wire.address("a"))
        wire.settle()
        assert not wire.node("a").unreachable
        instance = wire.accepted("a")
        instance.expect(forwarded("GET /x"))
        answered(client, instance)

    def test_an_instance_may_be_lost_again(self, make: Any) -> None:
        wire, client, instances = discovered(make, "a", "b")
        for _ in range(3):
            wire.network.errors.clear()
            wire.advance(AGAIN + 0.02)
            assert not wire.node("a").unreachable
            wire.accepted("a").eof()
            wire.network.refuse(wire.address("a"))
            for _ in range(2):
                answer(wire, client, instances)
            assert wire.node("a").unreachable


class TestMembership:
    def test_an_instance_that_leaves_is_not_tried(self, make: Any) -> None:
        wire, _, _ = discovered(make, "a", "b")
        wire.serve("b")
        before = dials(wire)
        wire.advance(5 * AGAIN)
        assert dials(wire) == before

    def test_an_instance_may_leave_while_it_is_tried(self, make: Any) -> None:
        wire, _, _ = discovered(make, "a", "b")
        wire.network.errors.clear()
        wire.network.hang(wire.address("a"))
        wire.advance(AGAIN + 0.02)
        wire.serve("b")
        wire.network.answer(wire.address("a"))
        wire.settle()
        assert wire.accepted("a").closed

    def test_an_instance_may_leave_while_it_is_tried_in_vain(self, make: Any) -> None:
        wire, _, _ = discovered(make, "a", "b")
        wire.network.hang(wire.address("a"))
        wire.advance(AGAIN + 0.02)
        wire.serve("b")
        wire.network.answer(wire.address("a"))
        before = dials(wire)
        wire.advance(5 * AGAIN)
        assert dials(wire) == before

    def test_an_instance_that_comes_back_is_given_another_chance(self, make: Any) -> None:
        wire, client, instances = discovered(make, "a", "b")
        wire.serve("b")
        wire.serve("a", "b")
        before = dials(wire)
        for _ in range(4):
            answer(wire, client, instances)
        assert dials(wire) == before + 1
        assert wire.node("a").unreachable

    def test_an_instance_that_must_not_be_used_is_not_tried(self, make: Any) -> None:
        wire, client, instances = discovered(make, "a", "b")
        wire.serve("a", "b", a="ejected")
        before = dials(wire)
        wire.advance(5 * AGAIN)
        assert dials(wire) == before
        # Its time is over, and still no request is spent on it.
        wire.serve("a", "b")
        wire.pool.counters.retries.clear()
        for _ in range(4):
            assert answer(wire, client, instances) == "b"
        wire.advance(AGAIN + 0.02)
        assert dials(wire) == before + 1
        assert wire.pool.counters.retries == {}

    def test_tries_do_not_speak_against_it(self, make: Any) -> None:
        """They go on each second, so it would be ejected just before it is back."""
        wire, _, _ = discovered(make, "a", "b")
        wire.advance(20 * AGAIN)
        assert dials(wire) > 15
        assert wire.suspects() == []
        assert wire.node("a").outcomes == {"connect_refused": 1}


class TestMany:
    def test_silent_instances_are_tried_so_many_at_a_time(self, make: Any) -> None:
        """Of 500 that are silent, 64; each in turn, and none is forgotten."""
        wire = make("a")
        nodes = tuple(
            PoolNode(
                f"n{at}@192.0.2.1:{1000 + at}", f"n{at}", "192.0.2.1", 1000 + at, 1, "ready", 0
            )
            for at in range(500)
        )
        wire.worker.on_message(PoolsMessage(seq=9, snapshots=(PoolSnapshot("s", 9, nodes),)))
        for node in wire.pool.nodes.values():
            wire.network.hang((node.address, node.port))
            wire.worker.services.unreachable.add(wire.pool, node, "no answer")
        begun: list[int] = []
        for _ in range(400):
            before = len(wire.network.dialled)
            wire.advance(0.1)
            begun.append(len(wire.network.dialled) - before)
            assert wire.worker.services.connector.dialling <= AT_ONCE
        assert len(set(wire.network.dialled)) == 500
        assert max(begun) <= AT_ONCE
        for address in list(wire.network.hanging):
            wire.network.answer(address)
        wire.advance(AGAIN)
        while any(node.unreachable for node in wire.pool.nodes.values()):
            wire.advance(0.1)
        for address in list(wire.network.accepted):
            for transport in wire.network.accepted.pop(address):
                wire.adopt(transport, str(address))

    def test_instances_silent_for_ever_do_not_keep_others_out(self, make: Any) -> None:
        """Where requests wait for a connection without limit, tries do not."""
        names = [f"n{at}" for at in range(AT_ONCE)] + ["back"]
        wire = make("a", settings=ServiceSettings(timeouts=Timeouts(connect=0.0)))
        nodes = tuple(
            PoolNode(f"{name}@192.0.2.1:{at}", name, "192.0.2.1", at, 1, "ready", 0)
            for at, name in enumerate(names, start=1)
        )
        wire.worker.on_message(PoolsMessage(seq=9, snapshots=(PoolSnapshot("s", 9, nodes),)))
        for node in wire.pool.nodes.values():
            if node.id != "back":
                wire.network.hang((node.address, node.port))
            wire.worker.services.unreachable.add(wire.pool, node, "no answer")
        wire.advance(AGAIN + LIMIT + 0.5)
        assert not wire.node("back").unreachable
        for waiting in wire.network.accepted.values():
            while waiting:
                wire.adopt(waiting.popleft(), "back")

    def test_the_balancer_is_not_built_for_each(self, make: Any) -> None:
        """A thousand that turn out to be gone within a tenth of a second: with thousands of nodes
        it takes milliseconds."""
        wire = make("a")
        nodes = tuple(
            PoolNode(f"n{at}@192.0.2.1:{at}", f"n{at}", "192.0.2.1", at, 1, "ready", 0)
            for at in range(1, 2001)
        )
        wire.worker.on_message(PoolsMessage(seq=9, snapshots=(PoolSnapshot("s", 9, nodes),)))
        pool = wire.pool
        built = [pool.balancer]
        for node in list(pool.nodes.values())[:1000]:
            wire.worker.services.unreachable.add(pool, node, "no answer")
            picked = pool.pick(NO_KEY, ())
            assert picked is not None
            again = first_choice(pool, picked, NO_KEY, wire.loop.time())
            assert again is not None
            assert not again.unreachable
            if node.port % 10 == 0:
                wire.advance(0.001)
            if pool.balancer is not built[-1]:
                built.append(pool.balancer)
        assert 4 <= len(built) - 1 <= 6
        for _ in range(100):  # Now and then there is a connection: one of many dials.
            wire.worker.services.unreachable.add(
                pool, pool.nodes["n2000@192.0.2.1:2000"], "no answer"
            )
            wire.worker.services.unreachable.reached(pool, pool.nodes["n2000@192.0.2.1:2000"])
        assert pool.balancer is built[-1]
        wire.advance(0.1)
        picks = [pool.pick(NO_KEY, ()) for _ in range(2000)]
        assert not any(node is None or node.unreachable for node in picks)


class TestTold:
    def test_log_and_counts(self, make: Any) -> None:
        with capture_logs() as logs:
            wire, _, _ = discovered(make, "a", "b")
            node = wire.node("a")
            assert wire.pool.stats_of(node).unreachable
            wire.advance(5 * AGAIN)
            wire.network.errors.clear()
            wire.advance(AGAIN + 0.02)
        told = [line for line in logs if line["event"].startswith("instance_")]
        assert [(line["event"], line["log_level"]) for line in told] == [
            ("instance_unreachable", "warning"),
            ("instance_reachable", "info"),
        ]
        assert told[0]["service"] == "s"
        assert told[0]["instance"] == "a"
        assert "refused" in told[0]["detail"]
        assert node in wire.pool.changed_nodes()
        assert not wire.pool.stats_of(node).unreachable
        wire.accepted("a")


class TestKeptConnectionsThatWereClosed:
    """They cost a request neither its one retry nor an instance that could have answered."""

    @staticmethod
    def warm(make: Any, *names: str, **options: Any) -> tuple[Wire, Peer, dict[str, Peer]]:
        wire = make(*names, **options)
        client = wire.client()
        instances: dict[str, Peer] = {}
        while len(instances) < len(names):
            answer(wire, client, instances)
        return wire, client, instances

    def kill(self, wire: Wire, client: Peer, instances: dict[str, Peer]) -> str:
        """The next request goes over a kept connection that dies with it. Returns whose."""
        for name in wire.names:
            wire.network.refuse(wire.address(name))
        client.send(GET)
        return next(name for name, peer in instances.items() if peer.got(forwarded("GET /x")))

    def test_two_instances_killed_at_once(self, make: Any) -> None:
        """The first attempt meets the one, the second one the other."""
        wire, client, instances = self.warm(make, "a", "b", "c")
        dead = self.kill(wire, client, instances)
        following, alive = (name for name in instances if name != dead)  # In the balancer's order.
        del wire.network.errors[wire.address(alive)]
        instances[following].eof()
        instances[dead].reset()
        assert dials(wire, following) == 2
        instances[alive].expect(forwarded("GET /x"))
        instances[alive].send(OK)
        client.expect(OK_RELAYED)

    def test_the_only_other_one_is_gone(self, make: Any) -> None:
        """It has just closed a connection, as servers do, and is well."""
        wire, client, instances = self.warm(make, "a", "b")
        name = self.kill(wire, client, instances)
        del wire.network.errors[wire.address(name)]
        instances[name].eof()
        again = wire.accepted(name)
        again.expect(forwarded("GET /x"))
        answered(client, again)
        assert wire.pool.counters.retries == {
            "closed_early": 1,
            "connect_refused": 1,
        }

    def test_the_only_other_one_is_known_to_be_gone(self, make: Any) -> None:
        wire, client, instances = self.warm(make, "a", "b")
        name = self.kill(wire, client, instances)
        other = "b" if name == "a" else "a"
        wire.worker.services.unreachable.add(
            wire.pool, wire.node(other), "as another request found"
        )
        del wire.network.errors[wire.address(name)]
        before = dials(wire, other)
        instances[name].eof()
        again = wire.accepted(name)
        again.expect(forwarded("GET /x"))
        answered(client, again)
        assert dials(wire, other) == before

    def test_the_only_one_there_is(self, make: Any) -> None:
        """Known to be unreachable, but for connections it had: it is dialled, not given up."""
        wire, client, instances = self.warm(make, "a")
        wire.worker.services.unreachable.add(wire.pool, wire.node(), "as another request found")
        client.send(GET)
        instances["a"].expect(forwarded("GET /x"))
        instances["a"].eof()
        again = wire.accepted("a")
        again.expect(forwarded("GET /x"))
        answered(client, again)

    def test_retries_have_an_end(self, make: Any) -> None:
        """All are gone: the kept connection, and one retry."""
        wire, client, instances = self.warm(make, "a", "b", "c")
        name = self.kill(wire, client, instances)
        before = len(wire.network.dialled)
        for other in set(wire.names) - {name}:
            instances[other].eof()
        instances[name].reset()
        client.expect_problem(502, "connection_refused")
        assert len(wire.network.dialled) - before == 2

    def test_a_request_fails_where_retries_are_off(self, make: Any) -> None:
        wire, client, instances = self.warm(
            make, "a", "b", settings=ServiceSettings(retry=RetrySettings(max_retries=0))
        )
        name = self.kill(wire, client, instances)
        before = len(wire.network.dialled)
        instances[name].reset()
        client.expect_problem(502, "connection_terminated")
        assert len(wire.network.dialled) == before

    def test_other_failures_of_a_kept_connection_are_paid_for(self, make: Any) -> None:
        """An answer that is not HTTP was given to this request: the budget is asked."""
        wire, client, instances = self.warm(
            make, "a", settings=ServiceSettings(retry=RetrySettings(on=("reset",), budget=0.0))
        )
        client.send(GET)
        instances["a"].expect(forwarded("GET /x"))
        instances["a"].send(b"\0\r\n\r\n")
        client.expect_problem(502, "http_protocol_error")
        assert wire.pool.counters.retries == {}
