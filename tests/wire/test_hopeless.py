"""Bytes that can never become a request are answered at once, however they are cut; what may
become one waits for the rest."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.http1.parser import refuse_hopeless
from proxy.errors import Refused
from proxy.settings.listener import ListenerLimits, ListenerSettings, ListenerTimeouts
from tests.wiring import OK, OK_RELAYED, forwarded, request

HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64))
HOPELESS = {
    "TLS": HELLO,
    "SSH": b"\x00\x00\x00\x14SSH",
    "bare LF behind the request line": b"GET / HTTP/1.1\nHost: h\n\n",
    "bare LF behind a field": b"GET / HTTP/1.1\r\nHost: h\n",
    "bare CR": b"GET / HTTP/1.1\rHost",
    "LF before": b"\nGET / HTTP/1.1\r\n",
    "CR before": b"\rGET / HTTP/1.1\r\n",
    "space before": b" GET",
    "behind empty lines": b"\r\n\r\n\x16\x03",
    "another status if it were whole": b"GET /\n HTTP/2.0\r\nTransfer-Encoding: x, chunked\r\n",
}


def cuts(text: bytes) -> list[list[bytes]]:
    whole = [text]
    bytewise = [text[n : n + 1] for n in range(len(text))]
    return [whole, bytewise, *([text[:n], text[n:]] for n in range(1, len(text)))]


@pytest.mark.parametrize("rest", [b"", b"\r\n\r\n"], ids=["half", "whole"])
@pytest.mark.parametrize("name", HOPELESS)
def test_what_is_no_request_is_refused_at_once(make: Any, name: str, rest: bytes) -> None:
    for pieces in cuts(HOPELESS[name] + rest):
        client = make().client()
        for piece in pieces:
            if not client.closed:
                client.send(piece)
        client.expect_problem(400, "http_request_error", closing=True)


@pytest.mark.parametrize(
    "start",
    [b"\r", b"\r\n", b"\r\n\r", b"G", b"!", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\nA: b\r"],
)
def test_what_may_become_one_is_waited_for(make: Any, start: bytes) -> None:
    client = make().client()
    client.send(start)
    client.expect_nothing()


@pytest.mark.parametrize("before", [0, 1, 200])
def test_what_is_beyond_the_limit_does_not_count(make: Any, before: int) -> None:
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
        client = wire.client()
        client.send(request("GET /"))
        instance = wire.accepted()
        instance.expect(forwarded("GET /"))
        instance.send(OK)
        client.expect(OK_RELAYED)
        client.send(*pieces)
        wire.advance(10)
        client.expect_nothing()
        assert not client.closed


@given(st.lists(st.sampled_from((b"\r", b"\n", b"a", b":", b"\r\n")), max_size=12), st.data())
def test_what_was_looked_at_need_not_be_again(parts: list[bytes], data: st.DataObject) -> None:
    text = b"G" + b"".join(parts)
    cut = data.draw(st.integers(0, len(text)))

    def refused(start: bytes, seen: int) -> bool:
        try:
            refuse_hopeless(start, seen)
        except Refused:
            return True
        return False

    if not refused(text[:cut], 0):
        assert refused(text, cut) == refused(text, 0)
