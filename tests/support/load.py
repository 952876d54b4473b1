"""Clients in a closed loop: the load of tests, and the benchmark's own generator (`bench/load.py`).

    class Answered(Load):
        def on_answer(self, client: Client) -> None:
            self.statuses[client.status] += 1

    async with Answered(proxy.port, repeat(request), clients=8):
        ...

How requests are sent, answers are read, connections are renewed and everything ends is here; a
subclass says what is kept of answers, and whether a close between two requests is a failure.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from time import monotonic
from typing import Self, cast

import httptools

PATIENCE = 10.0
"""Seconds that connecting, and at the end the answers still to come, may take."""


class Client(asyncio.Protocol):
    """Owns one connection, renewed whenever it ends, and the request that is in flight on it."""

    began = 0.0
    """When the request was sent, or a connection for it tried: `time.monotonic()`."""
    ended = 0.0
    """When its answer was complete."""
    request = b""
    """What was asked; nothing before there is a connection."""
    status = 0
    body = b""
    asking = False
    """A request is in flight."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.transport: asyncio.Transport | None = None
        self._error: BaseException | None = None
        self._next: asyncio.TimerHandle | None = None
        self._lost = asyncio.Event()

    async def run(self) -> None:
        """Be connected until the load stops."""
        load, loop = self.load, asyncio.get_running_loop()
        while not load.stopping:
            self._lost.clear()
            self.began, self.request = monotonic(), b""
            try:
                async with asyncio.timeout(PATIENCE):
                    await loop.create_connection(
                        lambda: self, "127.0.0.1", load.port, ssl=load.tls,
                        server_hostname=load.name,
                    )  # fmt: skip
            except OSError as error:
                load.on_failure(self, error)
                await asyncio.sleep(0.01)
                continue
            await self._lost.wait()
            wrong, self._error = self._error, None
            if wrong is not None:
                load.on_failure(self, wrong)
            elif not load.stopping:
                load.on_close(self)

    def ask(self) -> None:
        """Send the next request; hang up instead if there is to be none."""
        load, transport = self.load, self.transport
        assert transport is not None
        if load.stopping:
            transport.abort()
            return
        self.asking = True
        self.began = monotonic()
        self.request = request = next(load.requests)
        transport.write(request)

    def close(self) -> None:
        """Hang up, whatever is in flight."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, only shaped like them.
        self.transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._next is not None:
            self._next.cancel()
        if self.asking and self._error is None:
            self._error = error or ConnectionError("closed")
        self.asking = False
        self._lost.set()

    def data_received(self, data: bytes) -> None:
        self.load.received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # The context is what was raised in a callback.
            self._error = error.__context__ or error
            self.close()

    def on_message_begin(self) -> None:
        assert self.asking, "an answer to nothing"
        self.body = b""

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        self.asking = False
        self.ended = monotonic()
        self.status = self._parser.get_status_code()
        load = self.load
        load.on_answer(self)
        if not self._parser.should_keep_alive():
            self.close()
        elif load.pace:
            self._next = asyncio.get_running_loop().call_later(load.pace, self.ask)
        else:
            self.ask()


class Load:
    """Owns clients, each with one request in flight at a time."""

    tls: ssl.SSLContext | None = None
    """For clients that speak TLS, and the name that they ask for."""
    name: str | None = None

    def __init__(
        self, port: int, requests: Iterator[bytes], *, clients: int = 16, pace: float = 0.0
    ) -> None:
        """`pace`: seconds that each client waits between an answer and its next request."""
        self.port = port
        self.requests = requests
        self.pace = pace
        self.received = 0
        """Bytes, of unfinished answers too."""
        self.stopping = False
        self.clients: list[Client] = []
        self._count = clients
        self._tasks: list[asyncio.Task[None]] = []

    # ------------------------------------------------------------------ what a subclass says

    def client(self) -> Client:
        """A new client."""
        return Client(self)

    def on_answer(self, client: Client) -> None:
        """An answer is complete. What is raised here becomes a failure."""
        raise NotImplementedError

    def on_failure(self, client: Client, error: BaseException) -> None:
        """No connection, no whole answer to the request, or an answer to nothing."""
        raise NotImplementedError

    def on_close(self, client: Client) -> None:
        """A connection was closed between requests, or behind an answer that said so: HTTP allows
        both, and the next request is sent on a new one."""

    # ------------------------------------------------------------------ start and stop

    async def __aenter__(self) -> Self:
        for _ in range(self._count):
            self.add()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Wait for the answers to come. TimeoutError when one does not, or what `on_failure` or
        `on_close` raised."""
        self.stopping = True
        try:
            if error is None:
                # Each client hangs up when its answer is here.
                await asyncio.wait_for(asyncio.gather(*self._tasks), PATIENCE)
        finally:
            await self.close()

    def add(self) -> None:
        """One more client, at once."""
        self.clients.append(self.client())
        self._tasks.append(asyncio.create_task(self.clients[-1].run()))

    async def close(self) -> None:
        """Hang up, whatever is in flight."""
        self.stopping = True
        for client in self.clients:
            client.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5.0)
