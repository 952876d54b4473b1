"""How many connections there may be, and what becomes of one too many."""

from __future__ import annotations

import errno
from typing import Any

from proxy.engine.upstream.connector import ROOM_LIMIT, ROOM_STEP
from proxy.settings.listener import ListenerLimits, ListenerSettings
from tests.support.wire import OK, forwarded, request
from tests.wire.scenes import answered, asked, reached


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
