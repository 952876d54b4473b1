"""A real TCP proxy that misbehaves on request: what networks do, without root.

Put it between a client and a server on loopback, then `freeze`, `cut`, `refuse`, delay, or cut
off after some bytes. Connections are told apart by their first bytes where that matters.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Self

from tests.support.processes import free_port

Match = Callable[[bytes], bool]
"""Chooses connections by the first bytes that the client sent."""


class _Link:
    """One client connection and its upstream."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.upstream: asyncio.StreamWriter | None = None
        self.head = b""

    def abort(self) -> None:
        """Reset both sides; whatever was under way is lost."""
        for writer in (self.client, self.upstream):
            if writer is not None:
                writer.transport.abort()


class TcpFault:
    """Owns a listening port and every connection made through it.

    `async with TcpFault(server_port) as fault:` then talk to `127.0.0.1:fault.port`.
    """

    def __init__(self, upstream_port: int, *, upstream_host: str = "127.0.0.1") -> None:
        self.port = free_port()
        self.delay = 0.0
        """Seconds that each piece of data is late, in both directions."""
        self.cut_after: int | None = None
        """Reset after this many bytes from upstream, counted over all connections from the
        moment it is set; then back to None."""
        self.accepted = 0
        self.brought = 0
        """Bytes from upstream."""
        self._target = (upstream_host, upstream_port)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._blocked: Match | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -------------------------------------------------------------------------- faults

    async def refuse(self) -> None:
        """Close the port and reset all connections: as if the process had died."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self.cut()

    async def accept(self) -> None:
        """Listen (again), on the same port as before."""
        if self._server is None:
            listener = socket.create_server(("127.0.0.1", self.port))
            self._server = await asyncio.start_server(self._serve, sock=listener)

    def freeze(self) -> None:
        """Accept, but let nothing through, on old and new connections: a black hole."""
        self._flowing.clear()

    def thaw(self) -> None:
        """What was held back flows on, as it does when packets get through again."""
        self._flowing.set()

    def cut(self, match: Match | None = None) -> None:
        """Reset the connections there are, or those that match."""
        for link in list(self._links):
            if match is None or match(link.head):
                link.abort()

    def block(self, match: Match) -> None:
        """Reset matching connections, those to come as well, until `unblock`."""
        self._blocked = match
        self.cut(match)

    def unblock(self) -> None:
        self._blocked = None

    # ------------------------------------------------------------------------- private

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        link = _Link(writer)
        self._links.add(link)
        try:
            await self._flowing.wait()
            upstream_reader, link.upstream = await asyncio.open_connection(*self._target)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, link.upstream, link, from_client=True))
                both.create_task(self._pump(upstream_reader, writer, link, from_client=False))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            link.abort()
            self._links.discard(link)
            self._tasks.discard(task)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        link: _Link,
        *,
        from_client: bool,
    ) -> None:
        while data := await reader.read(65536):
            self.brought += 0 if from_client else len(data)
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._flowing.wait()
            if from_client and not link.head:
                link.head = data
                if self._blocked is not None and self._blocked(data):
                    raise ConnectionResetError
            if not from_client and self.cut_after is not None:
                data, self.cut_after = data[: self.cut_after], self.cut_after - len(data)
                if self.cut_after <= 0:
                    self.cut_after = None
                    writer.write(data)
                    await writer.drain()
                    raise ConnectionResetError
            writer.write(data)
            await writer.drain()
        writer.write_eof()
