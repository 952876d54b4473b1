"""Other people's clients and servers of gRPC, with the real proxy between them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.e2e.programs import NODE, Program, built, need, output
from tests.e2e.secure import SecureProxy
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVERS = ("grpcio", "go", "node")
CLIENTS = (*SERVERS, "grpclib")
CHECKS = ["unary", "large", "server stream", "client stream", "bidi", "fail", "left"]
CHECKS += ["deadline", "cancel"]


async def command(kind: str, role: str) -> list[str]:
    """What begins the command of a peer; skips the test where it is not installed."""
    if kind == "go":
        return [built("grpc"), role]
    if kind == "node":
        script = str(NODE / "grpc_peer.mjs")
        require = "require('@grpc/grpc-js')"
        try:
            await output(need("node"), "-e", require)
        except AssertionError:
            pytest.skip("node's package @grpc/grpc-js is not installed (and NODE_PATH set)")
        return [need("node"), script, role]
    module = "grpc" if kind == "grpcio" else kind
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{kind} is not installed")
    return [sys.executable, "-m", "tests.e2e.grpc_peer", kind if role == "client" else role]


@dataclass
class Site:
    proxy: SecureProxy
    running: list[str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("grpc")
    ports = {kind: free_port() for kind in SERVERS}
    services: dict[str, Any] = {
        kind: {
            "protocol": "h2c",
            "grpc": {"web": True},
            "instances": [{"id": kind, "address": "127.0.0.1", "port": port}],
        }
        for kind, port in ports.items()
    }
    # The server in Go has the health service.
    services["go"]["health_check"] = {"type": "grpc", "interval": "1s"}
    config = {
        "workers": 2,
        "services": services,
        "routes": [
            {"path_prefix": "/t.T/", "headers": {"x-service": kind}, "service": kind}
            for kind in SERVERS
        ],
    }
    async with AsyncExitStack() as stack:
        running = []
        for kind in SERVERS:
            try:
                line = [*await command(kind, "server"), str(ports[kind])]
            except pytest.skip.Exception:
                continue
            program = Program(line, ports[kind], directory / f"{kind}.log", {})
            await stack.enter_async_context(program)
            running.append(kind)
        proxy = await stack.enter_async_context(SecureProxy(config, directory))
        yield Site(proxy, running)


def need_server(site: Site, kind: str) -> None:
    if kind not in site.running:
        pytest.skip(f"there is no server of {kind}")


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_calls_of_every_kind_pass(site: Site, client: str, server: str) -> None:
    line = await command(client, "client")
    need_server(site, server)
    said = await output(*line, f"127.0.0.1:{site.proxy.port}", server)
    assert said.decode().splitlines() == CHECKS


@pytest.mark.parametrize("client", CLIENTS)
async def test_calls_pass_over_tls(site: Site, client: str) -> None:
    line = await command(client, "client")
    if not site.running:
        pytest.skip("there is no server of gRPC")
    address = f"127.0.0.1:{site.proxy.https}"
    said = await output(*line, address, site.running[0], str(site.proxy.authority.ca))
    assert said.decode().splitlines() == CHECKS


@pytest.mark.parametrize("server", SERVERS)
async def test_calls_of_browsers_pass(site: Site, server: str) -> None:
    need_server(site, server)
    url = f"{site.proxy.url}/t.T/"
    fields = {"Content-Type": "application/grpc-web+proto", "X-Service": server, "X-Grpc-Web": "1"}
    async with httpx.AsyncClient(headers=fields) as client:
        answer = await client.post(url + "ServerStream", content=b"\0\0\0\0\x012")
        frames = answer.content
        assert frames.startswith(b"\0\0\0\0\x010" + b"\0\0\0\0\x011" + b"\x80")
        assert b"grpc-status:0\r\n" in frames.replace(b": ", b":")
        failed = await client.post(url + "Fail", content=b"\0\0\0\0\0")
        assert failed.headers["grpc-status"] == "5"


async def test_a_service_that_serves_health_is_checked_by_it(site: Site) -> None:
    need_server(site, "go")

    async def checked() -> bool:
        _, text = await site.proxy.get("/metrics")
        return 'health_checks_total{service_name="go",status="passed"}' in text

    await eventually(checked, 10, "the check of go")
