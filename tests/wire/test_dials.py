"""Connections being made to one instance: how many, and who gets one that is left behind."""

from __future__ import annotations

import errno
from typing import Any

from proxy.engine.upstream.turns import DIALS, NO_PORT_PAUSE
from proxy.settings.service import RetrySettings, ServiceSettings, Timeouts
from tests.support.wire import Peer, Wire, forwarded, request
from tests.wire.scenes import answered, asked

ONCE = ServiceSettings(timeouts=Timeouts(connect=2.0), retry=RetrySettings(max_retries=0))


def crowd(wire: Wire, size: int) -> list[Peer]:
    """So many clients, each with a request, in one turn of the loop."""
    clients = [wire.client() for _ in range(size)]
    for number, client in enumerate(clients):
        client.transport.feed(request(f"GET /{number}"))
    wire.settle()
    return clients


def leave(wire: Wire, clients: list[Peer]) -> None:
    """Everybody goes, whatever they asked for."""
    for client in clients:
        client.reset()
    if wire.address("a") in wire.network.hanging:
        wire.network.answer(wire.address("a"))
    wire.settle()
    wire.network.accepted.clear()


def test_dials_to_one_instance_are_bounded(make: Any) -> None:
    wire = make(settings=ONCE, tls=False)
    address = wire.address("a")
    wire.network.hang(address)
    clients = crowd(wire, DIALS + 3)
    assert len(wire.network.dialled) == DIALS
    assert wire.worker.services.connector.dialling == DIALS
    wire.network.answer(address)
    wire.settle()
    assert len(wire.network.dialled) == DIALS + 3
    assert wire.in_flight == DIALS + 3
    leave(wire, clients)


def test_a_dial_that_waits_takes_a_connection_that_has_become_idle(make: Any) -> None:
    wire = make(settings=ONCE, tls=False)
    first = wire.client()
    first.send(request("GET /first"))
    instance = wire.accepted()
    instance.expect(forwarded("GET /first"))
    wire.network.hang(wire.address("a"))
    clients = crowd(wire, DIALS + 2)
    answered(first, instance)
    instance.expect(forwarded(f"GET /{DIALS}"))
    answered(clients[DIALS], instance)
    instance.expect(forwarded(f"GET /{DIALS + 1}"))
    answered(clients[DIALS + 1], instance)
    assert len(wire.network.dialled) == 1 + DIALS
    leave(wire, clients)


def test_a_client_that_asks_again_takes_no_connection_from_one_that_waits(make: Any) -> None:
    wire = make(settings=ONCE, tls=False)
    first = wire.client()
    first.send(request("GET /first"), request("GET /again"))
    instance = wire.accepted()
    instance.expect(forwarded("GET /first"))
    wire.network.hang(wire.address("a"))
    clients = crowd(wire, DIALS + 1)
    answered(first, instance)
    instance.expect(forwarded(f"GET /{DIALS}"))
    answered(clients[DIALS], instance)
    instance.expect(forwarded("GET /again"))
    leave(wire, [first, *clients])


def test_a_dial_that_waits_gives_its_turn_away_when_its_client_leaves(make: Any) -> None:
    wire = make(settings=ONCE, tls=False)
    wire.network.hang(wire.address("a"))
    clients = crowd(wire, DIALS + 3)
    for client in clients[1 : DIALS + 2]:  # The first one's dial is made in any case.
        client.reset()
    wire.settle()
    assert wire.in_flight == 2
    assert wire.worker.services.connector.dialling <= 3
    wire.network.answer(wire.address("a"))
    wire.settle()
    assert wire.in_flight == 2
    leave(wire, clients)


def test_a_request_whose_time_is_over_waits_for_no_connection_any_more(make: Any) -> None:
    never = ServiceSettings(timeouts=Timeouts(connect=0.0, total=1.0))
    wire = make(settings=never, tls=False)
    wire.network.hang(wire.address("a"))
    clients = crowd(wire, DIALS + 3)
    wire.advance(1.1)
    for client in clients:
        client.expect_problem(504, "total_timeout")
    connector = wire.worker.services.connector
    assert len(connector._dials) == connector.dialling == 1  # Made in any case, for the next one.
    wire.network.answer(wire.address("a"))
    wire.settle()
    assert len(wire.node().idle) == 1
    leave(wire, clients)


def test_a_dial_that_waits_does_so_for_the_time_to_connect(make: Any) -> None:
    wire = make(settings=ONCE, tls=False)
    wire.network.hang(wire.address("a"))
    clients = crowd(wire, DIALS + 1)
    wire.advance(2.1)
    for client in clients:
        client.expect_problem(504, "connect_timeout")
    assert wire.in_flight == 0
    assert wire.worker.services.connector.dialling == 0


def test_a_connection_from_before_does_not_say_that_one_can_be_made(make: Any) -> None:
    wire = make(settings=ONCE, tls=False)
    first, instance = asked(wire)
    wire.network.hang(wire.address("a"))
    clients = crowd(wire, DIALS)
    wire.advance(1.0)
    clients += crowd(wire, DIALS + 2)
    wire.advance(1.5)
    for client in clients[:DIALS]:
        client.expect_problem(504, "connect_timeout")
    assert wire.node().unreachable
    answered(first, instance)
    assert instance.take()
    answered(clients[2 * DIALS], instance)  # Another one has waited for its turn, or this.
    assert instance.take()
    assert wire.node().unreachable
    clients.append(wire.client())
    clients[-1].send(request("GET /"))
    wire.advance(0.49)
    assert len(wire.worker.services.unreachable._due) == 1
    wire.network.answer(wire.address("a"))
    wire.settle()
    assert not wire.node().unreachable
    leave(wire, [first, *clients])


def test_a_want_of_local_ports_is_not_found_out_by_each_request(make: Any) -> None:
    """The kernel looks through all ports each time."""
    wire = make(settings=ONCE)
    wire.network.refuse(wire.address("a"), OSError(errno.EADDRNOTAVAIL, "no port"))
    for _ in range(3):
        client = wire.client()
        client.send(request("GET /"))
        client.expect_problem(503, "no_port")
    assert len(wire.network.dialled) == 1
    wire.advance(NO_PORT_PAUSE + 0.01)
    client = wire.client()
    client.send(request("GET /"))
    client.expect_problem(503, "no_port")
    assert len(wire.network.dialled) == 2
