"""Connections that are passed on as they are."""

from __future__ import annotations

from typing import Any

from proxy.settings.listener import ListenerSettings
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
