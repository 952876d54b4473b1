"""What raises inside ends the one request that it was about, and gives back all that was taken."""

from __future__ import annotations

from typing import Any, cast

from structlog.testing import capture_logs

from proxy.engine.http1.server import ClientConnection
from proxy.settings.balancer import BalancerSpec
from proxy.settings.route import RouteSpec
from proxy.settings.service import QueueSettings, RetrySettings, ServiceSettings
from tests.support.loop_and_network import FakeTransport
from tests.support.wire import (
    CLIENT,
    OK,
    OK_RELAYED,
    PROXY,
    Peer,
    Wire,
    forwarded,
    request,
)
from tests.wire.scenes import BAD, GET, SWITCH, UPGRADE, answered, asked, faulty, reached, served


class BrokenTransport(FakeTransport):
    """One whose `write` raises from some byte on."""

    room = 1 << 30

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.room -= len(data)
        if self.room < 0:
            raise ZeroDivisionError("write")
        super().write(data)


def broken_client(wire: Wire) -> tuple[Peer, BrokenTransport]:
    protocol: Any = ClientConnection(wire.worker.services, wire.facts)
    transport = BrokenTransport(wire.loop, protocol, peer=CLIENT, own=PROXY)
    wire.network.transports.append(transport)
    return wire.adopt(transport, "client"), transport


def others_are_served(wire: Wire) -> None:
    served(wire)
    assert wire.in_flight == 0


class TestAPickThatRaises:
    def test_is_answered_500(self, make: Any) -> None:
        wire = make()
        balancer = faulty(wire, "pick")
        client = wire.client()
        client.send(GET)
        head = client.expect_problem(500, "internal", closing=True)
        assert b"Retry-After" not in head
        assert client.saw_end
        assert wire.pool.counters.faults == {"internal": 1}
        assert wire.in_flight == 0
        balancer.raising = ()
        others_are_served(wire)

    def test_is_told_once_with_a_traceback(self, make: Any) -> None:
        wire = make()
        faulty(wire, "pick")
        client = wire.client()
        with capture_logs() as logs:
            client.send(GET)
        client.take()
        (line,) = logs
        assert (line["event"], line["log_level"]) == ("request_failed", "error")
        assert (line["fault"], line["status"], line["service"]) == ("internal", 500, "s")
        assert isinstance(line["exc_info"], ZeroDivisionError)

    def test_does_not_fill_the_log(self, make: Any) -> None:
        wire = make()
        faulty(wire, "pick")
        with capture_logs() as logs:
            for _ in range(200):
                client = wire.client()
                client.send(GET)
                client.take()
        assert len(logs) <= 50

    def test_says_nothing_of_itself_to_the_client(self, make: Any) -> None:
        wire = make()
        faulty(wire, "pick")
        client = wire.client()
        client.send(GET)
        assert b"ZeroDivision" not in client.take()

    def test_for_the_second_attempt(self, make: Any) -> None:
        wire = make("a", "b")
        balancer = faulty(wire)
        client, instance = reached(wire)
        instance.expect(forwarded("GET /x"))
        balancer.raising = ("pick",)
        instance.reset()
        client.expect_problem(500, "internal", closing=True)
        assert wire.in_flight == 0

    def test_beside_an_answer_in_reserve_leaves_nothing_counted(self, make: Any) -> None:
        retry = RetrySettings(on=("503",))
        wire = make("a", "b", settings=ServiceSettings(retry=retry))
        client, instance = asked(wire)
        other = wire.node("b" if instance.name == "a" else "a")
        other.idle.append(cast(Any, object()))  # No connection: whatever is asked of it raises.
        instance.send(BAD)
        client.expect_problem(500, "internal", closing=True)
        assert wire.in_flight == 0
        assert instance.closed

    def test_for_one_who_waited_in_line(self, make: Any) -> None:
        wire = make(settings=ServiceSettings(max_inflight=1, queue=QueueSettings(size=3)))
        first, second, third = (wire.client() for _ in range(3))
        balancer = faulty(wire)
        first.send(GET)
        instance = wire.connected()
        instance.expect(forwarded("GET /x"))
        second.send(GET)
        third.send(GET)
        balancer.raising = ("pick",)
        balancer.times = 1
        answered(first, instance)
        wire.advance(0.1)
        second.expect_problem(500, "internal", closing=True)
        instance.expect(forwarded("GET /x"))
        answered(third, instance)

    def test_while_other_requests_are_under_way(self, make: Any) -> None:
        wire = make("a")
        balancer = faulty(wire)
        busy, instance = reached(wire)
        instance.expect(forwarded("GET /x"))
        balancer.raising = ("pick",)
        client = wire.client()
        client.send(GET, b"")
        client.expect_problem(500, "internal", closing=True)
        answered(busy, instance)

    def test_with_a_body_still_on_its_way(self, make: Any) -> None:
        wire = make()
        faulty(wire, "pick")
        client = wire.client()
        client.send(request("POST /x", "Content-Length: 10", body=b"abc"))
        client.expect_problem(500, "internal", closing=True)
        client.send(b"defghij")
        assert wire.in_flight == 0


class TestLoadChangedThatRaises:
    """The request is served all the same: only the balancer's own idea of the load is wrong."""

    def test_costs_no_request(self, make: Any) -> None:
        wire = make()
        faulty(wire, "load_changed")
        with capture_logs() as logs:
            others_are_served(wire)
        assert [line["fault"] for line in logs] == ["internal"] * 2  # Taken, and given back.
        assert all(isinstance(line["exc_info"], ZeroDivisionError) for line in logs)
        assert wire.pool.counters.faults == {"internal": 2}

    def test_when_a_second_attempt_is_made_for_an_answer(self, make: Any) -> None:
        settings = ServiceSettings(retry=RetrySettings(on=("503",), budget=1.0))
        wire = make("a", "b", settings=settings)
        faulty(wire, "load_changed")
        client = wire.client()
        client.send(GET)
        for answer in (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", OK):
            instance = wire.connected()
            instance.expect(forwarded("GET /x"))
            instance.send(answer)
        client.expect(OK_RELAYED)
        assert wire.in_flight == 0

    def test_when_a_cut_answer_is_given_back(self, make: Any) -> None:
        wire = make()
        balancer = faulty(wire)
        client, instance = reached(wire)
        instance.expect(forwarded("GET /x"))
        instance.send(OK[:-1])
        balancer.raising = ("load_changed",)
        instance.reset()
        client.take()
        assert client.cut
        assert wire.in_flight == 0

    def test_of_another_service_is_no_matter_of_this_one(self, make: Any) -> None:
        routes = (
            RouteSpec(path_prefix="/t", service="t"),
            RouteSpec(path_prefix="/", service="s"),
        )
        wire = make(routes=routes, services={"s": ServiceSettings(), "t": ServiceSettings()})
        wire.serve("b", service="t")
        balancer = faulty(wire, "load_changed", service="t")
        other = wire.worker.pools.get("t")
        assert other is not None
        faulty(wire)  # It looks at the load, and so learns of that of all services.
        wire.board.row(1)[2] = 3
        client = wire.client()
        with capture_logs() as logs:
            client.send(GET)
        wire.board.row(1)[2] = 0
        assert [(line["fault"], line["service"]) for line in logs] == [("internal", "t")]
        instance = wire.accepted()
        instance.expect(forwarded("GET /x"))
        answered(client, instance)
        assert (wire.pool.counters.faults, other.counters.faults) == ({}, {"internal": 1})
        balancer.raising = ()
        wire.worker.pools.others.refresh(wire.loop.time() + 1)


def test_a_balancer_that_cannot_be_built_is_replaced(make: Any) -> None:
    spec = BalancerSpec(type="round_robin", params={"unknown": 1})
    with capture_logs() as logs:
        wire = make("a", "b", settings=ServiceSettings(balancer=spec))
    assert "internal" in [line.get("fault") for line in logs]
    for _ in range(2):
        others_are_served(wire)


class TestAWriteThatRaises:
    def test_before_the_head_went_out(self, make: Any) -> None:
        wire = make()
        client, transport = broken_client(wire)
        client.send(GET)
        instance = wire.accepted()
        instance.expect(forwarded("GET /x"))
        transport.room = 0
        instance.send(OK)
        client.expect_nothing()
        assert client.cut
        assert wire.in_flight == 0
        others_are_served(wire)

    def test_in_the_middle_of_the_answer(self, make: Any) -> None:
        wire = make()
        client, transport = broken_client(wire)
        client.send(GET)
        instance = wire.accepted()
        instance.expect(forwarded("GET /x"))
        instance.send(OK[:-1])
        client.take()
        transport.room = 0
        instance.send(OK[-1:])
        client.expect_nothing()
        assert client.cut
        assert wire.in_flight == 0
        others_are_served(wire)

    def test_of_a_refusal(self, make: Any) -> None:
        wire = make()
        client, transport = broken_client(wire)
        transport.room = 0
        client.send(b"\x16\x03\x01")
        assert client.cut
        assert wire.worker.counters.service("").faults == {"bad_request": 1, "internal": 1}
        others_are_served(wire)


def test_a_connection_whose_peer_cannot_be_read(make: Any) -> None:
    wire = make()
    client = wire.client(peer=("\xe9", 1))
    assert client.cut
    assert wire.worker.counters.service("").faults == {"internal": 1}
    others_are_served(wire)


def test_a_raise_while_dialling_ends_the_request_alone(make: Any) -> None:
    wire = make("a", "b")
    wire.network.refuse(wire.address("a"), ZeroDivisionError("dial"))
    wire.network.refuse(wire.address("b"), ZeroDivisionError("dial"))
    client = wire.client()
    with capture_logs() as logs:
        client.send(GET)
    client.expect_problem(500, "internal", closing=True)
    assert len(wire.network.dialled) == 1  # It says nothing of the instance.
    assert not any(node.unreachable for node in wire.pool.nodes.values())
    assert [type(line["exc_info"]) for line in logs] == [ZeroDivisionError]


def test_a_switch_that_cannot_be_written_leaves_no_connection_open(make: Any) -> None:
    wire = make()
    client, transport = broken_client(wire)
    client.send(request("GET /x", *UPGRADE))
    instance = wire.connected()
    instance.take()
    transport.room = 0
    instance.send(SWITCH)
    assert client.cut
    assert instance.closed
    assert wire.worker.services.connector.open == 0
