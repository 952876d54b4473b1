"""Servers that tell who they are, and a client of a proxy in front of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Self

from bench.processes import StartError


@contextlib.asynccontextmanager
async def origins(number: int) -> AsyncIterator[list[int]]:
    """Ports, at each address of this machine, that answer with their own number and the id of the
    worker that asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                worker = head.partition(b"\r\nx-request-id: ")[2].partition(b"-")[0]
                body = b"%d %s" % (port, worker)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    servers = [await asyncio.start_server(serve, "0.0.0.0", 0) for _ in range(number)]
    try:
        yield [server.sockets[0].getsockname()[1] for server in servers]
    finally:
        for server in servers:
            server.close()


class Client:
    """Owns one connection to one worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def once(self, target: str, fields: str = "") -> tuple[int, str]:
        """The port that answers a request, and the worker that asked it."""
        self._writer.write(f"GET {target} HTTP/1.1\r\nHost: bench\r\n{fields}\r\n".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await self._reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise StartError(f"the proxy answered {head[:100]!r} {body[:200]!r}")
        port, _, worker = body.decode().partition(" ")
        return int(port), worker

    def close(self) -> None:
        self._writer.close()
