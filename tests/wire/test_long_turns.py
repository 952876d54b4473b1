"""What was read late in a long turn of the loop, and is passed on in the next ones."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from proxy.engine.http1.server import READ_AHEAD
from proxy.engine.pace import Pace
from proxy.settings.listener import ListenerSettings, ListenerTimeouts
from proxy.settings.service import Keepalive, ServiceSettings
from tests.support.h2_peer import HTTP2, H2Instance, H2Peer, answer, data, head
from tests.support.wire import OK, OK_RELAYED, Peer, Wire, forwarded, request
from tests.wire.scenes import HALF_CLOSE, answered, asked

Line = list[Callable[[], None]]


def long_turn(wire: Wire) -> Line:
    """What is read from now on is put off. Returns what the next turn of the loop calls."""
    line: Line = []
    clock = count(1.0)
    pace = Pace(line.append, lambda: next(clock))
    assert not pace.is_over()
    pace.left = 0
    services = wire.worker.services
    services.pace = services.connector._upstreams.pace = pace
    return line


def next_turns(wire: Wire, line: Line) -> None:
    """Turns that are short."""
    wire.worker.services.pace.left = 10**6
    while line:
        line.pop(0)()
        wire.settle()


def put_off(wire: Wire, *data: bytes) -> tuple[Peer, Line]:
    client, line = wire.client(), long_turn(wire)
    client.send(*data)
    client.expect_nothing()
    return client, line


def test_requests_of_one_client_keep_their_order(make: Any) -> None:
    wire = make()
    client, line = put_off(wire, request("GET /1"), request("GET /2")[:20], request("GET /2")[20:])
    next_turns(wire, line)
    a = wire.connected()
    a.expect(forwarded("GET /1"))
    answered(client, a)
    a.expect(forwarded("GET /2"))
    answered(client, a)


def test_each_client_is_served_in_the_order_of_arrival(make: Any) -> None:
    wire = make()
    line = long_turn(wire)
    clients = [wire.client() for _ in range(3)]
    for number, client in enumerate(clients):
        client.send(request(f"GET /{number}"))
    next_turns(wire, line)
    for number, client in enumerate(clients):
        a = wire.connected()
        a.expect(forwarded(f"GET /{number}"))
        answered(client, a)


@pytest.mark.parametrize("leave", [Peer.reset, Peer.eof])
def test_a_client_that_has_left_is_not_served(make: Any, leave: Callable[[Peer], None]) -> None:
    wire = make()
    client, line = put_off(wire, request("GET /"))
    leave(client)
    next_turns(wire, line)
    assert client.closed
    client.expect_nothing()


def test_a_client_that_has_half_closed_is_served(make: Any) -> None:
    wire = make(listener=HALF_CLOSE)
    client, line = put_off(wire, request("GET /"))
    client.eof()
    next_turns(wire, line)
    a = wire.connected()
    a.expect(forwarded("GET /"))
    answered(client, a)
    assert client.closed


def test_a_request_behind_half_an_empty_line_is_served(make: Any) -> None:
    wire = make()
    client = wire.client()
    client.send(b"\r")
    line = long_turn(wire)
    client.send(b"\n" + request("GET /1")[:9], request("GET /1")[9:])
    next_turns(wire, line)
    a = wire.connected()
    a.expect(forwarded("GET /1"))
    answered(client, a)


def test_a_request_that_came_within_the_limit_is_served_behind_it(make: Any) -> None:
    wire = make(listener=ListenerSettings(timeouts=ListenerTimeouts(head=5.0)))
    client, line = put_off(wire, request("GET /1"))
    wire.advance(6.0)
    a = wire.connected()
    a.expect(forwarded("GET /1"))
    next_turns(wire, line)
    answered(client, a)


def test_read_ahead_is_bounded_and_goes_on(make: Any) -> None:
    wire = make(settings=ServiceSettings(keepalive=Keepalive(max_requests=10**6)))
    piece = request("GET /") * 100
    client, line = put_off(wire, piece)
    sent = 1
    while client.read:
        client.send(piece)
        sent += 1
    assert READ_AHEAD < sent * len(piece) <= READ_AHEAD + 2 * 16 * 1024 + len(piece)
    next_turns(wire, line)
    a = wire.connected()
    for _ in range(100 * sent):
        a.expect(forwarded("GET /"))
        a.send(OK)
        client.expect(OK_RELAYED)
    assert client.read


def test_an_answer_comes_whole_and_in_order(make: Any) -> None:
    wire = make()
    client, a = asked(wire)
    line = long_turn(wire)
    a.send(OK[:9], OK[9:-1], OK[-1:])
    client.expect_nothing()
    next_turns(wire, line)
    client.expect(OK_RELAYED)
    assert a.read
    assert not a.closed


@pytest.mark.parametrize("size", [2, 3])
def test_an_answer_is_passed_on_before_its_end(make: Any, size: int) -> None:
    """The instance has hung up meanwhile, in the middle of the answer or behind it."""
    wire = make()
    client, a = asked(wire)
    line = long_turn(wire)
    a.send(OK.replace(b"2", b"%d" % size))
    a.eof()
    client.expect_nothing()
    next_turns(wire, line)
    assert client.take().endswith(b"hi")
    assert client.closed == (size > 2)


@pytest.mark.parametrize("leave", [Peer.reset, Peer.eof])
def test_an_answer_is_dropped_when_the_client_has_left(
    make: Any, leave: Callable[[Peer], None]
) -> None:
    wire = make()
    client, a = asked(wire)
    line = long_turn(wire)
    a.send(OK)
    leave(client)
    assert a.closed
    next_turns(wire, line)
    client.expect_nothing()


def test_an_instance_is_not_read_far_ahead_of_its_turn(make: Any) -> None:
    wire = make()
    client, a = asked(wire)
    line = long_turn(wire)
    a.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", b"ab", b"cd", b"ef")
    assert not a.read
    client.expect_nothing()
    next_turns(wire, line)
    assert client.take().endswith(b"\r\n\r\nabcdef")
    assert a.read


def test_the_next_exchange_of_a_connection_is_not_put_off_for_good(make: Any) -> None:
    wire = make()
    client, a = asked(wire)
    for _ in range(3):
        line = long_turn(wire)
        a.send(OK)
        next_turns(wire, line)
        client.expect(OK_RELAYED)
        client.send(request("GET /"))
        a.expect(forwarded("GET /"))
    a.send(OK[:-1])
    a.reset()
    assert client.take().endswith(b"h")
    assert client.closed


def test_a_client_of_http2_is_read_in_its_turn(make: Any) -> None:
    wire = make(listener=HTTP2)
    client = H2Peer(wire)
    line = long_turn(wire)
    client.peer.send_at_once(head(1), head(3)[:9], head(3)[9:])
    assert not client.peer.read
    assert client.take() == []
    next_turns(wire, line)
    assert client.peer.read
    for stream in (1, 3):
        instance = wire.connected()
        instance.expect(forwarded("GET /x"))
        instance.send(OK)
        assert client.answer(stream)[1] == b"hi"


def test_an_instance_of_http2_is_read_in_its_turn(make: Any) -> None:
    wire = make(http2=True)
    client = wire.client()
    client.send(request("GET /x"))
    instance = H2Instance(wire)
    assert instance.requests() == [1]
    line = long_turn(wire)
    told = answer(1, ("content-length", "2")) + data(1, b"hi", True)
    instance.peer.send_at_once(told[:9], told[9:])
    assert not instance.peer.read
    client.expect_nothing()
    next_turns(wire, line)
    assert instance.peer.read
    client.expect(OK_RELAYED)
