"""One connection, several requests: order, bounds, and ends of file."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.engine.http1.server import READ_AHEAD
from proxy.settings.listener import ListenerLimits, ListenerSettings
from proxy.settings.route import RouteSpec
from proxy.settings.service import Keepalive, ServiceSettings
from tests.support.wire import OK, OK_RELAYED, forwarded, request
from tests.wire.scenes import HALF_CLOSE, answered, asked, reached


def test_answers_come_in_the_order_of_the_requests(make: Any) -> None:
    wire = make()
    client, a = reached(wire, b"".join(request(f"GET /{number}") for number in range(4)))
    for number in range(4):
        a.expect(forwarded(f"GET /{number}"))
        client.expect_nothing()
        answered(client, a)


def test_the_next_request_waits_for_a_slow_answer(make: Any) -> None:
    wire = make()
    client, a = reached(wire, request("GET /slow"))
    a.expect(forwarded("GET /slow"))
    client.send(request("GET /quick"))
    a.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsl")
    a.expect_nothing()
    a.send(b"ow")
    a.expect(forwarded("GET /quick"))
    a.send(OK)
    assert client.take().endswith(b"\r\n\r\nslow" + OK_RELAYED)


@pytest.mark.parametrize(
    ("fields", "body", "sent"),
    [
        (("Content-Length: 5",), b"abcde", b"abcde"),
        (("Transfer-Encoding: chunked",), b"5\r\nabcde\r\n0\r\n\r\n", b"5\r\nabcde\r\n0\r\n\r\n"),
    ],
)
def test_a_request_behind_a_body(
    make: Any, fields: tuple[str, ...], body: bytes, sent: bytes
) -> None:
    wire = make()
    client, a = reached(wire, request("POST /", *fields, body=body) + b"\r\n" + request("GET /2"))
    a.expect(forwarded("POST /", *fields, body=sent))
    a.send(OK)
    a.expect(forwarded("GET /2"))
    a.send(OK)
    client.expect(OK_RELAYED * 2)


def test_read_ahead_is_bounded_and_goes_on(make: Any) -> None:
    wire = make(settings=ServiceSettings(keepalive=Keepalive(max_requests=10**6)))
    client, a = asked(wire, request("GET /0"))
    one = request("GET /n")
    batch = one * (READ_AHEAD // len(one) // 2)
    for _ in range(6):
        client.transport.feed(batch)  # As much as a client likes to push.
    wire.settle()
    assert not client.read
    assert client.transport.pauses == ["pause"]
    served = 0
    while True:
        # What is held besides the kernel's queue never grows with the requests served.
        assert len(client.transport.get_protocol()._buffer) <= READ_AHEAD + len(batch)
        answered(client, a)
        if not a.take():
            break
        served += 1
    assert served == 6 * (READ_AHEAD // len(one) // 2)
    assert client.read
    pauses = client.transport.pauses
    assert pauses == ["pause", "resume"] * (len(pauses) // 2)


def test_the_next_head_may_be_longer_than_the_read_ahead(make: Any) -> None:
    limits = ListenerLimits(head=256 * 1024)
    wire = make(listener=ListenerSettings(limits=limits))
    client, a = asked(wire, request("GET /0"))
    long = request("GET /1", "X-Long: " + "x" * (2 * READ_AHEAD))
    client.send(long[:-3000])
    assert not client.read
    answered(client, a)
    assert client.read
    client.send(long[-3000:])
    assert a.take().startswith(b"GET /1 ")
    answered(client, a)


def test_a_half_closed_client_gets_its_answers(make: Any) -> None:
    wire = make(listener=HALF_CLOSE)
    client = wire.client()
    client.send(request("GET /1") + request("GET /2"))
    client.eof()
    a = wire.accepted()
    a.expect(forwarded("GET /1"))
    a.send(OK)
    a.expect(forwarded("GET /2"))
    assert not client.closed
    a.send(OK)
    client.expect(OK_RELAYED * 2)
    assert client.closed
    assert not client.cut


def test_refusals_in_a_pipeline_do_not_end_it_when_the_client_is_done_sending(make: Any) -> None:
    wire = make(routes=(RouteSpec(path_prefix="/s", service="s"),), listener=HALF_CLOSE)
    client = wire.client()
    client.transport.feed(request("GET /none") * 3 + request("GET /s"))
    client.eof()
    a = wire.accepted()
    a.expect(forwarded("GET /s"))
    a.send(OK)
    assert client.take().count(b"HTTP/1.1 404 ") == 3
    assert client.closed


def test_the_end_may_come_between_two_requests(make: Any) -> None:
    wire = make(listener=HALF_CLOSE)
    client, a = asked(wire, request("GET /1") + request("GET /2"))
    a.transport.feed(OK)  # Answered, and the second request is not taken up yet.
    client.transport.feed_eof()
    wire.settle()
    a.expect(forwarded("GET /2"))
    a.send(OK)
    client.expect(OK_RELAYED * 2)
    assert client.closed


def test_half_a_request_at_the_end_is_dropped(make: Any) -> None:
    wire = make(listener=HALF_CLOSE)
    client, a = asked(wire, request("GET /1") + b"GET /2 HT")
    client.eof()
    answered(client, a)
    assert client.closed
    assert not client.cut


def test_garbage_behind_a_good_request(make: Any) -> None:
    wire = make()
    client, a = asked(wire, request("GET /1") + b"\x16\x03\x01 garbage\r\n\r\n")
    a.send(OK)
    answer = client.take()
    assert answer.startswith(OK_RELAYED + b"HTTP/1.1 400 ")
    assert client.saw_end


@pytest.mark.parametrize("late_pause", [False, True])
def test_a_client_that_does_not_read_gets_no_further_answers(make: Any, late_pause: bool) -> None:
    wire = make(late_pause=late_pause)
    client = wire.client()
    client.stall()
    client.send(request("GET /1") + request("GET /2") + request("GET /3"))
    a = wire.accepted()
    a.expect(forwarded("GET /1"))
    big = b"x" * 90_000
    a.send(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + big[:60_000], big[60_000:])
    a.expect_nothing()
    client.send(request("GET /4"))
    a.expect_nothing()
    assert a.read  # It is idle: its end of file must be seen.
    client.read_on()
    assert client.take().endswith(big)
    for number in (2, 3, 4):
        a.expect(forwarded(f"GET /{number}"))
        answered(client, a)


def test_a_client_that_never_reads_is_cut(make: Any) -> None:
    wire = make()
    client = wire.client()
    client.stall()
    client.send(request("GET /1"))
    a = wire.accepted()
    a.take()
    a.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
    wire.advance(74)
    assert not client.closed
    wire.advance(2)
    assert client.cut


@pytest.mark.parametrize("size", [10, 20_000, 100_000])
def test_a_close_does_not_wait_for_ever_for_a_client_that_does_not_read(
    make: Any, size: int
) -> None:
    wire = make()
    client = wire.client()
    client.stall()
    client.send(request("GET /1", "Connection: close"))
    a = wire.accepted()
    a.take()
    a.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    assert not client.closed
    wire.advance(77)
    assert client.cut


@pytest.mark.parametrize("cut", range(1, 6))
def test_empty_lines_before_a_request_however_they_are_cut(make: Any, cut: int) -> None:
    wire = make()
    client = wire.client()
    stream = b"\r\n\r\n\r\n" + request("GET /")
    client.send(stream[:cut], stream[cut:])
    a = wire.accepted()
    a.expect(forwarded("GET /"))
    answered(client, a)


@pytest.mark.parametrize("start", [b"\n", b"\r\r\n", b"\r\n\n", b"\r\n\r\r\n"])
def test_other_line_ends_before_a_request_are_refused(make: Any, start: bytes) -> None:
    wire = make()
    client = wire.client()
    client.send(start + request("GET /"))
    client.expect_problem(400, "http_request_error", closing=True)
