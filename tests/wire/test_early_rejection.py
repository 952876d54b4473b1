"""Bytes that can never become a request are answered at once, however they are cut; what may
become one waits for the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.http1.beginnings import reject_early
from proxy.engine.http1.parser import parse_request
from proxy.errors import Refused
from proxy.settings.listener import ListenerLimits, ListenerSettings, ListenerTimeouts
from tests.support.wire import forwarded, request
from tests.wire.scenes import answered, reached

HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64))
HOPELESS: dict[str, tuple[bytes, int]] = {
    # What is said, and behind how many bytes it is hopeless.
    "TLS": (HELLO, 1),
    "SSLv2": (b"\x80\x2e\x01\x00\x02", 1),
    "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n", 20),
    "SSH with a comment": (b"SSH-2.0-OpenSSH_9.6 Debian-2\r\n", 21),
    "a length": (b"\x00\x00\x00\x14SSH", 1),
    "SMTP": (b"EHLO mail.example\r\n", 6),
    "FTP": (b"QUIT\r\n", 5),
    "IMAP": (b"a1 LOGIN u p\r\n", 4),
    "Redis": (b"*1\r\n$4\r\nPING\r\n", 3),
    "AMQP": (b"AMQP\x00\x00\x09\x01", 5),
    "MQTT": (b"\x10\x0e\x00\x04MQTT", 1),
    "SIP": (b"OPTIONS sip:h SIP/2.0\r\n", 9),
    "RTSP": (b"OPTIONS rtsp://h/ RTSP/1.0\r\n", 9),
    "SOCKS": (b"\x05\x01\x00", 1),
    "PROXY": (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", 7),
    "PROXY of nobody": (b"PROXY UNKNOWN\r\n", 7),
    "JSON": (b'{"a": 1}', 1),
    "an answer": (b"HTTP/1.1 200 OK\r\n", 5),
    "HTTP/0.9": (b"GET /\r\n", 6),
    "a method without an end": (b"a" * 65, 65),
    "a long method": (b"A" * 65 + b" / HTTP/1.1", 65),
    "a method in quotes": (b'"GET" / HTTP/1.1', 1),
    "a method with a colon": (b"GET: / HTTP/1.1", 4),
    "no target": (b"GET  HTTP/1.1", 5),
    "a target without a slash": (b"GET a/b HTTP/1.1", 5),
    "a target of a query": (b"GET ?a HTTP/1.1", 5),
    "an asterisk for a GET": (b"GET * HTTP/1.1", 5),
    "an asterisk with more": (b"OPTIONS *x HTTP/1.1", 10),
    "nearly http": (b"GET httq://h/", 8),
    "http and no more": (b"GET http HTTP/1.1", 9),
    "half a scheme": (b"GET https:/h/ HTTP/1.1", 12),
    "a fragment": (b"GET /a#b", 7),
    "UTF-8 in the target": (b"GET /\xc3\xa9", 6),
    "NUL in the target": (b"GET /\x00", 6),
    "two spaces": (b"GET /  HTTP/1.1", 7),
    "a version in lower case": (b"GET / http/1.1", 7),
    "another protocol": (b"GET / RTSP/1.0", 7),
    "two digits": (b"GET / HTTP/1.10", 15),
    "no dot and another version": (b"GET / HTTP/2\r\n", 13),
    "no dot": (b"GET / HTTP/11", 13),
    "something behind the version": (b"GET / HTTP/1.1 GET /x HTTP/1.1", 15),
    "bare LF behind the request line": (b"GET / HTTP/1.1\nHost: h\n\n", 15),
    "bare LF behind a field": (b"GET / HTTP/1.1\r\nHost: h\n", 24),
    "bare CR": (b"GET / HTTP/1.1\rHost", 16),
    "bare CR behind a field": (b"GET / HTTP/1.1\r\nHost: h\rA: b", 25),
    "LF before": (b"\nGET / HTTP/1.1\r\n", 1),
    "CR before": (b"\rGET / HTTP/1.1\r\n", 2),
    "space before": (b" GET", 1),
    "behind empty lines": (b"\r\n\r\n\x16\x03", 5),
    "a folded line first": (b"GET / HTTP/1.1\r\n Host: h", 17),
    "a folded line": (b"GET / HTTP/1.1\r\nHost: h\r\n\tx", 26),
    "space before the colon": (b"GET / HTTP/1.1\r\nHost : h", 21),
    "no colon": (b"GET / HTTP/1.1\r\nHost\r\n", 21),
    "no name": (b"GET / HTTP/1.1\r\n: h", 17),
    "NUL in a value": (b"GET / HTTP/1.1\r\nHost: h\x00", 24),
    "DEL in a value": (b"GET / HTTP/1.1\r\nHost: h\x7f", 24),
    "obs-text in a name": (b"GET / HTTP/1.1\r\nH\xe9: h", 18),
    "another status if it were whole": (
        b"GET /\n HTTP/2.0\r\nTransfer-Encoding: x, chunked\r\n", 6,
    ),
}  # fmt: skip
OTHERWISE = {
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 13, 505),
    "HTTP/2.0": (b"GET / HTTP/2.0", 13, 505),
    "HTTP/0.9 with a version": (b"GET / HTTP/0.9", 13, 505),
    "a long target": (b"GET /" + b"a" * 64, 4 + 65, 414),
    "a long target in absolute form": (b"GET http://h/" + b"a" * 64, 4 + 65, 414),
}


def cuts(text: bytes) -> list[list[bytes]]:
    whole = [text]
    bytewise = [text[n : n + 1] for n in range(len(text))]
    return [whole, bytewise, *([text[:n], text[n:]] for n in range(1, len(text)))]


SMALL = ListenerSettings(limits=ListenerLimits(target=64), http2=False)
CASES = {**{name: (*case, 400) for name, case in HOPELESS.items()}, **OTHERWISE}


@pytest.mark.parametrize("rest", [b"", b"\r\n\r\n"], ids=["half", "whole"])
@pytest.mark.parametrize("name", CASES)
def test_bytes_that_are_no_request_are_refused_at_once(make: Any, name: str, rest: bytes) -> None:
    """Whole and half, cut anywhere: with the byte that shows it, and for the same reason."""
    text, end, status = CASES[name]
    details = set()
    for pieces in cuts(text + rest):
        client = make(listener=SMALL).client()
        sent = 0
        for piece in pieces:
            if not client.closed and not client.saw_end:
                client.send(piece)
                sent += len(piece)
                assert client.saw_end == (sent >= end)
        answer = bytes(client.transport.taken)
        details.add(json.loads(answer.partition(b"\r\n\r\n")[2])["detail"])
        client.expect_problem(status, "http_request_error", closing=True)
    assert len(details) == 1


@pytest.mark.parametrize(
    "start",
    [
        b"\r", b"\r\n", b"\r\n\r", b"G", b"!", b"a" * 64, b"GET ", b"OPTIONS *", b"PRI * HTTP/1",
        b"GET h", b"GET HTTPS:/", b"GET http://", b"CONNECT a", b"GET / HTTP/1.1\r",
        b"GET / HTTP/1.9\r\n",
        b"GET / HTTP/1.1\r\nA", b"GET / HTTP/1.1\r\nA:", b"GET / HTTP/1.1\r\nA: b\r",
        b"GET / HTTP/1.1\r\nA: b\r\n\r",
    ],
)  # fmt: skip
def test_bytes_that_may_become_a_request_are_waited_for(make: Any, start: bytes) -> None:
    for pieces in cuts(start):
        client = make().client()
        client.send(*pieces)
        client.expect_nothing()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("TLS", "TLS"), ("SSH", "SSH"), ("PROXY", "PROXY protocol"), ("HTTP/2", "HTTP/2"),
        ("SOCKS", "0x05"), ("bare LF behind a field", "CR LF"), ("a long method", "64 bytes"),
        ("HTTP/0.9", "METHOD SP TARGET SP VERSION"), ("no colon", "field line"),
    ],
)  # fmt: skip
def test_the_answer_says_what_it_is(make: Any, name: str, words: str) -> None:
    client = make(listener=SMALL).client()
    client.send(CASES[name][0])
    answer = client.take()
    assert words in json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]


@pytest.mark.parametrize("before", [0, 1, 200])
def test_bytes_beyond_the_limit_do_not_count(make: Any, before: int) -> None:
    """It may have come with the same piece, or never been read."""
    line = b"GET / HTTP/1.1\r\nA: "
    limits = ListenerLimits(head=1024)
    text = line + b"a" * (1024 - len(line) + 1 - before) + b"\n" + b"b" * 400
    expected = 400 if before else 431
    for size in (len(text), 1, 700):
        client = make(listener=ListenerSettings(limits=limits)).client()
        for at in range(0, len(text), size):
            if not client.closed:
                client.send(text[at : at + size])
        client.expect_problem(expected, "http_request_error", closing=True)


def test_half_an_empty_line_does_not_begin_a_request(make: Any) -> None:
    """Or it would matter how an empty line behind an answer was cut: the one is left alone, the
    other answered 408."""
    timeouts = ListenerTimeouts(head=2.0, idle=60.0)
    for pieces in ((b"\r\n",), (b"\r", b"\n")):
        wire = make(listener=ListenerSettings(timeouts=timeouts))
        client, instance = reached(wire, request("GET /"))
        instance.expect(forwarded("GET /"))
        answered(client, instance)
        client.send(*pieces)
        wire.advance(10)
        client.expect_nothing()
        assert not client.closed


PARTS = (
    b"\r", b"\n", b"a", b":", b" ", b"\r\n", b"GET", b"/", b"*", b"HTTP/1.1", b"http://h/", b"\x00",
    b"GET / HTTP/1.1\r\n", b"Host: h\r\n", b"A: b\r\n", b"OPTIONS ", b"CONNECT ", b"HTTP/2.0",
    b"\xe9",
)  # fmt: skip
starts = st.lists(st.sampled_from(PARTS), max_size=12).map(b"".join)


def refusal(start: bytes, seen: int = 0, longest: int = 20) -> tuple[int, str] | None:
    try:
        reject_early(start, seen, longest)
    except Refused as refused:
        return refused.fault.status, refused.detail
    return None


@given(starts, st.data())
def test_bytes_looked_at_once_need_not_be_again(start: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(start)))
    before = refusal(start[:cut])
    assert refusal(start, cut if before is None else 0) == refusal(start)
    if before is not None:
        assert refusal(start) == before  # Nothing that follows changes what is wrong.


@given(starts)
def test_only_what_is_refused_when_it_is_whole_is_refused_before(start: bytes) -> None:
    end = start.find(b"\r\n\r\n") + 4
    if end >= 4 and start[:1] != b"\r" and refusal(start[:end], 0, len(start)) is not None:
        with pytest.raises(Refused):
            parse_request(start[:end], 128)
