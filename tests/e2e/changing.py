"""Everybody who may be there while a running proxy changes: clients with connections of their own,
clients that keep theirs, a slow request, and a WebSocket; in drills also uploads, downloads and a
stream of events.

    async with Crowd(proxy.port, origin) as crowd:
        ...
        await crowd.served()
    assert crowd.failures == []
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import repeat
from typing import Self

from tests.e2e.origin import Call, Gate, Origin, websocket
from tests.e2e.raw_http import Client, Violation, request
from tests.e2e.running import RunningProxy
from tests.support import load
from tests.support.processes import eventually

UPGRADE = (("Connection", "Upgrade"), ("Upgrade", "websocket"))
CLOSE = (("Connection", "close"),)


async def command(proxy: RunningProxy, *words: str) -> tuple[int, str]:
    """A command as an operator gives it: exit code, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", *words, "--admin", proxy.admin,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


class Crowd(load.Load):
    """Owns the clients, what went wrong with them, and how many were sent away in good order."""

    def __init__(self, port: int, origin: Origin, *, kept: int = 4, fresh: int = 4) -> None:
        """`kept`: clients that keep their connections; `fresh`: those with one for each request."""
        super().__init__(port, repeat(request("GET", "/")), clients=kept, pace=0.001)
        self.fresh = Fresh(port, repeat(request("GET", "/", CLOSE)), clients=fresh, pace=0.001)
        self.fresh.failures = self.failures = []
        self.answers = 0
        self.sent_away = 0
        """Connections that were kept and closed by the proxy, which had said so."""
        self._said_so: set[load.Client] = set()
        self._origin = origin
        self._gate = Gate()
        self._stack = AsyncExitStack()
        origin.script = self._script

    async def _script(self, call: Call) -> None:
        script = {"slow": self._gate, "ws": websocket, **TRANSFERS}.get(call.tail)
        await (call.reply(b"ok") if script is None else script(call))

    async def __aenter__(self) -> Self:
        self.slow = await self._stack.enter_async_context(await Client.connect(self.port))
        await self.slow.send(request("GET", "/slow"))
        self.socket = await self._stack.enter_async_context(await Client.connect(self.port))
        await self.socket.send(request("GET", "/ws", UPGRADE))
        assert (await self.socket.answer()).status == 101
        await super().__aenter__()
        await self.fresh.__aenter__()
        await self.served()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        async with self._stack:
            await self.fresh.__aexit__(kind, error, trace)
            await super().__aexit__(kind, error, trace)

    async def served(self, more: int = 100) -> None:
        """Wait until so many more requests were answered, of either kind."""
        for one in (one for one in (self, self.fresh) if one.clients):
            target = one.answers + more
            await eventually(lambda one=one, to=target: one.answers >= to, 20, "requests served")  # type: ignore[misc]

    async def socket_echoes(self) -> None:
        """Assert that the WebSocket is there."""
        await self.socket.send(b"hello")
        assert await self.socket.exactly(5) == b"hello"

    async def slow_ends(self) -> None:
        """Let the slow request end and assert that it is answered."""
        self._gate.open()
        assert (await self.slow.answer()).status == 200

    def on_answer(self, client: load.Client) -> None:
        if client.status != 200:
            self.failures.append(f"{client.status} {client.body[:200]!r}")
        self.answers += 1
        if not client._parser.should_keep_alive():
            self._said_so.add(client)

    def on_failure(self, client: load.Client, error: BaseException) -> None:
        self.failures.append(repr(error))

    def on_close(self, client: load.Client) -> None:
        if client in self._said_so:
            self._said_so.discard(client)
            self.sent_away += 1
        else:
            self.failures.append("closed between requests")


UPLOAD = 64 * 16 * 1024
DOWNLOAD = 100 * 1024 * 1024
"""Bytes."""
PIECE = 256 * 1024


async def take_upload(call: Call) -> None:
    """Say how much there was."""
    await call.reply(str(len(await call.read())).encode())


async def give_download(call: Call) -> None:
    """A body of `DOWNLOAD` bytes."""
    await call.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % DOWNLOAD)
    for _ in range(DOWNLOAD // PIECE):
        await call.write(bytes(PIECE))


async def give_events(call: Call) -> None:
    """Server-sent events without end."""
    call.closing = True
    await call.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    while not call.reader.at_eof():
        await call.write(b"data: x\n\n")
        await asyncio.sleep(0.02)


TRANSFERS = {"upload": take_upload, "download": give_download, "events": give_events}


class Transfers:
    """Owns an upload, a download and a stream of events, each begun again when it is over."""

    def __init__(self, port: int, failures: list[str], *, events_end: bool) -> None:
        """`failures`: where to put what goes wrong; `events_end`: the proxy may end the stream."""
        self.port = port
        self.done: Counter[str] = Counter()
        self._failures = failures
        self._events_end = events_end
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for one in (self._upload, self._download, self._listen):
            self._tasks.append(asyncio.create_task(self._again(one)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        await asyncio.wait_for(asyncio.gather(*self._tasks), 60)

    async def _again(self, one: Callable[[Client], Awaitable[None]]) -> None:
        while not self._stopping.is_set():
            try:
                async with await Client.connect(self.port) as client:
                    await one(client)
                self.done[one.__name__] += 1
            except (AssertionError, OSError, EOFError, TimeoutError, Violation) as error:
                self._failures.append(f"{one.__name__}: {error!r}")

    async def _upload(self, client: Client) -> None:
        chunked = (*CLOSE, ("Transfer-Encoding", "chunked"))
        await client.send(request("POST", "/upload", chunked))
        for _ in range(64):
            await client.send(b"%x\r\n%b\r\n" % (UPLOAD // 64, bytes(UPLOAD // 64)))
            await asyncio.sleep(0.02)
        await client.send(b"0\r\n\r\n")
        assert (await client.answer()).body == str(UPLOAD).encode()

    async def _download(self, client: Client) -> None:
        await client.send(request("GET", "/download", CLOSE))
        assert (await client.read_head()).length() == DOWNLOAD
        for _ in range(DOWNLOAD // PIECE):
            await client.exactly(PIECE)
            await asyncio.sleep(0.01)

    async def _listen(self, client: Client) -> None:
        await client.send(request("GET", "/events"))
        await client.read_head()
        stopped = asyncio.create_task(self._stopping.wait())
        while not stopped.done():
            if not await client.reader.read(1 << 16):
                stopped.cancel()
                assert self._events_end, "the stream of events was cut"
                return


class Fresh(load.Load):
    """Owns clients with a connection for each request."""

    failures: list[str]
    answers = 0

    def on_answer(self, client: load.Client) -> None:
        if client.status != 200:
            self.failures.append(f"{client.status} {client.body[:200]!r}")
        self.answers += 1

    def on_failure(self, client: load.Client, error: BaseException) -> None:
        self.failures.append(f"fresh: {error!r}")
