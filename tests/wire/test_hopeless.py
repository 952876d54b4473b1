"""Bytes that can never become a request are answered at once, however they are cut; what may
become one waits for the rest."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.model import ListenerLimits, ListenerSettings

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
