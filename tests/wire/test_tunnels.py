"""From a 101 on: bytes both ways, ends passed on, limits, and what does not become a tunnel."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from proxy.engine.tunnel import FLUSH
from proxy.settings.listener import ListenerSettings
from proxy.settings.service import ServiceSettings, Timeouts
from tests.support.wire import Wire, forwarded, request
from tests.wire.scenes import answered, asked, reached

UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX: 1\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nX-Request-ID: r1\r\n"
    b"X: 1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Via: 1.1 fairlead\r\n\r\n"
)


def tunnel(wire: Wire, early: bytes = b"", answer: bytes = b"") -> tuple[Any, Any]:
    client, a = reached(wire, request("GET /chat", *UPGRADE, body=early))
    a.expect(forwarded("GET /chat", after=UPGRADE))
    a.send(SWITCH + answer)
    client.expect(SWITCHED + answer)
    return client, a


def test_bytes_go_both_ways(make: Any) -> None:
    wire = make()
    client, a = tunnel(wire)
    assert wire.in_flight == 1
    assert len(wire.worker.connections.tunnels) == 1
    assert not wire.worker.connections.clients
    client.send(b"GET / HTTP/1.1\r\n\r\n", b"\x00")
    a.expect(b"GET / HTTP/1.1\r\n\r\n\x00")
    a.send(b"HTTP/1.1 999\r\n\r\n")
    client.expect(b"HTTP/1.1 999\r\n\r\n")
    client.reset()
    assert a.closed
    assert wire.in_flight == 0
    assert wire.node().outcomes == {"ok": 1}
    assert wire.pool.counters.snapshot().requests == {"GET 101": 1}


def test_bytes_sent_early_are_not_lost(make: Any) -> None:
    wire = make()
    client, a = tunnel(wire, early=b"from client", answer=b"from instance")
    a.expect(b"from client")
    client.send(b"!")
    a.expect(b"!")


def test_early_bytes_beyond_the_read_ahead(make: Any) -> None:
    wire = make()
    client, a = asked(wire, request("GET /chat", *UPGRADE))
    client.send(b"x" * 70_000)
    assert not client.read
    client.send(b"y" * 10)
    a.send(SWITCH)
    client.expect(SWITCHED)
    assert client.read
    assert a.take() == b"x" * 70_000 + b"y" * 10


@pytest.mark.parametrize("first", ["client", "instance"])
def test_half_closes_are_passed_on(make: Any, first: str) -> None:
    wire = make()
    client, a = tunnel(wire)
    one, other = (client, a) if first == "client" else (a, client)
    one.send(b"last")
    one.eof()
    other.expect(b"last")
    assert other.saw_end
    assert not other.closed
    assert not one.closed
    other.send(b"answer")
    one.expect(b"answer")
    other.eof()
    assert one.closed
    assert other.closed
    assert not one.cut
    assert not other.cut


def test_a_client_may_have_ended_before_the_switch(make: Any) -> None:
    wire = make(listener=ListenerSettings(client_close="half_close"))
    client = wire.client()
    client.send(request("GET /chat", *UPGRADE, body=b"all"))
    client.eof()
    a = wire.accepted()
    a.take()
    a.send(SWITCH)
    client.expect(SWITCHED)
    a.expect(b"all")
    assert a.saw_end
    a.send(b"bye")
    client.expect(b"bye")
    a.eof()
    assert client.closed


@pytest.mark.parametrize("first", ["client", "instance"])
@pytest.mark.parametrize("when", ["read", "not read", "ended"])
def test_a_reset_is_passed_on(make: Any, first: str, when: str) -> None:
    """Heard whether or not that side is read: one that has ended never is."""
    wire = make()
    client, a = tunnel(wire)
    a.transport.lend(wire.network.socket())
    one, other = (client, a) if first == "client" else (a, client)
    if when == "not read":
        other.stall()
        one.send(b"x" * 100_000)
        assert not one.read
    elif when == "ended":
        one.eof()
        assert other.saw_end
    one.reset()
    assert other.saw_reset
    assert one.closed


def test_an_end_behind_what_is_unread_is_no_reset(make: Any) -> None:
    """Both sides have ended in good order, which the kernel also calls a hang-up."""
    wire = make()
    client, a = tunnel(wire)
    a.transport.lend(wire.network.socket())
    a.eof()
    assert client.saw_end
    a.stall()
    client.send(b"x" * 100_000)
    client.transport.feed(b"last")
    client.eof()
    a.read_on()
    assert a.take() == b"x" * 100_000 + b"last"
    assert a.closed
    assert client.closed
    assert not a.saw_reset


def test_a_silent_tunnel_is_closed(make: Any) -> None:
    wire = make(settings=ServiceSettings(timeouts=Timeouts(tunnel_idle=10.0, total=3.0)))
    client, a = tunnel(wire)
    for side in (client, a, client):
        wire.advance(9)
        side.send(b"x")
    assert not client.closed
    wire.advance(10.1)
    assert client.closed
    assert a.closed
    assert client.take() == b"x"
    assert a.take() == b"xx"


@pytest.mark.parametrize("stalled", ["client", "instance"])
def test_a_side_that_does_not_read_holds_the_other(make: Any, stalled: str) -> None:
    wire = make()
    client, a = tunnel(wire)
    slow, fast = (client, a) if stalled == "client" else (a, client)
    slow.stall()
    fast.send(b"x" * 100_000)
    assert not fast.read
    slow.read_on()
    assert fast.read
    assert len(slow.take()) == 100_000


@pytest.mark.parametrize("how", ["eof", "reset", "idle"])
def test_a_side_that_never_reads_cannot_keep_a_tunnel(make: Any, how: str) -> None:
    wire = make(settings=ServiceSettings(timeouts=Timeouts(tunnel_idle=10.0)))
    client, a = tunnel(wire)
    client.stall()
    a.send(b"x" * 1000)
    if how == "eof":
        a.eof()
        client.eof()
    elif how == "reset":
        a.reset()
    wire.advance(10.0 + FLUSH + 0.1)
    assert client.saw_reset  # Part of what was said is not the whole.
    assert wire.in_flight == 0


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        (("Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: x"), ()),
        (("Connection: Upgrade", "Upgrade: TLS/1.3"), ()),
        (("Connection: Upgrade", "Upgrade: HTTP/3, h2c"), ()),
        (("Upgrade: websocket",), ()),
        (("Connection: upgrade", "Upgrade: h2c, foo, bar/1"),
         ("Connection: Upgrade", "Upgrade: foo, bar/1")),
        (("Connection: keep-alive, UPGRADE", "Upgrade: a", "Upgrade: b"),
         ("Connection: Upgrade", "Upgrade: a, b")),
    ],
)  # fmt: skip
def test_upgrades_are_offered_on_without_h2c_http_and_tls(
    make: Any, fields: tuple[str, ...], sent: tuple[str, ...]
) -> None:
    wire = make()
    client, a = reached(wire, request("GET /", *fields))
    a.expect(forwarded("GET /", after=sent))
    # An instance may decline, and both connections go on as they were.
    answered(client, a)
    client.send(request("GET /2"))
    a.expect(forwarded("GET /2"))
    answered(client, a)


def test_a_switch_that_names_no_protocol(make: Any) -> None:
    wire = make()
    client, a = asked(wire, request("GET /", *UPGRADE))
    a.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    client.expect_problem(502, "http_protocol_error")
    assert a.cut


def test_an_upgrade_that_never_switches(make: Any) -> None:
    wire = make(settings=ServiceSettings(timeouts=Timeouts(first_byte=3.0)))
    client, _a = asked(wire, request("GET /", *UPGRADE))
    wire.advance(3.1)
    client.expect_problem(504, "http_response_timeout")


def test_an_upgrade_is_never_repeated(make: Any) -> None:
    wire = make()
    client, stale = asked(wire, request("GET /warm"))
    answered(client, stale)
    client.send(request("GET /", *UPGRADE))
    stale.take()
    stale.eof()
    # The client learns it and decides.
    client.expect_problem(502, "connection_terminated")


def test_an_upgrade_avoids_a_connection_that_is_closing(make: Any) -> None:
    """It has no second attempt, so the kernel is asked what the loop has not said yet."""
    wire = make()
    client, stale = asked(wire, request("GET /warm"))
    answered(client, stale)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stale.transport.lend(ours)
        theirs.close()
        client.send(request("GET /", *UPGRADE))
        fresh = wire.accepted()
        fresh.expect(forwarded("GET /", after=UPGRADE))
        assert stale.transport.ended
