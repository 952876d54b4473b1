"""`Origin`: a real instance for end-to-end tests, on a real socket, that does what a script says.

    async with Origin("one") as origin:
        proxy = RunningProxy({"services": {"users": {"instances": [origin.instance]}}, ...})
        origin.script = slow(0.05)
        ...
        assert origin.calls[-1].target == "/users/1"

It reads strictly: a request that two servers could understand differently ends the connection
and fails the test when the origin is closed.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self

from tests.e2e.raw_http import (
    LARGEST_HEAD,
    Ended,
    Fields,
    Head,
    Violation,
    chunks,
    counted,
    read_head,
)


class Call:
    """One request at an origin, and the means to answer it."""

    def __init__(
        self,
        origin: Origin,
        connection: int,
        head: Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.origin = origin
        self.connection = connection
        """Number of the connection it came over, from 0."""
        self.head = head
        self.method, self.target, _ = head.start
        self.body = b""
        """What `read` returned."""
        self.closing = False
        """The connection ends with this call."""
        self.sent = 0
        """Bytes that the kernel took."""
        self.reader = reader
        self.writer = writer
        self._unread = head.chunked or bool(head.length())

    @property
    def tail(self) -> str:
        """Last segment of the path: what scripts go by."""
        return self.target.partition("?")[0].rpartition("/")[2]

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        if not self._unread:
            return
        self._unread = False
        length = self.head.length()
        source = chunks(self.reader) if length is None else counted(self.reader, length)
        async for piece in source:
            yield piece

    async def read(self) -> bytes:
        """The whole body, also kept as `body`."""
        self.body = b"".join([piece async for piece in self.pieces()])
        return self.body

    async def write(self, data: bytes) -> None:
        """Bytes of the answer as they are; returns when the kernel has nearly all of them."""
        self.writer.write(data)
        await self.writer.drain()
        self.sent += len(data)

    async def reply(self, body: bytes = b"", status: int = 200, fields: Fields = ()) -> None:
        """A whole answer with a length, after reading what there is of the request."""
        if self._unread:
            await self.read()
        lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in fields)]
        if status not in (204, 304):
            lines.append(f"Content-Length: {len(body)}")
        if self.closing:
            lines.append("Connection: close")
        head = "\r\n".join((*lines, f"X-Origin: {self.origin.name}", "", "")).encode("latin-1")
        await self.write(head if self.method == "HEAD" else head + body)

    def abort(self) -> None:
        """Reset the connection."""
        self.closing = True
        sock = self.writer.transport.get_extra_info("socket")
        if sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Call], Awaitable[None]]


async def echo(call: Call) -> None:
    """Answer with the request's own body."""
    await call.reply(await call.read())


def slow(seconds: float) -> Script:
    """Take so long over each answer: the service time of an instance, not a wait of the test."""

    async def answer(call: Call) -> None:
        await call.read()
        await asyncio.sleep(seconds)
        await call.reply()

    return answer


class Gate:
    """Holds every call until `open`, then answers."""

    def __init__(self) -> None:
        self._open = asyncio.Event()

    def open(self) -> None:
        """Let all calls through, present and future."""
        self._open.set()

    async def __call__(self, call: Call) -> None:
        await self._open.wait()
        await call.reply()


async def websocket(call: Call) -> None:
    """Accept an upgrade and send every byte back until the peer half-closes."""
    await switch(call)
    while data := await call.reader.read(1 << 16):
        await call.write(data)


async def switch(call: Call) -> None:
    """Answer 101 to an upgrade request. The connection ends with the call."""
    call.closing = True
    upgrade = call.head.get("Upgrade")
    assert upgrade is not None, call.head
    await call.write(
        f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n"
        f"X-Origin: {call.origin.name}\r\n\r\n".encode("latin-1")
    )


class Origin:
    """Owns one listening socket and everything that came in over it."""

    def __init__(
        self, name: str = "one", script: Script = echo, tls: ssl.SSLContext | None = None
    ) -> None:
        self.name = name
        self.script = script
        """What is done with each call; may be changed at any time."""
        self.calls: list[Call] = []
        self.in_flight = 0
        """Calls whose script runs."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after each change of `in_flight`."""
        self.connections = 0
        """Connections accepted so far."""
        self.resumed = 0
        """Connections that resumed a session of TLS."""
        self.open = 0
        """Connections open now."""
        self.violations: list[str] = []
        self._tls = tls
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # Bound at once and listening only in `start`, so that the port is known, nobody else's,
        # and refuses connections until then.
        # With the protocol named, asyncio sets TCP_NODELAY: without it the kernel holds a small
        # piece back, for up to 40 ms, until the one before is acknowledged.
        self._socket = socket.socket(proto=socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._server: asyncio.Server | None = None

    @property
    def instance(self) -> dict[str, Any]:
        """Its line under `instances:`."""
        return {"id": self.name, "address": "127.0.0.1", "port": self.port}

    async def start(self) -> Self:
        """Start listening."""
        self._server = await asyncio.start_server(
            self._accepted, sock=self._socket, limit=LARGEST_HEAD, ssl=self._tls
        )
        return self

    async def stop(self) -> None:
        """Stop listening and reset every connection."""
        if self._server is None:
            self._socket.close()
            return
        self._server.close()
        self.disconnect()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        await self._server.wait_closed()

    def disconnect(self) -> None:
        """Reset every connection, and go on listening."""
        for writer in self._writers:
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.stop()
        if error is None:
            assert not self.violations, self.violations

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.connections += 1
        tls = writer.get_extra_info("ssl_object")
        self.resumed += tls is not None and tls.session_reused
        self.open += 1
        try:
            await self._serve(self.connections - 1, reader, writer)
        except Violation as violation:
            self.violations.append(str(violation))
            writer.transport.abort()
        except (Ended, OSError, asyncio.IncompleteReadError):
            pass  # The proxy is free to close; whether it should is for the test to say.
        except asyncio.CancelledError:
            pass  # By `stop`. Passing it on would make asyncio's streams log it as a failure.
        finally:
            self.open -= 1
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _serve(
        self, connection: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            head = await read_head(reader)
            _, target, version = head.start
            if version != "HTTP/1.1" or len(head.all("Host")) != 1 or not target.startswith("/"):
                raise Violation(f"not a request for an instance: {head.raw!r}")
            call = Call(self, connection, head, reader, writer)
            self.calls.append(call)
            self._moved(1)
            try:
                await self.script(call)
            finally:
                self._moved(-1)
            if call.closing:
                return

    def _moved(self, by: int) -> None:
        self.in_flight += by
        self.on_change()


@asynccontextmanager
async def origins(*names: str, script: Script = echo) -> AsyncIterator[list[Origin]]:
    """Several origins that do the same."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Origin(name, script)) for name in names]
