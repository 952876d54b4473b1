"""What each side gets to see of the other's heads and bodies, to the byte."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.settings.listener import ListenerSettings
from proxy.settings.route import RouteSpec
from proxy.settings.service import Keepalive, ServiceSettings
from tests.support.wire import CLIENT, OK, OK_RELAYED, OK_RELAYED_CLOSE, forwarded, request
from tests.wire.scenes import TRUSTING, answered, asked, reached

STRIPPING = RouteSpec(path_prefix="/p", service="s", strip_prefix=True)


def test_a_get_and_its_answer(make: Any) -> None:
    wire = make()
    client, a = reached(wire, request("GET /x?y=1", "Accept: */*"))
    a.expect(forwarded("GET /x?y=1", "Accept: */*"))
    assert wire.in_flight == 1
    answered(client, a)
    assert wire.in_flight == 0


def test_connections_of_both_sides_are_kept_alive(make: Any) -> None:
    wire = make()
    client, a = reached(wire, request("GET /1"))
    for number in range(2, 6):
        a.expect(forwarded(f"GET /{number - 1}"))
        answered(client, a)
        client.send(request(f"GET /{number}"))
    a.expect(forwarded("GET /5"))
    answered(client, a)
    wire.expect_no_dial()
    assert len(wire.node().idle) == 1


@pytest.mark.parametrize(
    ("line", "fields", "answer", "relayed"),
    [
        ("GET /", (), b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: x\r\n\r\n",
         b"HTTP/1.1 304 Not Modified\r\nX-Request-ID: r1\r\n"
         b"ETag: x\r\nContent-Length: 7\r\nVia: 1.1 fairlead\r\n\r\n"),
        ("GET /", (), b"HTTP/1.1 204 No Content\r\n\r\n",
         b"HTTP/1.1 204 No Content\r\nX-Request-ID: r1\r\nVia: 1.1 fairlead\r\n\r\n"),
        ("DELETE /", (), b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
         b"HTTP/1.1 204 No Content\r\nX-Request-ID: r1\r\nVia: 1.1 fairlead\r\n\r\n"),
        ("HEAD /", (), b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
         b"HTTP/1.1 200 OK\r\nX-Request-ID: r1\r\nContent-Length: 7\r\nVia: 1.1 fairlead\r\n\r\n"),
        ("HEAD /", (), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
         b"HTTP/1.1 200 OK\r\nX-Request-ID: r1\r\nVia: 1.1 fairlead\r\n\r\n"),
        ("GET /", (), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
         b"HTTP/1.1 200 OK\r\nX-Request-ID: r1\r\nContent-Length: 0\r\nVia: 1.1 fairlead\r\n\r\n"),
        ("GET /", (), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
         b"HTTP/1.1 200 OK\r\nX-Request-ID: r1\r\n"
         b"Transfer-Encoding: chunked\r\nVia: 1.1 fairlead\r\n\r\n"
         b"2\r\nhi\r\n0\r\n\r\n"),
        ("GET /", (), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
         b"HTTP/1.1 200 OK\r\nX-Request-ID: r1\r\n"
         b"Transfer-Encoding: chunked\r\nVia: 1.1 fairlead\r\n\r\n0\r\n\r\n"),
        ("GET /", (), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
         b"2;ext=1\r\nhi\r\n0\r\nTrailer-Field: x\r\n\r\n",
         b"HTTP/1.1 200 OK\r\nX-Request-ID: r1\r\n"
         b"Transfer-Encoding: chunked\r\nVia: 1.1 fairlead\r\n\r\n"
         b"2\r\nhi\r\n0\r\n\r\n"),
        ("GET /", (), b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
         b"HTTP/1.1 200 \r\nX-Request-ID: r1\r\nContent-Length: 0\r\nVia: 1.1 fairlead\r\n\r\n"),
        ("GET /", (), b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n"
         b"X-End: 2\r\n"
         b"Keep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nVia: 1.0 x\r\n"
         b"Content-Length: 0\r\n\r\n",
         b"HTTP/1.1 200 OK\r\nX-Request-ID: r1\r\nX-End: 2\r\nContent-Length: 0\r\nVia: 1.0 x\r\n"
         b"Via: 1.1 fairlead\r\n\r\n"),
        ("GET / HTTP/1.0", ("Connection: keep-alive",),
         b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
         b"HTTP/1.1 200 OK\r\nX-Request-ID: r1\r\nContent-Length: 2\r\nConnection: keep-alive\r\n"
         b"Via: 1.1 fairlead\r\n\r\nhi"),
    ],
)  # fmt: skip
def test_answers_that_keep_both_connections(
    make: Any, line: str, fields: tuple[str, ...], answer: bytes, relayed: bytes
) -> None:
    wire = make()
    client, a = reached(wire, request(line, *fields))
    a.expect(forwarded(line.removesuffix(" HTTP/1.0")))
    a.send(answer)
    client.expect(relayed)
    assert not client.closed
    assert len(wire.node().idle) == 1
    # Whatever it was, the same two connections serve the next request.
    client.send(request("GET /next"))
    a.expect(forwarded("GET /next"))
    answered(client, a)


def test_until_close_becomes_chunks_for_a_client_that_can(make: Any) -> None:
    wire = make()
    client, a = asked(wire)
    a.send(b"HTTP/1.1 200 OK\r\n\r\n", b"abc", b"defg")
    client.expect(
        b"HTTP/1.1 200 OK\r\nX-Request-ID: r1\r\n"
        b"Transfer-Encoding: chunked\r\nVia: 1.1 fairlead\r\n\r\n"
        b"3\r\nabc\r\n4\r\ndefg\r\n"
    )
    a.eof()
    client.expect(b"0\r\n\r\n")
    assert not client.closed
    assert a.closed
    assert not wire.node().idle


@pytest.mark.parametrize("coding", [b"", b"Transfer-Encoding: chunked\r\n"])
def test_a_1_0_client_gets_an_end_of_file_where_there_is_no_length(
    make: Any, coding: bytes
) -> None:
    wire = make()
    client, a = asked(wire, request("GET / HTTP/1.0", "Connection: keep-alive"))
    a.send(b"HTTP/1.1 200 OK\r\n" + coding + b"\r\n")
    a.send(b"3\r\nabc\r\n0\r\n\r\n" if coding else b"abc")
    a.eof()
    client.expect(
        b"HTTP/1.1 200 OK\r\nX-Request-ID: r1\r\nConnection: close\r\nVia: 1.1 fairlead\r\n\r\nabc"
    )
    assert client.saw_end


def test_a_1_0_client_without_keep_alive_is_closed(make: Any) -> None:
    wire = make()
    client, a = reached(wire, request("GET / HTTP/1.0", host=None))
    a.expect(forwarded("GET /", host=""))
    a.send(OK)
    client.expect(OK_RELAYED_CLOSE)
    assert client.closed
    assert not client.cut
    assert len(wire.node().idle) == 1


def test_a_client_that_closes_is_closed(make: Any) -> None:
    wire = make()
    client, a = reached(wire, request("GET /", "Connection: close, X-Hop", "X-Hop: 1"))
    a.expect(forwarded("GET /"))
    a.send(OK)
    client.expect(OK_RELAYED_CLOSE)
    assert client.closed


def test_an_instance_that_closes_is_not_kept(make: Any) -> None:
    wire = make()
    client, a = asked(wire)
    a.send(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    client.expect(OK_RELAYED)
    assert a.closed
    assert not client.closed


def test_hop_by_hop_fields_of_a_request_end_here(make: Any) -> None:
    wire = make()
    client = wire.client()
    client.send(
        request(
            "GET /",
            "X-Keep: 1",
            "Connection: X-Hop,  x-other",
            "X-Hop: 1",
            "X-OTHER: 2",
            "Keep-Alive: 5",
            "Proxy-Connection: x",
            "Proxy-Authorization: x",
            "TE: gzip",
            "Trailer: X",
            "HTTP2-Settings: x",
            "Under_Score: 1",
            "X_Forwarded_For: 6.6.6.6",
        )
    )
    a = wire.accepted()
    a.expect(forwarded("GET /", "X-Keep: 1"))
    answered(client, a)


SPOOFED = (
    "X-Forwarded-For: 198.51.100.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: outer",
    "X-Forwarded-Port: 443", "Forwarded: for=198.51.100.9", "X-Real-IP: 198.51.100.9",
)  # fmt: skip


def test_fields_an_untrusted_peer_says_of_itself_are_replaced(make: Any) -> None:
    wire = make()
    client, a = reached(wire, request("GET /", *SPOOFED))
    a.expect(forwarded("GET /"))
    answered(client, a)


def test_fields_a_trusted_peer_says_are_appended_to(make: Any) -> None:
    wire = make(listener=TRUSTING)
    client, a = reached(wire, request("GET /", *SPOOFED))
    a.expect(
        forwarded(
            "GET /",
            "X-Real-IP: 198.51.100.9",
            "Forwarded: for=198.51.100.9",
            for_=f"198.51.100.9, {CLIENT[0]}",
            proto="https",
            asked="outer",
            port="443",
        )
    )
    answered(client, a)


@pytest.mark.parametrize(("bind", "trusted"), [("unix:/run/x", True), ("0.0.0.0:8080", False)])
def test_a_peer_without_an_address_is_trusted_on_a_unix_socket_only(
    make: Any, bind: str, trusted: bool
) -> None:
    wire = make(listener=ListenerSettings(bind=bind, trusted_proxies=("10.0.0.0/8",)))
    client = wire.client(peer=None)
    client.send(request("GET /", "X-Forwarded-For: 198.51.100.9"))
    a = wire.accepted()
    expected = "198.51.100.9, unknown" if trusted else "unknown"
    a.expect(forwarded("GET /", for_=expected, port="0"))
    answered(client, a)


def test_a_client_cannot_take_our_fields_away(make: Any) -> None:
    wire = make()
    client = wire.client()
    client.send(
        request("GET /", "Connection: X-Forwarded-For, Host, Via, X-Forwarded-Proto, Cookie",
                "Cookie: c=1")
    )  # fmt: skip
    a = wire.accepted()
    a.expect(forwarded("GET /"))
    answered(client, a)


def test_the_via_of_others_is_kept_in_order(make: Any) -> None:
    wire = make()
    client, a = reached(wire, request("GET /", "Via: 1.0 a", "Via: 1.1 fairlead (another)"))
    sent = a.take()
    assert sent.index(b"Via: 1.0 a\r\n") < sent.index(b"Via: 1.1 fairlead (another)\r\n")
    assert sent.index(b"(another)") < sent.index(b"(t0k3n)")
    answered(client, a)


def test_our_own_via_is_a_loop(make: Any) -> None:
    wire = make()
    client = wire.client()
    client.send(request("GET /", "Via: 1.1 fairlead (t0k3n)"))
    client.expect_problem(502, "proxy_loop_detected")
    wire.expect_no_dial()


@pytest.mark.parametrize(
    ("route", "line", "sent", "host"),
    [
        (STRIPPING, "/p/x?q=/p", "/x?q=/p", "h"),
        (STRIPPING, "/p?q", "/?q", "h"),
        (STRIPPING, "/p//evil/x", "/evil/x", "h"),
        (RouteSpec(path_prefix="/p", service="s", rewrite_prefix="/n"), "/p/x", "/n/x", "h"),
        (RouteSpec(path_prefix="/", service="s", set_host="in.side"), "/p/x", "/p/x", "in.side"),
        (RouteSpec(path_prefix="/", service="s"), "/a/./b/../c", "/a/c", "h"),
        (RouteSpec(path_prefix="/", service="s"), "/a/%2e%2E/%61%2d%5e", "/a-%5E", "h"),
        (RouteSpec(path_prefix="/", service="s"), "http://h/abs?x", "/abs?x", "h"),
        (RouteSpec(path_prefix="/", service="s"), "http://h?x", "/?x", "h"),
    ],
)
def test_targets_as_the_instance_gets_them(
    make: Any, route: RouteSpec, line: str, sent: str, host: str
) -> None:
    wire = make(routes=(route,))
    client, a = reached(wire, request(f"GET {line}"))
    after = ("X-Forwarded-Prefix: /p",) if route.strip_prefix else ()
    a.expect(forwarded(f"GET {sent}", host=host, asked="h", after=after))
    answered(client, a)


@pytest.mark.parametrize(
    ("first", "rest"), [(b"abcde", ()), (b"", (b"ab", b"c", b"de")), (b"ab", (b"cde",))]
)
def test_a_body_with_a_length_is_passed_through(
    make: Any, first: bytes, rest: tuple[bytes, ...]
) -> None:
    wire = make()
    client, a = reached(wire, request("POST /", "Content-Length: 5", body=first), *rest)
    a.expect(forwarded("POST /", "Content-Length: 5", body=b"abcde"))
    answered(client, a)
    assert not client.closed


def test_a_chunked_body_is_chunked_anew(make: Any) -> None:
    wire = make()
    client = wire.client()
    client.send(
        request("POST /", "Transfer-Encoding: chunked"),
        b"3;x=y\r\nabc\r\n2",
        b"\r\nde\r\n",
        b"0\r\nTrailer: x\r\n\r\n",
    )
    a = wire.accepted()
    a.expect(
        forwarded("POST /", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    )
    answered(client, a)
    assert not client.closed


def test_an_answer_has_exactly_one_date(make: Any) -> None:
    """Its own or, without one, ours, also when the same block was seen before."""
    wire = make()
    client = wire.client()
    a = None
    for date in (b"", b"", b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"):
        client.send(request("GET /"))
        a = a or wire.accepted()
        a.take()
        a.send(b"HTTP/1.1 103 Early\r\n\r\n")
        assert b"Date" not in client.transport.taken
        a.send(b"HTTP/1.1 200 OK\r\n" + date + b"Content-Length: 0\r\n\r\n")
        assert bytes(client.transport.taken).count(b"\r\nDate: ") == 1
        assert date in client.transport.taken
        client.take()


def test_trailers_are_written_anew_in_both_directions(make: Any) -> None:
    trailers = b"0\r\nA:\t b \r\nHop: 1\r\nB:\r\n\r\n"
    passed = b"0\r\nA: b\r\nB: \r\n\r\n"
    chunked = ("Connection: TE, Hop", "TE: trailers", "Transfer-Encoding: chunked")
    wire = make()
    client, a = reached(wire, request("POST /", *chunked) + trailers)
    assert a.take().endswith(b"\r\n\r\n" + passed)
    a.send(b"HTTP/1.1 200 OK\r\nConnection: Hop\r\nTransfer-Encoding: chunked\r\n\r\n" + trailers)
    assert client.take().endswith(b"\r\n\r\n" + passed)


def test_an_empty_chunked_body(make: Any) -> None:
    wire = make()
    client, a = reached(wire, request("POST /", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"))
    a.expect(forwarded("POST /", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"))
    answered(client, a)


def test_continue_is_passed_end_to_end(make: Any) -> None:
    wire = make()
    client, a = reached(wire, request("PUT /", "Content-Length: 2", "Expect: 100-continue"))
    a.expect(forwarded("PUT /", "Content-Length: 2", "Expect: 100-continue"))
    client.expect_nothing()
    a.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.send(b"hi")
    a.expect(b"hi")
    answered(client, a)
    client.send(request("GET /next"))
    a.expect(forwarded("GET /next"))
    answered(client, a)


def test_an_expectation_that_is_not_met_closes(make: Any) -> None:
    wire = make()
    client, a = asked(wire, request("PUT /", "Content-Length: 2", "Expect: 100-continue"))
    a.send(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
    client.expect(
        b"HTTP/1.1 401 No\r\nX-Request-ID: r1\r\n"
        b"Content-Length: 0\r\nConnection: close\r\nVia: 1.1 fairlead\r\n\r\n"
    )
    assert client.saw_end
    assert a.closed  # It would take the next request for the body.
    client.eof()
    assert client.closed


def test_an_expectation_nobody_knows(make: Any) -> None:
    wire = make()
    client = wire.client()
    client.send(request("PUT /", "Content-Length: 2", "Expect: miracles"))
    client.expect_problem(417, "http_request_error", closing=True)


HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


@pytest.mark.parametrize("at_once", [True, False])
def test_other_interim_answers_are_relayed(make: Any, at_once: bool) -> None:
    wire = make()
    client, a = asked(wire)
    if at_once:
        a.send(HINTS + HINTS + OK)
    else:
        stream = HINTS + HINTS + OK
        a.send(*(stream[at : at + 1] for at in range(len(stream))))
    client.expect(HINTS * 2 + OK_RELAYED)
    assert len(wire.node().idle) == 1


def test_interim_answers_are_nothing_for_a_1_0_client(make: Any) -> None:
    wire = make()
    client, a = asked(wire, request("GET / HTTP/1.0"))
    a.send(HINTS + OK)
    client.expect(OK_RELAYED_CLOSE)


@pytest.mark.parametrize(
    ("uses", "keepalive"), [(1, "timeout=1"), (2, "timeout=5"), (2, "max=7"), (1, "timeout=0")]
)
def test_the_keep_alive_of_an_instance_is_honoured(make: Any, uses: int, keepalive: str) -> None:
    wire = make()
    client, a = asked(wire)
    a.send(OK.replace(b"\r\n\r\n", f"\r\nKeep-Alive: {keepalive}\r\n\r\n".encode()))
    client.expect(OK_RELAYED)
    assert len(wire.node().idle) == uses - 1


def test_connections_are_used_a_limited_number_of_times(make: Any) -> None:
    wire = make(settings=ServiceSettings(keepalive=Keepalive(max_requests=2)))
    client = wire.client()
    for _ in range(2):
        for _ in range(2):
            client.send(request("GET /"))
            if not wire.peers[1:] or wire.peers[-1].closed:
                a = wire.accepted()
            a.take()
            answered(client, a)
        assert a.closed


HEADS = [
    request("GET /x"),
    request("HEAD /x"),
    request("GET /y/../x?a=1"),
    request("GET /x", "Accept: */*"),
    request("GET /x", host="other"),
    request("GET http://h/x"),
    request("GET http://h/x", host="other"),
    request("GET /x HTTP/1.0", "Connection: keep-alive", "Expect: 100-continue"),
    request("POST /x", "Content-Length: 0"),
    request("POST /x", "Content-Length: 2", body=b"ab"),
    request("OPTIONS *"),
    request("GET /x", "Content-Length: x"),
    request("GET /x\rab"),
]


def outcome(client: Any, raw: bytes) -> tuple[bytes, bytes]:
    """What an instance and the client get of a request."""
    wire = client.wire
    client.send(raw)
    waiting = wire.network.accepted.get(wire.address("a"), [])
    instances = [peer for peer in wire.peers if peer.name == "a" and not peer.closed]
    instance = wire.accepted() if waiting else instances[-1] if instances else None
    got = b"" if instance is None else instance.take()
    if got:
        instance.send(OK if not got.startswith(b"HEAD") else OK[:-2])
    return got, client.take()


@pytest.mark.parametrize("cut", [False, True])
def test_heads_mean_the_same_whatever_came_before(make: Any, cut: bool) -> None:
    """Connections keep their latest head, with what was read of it."""
    alone = {raw: outcome(make().client(), raw) for raw in HEADS}
    for first in HEADS:
        for second in HEADS:
            client = make().client()
            for raw in (first, second, second, first, second):
                if client.closed or client.saw_end:
                    break
                if cut:
                    client.send(raw[:9])
                    raw, whole = raw[9:], raw
                else:
                    whole = raw
                assert outcome(client, raw) == alone[whole], (first, second)
            client.reset()


ANSWERS = [
    OK,
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: b\r\n\r\nhi",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\n" + OK,
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
]


@pytest.mark.parametrize("cut", [False, True])
def test_answers_mean_the_same_whatever_came_before(make: Any, cut: bool) -> None:
    def told(client: Any, instance: Any, raw: bytes) -> bytes:
        instance.send(*((raw[:12], raw[12:]) if cut else (raw,)))
        return bytes(client.take())

    alone = {}
    for raw in ANSWERS:
        client, instance = asked(make())
        alone[raw] = told(client, instance, raw)
    for first in ANSWERS:
        for second in ANSWERS:
            client, instance = asked(make())
            for raw in (first, second, second, first):
                assert told(client, instance, raw) == alone[raw], (first, second)
                client.send(request("GET /"))
                assert instance.take()
