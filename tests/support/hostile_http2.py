"""The worst that a client of HTTP/2 does: drills beside those of `hostile.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.support.frame_cases import START, frame
from tests.support.h2_peer import data, head, reset, window
from tests.support.hostile import DRILLS, Bench, drill
from tests.support.wire import Peer

STREAMS: Final = range(1, 256, 2)
"""As many as a listener lets in."""
CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

__all__ = ["DRILLS"]

_BEFORE: Final = frozenset(DRILLS)


def _client(bench: Bench) -> Peer:
    client = bench.wire.client()
    client.send(START)
    return client


@drill("uploads over HTTP/2 that nobody takes")
def _uploads(bench: Bench) -> Iterator[None]:
    for size in (1, 16383):
        for name in "ab":
            bench.wire.network.hang(bench.wire.address(name))
        client = _client(bench)
        for stream in STREAMS:
            client.send(head(stream, method="POST", end=False))
            count = min(65535 // size, 2000)
            client.transport.feed(b"".join(data(stream, size * b"x") for _ in range(count)))
        bench.wire.settle()
        yield
        for name in "ab":
            bench.wire.network.answer(bench.wire.address(name))
        bench.wire.settle()
        yield
        client.reset()


@drill("answers over HTTP/2 that nobody takes")
def _answers(bench: Bench) -> Iterator[None]:
    for piece, streams in ((1, STREAMS[:6]), (200_000, STREAMS)):
        client = _client(bench)
        for stream in streams:
            client.send(head(stream))
            instance = bench.connected()
            instance.take()
            chunk = b"%x\r\n" % piece + piece * b"y" + b"\r\n"
            instance.transport.feed(CHUNKED, *[chunk * (200_000 // len(chunk) + 1)] * 2)
            bench.wire.settle()
        yield
        client.send(window(0, 1 << 30), *(window(stream, 1 << 30) for stream in STREAMS))
        yield
        client.stall()
        client.reset()


@drill("answers over HTTP/2 to who does not read")
def _unread(bench: Bench) -> Iterator[None]:
    client = _client(bench)
    client.send(window(0, 1 << 30))
    client.stall()
    for stream in STREAMS:
        client.send(head(stream) + window(stream, 1 << 30))
        instance = bench.connected()
        instance.take()
        instance.transport.feed(CHUNKED, *[b"30d40\r\n" + 200_000 * b"y" + b"\r\n"] * 4)
        bench.wire.settle()
    yield


@drill("requests over HTTP/2 that are cancelled")
def _resets(bench: Bench) -> Iterator[None]:
    for _ in range(4):
        client = _client(bench)
        client.transport.feed(b"".join(head(one) + reset(one) for one in range(1, 8000, 2)))
        bench.wire.settle()
        yield


@drill("reads of the smallest frames")
def _frames(bench: Bench) -> Iterator[None]:
    for small in (frame(6, 0, 0, bytes(8)), frame(0, 0, 1), frame(8, 0, 1, b"\0\0\0\1"), frame(4)):
        client = _client(bench)
        client.send(head(1, method="POST", end=False))
        client.transport.feed(small * (250_000 // len(small)))
        bench.wire.settle()
        yield
        client.reset()


@drill("early answers to uploads over HTTP/2")
def _early(bench: Bench) -> Iterator[None]:
    client = _client(bench)
    for stream in range(1, 2400, 2):
        client.send(head(stream, method="POST", path="/none", end=False))
        bench.serve()
        client.take()
    yield


HTTP2: Final = frozenset(DRILLS) - _BEFORE
"""The drills of this page."""
