"""HTTP/1.1 by hand, for the ends of an end-to-end test: every byte is the test's own, and what
comes back is read strictly, so a proxy that frames a message wrongly is found out."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE = 20.0
"""Seconds any single step may take before the test fails: far more than it needs on a busy
machine, far less than a person waits."""
LARGEST_HEAD = 1 << 20


def socket_buffers() -> int:
    """Bytes that the sockets between two ends with a proxy in the middle can hold at most: two
    senders' and two receivers' buffers, each grown as far as this machine allows."""
    largest = [
        int(Path(f"/proc/sys/net/ipv4/tcp_{kind}").read_text().split()[2])
        for kind in ("rmem", "wmem")
    ]
    return 2 * sum(largest)


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_CHUNK_SIZE = re.compile(rb"[0-9a-f]{1,8}")

Fields = Iterable[tuple[str, str]]


class Violation(Exception):
    """The peer sent something that is not strict HTTP/1.1."""


class Ended(Exception):
    """The peer closed where a message could have begun."""


@dataclass(frozen=True)
class Head:
    """A start line and its fields, with the bytes they came in."""

    start: tuple[str, str, str]
    fields: tuple[tuple[str, str], ...]
    raw: bytes

    def all(self, name: str) -> list[str]:
        """The values of a field, in order."""
        return [value for known, value in self.fields if known.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The value of a field that may stand there once. Violation if it does twice."""
        values = self.all(name)
        if len(values) > 1:
            raise Violation(f"{name} is repeated: {values}")
        return values[0] if values else None

    def length(self) -> int | None:
        """Content-Length; None for a chunked body, or for none at all."""
        coding, length = self.get("Transfer-Encoding"), self.get("Content-Length")
        if coding is not None and (coding != "chunked" or length is not None):
            raise Violation(f"Transfer-Encoding {coding!r} with Content-Length {length!r}")
        if length is None:
            return None
        if not length.isdigit():
            raise Violation(f"Content-Length {length!r}")
        return int(length)

    @property
    def chunked(self) -> bool:
        """The body comes in chunks."""
        return self.get("Transfer-Encoding") is not None


async def read_head(reader: asyncio.StreamReader) -> Head:
    """The next head. `Ended` when the peer closed before its first byte."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise Violation(f"half a head: {error.partial!r}") from None
        raise Ended from None
    first, *lines = raw[:-4].decode("latin-1").split("\r\n")
    start = first.split(" ", 2)
    if len(start) != 3:
        raise Violation(f"start line {first!r}")
    fields = []
    for line in lines:
        name, colon, value = line.partition(": ")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise Violation(f"field line {line!r}")
        fields.append((name, value))
    return Head((start[0], start[1], start[2]), tuple(fields), raw)


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The payload of a chunked body, chunk by chunk. No extensions, no trailers."""
    while True:
        line = await reader.readuntil(b"\r\n")
        if not _CHUNK_SIZE.fullmatch(line[:-2]):
            raise Violation(f"chunk size {line!r}")
        size = int(line[:-2], 16)
        if size:
            yield await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise Violation("a chunk is longer than its size says")
        if not size:
            return


async def counted(reader: asyncio.StreamReader, length: int) -> AsyncIterator[bytes]:
    """`length` bytes, in pieces as they come."""
    while length:
        piece = await reader.read(min(length, 1 << 18))
        if not piece:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(piece)
        yield piece


async def until_close(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Everything up to the end of the connection."""
    while piece := await reader.read(1 << 18):
        yield piece


@dataclass(frozen=True)
class Answer:
    """An answer as the client got it."""

    status: int
    head: Head
    body: bytes
    interim: Sequence[Head] = field(default_factory=tuple)

    def __getitem__(self, name: str) -> str | None:
        return self.head.get(name)

    @property
    def closes(self) -> bool:
        """The server says that it closes the connection."""
        return (self["Connection"] or "").lower() == "close"


def request(
    method: str, target: str, fields: Fields = (), body: bytes = b"", host: str = "test"
) -> bytes:
    """A request in one piece; Content-Length is filled in when there is a body."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{n}: {v}" for n, v in fields)]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


class Client:
    """Owns one client connection. Every step fails after `PATIENCE` seconds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, receive: int | None = None) -> Self:
        """Connect to a loopback port. `receive`: bytes that the kernel may take for a client
        that does not read; it grows with need if not given."""
        # asyncio sets TCP_NODELAY where the protocol is named.
        sock = socket.socket(proto=socket.IPPROTO_TCP)
        if receive is not None:
            # Before connecting: a size that is set stays, and TCP's window is made for it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
                return cls(*await asyncio.open_connection(sock=sock, limit=LARGEST_HEAD))
        except BaseException:
            sock.close()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection and wait until it is gone, whatever state it is in."""
        self.writer.transport.abort()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass  # It had been reset, which some tests are about.

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    def stop_reading(self) -> None:
        """Read nothing until `read_on`; what the kernel takes stays there."""
        self._paused.pause_reading()

    def read_on(self) -> None:
        """Read again."""
        self._paused.resume_reading()

    @property
    def _paused(self) -> asyncio.ReadTransport:
        transport = self.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        return transport

    def half_close(self) -> None:
        """Say that no more comes."""
        self.writer.write_eof()

    async def read_head(self) -> Head:
        """The next head, whatever it is."""
        async with asyncio.timeout(PATIENCE):
            return await read_head(self.reader)

    async def answer(self, method: str = "GET") -> Answer:
        """The next whole answer, after any interim ones."""
        interim = []
        async with asyncio.timeout(PATIENCE):
            while True:
                head = await read_head(self.reader)
                version, code, _ = head.start
                if version != "HTTP/1.1" or not re.fullmatch("[1-5][0-9][0-9]", code):
                    raise Violation(f"status line {head.start}")
                status = int(code)
                if status >= 200 or status == 101:
                    break
                interim.append(head)
            body = b"".join([piece async for piece in self._body(head, status, method)])
        return Answer(status, head, body, tuple(interim))

    async def _body(self, head: Head, status: int, method: str) -> AsyncIterator[bytes]:
        length = head.length()
        if method == "HEAD" or status in (101, 204, 304):
            return
        if head.chunked:
            pieces = chunks(self.reader)
        elif length is not None:
            pieces = counted(self.reader, length)
        else:
            pieces = until_close(self.reader)
        async for piece in pieces:
            yield piece

    async def ask(
        self, method: str, target: str, fields: Fields = (), body: bytes = b"", host: str = "test"
    ) -> Answer:
        """One request and its answer."""
        await self.send(request(method, target, fields, body, host))
        return await self.answer(method)

    async def exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def is_closed(self) -> bool:
        """True once the server has closed, cleanly or by reset; Violation if it says more."""
        try:
            more = await self.rest()
        except ConnectionError:
            return True
        if more:
            raise Violation(f"bytes where the connection should end: {more[:200]!r}")
        return True


async def ask(
    port: int,
    method: str,
    target: str,
    fields: Fields = (),
    body: bytes = b"",
    host: str = "test",
) -> Answer:
    """One request on a connection of its own."""
    async with await Client.connect(port) as client:
        return await client.ask(method, target, fields, body, host)
