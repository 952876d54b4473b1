"""Registries under TLS: their authority and their name are checked, and what is wrong with them
is an outage with a reason."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.registry.consul.options import Options as ConsulOptions
from proxy.registry.consul.provider import ConsulProvider
from proxy.registry.zookeeper.options import Options as ZooKeeperOptions
from proxy.registry.zookeeper.provider import ZooKeeperProvider
from proxy.settings.registry import RegistryTls
from tests.e2e.certificates import Authority
from tests.e2e.drilled import SERVICE, TIMING, Watched
from tests.e2e.zookeeper_server import ZooKeeperServer, missing
from tests.support.processes import free_port
from tests.support.scripted_consul import ScriptedConsul, entry


def serving(authority: Authority, name: str = "127.0.0.1") -> ssl.SSLContext:
    """A server's context, with a certificate for `name`, that asks clients for theirs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(name))
    context.load_verify_locations(authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def shown(authority: Authority) -> RegistryTls:
    cert, key = authority.issue("proxy")
    return RegistryTls(ca=str(authority.ca), cert=str(cert), key=str(key))


async def test_consul_under_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = ScriptedConsul()
    server.tls = serving(authority)
    async with server:
        await server.put(SERVICE, entry(SERVICE, "a"))
        url = f"https://127.0.0.1:{server.port}"
        options = ConsulOptions(endpoints=(url,), tls=shown(authority))
        async with Watched(ConsulProvider(options, timing=TIMING)) as seen:
            await seen.has("a")


@pytest.mark.parametrize("wrong", ["authority", "name"])
async def test_a_certificate_that_proves_nothing_is_an_outage(tmp_path: Path, wrong: str) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    server = ScriptedConsul()
    server.tls = serving(authority, "consul.example" if wrong == "name" else "127.0.0.1")
    async with server:
        url = f"https://127.0.0.1:{server.port}"
        tls = shown(other if wrong == "authority" else authority)
        options = ConsulOptions(endpoints=(url,), tls=tls)
        async with Watched(ConsulProvider(options, timing=TIMING)) as seen:
            assert "certificate" in await seen.loses_it()
            assert seen.memberships == []


@asynccontextmanager
async def in_front_of(port: int, context: ssl.SSLContext) -> AsyncIterator[int]:
    """A port at which TLS ends, and what is inside goes on to another one."""
    links: set[asyncio.Task[None]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                writer.write(piece)
        finally:
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", port)
        for one in (pipe(reader, outer), pipe(inner, writer)):
            links.add(asyncio.create_task(one))

    public = free_port()
    server = await asyncio.start_server(accept, "127.0.0.1", public, ssl=context)
    try:
        yield public
    finally:
        server.close()
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)


@pytest.mark.skipif(missing() != "", reason=f"there is no {missing()}")
async def test_zookeeper_under_tls(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    async with (
        ZooKeeperServer() as server,
        server.client() as client,
        in_front_of(server.port, serving(authority)) as port,
    ):
        await client.put(f"/services/{SERVICE}/a", b'{"address": "10.0.0.1", "port": 80}')
        options = ZooKeeperOptions(endpoints=(f"127.0.0.1:{port}",), tls=shown(authority))
        async with Watched(ZooKeeperProvider(options, timing=TIMING)) as seen:
            await seen.has("a")
        options = ZooKeeperOptions(endpoints=(f"127.0.0.1:{port}",), tls=shown(other))
        async with Watched(ZooKeeperProvider(options, timing=TIMING)) as seen:
            assert "certificate" in await seen.loses_it()
