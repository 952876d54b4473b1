"""Clients and instances of HTTP/2 on a wire: frames in, frames out, with the field compression of
another implementation."""

from __future__ import annotations

import ssl
from functools import cache
from typing import Any

from hpack import Decoder, Encoder
from msgspec.structs import replace

from proxy.http2.frame_list import FrameList
from proxy.settings.listener import ListenerSettings
from tests.support.frame_cases import SETTINGS, START, frame
from tests.support.tls_far_end import authority
from tests.support.wire import Peer, Wire

HTTP2 = ListenerSettings()
DATA, HEADERS, RST, GOAWAY, WINDOW = 0, 1, 3, 7, 8
END_STREAM, END_HEADERS = 1, 4
ID = ("x-request-id", "r1")


@cache
def _context() -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority()[0].decode())
    context.check_hostname = False
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def head(
    stream: int,
    *fields: tuple[str, str],
    method: str = "GET",
    path: str = "/x",
    end: bool = True,
    scheme: str = "http",
    protocol: str = "",
) -> bytes:
    """HEADERS of a request, without the table."""
    pairs = [(":method", method), (":scheme", scheme), (":path", path), (":authority", "h")]
    pairs += [(":protocol", protocol)] if protocol else []
    block = Encoder().encode([(n, v, True) for n, v in (*pairs, *fields, ID)], huffman=False)
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)


def trailers(stream: int, *fields: tuple[str, str]) -> bytes:
    block = Encoder().encode([(name, value, True) for name, value in fields], huffman=False)
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, block)


def data(stream: int, content: bytes = b"", end: bool = False) -> bytes:
    return frame(DATA, END_STREAM if end else 0, stream, content)


def reset(stream: int, code: int = 8) -> bytes:
    return frame(RST, 0, stream, number(code))


def window(stream: int, by: int) -> bytes:
    return frame(WINDOW, 0, stream, number(by))


def answer(stream: int, *fields: tuple[str, str], status: int = 200, end: bool = False) -> bytes:
    """HEADERS of an answer, without the table."""
    pairs = [(":status", str(status)), *fields]
    block = Encoder().encode([(n, v, True) for n, v in pairs], huffman=False)
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)


class H2End:
    """One end of a connection. Owns what it knows of the proxy's tables."""

    peer: Peer

    def __init__(self, wire: Wire, of_client: bool) -> None:
        self.wire = wire
        self.heard = FrameList(of_client, 1 << 20)
        self.decoder = Decoder()

    def send(self, *pieces: bytes) -> None:
        self.peer.send(*pieces)

    def take(self) -> list[tuple[Any, ...]]:
        """Frames that came since the last look, heads as pairs without the date, and DATA of a
        stream in one; without settings and without what is given back of the connection."""
        self.heard.feed(bytes(self.peer.transport.taken))
        while self.heard.behind:
            self.heard.feed(b"")
        self.peer.transport.taken.clear()
        frames: list[tuple[Any, ...]] = []
        for one in self.heard.frames:
            if one[0] == "head":
                pairs = self.decoder.decode(one[2], raw=True)  # type: ignore[arg-type]
                told = {n.decode(): v.decode() for n, v in pairs if n != b"date"}
                frames.append(("head", one[1], told, one[3]))
            elif one[0] == "data" and frames and frames[-1][:2] == one[:2]:
                frames[-1] = (*one[:2], frames[-1][2] + one[2], one[4])
            elif one[0] == "data":
                frames.append((*one[:3], one[4]))
            elif one[0] not in ("settings", "settings_ack") and one[:2] != ("window", 0):
                frames.append(one)
        self.heard.frames.clear()
        return frames

    @property
    def closed(self) -> bool:
        """We have said that nothing more comes, or cut the connection."""
        return self.peer.transport.ended or self.peer.closed


class H2Instance(H2End):
    """An instance's end of the next connection that the proxy makes to it."""

    def __init__(self, wire: Wire, name: str = "a", begin: bytes | None = None) -> None:
        """`begin`: what it says first; by default SETTINGS of nothing."""
        super().__init__(wire, True)
        self.peer = wire.accepted(name)
        if begin is None:
            begin = SETTINGS + frame(4, 1)
        if begin:
            self.send(begin)

    def requests(self) -> list[int]:
        """The streams of requests that came since the last look, and nothing else did."""
        frames = self.take()
        assert all(one[0] == "head" for one in frames), frames
        return [one[1] for one in frames]


class H2Peer(H2End):
    """A client's end of one connection."""

    def __init__(
        self,
        wire: Wire,
        begin: bytes = START + frame(4, 1),
        context: ssl.SSLContext | None = None,
        **options: Any,
    ) -> None:
        """`options`: of `TlsFarEnd`."""
        super().__init__(wire, False)
        client = wire.silent_client()
        self.peer = wire.secure(client, context or _context(), **options)
        if begin:
            self.send(begin)
            assert self.take() == []  # SETTINGS, and their acknowledgement.

    def answer(self, stream: int = 1) -> tuple[dict[str, str], bytes]:
        """Head and content of an answer, which must be whole, and all that was said."""
        frames = self.take()
        assert frames, "nothing came"
        kind, of, told, ended = frames.pop(0)
        assert (kind, of) == ("head", stream), (kind, of, told)
        content = b""
        if not ended:
            kind, of, content, ended = frames.pop(0)
            assert (kind, of, ended) == ("data", stream, True)
        assert not frames, frames
        return told, content

    def expect_problem(self, status: int, code: str, stream: int = 1) -> None:
        told, content = self.answer(stream)
        assert told[":status"] == str(status)
        assert f'"code":"{code}"'.encode() in content


def http2(**given: Any) -> ListenerSettings:
    return replace(HTTP2, **given)


__all__ = [
    "HTTP2", "SETTINGS", "START", "H2End", "H2Instance", "H2Peer", "answer", "data", "frame",
    "head", "http2", "number", "reset", "trailers", "window",
]  # fmt: skip
