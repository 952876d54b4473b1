"""Traffic while a registry is harmed: clients ask a proxy in this process, whose registry says what
the provider of a drill has told, as it tells it. No request may fail.

    async with Instances() as instances, Served(provider) as seen:
        await seen.has("a", "b")     # from here on clients ask
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import repeat
from typing import ClassVar, Self

from proxy.embed import Proxy
from proxy.membership import Membership
from proxy.registry.base import Provider
from proxy.settings.registry import RegistryOptions
from proxy.statuses import RegistryStatus
from tests.e2e.changing import CLOSE, Fresh
from tests.e2e.drilled import SERVICE, Watched
from tests.e2e.raw_http import request
from tests.support.processes import eventually


class Told(Provider):
    """The registry of the proxy: what `of` has seen."""

    name = "told"
    of: ClassVar[Served]

    class Options(RegistryOptions, frozen=True, kw_only=True):
        """No keys."""

    def __init__(self, options: RegistryOptions) -> None:
        self._of = self.of
        self._closed = False

    async def watch(self) -> AsyncIterator[Membership]:
        while not self._closed:
            yield self._of.memberships[-1]
            self._of.grew.clear()
            await self._of.grew.wait()

    def status(self) -> RegistryStatus:
        return self._of.status

    async def close(self) -> None:
        self._closed = True
        self._of.grew.set()


class Served(Watched):
    """Owns the proxy and its clients, too, who ask from the first pool on until `quiet`."""

    def __init__(self, provider: Provider) -> None:
        super().__init__(provider)
        self.grew = asyncio.Event()
        self._clients: Fresh | None = None
        self._asking = AsyncExitStack()
        self._serving = AsyncExitStack()

    def told(self, membership: Membership) -> None:
        """See `Watched`."""
        super().told(membership)
        self.grew.set()

    async def answers(self) -> None:
        """See `Watched`."""
        if self._clients is None and self.ids():
            await self._ask()
        clients = self._clients
        if clients is not None and not clients.stopping:
            target = clients.answers + 3
            await eventually(lambda: clients.answers >= target, 20.0, "requests answered")

    async def _ask(self) -> None:
        Told.of = self
        settings = {
            "registry": {"type": f"{__name__}:Told"},
            "listeners": [{"name": "web", "bind": "127.0.0.1:0"}],
            "routes": [{"path_prefix": "/", "service": SERVICE}],
            "shutdown": {"delay": "0s", "grace": "5s"},
        }
        proxy = await self._serving.enter_async_context(Proxy(settings))
        port = int(proxy.addresses["web"].rpartition(":")[2])
        self._clients = Fresh(port, repeat(request("GET", "/", CLOSE)), clients=2, pace=0.02)
        self._clients.failures = []
        await self._asking.enter_async_context(self._clients)

    async def quiet(self) -> None:
        """See `Watched`."""
        await self._asking.aclose()
        failures = self._clients.failures if self._clients is not None else []
        assert not failures, f"{len(failures)} requests failed: {failures[:3]}"

    async def __aexit__(self, *exc: object) -> None:
        try:
            await self.quiet()
        finally:
            await self._serving.aclose()
            await super().__aexit__(*exc)


class Instances:
    """Owns what answers at two ports of every address of loopback."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self._servers: list[asyncio.Server] = []

    async def add(self) -> int:
        """One more port."""
        server = await asyncio.start_server(_answer, "0.0.0.0", 0)
        self._servers.append(server)
        self.ports.append(server.sockets[0].getsockname()[1])
        return self.ports[-1]

    async def stop(self, port: int) -> None:
        """Nobody answers there any more."""
        server = self._servers[self.ports.index(port)]
        server.close()
        await server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.add()
        await self.add()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for port in self.ports:
            await self.stop(port)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # A probe, which only connects.
    finally:
        writer.close()
