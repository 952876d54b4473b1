"""`proxy.embed.Proxy`: the proxy in an asyncio program, with a worker inside or beside."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.control.openings import StartError
from proxy.embed import Proxy
from proxy.settings.complaints import ConfigError
from proxy.settings.load import parse
from tests.e2e.origin import Origin, origins
from tests.support.processes import AwaitedProcess, eventually, free_port

EXAMPLES = Path(__file__).parents[2] / "examples"


def settings(origin: Origin, **more: Any) -> dict[str, Any]:
    return {
        "listeners": [{"name": "web", "bind": "127.0.0.1:0"}],
        "registry": {"type": "static"},
        "shutdown": {"delay": "0s", "grace": "10s"},
        "services": {"s": {"instances": [origin.instance]}},
        "routes": [{"path_prefix": "/", "service": "s"}],
        **more,
    }


async def get(address: str, path: str = "/", **options: Any) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{address}{path}", **options) as answer,
    ):
        return answer.status, await answer.text()


@pytest.mark.parametrize("workers", [0, 1])
async def test_a_program_serves_by_its_proxy_and_stops_gently(workers: int) -> None:
    frozen = gc.get_freeze_count()
    async with origins("one") as (one,):
        gate = asyncio.Event()

        async def script(call: Any) -> None:
            if call.tail == "slow":
                await gate.wait()
            await call.reply(b"one")

        one.script = script
        async with Proxy(settings(one), workers=workers) as proxy:
            address = proxy.addresses["web"]
            assert await get(address) == (200, "one")
            assert (await get(proxy.admin_address, "/readyz"))[0] == 200
            slow = asyncio.create_task(get(address, "/slow"))
            await eventually(lambda: len(one.calls) == 2, 5, "asked")
            asyncio.get_running_loop().call_soon(gate.set)
        assert await slow == (200, "one")
        with pytest.raises(aiohttp.ClientConnectionError):
            await get(address)
    assert gc.get_freeze_count() <= frozen  # It is not for the proxy to spare the program's.


async def test_two_proxies_live_in_one_program() -> None:
    async with (
        origins("one", "two") as (one, two),
        Proxy(settings(one)) as first,
        Proxy(settings(two)) as second,
    ):
        assert first.addresses != second.addresses
        for proxy in (first, second):
            assert (await get(proxy.addresses["web"]))[0] == 200


async def test_settings_come_from_a_file_or_ready_made(tmp_path: Path) -> None:
    async with origins("one") as (one,):
        whole = {**settings(one), "admin": {"bind": "127.0.0.1:0"}}
        file = tmp_path / "proxy.yaml"
        file.write_text(json.dumps(whole))
        for given in (file, str(file), parse(file.read_text(), "x", {})):
            async with Proxy(given) as proxy:
                assert (await get(proxy.addresses["web"]))[0] == 200


def test_bad_settings_are_complained_of_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"settings:1: routes\.0\.servce: "):
        Proxy({"routes": [{"path_prefix": "/", "servce": "a"}]})


async def test_an_address_that_is_taken_ends_the_start() -> None:
    async with origins("one") as (one,):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            bind = f"127.0.0.1:{taken.getsockname()[1]}"
            proxy = Proxy(settings(one, listeners=[{"name": "web", "bind": bind}]))
            with pytest.raises(StartError, match="in use"):
                await proxy.__aenter__()
            with pytest.raises(RuntimeError, match="make another one"):
                await proxy.__aenter__()


async def test_the_admin_api_is_part_of_an_application() -> None:
    async with origins("one") as (one,), Proxy(settings(one)) as proxy:
        app = web.Application()
        app.add_subapp("/a/proxy", proxy.admin_app())
        app.add_subapp("/b", proxy.admin_app(may_change=True))
        async with TestServer(app) as server:
            address, host = f"127.0.0.1:{server.port}", {"Host": "any.example.com"}
            status, page = await get(address, "/a/proxy/", headers=host)
            assert status == 200
            assert "dashboard/app.js" in page
            assert (await get(address, "/a/proxy/dashboard/app.js"))[0] == 200
            status, text = await get(
                address, "/a/proxy/api/v1/explain?url=/x", headers={"Accept": "application/json"}
            )
            assert (status, json.loads(text)["service"]) == (200, "s")
            status, text = await get(address, "/b/api/v1/services/s")
            [instance] = json.loads(text)["instances"]
            drain = f"/api/v1/services/s/instances/{instance['id']}/drain"
            async with aiohttp.ClientSession(f"http://{address}") as session:
                async with session.post(f"/a/proxy{drain}") as answer:
                    assert answer.status == 403
                async with session.post(f"/b{drain}") as answer:
                    assert answer.status == 200
                async with session.get("/a/proxy/api/v1/events") as answer:
                    assert await answer.content.readline() == b": connected\n"


async def test_a_token_is_asked_for_in_an_application_too() -> None:
    admin = {"bind": "127.0.0.1:0", "token": "secret-token-of-16"}
    async with origins("one") as (one,), Proxy(settings(one, admin=admin)) as proxy:
        app = web.Application()
        app.add_subapp("/p", proxy.admin_app(may_change=True))
        async with TestServer(app) as server:
            address = f"127.0.0.1:{server.port}"
            assert (await get(address, "/p/api/v1/services"))[0] == 401
            token = {"Authorization": "Bearer secret-token-of-16"}
            assert (await get(address, "/p/api/v1/services", headers=token))[0] == 200


async def test_the_example_serves(tmp_path: Path) -> None:
    port, own = free_port(), free_port()
    command = [sys.executable, str(EXAMPLES / "embedded.py"), str(port), str(own)]
    program = AwaitedProcess(command, tmp_path / "log")
    program.launch()
    try:
        await eventually(lambda: f":{own}/proxy/" in program.log(), 30, "its line")
        assert await get(f"127.0.0.1:{port}", "/hello") == (200, "hello, 127.0.0.1\n")
        assert (await get(f"127.0.0.1:{own}", "/proxy/"))[0] == 200
    finally:
        await program.stop()
        await program.kill()
