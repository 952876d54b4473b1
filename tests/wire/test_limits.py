"""What a client may send, how long it may take, and what it is told."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.settings.listener import ListenerLimits, ListenerSettings, ListenerTimeouts
from tests.support.wire import Wire, forwarded, request
from tests.wire.scenes import answered, asked, reached

SIZES = ListenerLimits(head=1024, fields=10, target=200, body=10)
LIMITS = ListenerSettings(limits=SIZES, http2=False)
QUICK = ListenerSettings(timeouts=ListenerTimeouts(head=4.0, body=3.0, idle=10.0, linger=2.0))


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("GET /", "X: " + "x" * 1200), 431),
        (request("GET /", "X: " + "x" * 1200)[:1100], 431),
        (request("GET /", *(f"X{n}: 1" for n in range(9))), 431),
        (request("GET /" + "x" * 200), 414),
        (request("GET /" + "x" * 2000), 414),
        (b"GET /" + b"x" * 1100, 414),
        (b"x" * 1100, 400),
        (request("POST /", "Content-Length: 11"), 413),
        (request("POST /", "Transfer-Encoding: chunked", body=b"b\r\n" + b"x" * 11), 413),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (request("CONNECT h:443"), 405),
        (request("POST /", "Transfer-Encoding: gzip, chunked"), 501),
        (request("POST /", "Transfer-Encoding: chunked", "Content-Length: 3"), 400),
    ],
)
@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_refusal_closes_after_the_client_could_read_why(
    make: Any, sent: bytes, status: int, one_by_one: bool
) -> None:
    wire = make(listener=LIMITS)
    client = wire.client()
    if one_by_one:
        client.send(*(sent[at : at + 1] for at in range(len(sent))))
    else:
        client.send(sent)
    if wire.network.dialled:
        assert wire.accepted().take().startswith(b"POST / ")  # A chunk goes on before the limit.
    head = client.expect_problem(status, "http_request_error", closing=True)
    assert (b"\r\nAllow: " in head) == (status == 405)
    assert client.saw_end
    assert not client.closed
    client.send(b"more of the same" * 100)
    client.expect_nothing()
    wire.advance(2.1)
    assert client.closed
    assert wire.in_flight == 0


def test_a_lingering_client_that_closes_is_let_go(make: Any) -> None:
    wire = make()
    client = wire.client()
    client.send(b"nonsense\r\n\r\n")
    client.expect_problem(400, "http_request_error", closing=True)
    client.eof()
    assert client.closed
    assert not client.cut


def test_at_the_limits_everything_passes(make: Any) -> None:
    wire = make(listener=LIMITS)
    client = wire.client()
    target = "/" + "x" * 199
    fields = [f"X{n}: 1" for n in range(7)]
    body = b"0123456789"
    client.send(request(f"POST {target}", *fields, "Content-Length: 10", body=body))
    a = wire.accepted()
    a.expect(forwarded(f"POST {target}", *fields, "Content-Length: 10", body=body))
    answered(client, a)
    spare = 1024 - len(request("GET /", "X: "))
    client.send(request("GET /", "X: " + "x" * spare))
    assert a.take().startswith(b"GET / ")
    answered(client, a)


def test_a_body_that_grows_too_large_is_cut_off(make: Any) -> None:
    wire = make(listener=LIMITS)
    client, a = reached(wire, request("POST /", "Transfer-Encoding: chunked"), b"8\r\n12345678\r\n")
    a.expect(forwarded("POST /", "Transfer-Encoding: chunked", body=b"8\r\n12345678\r\n"))
    client.send(b"8\r\n12345678\r\n")
    client.expect_problem(413, "http_request_error", closing=True)
    a.expect_nothing()
    assert a.cut


def test_a_client_that_says_nothing_is_closed_without_a_word(make: Any) -> None:
    wire = make(listener=QUICK)
    client = wire.client()
    wire.advance(3.9)
    assert not client.closed
    wire.advance(0.2)
    assert client.closed
    client.expect_nothing()


def test_a_slow_head(make: Any) -> None:
    wire = make(listener=QUICK)
    client = wire.client()
    for piece in (b"G", b"E", b"T"):
        wire.advance(1.5)
        client.send(piece)
    # 4 s from its first byte, not from its latest one.
    wire.advance(0.9)
    client.expect_nothing()
    wire.advance(0.2)
    client.expect_problem(408, "http_request_error", closing=True)


def test_a_slow_second_head(make: Any) -> None:
    wire = make(listener=QUICK)
    client, a = asked(wire, request("GET /") + b"GET /second HT")
    wire.advance(8)  # It waits for its turn; that is not the client's slowness.
    answered(client, a)
    wire.advance(3.9)
    client.expect_nothing()
    wire.advance(0.2)
    client.expect_problem(408, "http_request_error", closing=True)


def test_a_gap_in_a_body(make: Any) -> None:
    wire = make(listener=QUICK)
    client, a = reached(wire, request("POST /", "Content-Length: 10", body=b"a"))
    for _ in range(4):
        wire.advance(2.5)
        client.send(b"x")
    a.take()
    wire.advance(2.9)
    client.expect_nothing()
    wire.advance(0.2)
    client.expect_problem(408, "http_request_error", closing=True)
    assert a.cut


def test_waiting_for_the_instance_is_no_gap_of_the_client(make: Any) -> None:
    wire = make(listener=QUICK)
    wire.network.hang(wire.address("a"))
    client = wire.client()
    client.send(request("POST /", "Content-Length: 3", body=b"a"))
    wire.advance(2.95)
    client.expect_nothing()
    assert not client.read
    wire.network.answer(wire.address("a"))
    wire.settle()
    a = wire.accepted()
    assert client.read
    a.stall()
    wire.advance(2.9)
    client.send(b"b")
    wire.advance(2.9)
    client.send(b"c")
    a.read_on()
    a.expect(forwarded("POST /", "Content-Length: 3", body=b"abc"))
    answered(client, a)


def test_an_idle_client_is_closed(make: Any) -> None:
    wire = make(listener=QUICK)
    client, a = asked(wire)
    wire.advance(20)  # Waiting for an answer is not idling.
    answered(client, a)
    wire.advance(9.9)
    assert not client.closed
    wire.advance(0.2)
    assert client.closed


# -- back-pressure


def big_answer(wire: Wire, size: int = 70_000) -> tuple[Any, Any]:
    """A client that does not read, and its instance in the midst of a large answer."""
    client = wire.client()
    client.stall()
    client.send(request("GET /"))
    a = wire.accepted()
    a.take()
    a.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (size + 5) + b"x" * size)
    return client, a


@pytest.mark.parametrize("late_pause", [False, True])
def test_a_client_that_does_not_read_stops_the_instance(make: Any, late_pause: bool) -> None:
    wire = make(late_pause=late_pause)
    client, a = big_answer(wire)
    assert not a.read
    assert a.transport.pauses == ["pause"]
    client.transport.read_on(60_000)
    wire.settle()
    assert a.read
    assert a.transport.pauses == ["pause", "resume"]
    a.send(b"12345")
    client.read_on()
    assert client.take().endswith(b"x12345")


def test_the_instances_patience_does_not_run_while_it_is_held(make: Any) -> None:
    wire = make(listener=ListenerSettings(timeouts=ListenerTimeouts(idle=1000)))
    client, a = big_answer(wire)
    wire.advance(500)
    assert not a.closed
    client.read_on()
    client.take()
    wire.advance(59)
    assert not a.closed
    wire.advance(2)
    assert client.cut


@pytest.mark.parametrize("late_pause", [False, True])
def test_a_connection_held_at_its_last_piece_is_read_again(make: Any, late_pause: bool) -> None:
    wire = make(late_pause=late_pause)
    client = wire.client()
    client.stall()
    client.send(request("GET /"))
    a = wire.accepted()
    a.take()
    a.send(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + b"x" * 60_000)
    a.send(b"x" * 30_000)
    assert a.read
    other = wire.client()
    other.send(request("GET /other"))
    a.expect(forwarded("GET /other"))
    answered(other, a)
    client.read_on()
    assert len(client.take()) > 90_000


@pytest.mark.parametrize("late_pause", [False, True])
def test_an_instance_that_does_not_read_stops_the_client(make: Any, late_pause: bool) -> None:
    wire = make(late_pause=late_pause)
    client, a = asked(wire, request("POST /", "Content-Length: 300000"))
    a.stall()
    client.send(b"x" * 100_000)
    assert not client.read
    wire.advance(59)  # The client's silence is ours.
    client.send(b"x" * 200_000)
    a.read_on()
    # Until there was a connection, and until the instance read on.
    assert client.transport.pauses == ["pause", "resume"] * 2
    assert len(a.take()) == 300_000
    answered(client, a)


def test_an_answer_without_reading_the_request(make: Any) -> None:
    """The whole request is in our buffers; the instance answers and reads no more of it."""
    wire = make()
    client, a = asked(wire, request("POST /", "Content-Length: 90000"))
    a.stall()
    client.transport.feed(b"x" * 60_000, b"x" * 30_000)
    wire.settle()
    answered(client, a)
    assert a.closed  # What it did not read must not meet the next answer.
    client.send(request("GET /"))
    fresh = wire.accepted()
    fresh.expect(forwarded("GET /"))
    answered(client, fresh)


def test_a_client_that_stalls_while_it_uploads(make: Any) -> None:
    wire = make(listener=QUICK)
    client = wire.client()
    client.stall()
    client.send(request("POST /", "Content-Length: 2", body=b"a"))
    a = wire.accepted()
    a.take()
    a.send(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 100_000)
    client.send(b"b")
    a.expect(b"b")
    wire.advance(10.1)
    assert client.cut
    assert a.cut
