"""URLs of filters that a fleet shares: they lead where registered instances may, and no further."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.destinations import Destinations
from proxy.engine.filters import Filters, Link
from proxy.engine.resilience.limits import SIZE, BucketTable
from proxy.errors import AUTH_UNAVAILABLE, Refused
from proxy.messages import WorkerConfig
from proxy.settings.filters import FilterSpec
from proxy.settings.route import RouteSpec
from proxy.testing.filters import a_request


class Asked:
    """A server that says yes to everybody, and notes how often it was asked."""

    def __init__(self) -> None:
        self.times = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.times += 1
        writer.write(
            b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\nConnection: close\r\n\r\n{"keys":[]}'
        )
        writer.close()


@asynccontextmanager
async def admin_server() -> AsyncIterator[tuple[Asked, int]]:
    asked = Asked()
    async with await asyncio.start_server(asked.answer, "127.0.0.1", 0) as server:
        yield asked, server.sockets[0].getsockname()[1]


@asynccontextmanager
async def in_use(admin_port: int, *specs: FilterSpec) -> AsyncIterator[tuple[Link, ...]]:
    """These filters of a route, in a worker whose proxy has its admin server at this port."""
    filters = Filters(
        asyncio.get_running_loop(),
        time.monotonic,
        BucketTable(memoryview(bytearray(SIZE))),
        lambda error: None,
        Destinations(admin_port).refusal,
    )
    table = filters.prepare(WorkerConfig(routes=(RouteSpec(service="a", filters=specs),)))
    filters.use(table)
    try:
        yield table.routes[0]
    finally:
        filters.close()
        for _ in range(20):  # Connections end in turns of the loop.
            await asyncio.sleep(0)


def asking(url: str, shared: bool) -> FilterSpec:
    settings = {"url": url, "timeout": 1.0}
    return FilterSpec(name="login", kind="forward_auth", settings=settings, shared=shared)


async def verdict(link: Link) -> Any:
    assert link.on_request is not None
    return await link.on_request(a_request(fields={"Cookie": "secret=1"}))


ADMIN = (
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://127.1:{port}/",
    "http://0.0.0.0:{port}/",
    "http://2130706433:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
)


@pytest.mark.parametrize("url", ADMIN)
async def test_the_admin_server_is_nobody_s_to_ask_by_a_shared_filter(url: str) -> None:
    async with admin_server() as (asked, port):
        url = url.format(port=port)
        async with in_use(port, asking(url, True)) as [link]:
            with pytest.raises(Refused) as caught:
                await verdict(link)
            assert caught.value.fault is AUTH_UNAVAILABLE
        assert asked.times == 0
        # What is refused is the aim, and to whom the filter belongs.
        async with in_use(port, asking(f"http://127.0.0.1:{port}/", False)) as [link]:
            assert await verdict(link) is None
        async with in_use(port + 1, asking(f"http://127.0.0.1:{port}/", True)) as [link]:
            assert await verdict(link) is None
        assert asked.times == 2


@pytest.mark.parametrize("host", ["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254"])
async def test_metadata_services_are_nobody_s_to_ask_by_a_shared_filter(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    where = family, socket.SOCK_STREAM, 0, "", (host, 80)
    async with in_use(0, asking("http://a/", True), asking("http://a/", False)) as links:
        theirs, ours = (link.filter._context for link in links)  # type: ignore[attr-defined]
        with pytest.raises(PermissionError, match=r"is a link-local address|metadata service"):
            theirs._socket(where)
        ours._socket(where).close()


async def test_keys_are_not_fetched_from_where_a_shared_filter_may_not_lead() -> None:
    async with admin_server() as (asked, port):
        settings = {"jwks_url": f"http://127.0.0.1:{port}/keys", "algorithms": ["RS256"]}
        for shared, times in ((True, 0), (False, 1)):
            spec = FilterSpec(name="tokens", kind="jwt", settings=settings, shared=shared)
            async with in_use(port, spec) as [link]:
                keys: Any = link.filter._keys  # type: ignore[attr-defined]
                if keys._fetching is not None:
                    await keys._fetching
            assert asked.times == times
