"""How many connections there may be, and what becomes of one too many."""

from __future__ import annotations

import errno
from typing import Any

from proxy.engine.listener_counts import ListenerCounts
from proxy.engine.upstream.connector import ROOM_LIMIT, ROOM_STEP
from proxy.settings.listener import ListenerLimits, ListenerSettings
from tests.support.h2_peer import H2Peer, head, http2
from tests.support.wire import OK, OK_RELAYED, OK_RELAYED_CLOSE, forwarded, request
from tests.wire.scenes import GET, SWITCH, UPGRADE, answered, asked, reached


def limited(connections: int) -> ListenerSettings:
    return ListenerSettings(limits=ListenerLimits(connections=connections))


def test_a_listener_has_room_for_so_many(make: Any) -> None:
    wire = make(listener=limited(4))  # Two for each of two workers.
    clients = [wire.client() for _ in range(3)]
    assert [client.closed for client in clients] == [False, False, True]
    assert clients[2].cut
    assert wire.worker.counters.service("").faults == {"no_descriptor": 1}
    clients[0].eof()
    late = wire.client()
    assert not late.closed


def test_a_client_has_room_for_so_many(make: Any) -> None:
    limits = ListenerLimits(connections_per_client=2)
    wire = make(listener=ListenerSettings(limits=limits))
    clients = [wire.client() for _ in range(3)]
    assert [client.closed for client in clients] == [False, False, True]
    assert wire.worker.counters.service("").faults == {"no_descriptor": 1}
    assert not wire.client(("192.0.2.8", 40000)).closed
    clients[0].eof()
    assert not wire.client().closed
    assert wire.client().closed


def test_clients_that_are_served_notice_nothing_of_one_too_many(make: Any) -> None:
    wire = make(listener=limited(2))
    client = wire.client()
    client.send(request("GET /"))
    assert wire.client().cut
    instance = wire.accepted()
    instance.expect(forwarded("GET /"))
    answered(client, instance)


def test_descriptors_are_kept_for_those_who_are_served(make: Any) -> None:
    wire = make()
    wire.worker.connections.descriptors = 2
    client, instance = reached(wire, request("GET /"))
    instance.expect(forwarded("GET /"))
    assert wire.client().cut
    answered(client, instance)
    client.eof()
    late = wire.client()
    assert not late.closed


def test_an_idle_connection_gives_way_to_one_that_is_needed(make: Any) -> None:
    """Whoever is let in can be served."""
    wire = make("a", "b")
    wire.worker.connections.descriptors = 2
    client = wire.client()
    assert wire.client().cut
    instances = []
    for _ in range(3):
        client.send(request("GET /"))
        instance = wire.connected()  # In turn, so the idle one is never that which is wanted.
        instance.expect(forwarded("GET /"))
        answered(client, instance)
        assert wire.worker.services.connector.open == 1
        instances.append(instance)
    assert [instance.closed for instance in instances] == [True, True, False]


def test_with_descriptors_enough_idle_connections_stay(make: Any) -> None:
    wire = make("a", "b")
    wire.worker.connections.descriptors = 3
    client = wire.client()
    for _ in range(2):
        client.send(request("GET /"))
        instance = wire.connected()
        instance.take()
        answered(client, instance)
    assert wire.worker.services.connector.open == 2


def test_upstream_connections_are_counted_until_they_are_gone(make: Any) -> None:
    wire = make()
    client, instance = asked(wire)
    assert wire.worker.services.connector.open == 1
    instance.send(OK)
    client.take()
    assert wire.worker.services.connector.open == 1
    instance.eof()
    assert wire.worker.services.connector.open == 0


def test_a_tunnel_is_no_longer_an_upstream_connection(make: Any) -> None:
    wire = make()
    client, instance = asked(wire, request("GET /", "Connection: Upgrade", "Upgrade: x"))
    instance.send(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    client.take()
    assert wire.worker.services.connector.open == 0
    assert wire.facts.counts.open == 0


def test_a_descriptor_is_waited_for(make: Any) -> None:
    wire = make()
    wire.network.refuse(wire.address("a"), OSError(errno.EMFILE, "Too many open files"))
    client = wire.client()
    client.send(request("GET /"))
    wire.advance(0.2)
    wire.network.errors.clear()
    wire.advance(ROOM_STEP)
    instance = wire.accepted()
    instance.expect(forwarded("GET /"))
    answered(client, instance)


def test_no_descriptor_for_an_instance_is_said_so(make: Any) -> None:
    wire = make()
    wire.network.refuse(wire.address("a"), OSError(errno.EMFILE, "Too many open files"))
    client = wire.client()
    client.send(request("GET /"))
    wire.advance(ROOM_LIMIT - ROOM_STEP)
    client.expect_nothing()
    wire.advance(2 * ROOM_STEP)
    client.expect_problem(503, "no_descriptor")


# -- connections that have served enough

TWO = ListenerLimits(requests=2)
AGED = ListenerLimits(connection_age=40.0)


def test_a_connection_of_http1_serves_so_many_requests(make: Any) -> None:
    wire = make(listener=ListenerSettings(limits=TWO))
    client, instance = asked(wire)
    instance.send(OK)
    client.expect(OK_RELAYED)
    client.send(GET)
    assert instance.take()
    instance.send(OK)
    client.expect(OK_RELAYED_CLOSE)
    assert client.saw_end


def test_own_answers_are_requests_too(make: Any) -> None:
    wire = make(listener=ListenerSettings(limits=TWO), routes=())
    client = wire.client()
    client.send(GET)
    client.expect_problem(404, "no_route")
    client.send(GET)
    client.expect_problem(404, "no_route", closing=True)


def test_a_connection_of_http2_serves_so_many_requests(make: Any) -> None:
    wire = make(listener=http2(limits=TWO))
    client = H2Peer(wire)
    client.send(head(1))
    instance = wire.accepted()
    assert instance.take()
    client.send(head(3))
    second = wire.accepted()
    assert second.take()
    assert client.take() == [("goaway", 0x7FFFFFFF, 0, b"")]
    client.send(head(5))  # It was on its way.
    third = wire.accepted()
    assert third.take()
    for one in (instance, second, third):
        one.send(OK)
    wire.advance(1.1)
    assert client.take()[-1] == ("goaway", 5, 0, b"")
    assert client.closed


def test_a_connection_of_http1_becomes_so_old(make: Any) -> None:
    wire = make(listener=ListenerSettings(limits=AGED))
    client, instance = asked(wire)
    wire.advance(35.0)
    answered(client, instance)
    client.send(GET)
    assert instance.take()
    wire.advance(10.0)
    instance.send(OK)
    client.expect(OK_RELAYED_CLOSE)
    assert client.saw_end


def test_an_idle_connection_becomes_so_old(make: Any) -> None:
    wire = make(listener=ListenerSettings(limits=ListenerLimits(connection_age=10.0)))
    client, instance = asked(wire)
    answered(client, instance)
    wire.advance(8.9)
    assert not client.saw_end
    wire.advance(3.2)
    assert client.closed


def test_a_connection_of_http2_becomes_so_old(make: Any) -> None:
    wire = make(listener=http2(limits=AGED))
    client = H2Peer(wire)
    client.send(head(1))
    instance = wire.accepted()
    assert instance.take()
    wire.advance(35.0)
    assert client.take() == []
    wire.advance(10.0)
    assert [one[:3] for one in client.take()] == [("goaway", 0x7FFFFFFF, 0), ("goaway", 1, 0)]
    instance.send(OK)
    assert client.answer()[1] == b"hi"
    assert client.closed


def test_connections_of_one_moment_become_differently_old() -> None:
    counts = ListenerCounts()
    ages = {counts.age(100.0) for _ in range(100)}
    assert len(ages) == 100
    assert 90.0 <= min(ages) < 91.0
    assert 109.0 < max(ages) <= 110.0


def test_a_tunnel_has_no_age(make: Any) -> None:
    wire = make(listener=ListenerSettings(limits=AGED))
    client, instance = asked(wire, request("GET /", *UPGRADE))
    instance.send(SWITCH)
    assert client.take()
    wire.advance(200.0)
    client.send(b"still here")
    assert instance.take() == b"still here"
