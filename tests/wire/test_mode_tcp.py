"""Connections that are passed on as they are."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.settings.listener import ListenerLimits, ListenerSettings
from proxy.settings.service import RetrySettings, ServiceSettings
from tests.wire.scenes import REFUSED

LISTENER = ListenerSettings(mode_tcp="s")


def test_bytes_go_both_ways_and_the_connection_counts(make: Any) -> None:
    wire = make(listener=LISTENER)
    client = wire.client()
    instance = wire.accepted("a")
    assert wire.in_flight == 1
    instance.send(b"220 ready\r\n")
    client.expect(b"220 ready\r\n")
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    instance.expect(b"GET / HTTP/1.1\r\n\r\n")
    client.eof()
    assert instance.saw_end
    instance.eof()
    assert client.closed
    assert wire.node("a").outcomes == {"ok": 1}


def test_a_connection_counts_among_those_of_the_listener_while_it_lasts(make: Any) -> None:
    limits = ListenerLimits(connections=4)  # Of two workers.
    wire = make(listener=ListenerSettings(mode_tcp="s", limits=limits))
    clients = [(wire.client(), wire.accepted("a")) for _ in range(2)]
    assert wire.client().closed
    first, instance = clients[0]
    first.eof()
    instance.eof()
    assert first.closed
    another = wire.client()
    wire.accepted("a").send(b"hi")
    another.expect(b"hi")
    assert wire.client().closed


def test_a_client_has_room_for_so_many(make: Any) -> None:
    limits = ListenerLimits(connections=6, connections_per_client=2)  # Of two workers.
    wire = make(listener=ListenerSettings(mode_tcp="s", limits=limits))
    clients = [(wire.client(), wire.accepted("a")) for _ in range(2)]
    assert wire.client().closed
    assert wire.worker.counters.service("").faults == {"no_descriptor": 1}
    assert not wire.client(("192.0.2.8", 40000)).closed
    other = wire.accepted("a")
    assert wire.client().closed  # For the listener's limit, and it takes nobody's place.
    other.eof()
    assert wire.client().closed
    client, instance = clients[0]
    client.eof()
    instance.eof()
    another = wire.client()
    wire.accepted("a").send(b"hi")
    another.expect(b"hi")
    assert wire.client().closed


def test_a_connection_is_tried_elsewhere(make: Any) -> None:
    settings = ServiceSettings(retry=RetrySettings(budget=1.0))
    wire = make("a", "b", listener=LISTENER, settings=settings)
    wire.network.refuse(wire.address("a"), REFUSED)
    for _ in range(2):
        client = wire.client()
        instance = wire.accepted("b")
        client.send(b"x")
        instance.expect(b"x")


def test_a_connection_to_a_service_that_nobody_knows_is_closed(make: Any) -> None:
    wire = make(listener=ListenerSettings(mode_tcp="nobody"))
    assert wire.client().closed
    wire.expect_no_dial()


@pytest.mark.parametrize("said", [b"", b"QUIT\r\n"])
def test_a_client_that_says_no_more_before_there_is_an_instance_is_answered(
    make: Any, said: bytes
) -> None:
    wire = make(listener=LISTENER, tls=False)
    wire.network.hang(wire.address("a"))
    client = wire.silent_client()
    for what in (said, None):
        client.raw.resume_reading()  # As uvloop does, behind `connection_made`.
        client.eof() if what is None else client.send(what)
    assert not client.closed
    wire.network.answer(wire.address("a"))
    wire.settle()
    instance = wire.accepted("a")
    instance.expect(said)
    assert instance.saw_end
    instance.send(b"220 ready\r\n")
    client.expect(b"220 ready\r\n")
    instance.eof()
    assert client.closed
    assert wire.node("a").outcomes == {"ok": 1}
