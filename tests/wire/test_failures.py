"""What goes wrong, on either side and at each stage: who learns of it, and that everything that
was counted is given back."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from proxy.messages import Drain
from proxy.settings.route import RouteSpec
from proxy.settings.service import RetrySettings, ServiceSettings, Timeouts
from tests.support.wire import OK, forwarded, request
from tests.wire.scenes import answered, asked, reached, served

HEAD_OF_CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


# -- connecting


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), 502, "connect_refused"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), 502, "connect_refused"),
        (OSError(errno.EHOSTUNREACH, "no way"), 502, "unreachable"),
        (OSError(errno.ENETUNREACH, "no way"), 502, "unreachable"),
        (TimeoutError(errno.ETIMEDOUT, "late"), 504, "connect_timeout"),
        (OSError(errno.EADDRNOTAVAIL, "no port"), 503, "no_port"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_connection(make: Any, error: OSError, status: int, word: str, method: str) -> None:
    wire = make()
    wire.network.refuse(wire.address("a"), error)
    client = wire.client()
    client.send(request(f"{method} /", "Content-Length: 2", body=b"hi"))
    client.expect_problem(status, word)
    assert wire.in_flight == 0
    assert wire.node().outcomes == {word: 1}
    assert not client.closed


def test_another_instance_is_tried_with_the_same_body(make: Any) -> None:
    wire = make("a", "b")
    wire.network.refuse(wire.address("a"))
    wire.network.refuse(wire.address("b"))
    client = wire.client()
    client.send(request("POST /", "Content-Length: 2", body=b"h"))
    client.expect_problem(502, "connection_refused", closing=True)
    assert sorted(wire.network.dialled) == [wire.address("a"), wire.address("b")]
    assert wire.pool.counters.retries == {"connect_refused": 1}


@pytest.mark.parametrize("piece", [b"hi", b"h"])
@pytest.mark.parametrize("coding", ["Content-Length: 2", "Transfer-Encoding: chunked"])
def test_a_refused_post_goes_to_the_other_instance(make: Any, piece: bytes, coding: str) -> None:
    wire = make("a", "b")
    wire.network.refuse(wire.address("a"))
    body = b"2\r\nhi\r\n0\r\n\r\n" if "chunked" in coding else b"hi"
    cut = len(body) if piece == b"hi" else 1
    first, b = reached(wire, request("POST /", coding, body=body[:cut]), body[cut:], at="b")
    second = wire.client()  # In turn: one of the two has met `a` first.
    second.send(request("POST /", coding, body=body[:cut]), body[cut:])
    assert wire.address("a") in wire.network.dialled
    for client, peer in ((first, b), (second, wire.accepted("b"))):
        peer.expect(forwarded("POST /", coding, body=body))
        answered(client, peer)


def test_no_retry_where_it_is_off(make: Any) -> None:
    wire = make("a", "b", settings=ServiceSettings(retry=RetrySettings(max_retries=0)))
    wire.network.refuse(wire.address("a"))
    wire.network.refuse(wire.address("b"))
    client = wire.client()
    client.send(request("GET /"))
    client.expect_problem(502, "connection_refused")
    assert len(wire.network.dialled) == 1


def test_a_connection_that_is_closed_as_it_opens(make: Any) -> None:
    wire = make()
    wire.network.slam(wire.address("a"))
    client = wire.client()
    client.send(request("POST /", "Content-Length: 2", body=b"hi"))
    client.expect_problem(502, "connection_terminated")


def test_a_connection_closed_as_it_opens_fails_no_request_with_others_left(make: Any) -> None:
    wire = make("a", "b")
    wire.network.slam(wire.address("a"))
    clients = [wire.client(), wire.client()]
    for client in clients:
        client.send(request("POST /", "Content-Length: 2", body=b"hi"))
    assert wire.address("a") in wire.network.dialled
    for client in clients:
        b = wire.accepted("b")
        b.expect(forwarded("POST /", "Content-Length: 2", body=b"hi"))
        answered(client, b)


def test_connecting_takes_too_long(make: Any) -> None:
    wire = make(settings=ServiceSettings(timeouts=Timeouts(connect=2.0)))
    wire.network.hang(wire.address("a"))
    client = wire.client()
    client.send(request("GET /"))
    wire.advance(1.9)
    client.expect_nothing()
    wire.advance(0.2)
    client.expect_problem(504, "connection_timeout")
    wire.network.answer(wire.address("a"))


def test_no_instance(make: Any) -> None:
    wire = make()
    wire.serve()
    client = wire.client()
    client.send(request("GET /"))
    head = client.expect_problem(503, "destination_unavailable")
    assert b"\r\nRetry-After: " in head
    assert wire.pool.counters.faults == {"no_instance": 1}


def test_no_route_and_no_such_service(make: Any) -> None:
    wire = make(
        routes=(RouteSpec(path_prefix="/svc/{service}"), RouteSpec(path_prefix="/s", service="s"))
    )
    client = wire.client()
    client.send(request("GET /other"))
    client.expect_problem(404, "destination_not_found")
    client.send(request("GET /svc/unknown"))
    client.expect_problem(404, "destination_not_found")
    client.send(request("HEAD /other"))
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b"\r\n\r\n")
    assert not client.closed


# -- a connection that was kept


@pytest.mark.parametrize("how", ["eof", "reset"])
@pytest.mark.parametrize(
    ("method", "fields", "body"),
    [("GET", (), b""), ("PUT", ("Content-Length: 2",), b"hi"),
     ("PUT", ("Transfer-Encoding: chunked",), b"2\r\nhi\r\n0\r\n\r\n")],
)  # fmt: skip
def test_a_stale_connection_is_replaced(
    make: Any, how: str, method: str, fields: tuple[str, ...], body: bytes
) -> None:
    wire = make()
    stale = served(wire)
    client = wire.client()
    client.send(request(f"{method} /", *fields, body=body))
    stale.expect(forwarded(f"{method} /", *fields, body=body))
    getattr(stale, how)()
    fresh = wire.accepted()  # The only instance there is.
    fresh.expect(forwarded(f"{method} /", *fields, body=body))
    answered(client, fresh)
    assert wire.pool.counters.retries == {"closed_early": 1}


def test_a_stale_connection_fails_while_the_body_is_still_coming(make: Any) -> None:
    wire = make()
    stale = served(wire)
    client = wire.client()
    client.send(request("PUT /", "Content-Length: 6", body=b"ab"), b"cd")
    stale.expect(forwarded("PUT /", "Content-Length: 6", body=b"abcd"))
    wire.network.hang(wire.address("a"))
    stale.eof()
    assert not client.read  # Nowhere to go with it.
    client.send(b"ef")
    wire.network.answer(wire.address("a"))
    wire.settle()
    fresh = wire.accepted()
    fresh.expect(forwarded("PUT /", "Content-Length: 6", body=b"abcdef"))
    answered(client, fresh)
    assert client.transport.pauses == ["pause", "resume"]


def test_a_stale_connection_and_a_post(make: Any) -> None:
    wire = make()
    stale = served(wire)
    client = wire.client()
    client.send(request("POST /", "Content-Length: 2", body=b"hi"))
    stale.take()
    stale.eof()
    client.expect_problem(502, "connection_terminated")
    wire.expect_no_dial()


@pytest.mark.parametrize("sign", ["eof", "data"])
@pytest.mark.parametrize("request_line", ["POST /", "PATCH /"])
def test_an_unrepeatable_request_avoids_a_connection_that_is_closing(
    make: Any, request_line: str, sign: str
) -> None:
    """The instance has closed, and the loop has not said so yet: the kernel knows."""
    wire = make()
    stale = served(wire)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stale.transport.lend(ours)
        client = wire.client()
        client.send(request(request_line, "Content-Length: 2", body=b"hi"))
        stale.expect(forwarded(request_line, "Content-Length: 2", body=b"hi"))  # Nothing came.
        answered(client, stale)
        if sign == "eof":
            theirs.close()
        else:
            theirs.send(b"HTTP/1.1 408 Too Slow\r\n\r\n")
        client.send(request(request_line, "Content-Length: 2", body=b"hi"))
        fresh = wire.accepted()
        fresh.expect(forwarded(request_line, "Content-Length: 2", body=b"hi"))
        assert stale.transport.ended
        answered(client, fresh)
    assert wire.pool.counters.retries == {}


def test_an_unrepeatable_request_avoids_a_connection_that_failed_in_this_turn(make: Any) -> None:
    """The loop says so in its next turn; until then the connection looks idle."""
    wire = make()
    stale = served(wire)
    client = wire.client()
    stale.transport.reset()
    client.send(request("POST /", "Content-Length: 2", body=b"hi"))
    fresh = wire.accepted()
    fresh.expect(forwarded("POST /", "Content-Length: 2", body=b"hi"))
    answered(client, fresh)
    assert wire.pool.counters.retries == {}


def test_a_stale_connection_and_a_body_too_large_to_keep(make: Any) -> None:
    wire = make()
    stale = served(wire)
    client = wire.client()
    client.send(request("PUT /", "Content-Length: 100000", body=b"x" * 100_000))
    stale.take()
    stale.eof()
    client.expect_problem(502, "connection_terminated")


def test_a_stale_connection_prefers_another_instance(make: Any) -> None:
    wire = make("a", "b")
    client, stale = asked(wire)
    answered(client, stale)
    wire.serve(stale.name)  # Whichever it was, its connection is the one to be used.
    client.send(request("GET /x"))
    stale.expect(forwarded("GET /x"))
    wire.serve("a", "b")
    stale.eof()
    other = wire.connected()
    assert other.name != stale.name
    other.expect(forwarded("GET /x"))
    answered(client, other)


@pytest.mark.parametrize("end", ["eof", "reset"])
def test_a_fresh_connection_that_closes_is_tried_again_elsewhere(make: Any, end: str) -> None:
    wire = make("a", "b")
    client, peer = asked(wire)
    getattr(peer, end)()
    other = wire.connected()
    assert other.name != peer.name
    other.expect(forwarded("GET /x"))
    answered(client, other)


@pytest.mark.parametrize(
    ("line", "on"),
    [("POST", ("connect", "reset")), ("PATCH", ("connect", "reset")), ("GET", ("connect",))],
)
def test_a_fresh_connection_that_closes_where_once_is_enough(
    make: Any, line: str, on: tuple[str, ...]
) -> None:
    wire = make("a", "b", settings=ServiceSettings(retry=RetrySettings(on=on)))
    client, peer = asked(wire, request(f"{line} /", "Content-Length: 0"))
    peer.eof()
    client.expect_problem(502, "connection_terminated")
    assert len(wire.network.dialled) == 1


def test_a_request_is_not_repeated_after_an_interim_answer(make: Any) -> None:
    wire = make()
    stale = served(wire)
    client = wire.client()
    client.send(request("PUT /", "Content-Length: 2", "Expect: 100-continue"))
    stale.take()
    stale.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.send(b"hi")
    stale.take()
    stale.eof()
    client.expect_problem(502, "connection_terminated")
    wire.expect_no_dial()


@pytest.mark.parametrize("sign", ["eof", "reset", "data"])
def test_an_idle_connection_that_says_anything_is_dropped(make: Any, sign: str) -> None:
    wire = make()
    idle = served(wire)
    if sign == "data":
        idle.transport.feed(b"HTTP/1.1 408 Too Slow\r\n\r\n")
    elif sign == "eof":
        idle.transport.feed_eof()
    else:
        idle.reset()
    # Without a turn of the loop in between: a request comes in the same turn.
    client, fresh = reached(wire, request("POST /", "Content-Length: 2", body=b"hi"))
    fresh.expect(forwarded("POST /", "Content-Length: 2", body=b"hi"))
    answered(client, fresh)
    assert idle.closed


def test_idle_connections_go_after_their_time(make: Any) -> None:
    wire = make()
    idle = served(wire)
    wire.advance(3.9)
    assert not idle.closed
    wire.advance(0.2)
    assert idle.closed
    assert not wire.node().idle


def test_idle_connections_of_an_instance_that_left_are_closed(make: Any) -> None:
    wire = make()
    idle = served(wire)
    wire.serve("a", a="draining")
    assert idle.closed


# -- the answer


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        HEAD_OF_CHUNKS + b"zz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    ],
)
def test_an_answer_that_is_not_http(make: Any, answer: bytes) -> None:
    wire = make()
    client, a = asked(wire)
    a.send(answer)
    client.expect_problem(502, "http_protocol_error")
    assert a.cut
    assert wire.in_flight == 0
    assert wire.node().outcomes == {"bad_answer": 1}


@pytest.mark.parametrize(
    ("answer", "word"),
    [(b"", "connection_terminated"), (b"HTTP/1.1 200 O", "http_response_incomplete"),
     (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", "http_response_incomplete")],
)  # fmt: skip
@pytest.mark.parametrize("how", ["eof", "reset"])
def test_an_answer_that_ends_in_its_head(make: Any, answer: bytes, word: str, how: str) -> None:
    wire = make()
    client, a = asked(wire)
    if answer:
        a.send(answer)
    getattr(a, how)()
    client.expect_problem(502, word)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi",
        HEAD_OF_CHUNKS + b"2\r\nhi\r\n",
        HEAD_OF_CHUNKS + b"5\r\nhi",
        HEAD_OF_CHUNKS + b"2\r\nhi\r\n0\r\n",
    ],
)
@pytest.mark.parametrize("how", ["eof", "reset", "silence"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_truncated_answer_looks_truncated(
    make: Any, answer: bytes, how: str, version: str
) -> None:
    wire = make(settings=ServiceSettings(timeouts=Timeouts(idle=5.0)))
    client, a = asked(wire, request(f"GET / HTTP/{version}"))
    a.send(answer)
    if how == "silence":
        wire.advance(5.1)
    else:
        getattr(a, how)()
    seen = client.take()
    assert b"hi" in seen
    assert not seen.endswith(b"0\r\n\r\n")
    assert client.cut
    assert a.closed
    assert wire.in_flight == 0


UNKNOWN_LENGTH = {
    "chunked": (HEAD_OF_CHUNKS + b"2\r\nhi\r\n", b"0\r\n\r\n"),
    "until close": (b"HTTP/1.1 200 OK\r\n\r\nhi", b"!"),
}


@pytest.mark.parametrize("kind", UNKNOWN_LENGTH)
@pytest.mark.parametrize(
    "how", ["the instance resets", "silence", "total", "stop", "the client stalls", "nothing"]
)
def test_an_answer_that_only_its_end_completes_is_reset_when_it_breaks_off(
    make: Any, kind: str, how: str
) -> None:
    """A client of HTTP/1.0 would take an end for the end of the answer."""
    begun, rest = UNKNOWN_LENGTH[kind]
    timeouts = Timeouts(idle=0.0 if how == "total" else 5.0, total=9.0 if how == "total" else 0.0)
    wire = make(settings=ServiceSettings(timeouts=timeouts))
    client, a = asked(wire, request("GET / HTTP/1.0"))
    a.send(begun)
    if how == "the instance resets":
        a.reset()
    elif how == "stop":
        wire.worker.on_message(Drain(1.0))
        wire.advance(1.5)
    elif how == "the client stalls":
        client.stall()
        more = b"x" * 100_000
        a.send(b"%x\r\n%b\r\n" % (len(more), more) if kind == "chunked" else more)
        wire.advance(80.0)
    elif how == "nothing":
        a.send(rest)
        if kind == "until close":
            a.eof()
        client.eof()
    else:
        wire.advance(10.0)
    assert client.closed
    assert client.saw_reset == (how != "nothing")
    client.take()
    a.take()


def test_an_answer_that_is_complete_and_not_read_in_time_is_reset(make: Any) -> None:
    """What of it was not sent is missing, and only the end could say so."""
    wire = make()
    client = wire.client()
    client.send(request("GET / HTTP/1.0"))
    client.stall()
    a = wire.accepted()
    a.take()
    a.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000)
    a.eof()
    assert not client.closed
    wire.advance(80.0)
    assert client.saw_reset


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_reset_in_a_body_until_close_looks_truncated(make: Any, version: str) -> None:
    wire = make()
    client, a = asked(wire, request(f"GET / HTTP/{version}"))
    a.send(b"HTTP/1.1 200 OK\r\n\r\nhi")
    a.reset()
    assert not client.take().endswith(b"0\r\n\r\n")
    assert client.cut


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi" + b"more",
        b"HTTP/1.1 204 No Content\r\n\r\n" + b"more",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + b"more",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n" + b"more",
        HEAD_OF_CHUNKS + b"2\r\nhi\r\n0\r\n\r\n" + b"more",
    ],
)
@pytest.mark.parametrize("cut", [0, 4, 6])
def test_bytes_after_an_answer_never_meet_the_next_question(
    make: Any, answer: bytes, cut: int
) -> None:
    wire = make()
    client, a = asked(wire)
    at = len(answer) - cut
    a.send_at_once(*(piece for piece in (answer[:at], answer[at:]) if piece))
    assert b"more" not in client.take()
    assert a.closed
    assert not client.closed
    client.send(request("GET /"))
    fresh = wire.accepted()
    fresh.take()
    answered(client, fresh)


def test_no_answer_in_time(make: Any) -> None:
    wire = make("a", "b", settings=ServiceSettings(timeouts=Timeouts(first_byte=5.0)))
    client, peer = asked(wire)
    wire.advance(4.9)
    client.expect_nothing()
    wire.advance(0.15)
    client.expect_problem(504, "http_response_timeout")
    assert peer.cut
    assert not client.closed


def test_the_clock_for_the_answer_starts_when_the_body_is_sent(make: Any) -> None:
    wire = make(settings=ServiceSettings(timeouts=Timeouts(first_byte=5.0)))
    client, a = reached(wire, request("POST /", "Content-Length: 4"))
    for piece in (b"a", b"b", b"c", b"d"):
        wire.advance(4)
        client.send(piece)
    wire.advance(4)
    a.take()
    answered(client, a)


def test_the_total_limit_before_and_in_the_answer(make: Any) -> None:
    wire = make(settings=ServiceSettings(timeouts=Timeouts(total=5.0)))
    client, a = asked(wire)
    wire.advance(5.1)
    client.expect_problem(504, "http_response_timeout")
    client.send(request("GET /"))
    a = wire.accepted()
    a.take()
    for _ in range(5):
        a.send(HEAD_OF_CHUNKS if _ == 0 else b"1\r\nx\r\n")
        wire.advance(1.02)
    client.take()
    assert client.cut


def test_the_total_limit_while_dialling(make: Any) -> None:
    wire = make(settings=ServiceSettings(timeouts=Timeouts(total=1.0)))
    wire.network.hang(wire.address("a"))
    client = wire.client()
    client.send(request("GET /"))
    wire.advance(1.1)
    client.expect_problem(504, "http_response_timeout")
    assert wire.in_flight == 0
    wire.network.answer(wire.address("a"))
    wire.settle()
    assert len(wire.node().idle) == 1  # It may serve somebody else.
    client.send(request("GET /"))
    a = wire.accepted()
    a.expect(forwarded("GET /"))
    answered(client, a)
    assert wire.node().outcomes == {"total_timeout": 1, "ok": 1}


def test_the_total_limit_while_dialling_an_instance_that_leaves(make: Any) -> None:
    wire = make(settings=ServiceSettings(timeouts=Timeouts(total=1.0)))
    wire.network.hang(wire.address("a"))
    client = wire.client()
    client.send(request("GET /"))
    wire.advance(1.1)
    client.expect_problem(504, "http_response_timeout")
    wire.serve("b")
    wire.network.answer(wire.address("a"))
    wire.settle()
    assert wire.accepted("a").closed


# -- the client


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"3\r\nabcX\r\n", 400), (b"-1\r\n", 400), (b"0x1\r\n", 400), (b"3\nabc\r\n", 400)],
)
@pytest.mark.parametrize("with_head", [True, False])
def test_a_bad_chunk(make: Any, body: bytes, status: int, with_head: bool) -> None:
    wire = make()
    client = wire.client()
    if with_head:
        client.send(request("POST /", "Transfer-Encoding: chunked", body=body))
        wire.expect_no_dial()
    else:
        client.send(request("POST /", "Transfer-Encoding: chunked"), b"1\r\nx\r\n", body)
        a = wire.accepted()
        assert not a.take().endswith(b"0\r\n\r\n")
        assert a.cut
    client.expect_problem(status, "http_request_error", closing=True)
    assert client.saw_end
    assert wire.in_flight == 0


def test_a_bad_chunk_when_the_answer_is_under_way(make: Any) -> None:
    wire = make()
    client, a = asked(wire, request("POST /", "Transfer-Encoding: chunked"))
    a.send(HEAD_OF_CHUNKS)
    client.take()
    client.send(b"nonsense\r\n")
    assert client.cut
    assert a.cut


def test_an_answer_before_the_body_is_complete(make: Any) -> None:
    wire = make()
    client, a = asked(wire, request("POST /", "Content-Length: 10", body=b"abc"))
    a.send(OK)
    answer = client.take()
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"hi")
    assert client.saw_end
    assert not client.closed  # Closing now could destroy the answer.
    assert a.closed
    client.send(b"defg")
    wire.advance(2.1)
    assert client.closed


def test_an_answer_that_outlasts_the_body(make: Any) -> None:
    wire = make()
    client, a = asked(wire, request("POST /", "Content-Length: 4", body=b"ab"))
    a.send(HEAD_OF_CHUNKS)
    client.send(b"cd")
    a.expect(b"cd")
    a.send(b"2\r\nhi\r\n0\r\n\r\n")
    assert client.take().endswith(b"2\r\nhi\r\n0\r\n\r\n")
    assert len(wire.node().idle) == 1
