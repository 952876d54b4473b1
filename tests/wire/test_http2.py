"""HTTP/2 from clients, to instances of HTTP/1.1: each stream is a request like any other."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from proxy.engine.connections import LAST_CALL
from proxy.http2 import limits
from proxy.messages import Drain
from proxy.settings.edge import Hsts
from proxy.settings.listener import ListenerLimits, ListenerTimeouts
from proxy.settings.listener_tls import Certificate, ListenerTls
from proxy.settings.route import RouteSpec
from proxy.settings.service import ServiceSettings
from tests.support.frame_cases import frame
from tests.support.h2_peer import (
    HTTP2,
    START,
    H2Peer,
    data,
    head,
    http2,
    number,
    reset,
    trailers,
    window,
)
from tests.support.tls_far_end import authority
from tests.support.wire import OK, Peer, forwarded, request
from tests.wire.scenes import CHUNKED, REFUSED
from tests.wire.test_access_log import Logged

TOLD = {":status": "200", "x-request-id": "r1", "content-length": "2", "via": "1.1 fairlead"}
STREAMED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CANCEL, REFUSED_STREAM, CALM = 8, 7, 11


def begun(make: Any, *instances: str, **options: Any) -> tuple[Any, H2Peer]:
    options.setdefault("listener", HTTP2)
    wire = make(*instances, **options)
    return wire, H2Peer(wire)


def asked(make: Any, *frames: bytes, **options: Any) -> tuple[Any, H2Peer, Peer]:
    wire, client = begun(make, **options)
    client.send(*(frames or (head(1),)))
    instance = wire.accepted()
    assert instance.take()
    return wire, client, instance


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def large(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size


# -- requests and answers


def test_a_request_reaches_an_instance_and_its_answer_the_client(make: Any) -> None:
    wire, client = begun(make)
    client.send(head(1))
    instance = wire.accepted()
    instance.expect(forwarded("GET /x"))
    instance.send(OK)
    assert client.answer() == (TOLD, b"hi")


def test_a_body_reaches_the_instance_as_it_comes(make: Any) -> None:
    wire, client = begun(make)
    client.send(head(1, method="POST", end=False), data(1, b"abc"))
    instance = wire.accepted()
    instance.expect(forwarded("POST /x", CHUNKED, body=b"3\r\nabc\r\n"))
    client.send(data(1, b"de", end=True))
    instance.expect(b"2\r\nde\r\n0\r\n\r\n")
    instance.send(OK)
    assert client.answer() == (TOLD, b"hi")


def test_a_body_with_its_head_is_one_piece(make: Any) -> None:
    wire, client = begun(make)
    frames = head(1, ("content-length", "5"), method="POST", end=False)
    client.send(frames + data(1, b"abc") + data(1, b"de", end=True))
    instance = wire.accepted()
    instance.expect(forwarded("POST /x", "Content-Length: 5", body=b"abcde"))
    instance.send(OK)
    client.answer()


def test_streams_are_answered_in_the_order_of_their_answers(make: Any) -> None:
    wire, client = begun(make)
    client.send(head(1) + head(3))
    first, second = wire.accepted(), wire.accepted()
    assert first.take()
    assert second.take()
    second.send(OK)
    assert client.answer(3) == (TOLD, b"hi")
    first.send(OK)
    assert client.answer(1) == (TOLD, b"hi")


def test_trailers_pass_both_ways(make: Any) -> None:
    _, client, instance = asked(
        make, head(1, ("te", "trailers"), method="POST", end=False), data(1, b"a")
    )
    client.send(trailers(1, ("x-t", "1")))
    instance.expect(b"0\r\nx-t: 1\r\n\r\n")
    instance.send(STREAMED + chunk(b"abc") + b"0\r\nX-Sum: 6\r\n\r\n")
    assert client.take()[1:] == [
        ("data", 1, b"abc", False),
        ("head", 1, {"x-sum": "6"}, True),
    ]


def test_trailers_end_their_answer(make: Any) -> None:
    _, client, instance = asked(make)
    instance.send(STREAMED + b"0\r\nX-Sum: 6\r\n\r\n")
    frames = client.take()
    assert [(one[0], one[-1]) for one in frames] == [("head", False), ("head", True)]
    assert frames[1][2] == {"x-sum": "6"}


def test_an_answer_of_unknown_length_ends_with_a_frame(make: Any) -> None:
    _, client, instance = asked(make)
    instance.send(STREAMED + chunk(b"abc"))
    assert client.take()[1:] == [("data", 1, b"abc", False)]
    instance.send(b"0\r\n\r\n")
    assert client.take() == [("data", 1, b"", True)]


def test_answers_without_content_end_with_their_head(make: Any) -> None:
    wire, client = begun(make)
    client.send(head(1, method="HEAD"))
    instance = wire.accepted()
    instance.expect(forwarded("HEAD /x"))
    instance.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert client.answer() == ({**TOLD, "content-length": "5"}, b"")
    client.send(head(3))
    instance.take()
    instance.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert client.answer(3)[0][":status"] == "204"


def test_interim_answers_pass(make: Any) -> None:
    _, client, instance = asked(make)
    instance.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    assert client.take() == [("head", 1, {":status": "103", "link": "</a>"}, False)]
    instance.send(OK)
    client.answer()


def test_a_client_that_waits_for_a_100_gets_it(make: Any) -> None:
    frames = head(1, ("expect", "100-continue"), ("content-length", "2"), method="POST", end=False)
    wire, client, instance = asked(make, frames)
    instance.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.take() == [("head", 1, {":status": "100"}, False)]
    client.send(data(1, b"ab", end=True))
    instance.expect(b"ab")
    instance.send(OK)
    client.answer()
    assert wire.in_flight == 0


def test_an_early_answer_ends_the_body(make: Any) -> None:
    _, client, instance = asked(make, head(1, method="POST", end=False), data(1, b"a"))
    instance.send(OK)
    frames = client.take()
    assert frames[-1] == ("reset", 1, 0)  # NO_ERROR: the answer counts.
    assert [one[0] for one in frames] == ["head", "data", "reset"]
    assert instance.closed
    client.send(data(1, b"more"), data(1, b"", end=True), head(3))
    assert client.wire.accepted().take()


def test_fields_of_the_listener_are_on_answers(make: Any) -> None:
    wire, client = begun(make, listener=http2(hsts=Hsts(max_age=60.0)))
    client.send(head(1))
    instance = wire.accepted()
    instance.take()
    instance.send(OK)
    assert client.answer()[0]["strict-transport-security"] == "max-age=60"


def test_a_trace_for_us_says_what_came(make: Any) -> None:
    _, client = begun(make)
    client.send(head(1, ("max-forwards", "0"), method="TRACE"))
    assert client.answer()[1].startswith(b"TRACE /x HTTP/2.0\r\n")


# -- answers of the proxy


def test_faults_are_told_as_in_http1(make: Any) -> None:
    routes = (RouteSpec(path_prefix="/x", service="s"),)
    _, client = begun(make, routes=routes)
    client.send(head(1, path="/y"))
    client.expect_problem(404, "no_route")
    client.send(head(3, method="HEAD", path="/y"))
    assert client.answer(3)[1] == b""


def test_an_instance_that_cannot_be_reached_is_not_asked_again(make: Any) -> None:
    wire, client = begun(make, "a", "b")
    wire.network.refuse(wire.address("a"), REFUSED)
    wire.network.refuse(wire.address("b"), REFUSED)
    client.send(head(1))
    client.expect_problem(502, "connect_refused")
    wire.network.errors.clear()


def test_an_attempt_is_made_again_on_another_instance(make: Any) -> None:
    wire, client = begun(make, "a", "b")
    client.send(head(1))
    first = wire.connected()
    first.take()
    first.eof()
    second = wire.connected()
    second.expect(forwarded("GET /x"))
    second.send(OK)
    assert client.answer() == (TOLD, b"hi")


def test_an_answer_that_is_cut_short_resets_its_stream_alone(make: Any) -> None:
    wire, client = begun(make)
    client.send(head(1) + head(3))
    first, second = wire.accepted(), wire.accepted()
    assert first.take()
    assert second.take()
    first.send(large(10) + b"abc")
    first.eof()
    assert client.take()[1:] == [("data", 1, b"abc", False), ("reset", 1, 2)]
    second.send(OK)
    client.answer(3)


@pytest.mark.parametrize(
    ("frames", "status", "code"),
    [
        (head(1, path="/" + 70 * "x"), 414, "target_too_long"),
        (head(1, *(("x", "y"),) * 129), 431, "head_too_large"),
        (head(1, ("content-length", "100"), method="POST", end=False), 413, "body_too_large"),
    ],
)
def test_a_head_beyond_a_limit_is_refused(make: Any, frames: bytes, status: int, code: str) -> None:
    _, client = begun(make, listener=http2(limits=ListenerLimits(target=64, body=10)))
    client.send(frames)
    heard = client.take()
    assert heard[0][2][":status"] == str(status)
    assert f'"code":"{code}"'.encode() in heard[1][2]
    assert (heard[2:] == [("reset", 1, 0)]) == (status == 413)


def test_a_body_beyond_its_limit_is_refused(make: Any) -> None:
    _, client, instance = asked(
        make, head(1, method="POST", end=False), listener=http2(limits=ListenerLimits(body=3))
    )
    client.send(data(1, b"abcd"))
    heard = client.take()
    assert heard[0][2][":status"] == "413"
    assert heard[-1] == ("reset", 1, 0)
    assert instance.closed
    instance.expect_nothing()


# -- the table of a client


@pytest.mark.parametrize("size", [0, 1024])
@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("GET", OK),
        ("GET", b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK),
        ("GET", STREAMED + b"2\r\nhi\r\n0\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b""),
    ],
)
def test_a_client_that_keeps_a_smaller_table_hears_that_none_is_used(
    make: Any, method: str, said: bytes, size: int
) -> None:
    wire, client = begun(make)
    client.decoder.max_allowed_table_size = size  # It raises unless the first block says so.
    client.send(frame(4, 0, 0, b"\0\1" + number(size)))
    if not said:
        client.send(head(1, ("host", "another")))
        client.expect_problem(400, "bad_request")
        method, said = "GET", OK
    client.send(head(3, method=method))
    instance = wire.accepted()
    assert instance.take()
    instance.send(said)
    assert any(one[:2] == ("head", 3) for one in client.take())
    client.send(head(5))
    assert instance.take()
    instance.send(OK)
    assert client.answer(5)[1] == b"hi"


# -- flow control


def test_an_answer_waits_for_the_windows(make: Any) -> None:
    _, client, instance = asked(make)
    instance.send(large(70000) + 70000 * b"x")
    sent = client.take()[1][2]
    assert len(sent) == 65535
    client.send(window(1, 10000))
    assert client.take() == []  # That of the connection is empty, too.
    client.send(window(0, 10000))
    (rest,) = client.take()
    assert (len(rest[2]), rest[3]) == (70000 - 65535, True)


def test_an_instance_is_not_read_for_a_client_that_takes_nothing(make: Any) -> None:
    _, client, instance = asked(make)
    instance.send(large(1 << 20) + 65535 * b"x", 65000 * b"x", 1000 * b"x")
    assert not instance.read
    client.take()
    client.send(window(0, 1 << 20), window(1, 1 << 20))
    assert len(client.take()[0][2]) == 66000
    assert instance.read


def test_another_stream_goes_on_while_one_waits(make: Any) -> None:
    wire, client = begun(make)
    client.send(window(0, 1 << 20), head(1), head(3))
    first, second = wire.accepted(), wire.accepted()
    assert first.take()
    assert second.take()
    first.send(large(1 << 20) + 100000 * b"x")
    client.take()
    second.send(OK)
    assert client.answer(3) == (TOLD, b"hi")


def test_streams_that_wait_take_turns(make: Any) -> None:
    wire, client = begun(make)
    client.send(head(1), head(3))
    first, second = wire.accepted(), wire.accepted()
    assert first.take()
    assert second.take()
    first.send(large(60000) + 60000 * b"x")
    second.send(large(60000) + 60000 * b"y")
    client.take()
    client.send(window(0, 32768))
    taken = client.take()
    assert [(one[1], len(one[2])) for one in taken] == [(3, 32768)]  # The first had all it asked.


def test_settings_move_the_windows_of_open_streams(make: Any) -> None:
    _, client, instance = asked(make)
    client.send(frame(4, 0, 0, b"\0\4" + number(10)))
    instance.send(large(20) + 20 * b"x")
    assert client.take()[1][2] == 10 * b"x"
    client.send(frame(4, 0, 0, b"\0\4" + number(30)))
    assert client.take()[0][2:] == (10 * b"x", True)


def test_a_window_that_is_less_than_nothing_is_waited_for(make: Any) -> None:
    _, client, instance = asked(make)
    instance.send(large(30) + 20 * b"x")
    client.send(frame(4, 0, 0, b"\0\4" + number(0)))
    client.take()
    instance.send(10 * b"y")
    client.send(window(1, 20))
    assert client.take() == []
    client.send(window(1, 10))
    assert client.take() == [("data", 1, 10 * b"y", True)]


def test_a_body_that_comes_before_the_connection_is_kept(make: Any) -> None:
    wire, client = begun(make)
    wire.network.hang(wire.address("a"))
    client.send(head(1, method="POST", end=False))
    for _ in range(4):
        client.send(data(1, 16383 * b"x"))
    assert client.take() == []  # What nobody has taken is not given back.
    wire.network.answer(wire.address("a"))
    wire.settle()
    instance = wire.accepted()
    assert instance.take().count(b"x") >= 4 * 16383
    assert [one[0] for one in client.take()] == ["window"]
    client.send(data(1, b"", end=True))
    instance.expect(b"0\r\n\r\n")
    instance.send(OK)
    client.answer()


def test_more_than_the_window_of_a_stream_ends_it(make: Any) -> None:
    wire, client = begun(make)
    wire.network.hang(wire.address("a"))
    client.send(head(1, method="POST", end=False), b"".join([data(1, 16384 * b"x")] * 4))
    assert client.take() == [("reset", 1, 3)]
    wire.network.answer(wire.address("a"))
    wire.settle()
    wire.accepted().expect_nothing()


def test_a_window_is_given_back_when_an_instance_takes_the_body(make: Any) -> None:
    _, client, instance = asked(make, head(1, method="POST", end=False))
    client.send(data(1, 16384 * b"x"), data(1, 16384 * b"x"))
    (given,) = client.take()
    assert given[:2] == ("window", 1)
    assert given[2] >= 32768
    instance.take()


def test_a_slow_instance_holds_back_its_stream_and_no_other(make: Any) -> None:
    wire, client, instance = asked(make, head(1, method="POST", end=False))
    instance.stall()
    sent = granted = 65535
    while granted:
        while sent:
            size = min(sent, 16384)
            client.send(data(1, size * b"x"))
            sent -= size
        granted = sum(one[2] for one in client.take() if one[:2] == ("window", 1))
        sent = granted
    client.send(head(3))
    other = wire.accepted()
    assert other.take()
    other.send(OK)
    client.answer(3)
    instance.read_on()
    assert [one[:2] for one in client.take()] == [("window", 1)]
    instance.take()


# -- limits and ends


def test_streams_beyond_the_limit_are_refused_and_may_come_again(make: Any) -> None:
    wire, client = begun(make, listener=http2(limits=ListenerLimits(streams=1)))
    client.send(head(1), head(3))
    instance = wire.accepted()
    assert instance.take()
    assert client.take() == [("reset", 3, REFUSED_STREAM)]
    instance.send(OK)
    client.answer()
    client.send(head(5))
    instance.expect(forwarded("GET /x"))
    assert wire.worker.counters.service("").faults == {"too_many_streams": 1}


def test_a_cancelled_request_leaves_its_instance(make: Any) -> None:
    wire, client, instance = asked(make)
    client.send(reset(1))
    assert instance.closed
    assert client.take() == []
    assert wire.in_flight == 0


def test_a_client_that_leaves_is_not_waited_for(make: Any) -> None:
    wire, client, instance = asked(make)
    client.peer.eof()
    assert instance.closed
    assert client.peer.closed
    assert wire.in_flight == 0


def test_a_client_that_half_closes_is_served_where_a_listener_wants_that(make: Any) -> None:
    _, client, instance = asked(make, listener=http2(client_close="half_close"))
    client.peer.eof()
    instance.send(OK)
    assert client.answer() == (TOLD, b"hi")
    assert client.closed


def test_a_worker_that_stops_says_so_twice(make: Any) -> None:
    wire, client, instance = asked(make)
    wire.worker.on_message(Drain(30.0))
    wire.settle()
    assert client.take() == [("goaway", 0x7FFFFFFF, 0, b"")]
    client.send(head(3))  # It was on its way.
    other = wire.accepted()
    assert other.take()
    wire.advance(LAST_CALL + 0.1)
    assert client.take() == [("goaway", 3, 0, b"")]
    client.send(head(5))
    assert client.take() == []
    instance.send(OK)
    client.answer(1)
    assert not client.closed
    other.send(OK)
    client.answer(3)
    assert client.closed
    client.peer.eof()
    assert wire.worker.stopped.is_set()


def test_an_idle_client_is_told_to_go(make: Any) -> None:
    wire, client, instance = asked(make, listener=http2(timeouts=ListenerTimeouts(idle=5.0)))
    instance.send(OK)
    client.answer()
    wire.advance(4.9)
    assert not client.closed
    wire.advance(0.2)
    assert client.take() == [("goaway", 1, 0, b"")]
    assert client.closed


def test_a_client_that_says_no_settings_is_not_waited_for(make: Any) -> None:
    wire = make(listener=HTTP2)
    client = H2Peer(wire, START[:30])
    wire.advance(10.1)
    assert client.take()[0][:3] == ("goaway", 0, 4)
    assert client.closed


def test_a_head_that_does_not_end_is_not_waited_for(make: Any) -> None:
    wire, client = begun(make)
    client.send(frame(1, 0, 1, b"\x82"))
    wire.advance(9.9)
    assert not client.closed
    wire.advance(0.2)
    assert client.take()[0][0] == "goaway"
    assert client.closed


def test_frames_that_are_cut_again_and_again_are_not_slow(make: Any) -> None:
    wire, client = begun(make)
    ping = frame(6, 0, 0, bytes(8))
    client.send(ping[:5])
    for _ in range(5):
        wire.advance(9.0)
        client.send(ping[5:] + ping[:5])
    assert [one[0] for one in client.take()] == ["ping"] * 5
    wire.advance(10.1)
    assert client.take()[0][0] == "goaway"


def test_a_head_in_ever_more_frames_is_slow(make: Any) -> None:
    wire, client = begun(make)
    client.send(frame(1, 0, 1, b"\x82"))
    wire.advance(9.0)
    client.send(frame(9, 0, 1, b"\x86"))
    wire.advance(1.1)
    assert client.take()[0][0] == "goaway"


def test_a_body_that_does_not_come_is_not_waited_for(make: Any) -> None:
    wire, client, instance = asked(make, head(1, method="POST", end=False))
    wire.advance(29.9)
    assert not instance.closed
    wire.advance(0.2)
    heard = client.take()
    assert heard[0][2][":status"] == "408"
    assert heard[-1] == ("reset", 1, 0)


def test_an_answer_that_is_not_taken_is_not_kept_for_ever(make: Any) -> None:
    wire, client, instance = asked(make)
    instance.send(large(70000) + 70000 * b"x")
    client.take()
    wire.advance(75.1)
    assert client.take()[:1] == [("reset", 1, CANCEL)]


def test_a_client_that_does_not_read_is_cut(make: Any) -> None:
    wire, client, instance = asked(make, head(1), window(0, 1 << 20), window(1, 1 << 20))
    client.peer.stall()
    instance.send(large(1 << 20) + 200000 * b"x", 200000 * b"x", 200000 * b"x")
    assert not instance.read
    wire.advance(76.0)
    assert client.peer.cut
    client.peer.transport.taken.clear()


def test_heads_of_requests_are_not_read_for_ever_from_who_reads_nothing(make: Any) -> None:
    _, client = begun(make, routes=(RouteSpec(path_prefix="/x", service="s"),))
    client.peer.stall()
    stream = 1
    for _ in range(300):
        client.send(b"".join(head(stream + 2 * at, method="HEAD", path="/y") for at in range(30)))
        stream += 60
        if not client.peer.read:
            break
    assert not client.peer.read
    client.peer.read_on()
    assert client.peer.read
    client.take()


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ((head(1) + reset(1), head(3) + reset(3)), "rapid_reset"),
        ((frame(6, 0, 0, bytes(8)),) * 2, "control_flood"),
        ((window(0, 1),) * 2, "window_flood"),
        ((frame(2, 0, 9, bytes(5)),) * 2, "control_flood"),
    ],
)
def test_a_flood_ends_the_connection(make: Any, frames: tuple[bytes, ...], reason: str) -> None:
    wire, client = begun(make)
    stream = 1
    for _ in range(1200):
        one = frames[0]
        if reason == "rapid_reset":
            one = head(stream) + reset(stream)
            stream += 2
        client.send(one)
        if client.closed:
            break
    heard = [one for one in client.take() if one[0] == "goaway"]
    assert [one[2] for one in heard] == [CALM]
    assert wire.worker.counters.http2_closed == {"web": {reason: 1}}
    if reason == "rapid_reset":
        assert stream == 2 * limits.RESETS + 3
        while wire.network.accepted.get(wire.address("a")):
            wire.accepted().take()


def test_more_requests_than_a_turn_begins_are_all_answered(make: Any) -> None:
    routes = (RouteSpec(path_prefix="/x", service="s"),)
    _, client = begun(make, routes=routes)
    client.send(b"".join(head(2 * at + 1, method="HEAD", path="/y") for at in range(300)))
    assert [one[1] for one in client.take()] == [2 * at + 1 for at in range(300)]
    client.send(head(601, path="/y") + frame(6, 0, 0, bytes(8)) * 600 + head(603, path="/y"))
    answered = [one[1] for one in client.take() if one[0] == "head"]
    assert answered == [601, 603]


def test_acknowledgements_that_are_not_read_end_the_connection(make: Any) -> None:
    _, client, instance = asked(make, head(1), window(0, 1 << 20), window(1, 1 << 20))
    client.peer.stall()
    instance.send(large(1 << 20) + 200000 * b"x", 1000 * b"x")
    client.send(frame(6, 0, 0, bytes(8)) * 99)
    assert not instance.closed
    client.send(frame(6, 0, 0, bytes(8)) * 2)
    assert instance.closed
    client.peer.read_on()
    assert client.take()[-1][:3] == ("goaway", 1, CALM)


# -- how it begins


def test_a_preface_is_known_however_it_is_cut(make: Any) -> None:
    for at in range(1, len(START)):
        wire = make(listener=HTTP2, tls=False)
        client = H2Peer(wire, b"")
        client.send(START[:at], START[at:] + head(1))
        instance = wire.accepted()
        instance.expect(forwarded("GET /x"))
        instance.send(OK)
        assert client.answer() == (TOLD, b"hi")


def test_a_preface_behind_a_request_is_none(make: Any) -> None:
    wire = make(listener=HTTP2)
    client = wire.client()
    client.send(request("GET /x"))
    instance = wire.accepted()
    instance.take()
    instance.send(OK)
    client.take()
    client.send(START)
    client.expect_problem(505, "version_not_supported", closing=True)


def test_a_listener_that_does_not_speak_it_refuses_it(make: Any) -> None:
    wire = make(listener=http2(http2=False))
    client = wire.client()
    client.send(START)
    client.expect_problem(505, "version_not_supported", closing=True)


def test_clients_may_choose_it_from_the_reload_on(make: Any) -> None:
    wire = make(listener=http2(http2=False), tls=True)
    chosen = []
    for on in (False, True, False):
        wire.configure((), {}, http2(http2=on))
        client = H2Peer(wire, b"")
        chosen.append(client.peer.transport.ssl.selected_alpn_protocol())
        client.peer.take()
    assert chosen == ["http/1.1", "h2", "http/1.1"]


def test_http1_goes_on_beside_it(make: Any) -> None:
    wire = make(listener=HTTP2)
    client = wire.client()
    client.send(request("GET /x"))
    instance = wire.accepted()
    instance.expect(forwarded("GET /x"))
    instance.send(OK)
    assert client.take().startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_line_of_the_access_log_names_the_version(tmp_path: Path) -> None:
    logged = Logged(tmp_path, listener=HTTP2, settings=ServiceSettings())
    client = H2Peer(logged.wire)
    client.send(head(1))
    instance = logged.wire.accepted()
    instance.take()
    instance.send(OK)
    client.answer()
    (line,) = logged.lines()
    assert (line["protocol"], line["status"], line["bytes_sent"]) == ("HTTP/2.0", 200, 2)


# -- what a connection says of itself


@pytest.mark.parametrize("trusted", [(), ("192.0.2.0/24",)])
def test_https_is_for_connections_that_have_it(make: Any, trusted: tuple[str, ...]) -> None:
    """RFC 9110 §7.4; or for proxies that are believed."""
    wire, client = begun(make, listener=http2(trusted_proxies=trusted))
    client.send(head(1, scheme="https"))
    if wire.tls or trusted:
        assert wire.accepted().take()
        return
    client.expect_problem(421, "misdirected")
    client.send(head(3))
    assert wire.accepted().take()


@pytest.mark.parametrize(
    ("suite", "version", "weak"),
    [
        ("ECDHE-ECDSA-AES128-SHA", ssl.TLSVersion.TLSv1_2, True),
        ("ECDHE-ECDSA-AES128-GCM-SHA256", ssl.TLSVersion.TLSv1_2, False),
        ("ECDHE-ECDSA-AES128-SHA", ssl.TLSVersion.TLSv1_3, False),
    ],
)
def test_a_weak_suite_is_none_for_http2(
    make: Any, suite: str, version: ssl.TLSVersion, weak: bool
) -> None:
    files = Certificate(cert="c.pem", key="c.key")
    tls = ListenerTls(certificates=(files,), ciphers="compatible")
    wire = make(listener=http2(tls=tls), tls=True)
    context = ssl.create_default_context(cadata=authority()[0].decode())
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    context.set_ciphers(suite)
    context.maximum_version = version
    client = H2Peer(wire, b"", context)
    client.send(START + frame(4, 1))
    heard = [one for one in client.take() if one[0] == "goaway"]
    assert [one[1:] for one in heard] == ([(0, 12, f"HTTP/2 over {suite}".encode())] * weak)
    assert client.closed is weak


def test_answers_that_are_cut_count_as_well(make: Any) -> None:
    wire, client = begun(make)
    stream = 1
    while not client.closed:
        assert stream < 1000
        client.send(head(stream))
        instance = wire.accepted()
        assert instance.take()
        instance.send(large(10) + b"abc")
        instance.eof()
        stream += 2
    assert stream == 2 * limits.RESETS + 3
    assert client.take()[-1][2] == CALM
    assert wire.worker.counters.http2_closed == {"web": {"rapid_reset": 1}}


def test_sessions_and_requests_under_way_are_counted(make: Any) -> None:
    """That nothing is left of them in the end is asked in every test: `Wire.done`."""
    wire, client, instance = asked(make, head(1), head(3))
    other = wire.accepted()
    assert other.take()
    counters = wire.worker.counters
    assert (counters.http2_sessions, counters.http2_streams) == (1, 2)
    instance.send(OK)
    other.send(OK)
    client.take()
    assert (counters.http2_sessions, counters.http2_streams) == (1, 0)
