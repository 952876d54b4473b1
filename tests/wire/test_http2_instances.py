"""HTTP/2 to instances: exchanges of any client share sessions, a stream for each."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from proxy.engine.http2.client_connection import ACK_LIMIT, PING_AGAIN
from proxy.engine.http2.client_stream import WINDOW
from proxy.messages import Drain
from proxy.settings.route import RouteSpec
from proxy.settings.service import Keepalive, ServiceSettings, Timeouts
from tests.support.frame_cases import frame
from tests.support.h2_peer import (
    HTTP2,
    SETTINGS,
    H2Instance,
    H2Peer,
    answer,
    data,
    head,
    number,
    reset,
    trailers,
    window,
)
from tests.support.wire import OK, OK_RELAYED, TOKEN, Peer, request

FORWARDED = {
    ":method": "GET",
    ":scheme": "http",
    ":path": "/x",
    ":authority": "h",
    "x-forwarded-for": "192.0.2.7",
    "x-forwarded-proto": "http",
    "x-forwarded-host": "h",
    "x-forwarded-port": "8080",
    "via": f"1.1 fairlead ({TOKEN})",
    "x-request-id": "r1",
}
RELAYED = b"HTTP/1.1 200 OK\r\nX-Request-ID: r1\r\nContent-Length: 2\r\nVia: 1.1 fairlead\r\n\r\nhi"
HI = ("content-length", "2")
MOST, INITIAL = 3, 4
PATIENT = ServiceSettings(timeouts=Timeouts(first_byte=0, idle=0))


def settings(name: int, value: int) -> bytes:
    return frame(4, 0, 0, name.to_bytes(2, "big") + number(value))


def scheme(wire: Any) -> dict[str, str]:
    if not wire.tls:
        return {}
    return {":scheme": "https", "x-forwarded-proto": "https"}


def hi(stream: int = 1) -> bytes:
    return answer(stream, HI) + data(stream, b"hi", True)


def begun(make: Any, *instances: str, **options: Any) -> tuple[Any, Peer]:
    """A wire with instances of HTTP/2, and a client of HTTP/1.1."""
    wire = make(*instances, http2=True, **options)
    return wire, wire.client()


def asked(make: Any, *raw: bytes, **options: Any) -> tuple[Any, Peer, H2Instance]:
    """The client has asked, and the instance has its request."""
    wire, client = begun(make, **options)
    client.send(*(raw or (request("GET /x"),)))
    instance = H2Instance(wire)
    assert instance.take()
    return wire, client, instance


def test_many_that_are_late_together_end_some_in_each_turn_of_the_loop(make: Any) -> None:
    settings = ServiceSettings(timeouts=Timeouts(first_byte=2.0))
    wire, first, instance = asked(make, settings=settings)
    clients = [wire.client() for _ in range(90)]
    for client in clients:
        client.send(request("GET /x"))
    instance.take()
    left = [wire.in_flight]

    def in_turns() -> None:
        before = -1
        while before < wire.loop.callbacks:
            before = wire.loop.callbacks
            wire.loop.run_turn()
            left.append(wire.in_flight)

    wire.loop.advance(3.0, in_turns)
    assert (left[0], left[-1]) == (91, 0)
    assert max(before - after for before, after in itertools.pairwise(left)) <= 32
    wire.settle()
    assert len(instance.take()) == 91  # Each is cancelled.
    for client in (first, *clients):
        client.expect_problem(504, "first_byte_timeout")


def test_a_request_of_http1_reaches_an_instance_and_its_answer_the_client(make: Any) -> None:
    wire, client = begun(make)
    client.send(request("GET /x", "Cookie: a=1", "Connection: x-y", "X-Y: 1", "Accept: b"))
    instance = H2Instance(wire)
    fields = FORWARDED | {"cookie": "a=1", "accept": "b"} | scheme(wire)
    assert instance.take() == [("head", 1, fields, True)]
    instance.send(hi())
    client.expect(RELAYED)
    assert wire.in_flight == 0


def test_a_request_of_http2_reaches_an_instance_and_its_answer_the_client(make: Any) -> None:
    wire = make(http2=True, listener=HTTP2)
    client = H2Peer(wire)
    client.send(head(1))
    instance = H2Instance(wire)
    assert instance.take() == [("head", 1, FORWARDED | scheme(wire), True)]
    instance.send(answer(1, HI) + data(1, b"hi", True))
    told = {":status": "200", "x-request-id": "r1", "content-length": "2", "via": "1.1 fairlead"}
    assert client.answer() == (told, b"hi")


def test_requests_share_a_session(make: Any) -> None:
    wire, client, instance = asked(make)
    other = wire.client()
    other.send(request("GET /x"))
    wire.expect_no_dial()
    assert instance.requests() == [3]
    assert wire.worker.services.connector.http2 == (1, 2)
    instance.send(hi(3))
    other.expect(RELAYED)
    assert wire.worker.services.connector.http2 == (1, 1)
    instance.send(hi(1))
    client.expect(RELAYED)
    assert wire.in_flight == 0


# -- bodies, trailers, interim answers: all four pairs of versions, of which HTTP/1 to HTTP/1 is
# everywhere else, and HTTP/2 to HTTP/1 in test_http2.py


def posted(make: Any, *fields: str, body: bytes = b"") -> tuple[Any, Peer, H2Instance]:
    wire, client = begun(make)
    client.send(request("POST /x", *fields, body=body))
    return wire, client, H2Instance(wire)


def test_a_body_of_a_known_length_is_content(make: Any) -> None:
    _, client, instance = posted(make, "Content-Length: 5", body=b"ab")
    [(_, _, told, end), content] = instance.take()
    assert (told["content-length"], end, content) == ("5", False, ("data", 1, b"ab", False))
    client.send(b"cde")
    assert instance.take() == [("data", 1, b"cde", True)]
    instance.send(hi())
    client.expect(RELAYED)


def test_chunks_are_content_and_their_trailers_a_head(make: Any) -> None:
    chunks = b"3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    _, client, instance = posted(make, "Transfer-Encoding: chunked", body=chunks)
    [(_, _, told, end), content, last] = instance.take()
    assert not end
    assert not {"transfer-encoding", "content-length", "connection"} & set(told)
    assert content == ("data", 1, b"abc", False)
    assert last == ("head", 1, {"x-t": "1"}, True)
    instance.send(hi())
    client.expect(RELAYED)


def test_a_post_of_nothing_ends_with_its_head(make: Any) -> None:
    _, client, instance = posted(make, "Content-Length: 0")
    [(_, _, told, end)] = instance.take()
    assert (told["content-length"], end) == ("0", True)
    instance.send(hi())
    client.expect(RELAYED)


def test_content_of_unknown_length_is_chunks_for_http1(make: Any) -> None:
    _, client, instance = asked(make)
    instance.send(answer(1) + data(1, b"abc"))
    assert client.take().endswith(
        b"Transfer-Encoding: chunked\r\nVia: 1.1 fairlead\r\n\r\n3\r\nabc\r\n"
    )
    instance.send(data(1, b"", True))
    client.expect(b"0\r\n\r\n")


def test_trailers_of_an_answer_reach_a_client_of_http1_that_takes_them(make: Any) -> None:
    for te in (True, False):
        fields = ("Connection: TE", "TE: trailers") if te else ()
        wire, client = begun(make)
        client.send(request("GET /x", *fields))
        instance = H2Instance(wire)
        [(_, _, told, _)] = instance.take()
        assert told.get("te") == ("trailers" if te else None)
        instance.send(answer(1) + data(1, b"abc") + trailers(1, ("x-sum", "6")))
        assert client.take().endswith(b"0\r\nx-sum: 6\r\n\r\n" if te else b"0\r\n\r\n")


def begun_both(make: Any, *frames: bytes) -> tuple[Any, H2Peer, H2Instance]:
    wire = make(http2=True, listener=HTTP2)
    client = H2Peer(wire)
    client.send(*frames)
    return wire, client, H2Instance(wire)


def test_bodies_and_trailers_pass_both_ways_between_two_of_http2(make: Any) -> None:
    _, client, instance = begun_both(
        make, head(1, ("te", "trailers"), method="POST", end=False) + data(1, b"ab")
    )
    [(_, _, told, _), content] = instance.take()
    assert (told["te"], content) == ("trailers", ("data", 1, b"ab", False))
    instance.send(answer(1) + data(1, b"x"))
    assert [one[0] for one in client.take()] == ["head", "data"]
    client.send(data(1, b"c") + trailers(1, ("x-t", "1")))
    assert instance.take() == [("data", 1, b"c", False), ("head", 1, {"x-t": "1"}, True)]
    instance.send(data(1, b"y") + trailers(1, ("x-sum", "6")))
    assert client.take() == [("data", 1, b"y", False), ("head", 1, {"x-sum": "6"}, True)]


def test_an_answer_of_its_head_alone_is_one_frame(make: Any) -> None:
    _, client, instance = begun_both(make, head(1, ("te", "trailers"), method="POST"))
    assert instance.take()
    instance.send(answer(1, ("grpc-status", "5"), end=True))
    [(_, _, told, end)] = client.take()
    assert (told["grpc-status"], end) == ("5", True)


def test_crumbs_of_cookies_are_one_field(make: Any) -> None:
    _, client, instance = begun_both(make, head(1, ("cookie", "a=1"), ("cookie", "b=2")))
    assert instance.take()[0][2]["cookie"] == "a=1; b=2"
    instance.send(hi())
    assert client.answer()[1] == b"hi"


def test_interim_answers_pass_from_an_instance(make: Any) -> None:
    _, client, instance = asked(make)
    instance.send(answer(1, ("link", "</a>"), status=103))
    client.expect(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
    instance.send(hi())
    client.expect(RELAYED)


def test_a_body_that_waits_for_a_100_comes_behind_it(make: Any) -> None:
    _, client, instance = posted(make, "Content-Length: 2", "Expect: 100-continue")
    assert instance.take()[0][2]["expect"] == "100-continue"
    instance.send(answer(1, status=100))
    client.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.send(b"ab")
    assert instance.take() == [("data", 1, b"ab", True)]
    instance.send(hi())
    client.expect(RELAYED)


def test_an_answer_to_head_has_a_length_and_no_content(make: Any) -> None:
    _, client, instance = asked(make, request("HEAD /x"))
    instance.send(answer(1, ("content-length", "5"), end=True))
    assert b"Content-Length: 5\r\n" in client.take()


def test_the_lost_prefix_and_the_host_of_a_route_reach_an_instance(make: Any) -> None:
    routes = (RouteSpec(path_prefix="/a", service="s", strip_prefix=True, set_host="i"),)
    wire, client = begun(make, routes=routes)
    client.send(request("GET /a/x"))
    instance = H2Instance(wire)
    told = instance.take()[0][2]
    assert (told[":authority"], told[":path"]) == ("i", "/x")
    assert told["x-forwarded-prefix"] == "/a"
    instance.send(hi())
    client.expect(RELAYED)


def test_an_upgrade_is_refused_for_an_instance_of_http2(make: Any) -> None:
    wire, client = begun(make)
    client.send(request("GET /x", "Connection: Upgrade", "Upgrade: websocket"))
    client.expect_problem(502, "no_upgrade")
    wire.expect_no_dial()
    assert wire.in_flight == 0


def test_grpc_is_refused_for_an_instance_of_http1(make: Any) -> None:
    wire = make(listener=HTTP2)
    client = H2Peer(wire)
    fields = (("te", "trailers"), ("content-type", "application/grpc+proto"))
    client.send(head(1, *fields, method="POST", end=False) + data(1, b"abc", True))
    [(_, _, told, ended)] = client.take()
    assert ended
    assert told["grpc-status"] == "13"
    assert 'details="no_grpc"' in told["proxy-status"]
    wire.expect_no_dial()
    assert wire.in_flight == 0


# -- sessions


def test_one_request_goes_out_before_the_settings_and_the_others_wait_for_them(make: Any) -> None:
    wire = make(http2=True)
    clients = [wire.client() for _ in range(3)]
    for client in clients:
        client.send(request("GET /x"))
    instance = H2Instance(wire, begin=b"")
    assert instance.requests() == [1]
    wire.expect_no_dial()
    instance.send(frame(4))
    assert instance.requests() == [3, 5]
    instance.send(hi(1) + hi(3) + hi(5))
    for client in clients:
        client.expect(RELAYED)


def test_an_instance_that_takes_few_streams_gets_another_session(make: Any) -> None:
    wire = make(http2=True)
    clients = [wire.client() for _ in range(3)]
    for client in clients:
        client.send(request("GET /x"))
    first = H2Instance(wire, begin=settings(MOST, 2))
    assert first.requests() == [1, 3]
    second = H2Instance(wire)
    assert second.requests() == [1]
    for instance, stream in ((first, 1), (first, 3), (second, 1)):
        instance.send(hi(stream))
    for client in clients:
        client.expect(RELAYED)
    clients[0].send(request("GET /x"))
    assert first.requests() == [5]  # So that the second one becomes idle.
    first.send(hi(5))
    clients[0].expect(RELAYED)


def test_the_service_may_allow_fewer_streams(make: Any) -> None:
    wire, client = begun(make, settings=ServiceSettings(keepalive=Keepalive(streams=1)))
    client.send(request("GET /x"))
    first = H2Instance(wire)
    assert first.requests() == [1]
    other = wire.client()
    other.send(request("GET /x"))
    second = H2Instance(wire)
    assert second.requests() == [1]
    first.send(hi())
    second.send(hi())
    client.expect(RELAYED)
    other.expect(RELAYED)


def test_settings_that_allow_fewer_streams_are_obeyed(make: Any) -> None:
    wire, client, instance = asked(make)
    instance.send(settings(MOST, 1))
    assert instance.take() == []  # An acknowledgement.
    other = wire.client()
    other.send(request("GET /x"))
    second = H2Instance(wire)
    assert second.requests() == [1]
    second.send(hi())
    instance.send(hi())
    other.expect(RELAYED)
    client.expect(RELAYED)


def test_an_instance_that_takes_no_streams_is_none(make: Any) -> None:
    wire = make(http2=True)
    clients = [wire.client() for _ in range(2)]
    for client in clients:
        client.send(request("GET /x"))
    instance = H2Instance(wire, begin=settings(MOST, 0))
    assert instance.take()
    clients[1].expect_problem(503, "stream_refused")
    instance.send(hi())
    clients[0].expect(RELAYED)
    assert instance.take()[-1][0] == "goaway"


def test_an_idle_session_is_closed_in_good_order(make: Any) -> None:
    wire, client, instance = asked(make)
    instance.send(hi())
    client.expect(RELAYED)
    wire.advance(Keepalive().idle - 0.1)
    assert not instance.closed
    wire.advance(0.2)
    assert instance.take() == [("goaway", 0, 0, b"")]
    assert instance.closed
    client.send(request("GET /x"))
    again = H2Instance(wire)
    again.send(hi())
    client.expect(RELAYED)
    assert again.requests() == [1]


def test_a_session_has_so_many_requests(make: Any) -> None:
    wire, client = begun(make, settings=ServiceSettings(keepalive=Keepalive(max_requests=2)))
    client.send(request("GET /x"))
    first = H2Instance(wire)
    first.send(hi())
    client.send(request("GET /x"))
    first.send(hi(3))
    client.expect(RELAYED + RELAYED)
    assert first.take()[-1] == ("goaway", 0, 0, b"")
    assert first.closed
    client.send(request("GET /x"))
    again = H2Instance(wire)
    again.send(hi())
    client.expect(RELAYED)
    assert again.requests() == [1]


def test_no_session_is_kept_where_none_may_be_idle(make: Any) -> None:
    wire, client = begun(make, settings=ServiceSettings(keepalive=Keepalive(max_idle=0)))
    client.send(request("GET /x"))
    instance = H2Instance(wire)
    instance.send(hi())
    client.expect(RELAYED)
    assert instance.take()[-1][0] == "goaway"
    assert instance.closed


@pytest.mark.parametrize("status", ["", "draining", "ejected", "unhealthy"])
def test_an_instance_that_leaves_finishes_its_streams(make: Any, status: str) -> None:
    """Or must not be used; and if it is back meanwhile, it gets a new session."""
    wire, client, instance = asked(make)
    if status:
        wire.serve("a", a=status)
    else:
        wire.serve()
    assert not instance.closed
    wire.serve("a")
    other = wire.client()
    other.send(request("GET /x"))
    again = H2Instance(wire)
    assert again.requests() == [1]
    again.send(hi())
    other.expect(RELAYED)
    instance.send(hi())
    client.expect(RELAYED)
    assert instance.take() == [("goaway", 0, 0, b"")]
    assert instance.closed
    assert wire.in_flight == 0


def test_a_silent_instance_is_asked_whether_it_is_there(make: Any) -> None:
    wire, client, instance = asked(make, settings=PATIENT)
    wire.advance(30.1)
    assert instance.take() == [("ping", bytes(8), False)]
    instance.send(frame(6, 1, 0, bytes(8)))
    wire.advance(PING_AGAIN - 1)
    instance.peer.expect_nothing()  # Servers of gRPC end sessions that ask too often.
    wire.advance(2)
    assert instance.take() == [("ping", bytes(8), False)]
    instance.send(answer(1, HI))
    wire.advance(30.1)
    assert instance.take() == [("ping", bytes(8), False)]
    wire.advance(ACK_LIMIT)
    assert instance.closed
    assert client.take().startswith(b"HTTP/1.1 200 OK\r\n")
    assert client.closed
    assert instance.take() == [("goaway", 0, 0, b"")]


def test_each_stream_of_a_session_has_its_own_limit(make: Any) -> None:
    settings = ServiceSettings(timeouts=Timeouts(first_byte=2.0, idle=0.5))
    wire, first, instance = asked(make, settings=settings)
    wire.advance(1.5)
    clients = [wire.client() for _ in range(3)]
    for client in clients:
        client.send(request("GET /x"))
    second, third, fourth = clients
    assert instance.requests() == [3, 5, 7]
    instance.send(answer(7, HI))  # Its next limit is before those of the others.
    assert fourth.take().startswith(b"HTTP/1.1 200 OK\r\n")
    wire.advance(0.45)
    assert instance.take() == []
    wire.advance(0.1)
    assert instance.take() == [("reset", 1, 8), ("reset", 7, 8)]
    first.expect_problem(504, "first_byte_timeout")
    assert fourth.closed
    wire.advance(1.4)
    assert instance.take() == []
    instance.send(hi(3))
    second.expect(RELAYED)
    wire.advance(0.1)
    assert instance.take() == [("reset", 5, 8)]
    third.expect_problem(504, "first_byte_timeout")
    assert wire.in_flight == 0


def test_an_instance_that_says_no_settings_is_none(make: Any) -> None:
    wire, client = begun(make)
    client.send(request("GET /x"))
    other = wire.client()
    other.send(request("GET /x"))
    instance = H2Instance(wire, begin=b"")
    assert instance.requests() == [1]
    wire.advance(3.1)
    client.expect_problem(504, "connect_timeout")
    other.expect_problem(504, "connect_timeout")
    assert instance.closed
    assert instance.take() == [("goaway", 0, 4, b"")]


def test_an_instance_that_speaks_http1_is_told_from_one_that_fails(make: Any) -> None:
    wire, client = begun(make)
    client.send(request("GET /x"))
    instance = H2Instance(wire, begin=b"HTTP/1.1 400 Bad Request\r\n\r\n")
    client.expect_problem(502, "bad_answer")
    instance.peer.take()


# -- flow control


def test_a_body_waits_for_the_windows_of_an_instance(make: Any) -> None:
    wire, client = begun(make)
    client.send(request("PUT /x", "Content-Length: 100000", body=bytes(50000)), bytes(50000))
    instance = H2Instance(wire)
    frames = instance.take()
    assert frames[1] == ("data", 1, bytes(65535), False)
    instance.send(window(1, 100))
    instance.peer.expect_nothing()  # The connection's is used up, too.
    instance.send(window(0, 1 << 20))
    assert instance.take() == [("data", 1, bytes(100), False)]
    instance.send(settings(INITIAL, 1 << 20))
    assert instance.take()[-1] == ("data", 1, bytes(100000 - 65635), True)
    instance.send(hi())
    client.expect(RELAYED)


def test_a_client_is_not_read_for_an_instance_that_takes_nothing(make: Any) -> None:
    wire, client = begun(make, settings=ServiceSettings(keepalive=Keepalive(ping=0)))
    client.send(request("PUT /x", "Content-Length: 1000000"))
    instance = H2Instance(wire, begin=settings(INITIAL, 0))
    assert instance.take()
    sent = 0
    while client.read and sent < 1000000:
        client.send(bytes(20000))
        sent += 20000
    assert sent < 200000
    wire.advance(60.1)
    client.expect_problem(504, "first_byte_timeout", closing=True)
    assert instance.take() == [("reset", 1, 8)]
    assert not instance.closed


def test_padding_alone_gives_back_the_window_of_its_stream(make: Any) -> None:
    wire = make(http2=True, listener=HTTP2, settings=PATIENT)
    client = H2Peer(wire)
    client.send(head(1, method="POST", end=False))
    instance = H2Instance(wire)
    assert instance.requests() == [1]
    padding = frame(0, 8, 1, b"\xff" + bytes(255))
    client.send(128 * padding)
    assert client.take() == [("window", 1, 128 * 256 + 65535)]  # And it is enlarged.
    instance.send(answer(1) + 512 * padding)
    assert instance.take() == [("window", 1, 512 * 256)]
    client.send(data(1, b"x", end=True))
    instance.send(data(1, b"y", end=True))
    assert instance.take() == [("data", 1, b"x", True)]
    assert client.answer()[1] == b"y"


def test_a_client_that_takes_nothing_holds_back_its_stream_and_no_other(make: Any) -> None:
    wire, client, instance = asked(make)
    client.stall()
    instance.send(answer(1))
    sent = 0
    while sent < 10 * WINDOW:
        room = [one[2] for one in instance.take() if one[:2] == ("window", 1)]
        if sent and sent % WINDOW == 0 and not room:
            break
        for _ in range(WINDOW // 16384):
            instance.send(data(1, bytes(16384)))
        sent += WINDOW
    assert sent < 3 * WINDOW
    other = wire.client()
    other.send(request("GET /x"))
    assert instance.requests() == [3]
    instance.send(hi(3))
    other.expect(RELAYED)
    client.read_on()
    assert ("window", 1) in [one[:2] for one in instance.take()]
    instance.send(data(1, b"", True))
    assert client.take().count(bytes(16384)) * 16384 >= sent - 16384


def test_an_answer_that_is_whole_outlives_its_session(make: Any) -> None:
    wire, client, instance = asked(make)
    client.stall()
    instance.send(answer(1), *[data(1, bytes(16384)) for _ in range(15)], data(1, b"last", True))
    instance.peer.reset()
    client.read_on()
    assert client.take().endswith(b"last\r\n0\r\n\r\n")
    assert wire.in_flight == 0


# -- what changes around sessions


def test_an_instance_that_speaks_another_version_from_now_on_gets_no_more_streams(
    make: Any,
) -> None:
    wire, client, instance = asked(make)
    wire.serve("a", http2=False)
    other = wire.client()
    other.send(request("GET /x"))
    plain = wire.accepted()
    assert plain.take().startswith(b"GET /x HTTP/1.1\r\n")
    plain.send(OK)
    other.expect(OK_RELAYED)
    instance.send(hi())
    client.expect(RELAYED)
    assert instance.take() == [("goaway", 0, 0, b"")]
    wire.serve("a", http2=True)
    assert plain.closed
    other.send(request("GET /x"))
    again = H2Instance(wire)
    again.send(hi())
    other.expect(RELAYED)
    assert again.requests() == [1]


def test_an_idle_session_gives_way_to_a_connection_that_is_needed(make: Any) -> None:
    wire = make("a", "b", http2=True)
    wire.worker.connections.descriptors = 2
    client = wire.client()
    closed = []
    for _ in range(2):
        client.send(request("GET /x"))
        name = "a" if wire.network.accepted.get(wire.address("a")) else "b"
        instance = H2Instance(wire, name)
        assert instance.requests() == [1]
        instance.send(hi())
        client.expect(RELAYED)
        closed.append(instance)
    assert [instance.closed for instance in closed] == [True, False]
    assert closed[0].take() == [("goaway", 0, 0, b"")]


def test_a_worker_that_stops_lets_streams_finish(make: Any) -> None:
    wire, client, instance = asked(make)
    wire.worker.on_message(Drain(30.0))
    wire.advance(1.0)
    assert not wire.worker.stopped.is_set()
    instance.send(hi())
    assert client.take().endswith(b"\r\n\r\nhi")
    client.eof()
    assert wire.worker.stopped.is_set()


@pytest.mark.parametrize("begun", [b"", b"ab"])
def test_an_upload_that_is_refused_under_way_goes_on_elsewhere(make: Any, begun: bytes) -> None:
    wire = make("a", "b", http2=True)
    client = wire.client()
    client.send(request("POST /x", "Content-Length: 6", body=begun))
    name = "a" if wire.network.accepted.get(wire.address("a")) else "b"
    first = H2Instance(wire, name)
    client.send(b"abcd"[len(begun) :])
    assert first.take()[1:] == [("data", 1, b"abcd", False)]
    first.send(reset(1, 7))
    second = H2Instance(wire, "b" if name == "a" else "a")
    client.send(b"ef")
    assert second.take()[1:] == [("data", 1, b"abcdef", True)]
    second.send(hi())
    client.expect(RELAYED)


@pytest.mark.parametrize("chosen", ["http/1.1", ""])
def test_an_instance_that_does_not_choose_http2_by_alpn_is_none(make: Any, chosen: str) -> None:
    wire = make(http2=True, tls=True)
    wire.alpn = (chosen,) if chosen else ()
    client = wire.client()
    client.send(request("GET /x"))
    client.expect_problem(502, "bad_answer")
    assert not wire.accepted().take()
    wire.alpn = ("h2",)
    wire.advance(1.1)
    tried = H2Instance(wire)
    client.send(request("GET /x"))
    tried.send(hi())
    client.expect(RELAYED)
    assert tried.requests() == [1]


def test_clients_that_leave_while_they_wait_leave_nothing_behind(make: Any) -> None:
    wire = make(http2=True)
    clients = [wire.client() for _ in range(4)]
    for client in clients:
        client.send(request("GET /x"))
    instance = H2Instance(wire, begin=b"")
    assert instance.requests() == [1]
    for client in (clients[1], clients[0], clients[2]):
        client.reset()
    said = [one[:2] for one in instance.take()]  # Nothing of the second, which had left by then.
    assert said == [("reset", 1), ("head", 3), ("reset", 3), ("head", 5)]
    instance.send(SETTINGS + hi(5))
    clients[3].expect(RELAYED)
    assert instance.take() == []
    assert wire.in_flight == 0


CONVERSATIONS = {
    "answer": (hi(1), RELAYED),
    "padded": (
        answer(1, HI) + frame(0, 8, 1, b"\3h\0\0\0") + frame(0, 9, 1, b"\0i"),
        RELAYED,
    ),
    "hints": (
        answer(1, ("link", "</a>"), status=103) + hi(1),
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + RELAYED,
    ),
    "between others": (
        frame(6, 0, 0, bytes(8)) + settings(INITIAL, 5) + hi(1) + window(0, 9) + window(1, 9),
        RELAYED,
    ),
    "goaway": (frame(7, 0, 0, number(1) + number(0) + b"bye") + hi(1), RELAYED),
    "continued": (
        frame(1, 0, 1, b"\x88") + frame(9, 4, 1, b"\x0f\x0d\x012") + data(1, b"hi", True),
        RELAYED,
    ),
}
"""What an instance says of stream 1, and what the client gets of it."""


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_an_answer_means_the_same_however_it_is_cut(make: Any, name: str) -> None:
    raw, told = CONVERSATIONS[name]
    cuts = [[raw], [raw[at : at + 1] for at in range(len(raw))]]
    cuts += [[raw[:at], raw[at:]] for at in range(1, len(raw), 1 + len(raw) // 12)]
    for pieces in cuts:
        wire, client, instance = asked(make)
        instance.send(*pieces)
        client.expect(told)
        assert wire.in_flight == 0
        instance.take()


def test_a_session_that_comes_when_the_protocol_is_another_by_now_is_not_kept(make: Any) -> None:
    wire = make(http2=True)
    wire.network.hang(wire.address("a"))
    client = wire.client()
    client.send(request("GET /x"))
    wire.serve("a", http2=False)
    wire.network.answer(wire.address("a"))
    wire.settle()
    instance = H2Instance(wire)
    assert instance.requests() == [1]
    other = wire.client()
    other.send(request("GET /x"))
    plain = wire.accepted()
    assert plain.take()
    plain.send(OK)
    other.expect(OK_RELAYED)
    instance.send(hi())
    client.expect(RELAYED)
    assert instance.take() == [("goaway", 0, 0, b"")]


def test_requests_that_wait_when_the_protocol_becomes_http1_get_connections(make: Any) -> None:
    wire = make(http2=True)
    clients = [wire.client() for _ in range(20)]  # More than get one in a turn of the loop.
    for client in clients:
        client.send(request("GET /x"))
    instance = H2Instance(wire, begin=b"")
    assert instance.requests() == [1]
    wire.serve("a", http2=False)
    instance.send(SETTINGS + hi())
    clients[0].expect(RELAYED)
    assert instance.take() == [("goaway", 0, 0, b"")]
    for client in clients[1:]:
        plain = wire.accepted()
        assert plain.take().startswith(b"GET /x HTTP/1.1\r\n")
        plain.send(OK)
        client.expect(OK_RELAYED)
    assert wire.in_flight == 0


def test_the_last_of_several_settings_in_a_read_counts(make: Any) -> None:
    wire = make(http2=True)
    clients = [wire.client() for _ in range(3)]
    for client in clients:
        client.send(request("GET /x"))
    first = H2Instance(wire, begin=SETTINGS + settings(MOST, 1))
    assert first.requests() == [1]
    second = H2Instance(wire)
    assert second.requests() == [1, 3]
    first.send(hi(1))
    second.send(hi(1) + hi(3))
    for client in clients:
        client.expect(RELAYED)


def test_requests_that_wait_for_a_stream_get_one_before_later_ones(make: Any) -> None:
    wire = make(http2=True)
    for place in range(40):  # More than get one in a turn of the loop.
        wire.client().send(request(f"GET /{place}"))
    instance = H2Instance(wire, begin=b"")
    late = wire.client()
    instance.peer.transport.feed(SETTINGS + frame(4, 1))  # There is room for all.
    late.send(request("GET /late"))
    paths = [told[":path"] for _, _, told, _ in instance.take()]
    assert paths == [*(f"/{place}" for place in range(40)), "/late"]


def test_a_connection_that_was_in_use_when_the_protocol_changed_is_not_kept(make: Any) -> None:
    wire = make()
    client = wire.client()
    client.send(request("GET /x"))
    plain = wire.accepted()
    assert plain.take()
    wire.serve("a", http2=True)
    plain.send(OK)
    client.expect(OK_RELAYED)
    assert plain.closed
    client.send(request("GET /x"))
    instance = H2Instance(wire)
    assert instance.requests() == [1]
    instance.send(hi())
    client.expect(RELAYED)
