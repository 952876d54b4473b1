"""The worst that clients and instances of HTTP/2 do: drills beside those of `hostile.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hpack import Encoder

from tests.support.frame_cases import SETTINGS, START, frame
from tests.support.h2_peer import answer, data, head, reset, window
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


@drill("reads full of requests over HTTP/2")
def _requests(bench: Bench) -> Iterator[None]:
    for fields, path in (
        ((), "/none"),
        ((), "/limited"),
        ((("content-type", "application/grpc"), ("x-user", "u")), "/limited"),
        ((("cookie", "id=1"), ("expect", "x")), "/%41/../b"),
        ((("x-route", "1"),), "/by/nobody"),
    ):
        client = _client(bench)
        client.transport.feed(b"".join(head(one, *fields, path=path) for one in STREAMS))
        bench.wire.settle()
        yield
        client.reset()


@drill("windows of many streams that wait")
def _windows(bench: Bench) -> Iterator[None]:
    for frames in (
        [window(0, 1)] * 900,
        [window(stream, 1) for stream in STREAMS] * 7,
        [frame(4, content=b"\0\4\0\0\0" + bytes((n & 1,))) for n in range(900)],
    ):
        client = _client(bench)
        client.send(frame(4, content=b"\0\4\0\0\0\0"))  # Windows of nothing.
        for stream in STREAMS:
            client.send(head(stream))
            instance = bench.connected()
            instance.take()
            instance.transport.feed(CHUNKED + b"64\r\n" + 100 * b"y" + b"\r\n")
            bench.wire.settle()
        client.transport.feed(b"".join(frames))
        bench.wire.settle()
        yield
        client.reset()


@drill("tunnels over HTTP/2")
def _tunnels(bench: Bench) -> Iterator[None]:
    client = _client(bench)
    for stream in STREAMS:
        client.send(head(stream, method="CONNECT", protocol="echo", end=False))
        instance = bench.connected()
        instance.take()
        instance.send(b"HTTP/1.1 101 \r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        instance.stall()
        instance.send(100_000 * b"y")
    yield
    client.transport.feed(b"".join(data(stream, b"x") for stream in STREAMS) * 20)
    client.transport.feed(b"".join(data(stream, 16_000 * b"x") for stream in STREAMS))
    bench.wire.settle()
    yield
    client.reset()
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


# -- instances

TWO: Final = b"GET /two HTTP/1.1\r\nHost: h\r\n\r\n"
UPLOAD: Final = b"POST /two HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n"


def _crowd(bench: Bench, count: int, raw: bytes = TWO) -> tuple[list[Peer], Peer]:
    """So many clients that ask, and the instance whose streams they share."""
    clients = [bench.wire.client() for _ in range(count)]
    for client in clients:
        client.send(raw)
    instance = bench.connected()
    instance.send(SETTINGS)
    instance.take()
    return clients, instance


def _gone(bench: Bench, clients: list[Peer], instance: Peer) -> None:
    for client in clients:
        client.reset()
    instance.reset()
    bench.wire.settle()


@drill("answers of an instance of HTTP/2 that nobody takes")
def _instance_answers(bench: Bench) -> Iterator[None]:
    for size in (1, 16384):
        clients, instance = _crowd(bench, 100)
        for client in clients:
            client.stall()
        streams = range(1, 200, 2)
        instance.send(*(answer(stream) for stream in streams))
        count = min(262_144 // size, 3000)
        for stream in streams:
            instance.transport.feed(b"".join(data(stream, size * b"y") for _ in range(count)))
        bench.wire.settle()
        yield
        _gone(bench, clients, instance)


@drill("a crowd that waits for an instance of HTTP/2")
def _instance_crowd(bench: Bench) -> Iterator[None]:
    bench.wire.network.hang(bench.wire.address("e"))
    clients = [bench.wire.client() for _ in range(2000)]
    for client in clients:
        client.send(TWO)
    yield
    bench.wire.advance(4)
    yield
    bench.wire.network.answer(bench.wire.address("e"))
    for client in clients:
        client.reset()
    bench.wire.settle()


@drill("uploads that an instance of HTTP/2 does not take")
def _instance_uploads(bench: Bench) -> Iterator[None]:
    clients, instance = _crowd(bench, 100, UPLOAD)
    instance.send(frame(4, 0, 0, b"\0\4\0\0\0\0"))
    for client in clients:
        client.transport.feed(*[bytes(60_000)] * 4)
    bench.wire.settle()
    yield
    instance.stall()
    instance.send(window(0, 1 << 30), *(window(stream, 1 << 30) for stream in range(1, 200, 2)))
    yield
    _gone(bench, clients, instance)


@drill("smallest frames of an instance")
def _instance_frames(bench: Bench) -> Iterator[None]:
    for small in (frame(6, 0, 0, bytes(8)), frame(0, 0, 1), frame(8, 0, 1, b"\0\0\0\1"), frame(4)):
        clients, instance = _crowd(bench, 2)
        instance.transport.feed(small * (250_000 // len(small)))
        bench.wire.settle()
        yield
        _gone(bench, clients, instance)


@drill("instances of HTTP/2 that send everybody away")
def _instance_goaway(bench: Bench) -> Iterator[None]:
    for code in (0, 11):
        clients, instance = _crowd(bench, 100)
        instance.send(frame(7, 0, 0, bytes(7) + bytes((code,)) + 16_000 * b"x"))
        yield
        _gone(bench, clients, instance)
        bench.wire.advance(2)
    clients, instance = _crowd(bench, 100)
    instance.send(b"".join(reset(stream, 7) for stream in range(1, 200, 2)))
    yield
    _gone(bench, clients, instance)


@drill("heads of an instance of HTTP/2")
def _instance_heads(bench: Bench) -> Iterator[None]:
    clients, instance = _crowd(bench, 1)
    encoder = Encoder()
    for stream in range(1, 1000, 2):
        fields = [(":status", "200"), *((f"x-{n}-{stream}", "y" * 100) for n in range(40))]
        block = encoder.encode(fields, huffman=False)
        instance.send(frame(1, 5, stream, block))
        clients[0].take()
        instance.take()
        if stream % 200 == 1:
            yield
        clients[0].send(TWO)
    _gone(bench, clients, instance)


HTTP2: Final = frozenset(DRILLS) - _BEFORE
"""The drills of this page."""
