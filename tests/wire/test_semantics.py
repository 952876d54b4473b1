"""Parts of HTTP that a proxy must understand to pass them on: trailers, 1xx, upgrades, hops."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.settings.listener import ListenerSettings, ListenerTimeouts
from tests.support.wire import forwarded, request
from tests.wire.scenes import CHUNKED, answered, asked, reached

TE = ("Connection: TE", "TE: trailers")
TRAILING = b"2\r\nhi\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\nX_Sum: 8\r\nCookie: a\r\n\r\n"
PASSED = b"2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n"


class TestTrailers:
    """RFC 9110 §6.5."""

    @pytest.mark.parametrize("cut", range(0, len(TRAILING), 5))
    def test_of_a_request_reach_the_instance_but_for_forbidden_ones(
        self, make: Any, cut: int
    ) -> None:
        wire = make()
        client = wire.client()
        body = TRAILING
        client.send(request("POST /", CHUNKED, "Trailer: X-Sum"), body[:cut], body[cut:])
        instance = wire.accepted()
        head, _, rest = instance.take().partition(b"\r\n\r\n")
        assert b"\r\nTrailer: X-Sum" in head
        # The cut may have made two chunks of the one.
        assert rest in (PASSED, b"1\r\nh\r\n1\r\ni\r\n" + PASSED.partition(b"hi\r\n")[2])
        answered(client, instance)

    def test_of_an_answer_reach_a_client_that_takes_them(self, make: Any) -> None:
        wire = make()
        client, instance = reached(wire, request("GET /", "TE: trailers"))
        instance.expect(forwarded("GET /", *TE))
        instance.send(b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\n" + CHUNKED.encode() + b"\r\n\r\n")
        instance.send(TRAILING)
        client.expect(
            b"HTTP/1.1 200 OK\r\nX-Request-ID: r1\r\n"
            b"Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n"
            b"Via: 1.1 fairlead\r\n\r\n" + PASSED
        )

    def test_of_an_answer_are_dropped_for_others(self, make: Any) -> None:
        wire = make()
        client, instance = reached(wire, request("GET /"))
        instance.expect(forwarded("GET /"))
        instance.send(b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\n" + CHUNKED.encode() + b"\r\n\r\n")
        instance.send(TRAILING)
        client.expect(
            b"HTTP/1.1 200 OK\r\nX-Request-ID: r1\r\n"
            b"Transfer-Encoding: chunked\r\nVia: 1.1 fairlead\r\n\r\n"
            b"2\r\nhi\r\n0\r\n\r\n"
        )


class TestMaxForwards:
    """RFC 9110 §7.6.2."""

    @pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
    def test_a_request_that_goes_no_further_is_answered_here(self, make: Any, method: str) -> None:
        wire = make()
        client = wire.client()
        client.send(request(f"{method} /x", "Max-Forwards: 0", "Cookie: secret", "X-A: 1"))
        wire.expect_no_dial()
        answer = client.take()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        if method == "OPTIONS":
            assert b"\r\nAllow: GET, HEAD, POST" in head
            assert body == b""
        else:
            assert b"\r\nContent-Type: message/http\r\n" in head
            assert body == b"TRACE /x HTTP/1.1\r\nHost: h\r\nX-A: 1\r\n\r\n"
        assert not client.closed

    @pytest.mark.parametrize(("given", "passed"), [("5", "4"), ("1", "0"), ("x", "x")])
    def test_one_hop_less(self, make: Any, given: str, passed: str) -> None:
        wire = make()
        client, instance = reached(wire, request("OPTIONS /", f"Max-Forwards: {given}"))
        instance.expect(forwarded("OPTIONS /", f"Max-Forwards: {passed}"))
        answered(client, instance)


class TestUpgrades:
    """RFC 9110 §7.8."""

    def test_a_protocol_that_was_not_offered_is_refused(self, make: Any) -> None:
        wire = make()
        client, instance = asked(
            wire, request("GET /", "Connection: Upgrade", "Upgrade: websocket")
        )
        instance.send(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        client.expect_problem(502, "http_protocol_error")
        assert instance.cut

    @pytest.mark.parametrize("chosen", ["WebSocket", "chat", "chat/2"])
    def test_case_and_version_do_not_matter(self, make: Any, chosen: str) -> None:
        wire = make()
        client, instance = asked(
            wire, request("GET /", "Connection: Upgrade", "Upgrade: websocket, chat/2")
        )
        instance.send(
            f"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: {chosen}\r\n\r\n".encode()
        )
        assert client.take().startswith(b"HTTP/1.1 101 Go\r\n")

    def test_an_answer_that_demands_one_says_which(self, make: Any) -> None:
        wire = make()
        client, instance = asked(wire)
        instance.send(
            b"HTTP/1.1 426 No\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Content-Length: 0\r\n\r\n"
        )
        client.expect(
            b"HTTP/1.1 426 No\r\nX-Request-ID: r1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Content-Length: 0\r\nVia: 1.1 fairlead\r\n\r\n"
        )


class TestExpectations:
    """RFC 9110 §10.1.1."""

    EXPECTING = request("POST /", "Expect: 100-continue", "Content-Length: 2")

    def test_a_client_that_waits_is_not_slow(self, make: Any) -> None:
        limits = ListenerSettings(timeouts=ListenerTimeouts(body=5.0))
        wire = make(listener=limits)
        client, instance = asked(wire, self.EXPECTING)
        wire.advance(20)
        client.expect_nothing()
        instance.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
        wire.advance(4.9)
        client.expect_nothing()
        client.send(b"hi")
        instance.expect(b"hi")
        answered(client, instance)

    def test_once_invited_it_is(self, make: Any) -> None:
        wire = make(listener=ListenerSettings(timeouts=ListenerTimeouts(body=5.0)))
        client, instance = asked(wire, self.EXPECTING)
        instance.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.take()
        wire.advance(5.1)
        client.expect_problem(408, "http_request_error", closing=True)


class TestForwarded:
    """RFC 7239, on listeners that ask for it."""

    @pytest.mark.parametrize(
        ("host", "peer", "element"),
        [
            ("h", ("192.0.2.7", 1), "for=192.0.2.7;host=h;proto=http"),
            ("h:8080", ("2001:db8::7", 1), 'for="[2001:db8::7]";host="h:8080";proto=http'),
        ],
    )
    def test_an_untrusted_peer_is_described_by_us_alone(
        self, make: Any, host: str, peer: Any, element: str
    ) -> None:
        wire = make(listener=ListenerSettings(forwarded=True))
        client = wire.client(peer)
        client.send(request("GET /", "Forwarded: for=6.6.6.6", host=host))
        instance = wire.accepted()
        sent = instance.take()
        element = element.replace("proto=http", f"proto={wire.scheme}")
        assert f"\r\nForwarded: {element}\r\n".encode() in sent
        assert sent.count(b"Forwarded: ") == 1
        answered(client, instance)

    def test_the_word_of_a_trusted_peer_stands_before_ours(self, make: Any) -> None:
        wire = make(listener=ListenerSettings(forwarded=True, trusted_proxies=("192.0.2.0/24",)))
        client, instance = reached(
            wire, request("GET /", "Forwarded: for=198.51.100.9;proto=https")
        )
        own = f"for=192.0.2.7;host=h;proto={wire.scheme}"
        wanted = f"Forwarded: for=198.51.100.9;proto=https, {own}\r\n"
        assert wanted.encode() in instance.take()
        answered(client, instance)
