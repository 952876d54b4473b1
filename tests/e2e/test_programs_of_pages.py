"""Programs that pages show, run as they stand there beside a real etcd, on ports of the test's own.
What the reader has beside them is here; other pages have tests of their own (`test_pages.py`)."""

from __future__ import annotations

import ast
import asyncio
import json
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.discovery import Balancing, Discovery
from proxy.register import HealthReporter, Record, Registrar
from proxy.registry.records import read, split_key
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.origin import Call, Origin, origins
from tests.e2e.running import RunningProxy
from tests.support.processes import AwaitedProcess, eventually
from tests.support.shown import blocks

DOCS = Path(__file__).parents[2] / "docs"
KEY = "/services/users/"


def shown(page: str, language: str) -> list[str]:
    """Blocks of a page in this language."""
    text = (DOCS / page).read_text("utf-8")
    return [block.text for block in blocks(text) if block.language == language]


async def run(text: str, place: dict[str, Any], instead: Mapping[str, str]) -> dict[str, Any]:
    """Run a program, with `await` anywhere, and others for some of its words; what it has made of
    its names."""
    for word, other in instead.items():
        assert word in text
        text = text.replace(word, other)
    done = eval(compile(text, "page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), place)
    if done is not None:
        await done
    return place


@pytest.fixture
async def etcd() -> AsyncIterator[EtcdServer]:
    async with EtcdServer() as server:
        yield server


@pytest.fixture
async def client(etcd: EtcdServer) -> AsyncIterator[EtcdClient]:
    async with EtcdClient(etcd.url) as client:
        yield client


async def put(client: EtcdClient, origin: Origin) -> None:
    record = {"address": "127.0.0.1", "port": origin.port}
    await client.put(f"{KEY}{origin.name}", json.dumps(record))


async def asked(call: Call) -> None:
    body = json.dumps({"path": call.target}).encode()
    await call.reply(body, fields=[("Content-Type", "application/json")])


async def test_programs_of_the_library_ask_services(etcd: EtcdServer, client: EtcdClient) -> None:
    one, several = shown("discovery.md", "python")
    printed: list[Any] = []
    async with origins("a", script=asked) as (origin,):
        await put(client, origin)
        place = await run(one, {"print": printed.append}, {"http://127.0.0.1:2379": etcd.url})
        assert printed == [{"path": "/42"}]
        async with Discovery(etcd.url) as discovery:
            await discovery.wait_ready(10)
            given = place | {"discovery": discovery, "Balancing": Balancing}
            async with (await run(several, given, {}))["session"] as session:
                headers = {"X-User-ID": "7"}
                async with session.get("http://users.svc/43", headers=headers) as answer:
                    assert await answer.json() == {"path": "/43"}


async def test_registration_over_http_goes_as_its_page_says(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    [text] = shown("discovery.md", "sh")
    url, put_, beat, delete = text.splitlines()
    # The loop ends when a heartbeat fails: here after the first.
    once = beat.removeprefix("while sleep 10; do ").removesuffix(" || break; done")
    assert once != beat
    config = {
        "registry": {"type": "etcd", "endpoints": [etcd.url]},
        "routes": [{"service": "users"}],
    }
    async with RunningProxy(config, tmp_path) as proxy:
        url = url.replace("http://127.0.0.1:9900", proxy.admin)
        lines = "\n".join([url, put_, "echo", once, "echo", delete.replace("curl", "curl -f")])
        curl = await asyncio.create_subprocess_exec(
            "bash", "-ec", lines, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, error = await curl.communicate()
        assert curl.returncode == 0, error.decode()
        registered, beaten, *_ = map(json.loads, out.decode().splitlines())
        assert (registered["state"], beaten["state"]) == ("registered", "registered")
        assert {"service": "users", "id": "users-1", "ttl": 30.0}.items() <= registered.items()

        [refusal] = map(json.loads, shown("discovery.md", "json"))
        address = f"{proxy.admin}{url.partition(proxy.admin)[2]}"
        async with (
            aiohttp.ClientSession() as session,
            session.put(address, data=b'{"port": "80"}') as answer,
        ):
            told = json.loads(await answer.read())
        assert refusal.items() <= told.items()


async def test_programs_register_and_leave_as_their_page_says(
    etcd: EtcdServer, client: EtcdClient
) -> None:
    first, leaving, health = shown("registering.md", "python")
    seen: list[Any] = []

    async def look() -> None:
        """Note what etcd says of the instance."""
        seen.extend(json.loads(value) for value in (await client.get_all(KEY)).values())

    class Server:
        close = staticmethod(look)

    place = await run(first, {"serve": look}, {"http://etcd:2379": etcd.url})
    await place["main"]()
    assert [one["port"] for one in seen] == [8080]
    assert not await client.get_all(KEY)

    record = Record(service="users", port=8080, id="a", address="10.0.0.1")
    stop = asyncio.Event()
    stop.set()
    place = {"asyncio": asyncio, "etcd": [etcd.url], "record": record, "stop": stop}
    place |= {"Registrar": Registrar, "server": Server(), "look": look}
    await run(
        leaving,
        place,
        {"sleep(3)": "sleep(0)", "    await asyncio": "    await look(); await asyncio"},
    )
    assert seen.pop()["health"]["status"] == "draining"
    assert not await client.get_all(KEY)

    async with (
        origins("a") as (origin,),
        Registrar(record, endpoints=[etcd.url]) as registrar,
    ):
        registrar.report("unhealthy")

        async def healthy() -> bool:
            await look()
            return bool(seen.pop()["health"]["status"] == "healthy")

        async def until() -> None:
            await eventually(healthy, 10, "a good check")

        place = {"HealthReporter": HealthReporter, "registrar": registrar, "until": until}
        await run(health, place, {"8080": str(origin.port), "...": "await until()"})


async def test_the_side_car_of_its_page_and_of_its_image_is_the_same(
    etcd: EtcdServer, client: EtcdClient, tmp_path: Path
) -> None:
    [console] = shown("registering.md", "console")
    [image] = shown("registering.md", "dockerfile")
    own, _, program = console.removeprefix("$ ").partition(" -- ")
    entry, command = (
        json.loads(line.partition(" ")[2]) for line in image.replace("\\\n", "").splitlines()
    )
    words = shlex.split(own.replace("\\\n", ""))
    assert [
        *(word for word in words if word not in ("--endpoints", "http://etcd:2379")),
        "--",
    ] == entry
    assert shlex.split(program) == command

    async with origins("a") as (origin,):
        instead = {
            "http://etcd:2379": etcd.url,
            "8080": str(origin.port),
            "fairlead": sys.executable + " -m proxy",
        }
        for word, other in instead.items():
            own = own.replace(word, other)
        sleep = shlex.join([sys.executable, "-c", "import time; time.sleep(600)"])
        side_car = AwaitedProcess(
            shlex.split(f"{own} -- {sleep}".replace("\\\n", "")), tmp_path / "log", {}, tmp_path
        )
        side_car.launch()
        try:

            async def healthy() -> bool:
                found = [json.loads(one) for one in (await client.get_all(KEY)).values()]
                return [one["health"]["status"] for one in found] == ["healthy"]

            await eventually(healthy, 20, side_car.log)
            assert origin.calls[0].target == "/health"
        finally:
            await side_car.stop()
    assert not await client.get_all(KEY)


async def test_a_program_with_a_proxy_in_it_runs_as_its_page_says() -> None:
    [text] = shown("embedding.md", "python")
    printed: list[str] = []
    instead = {'{"routes"': '{"listeners": [{"bind": "127.0.0.1:0", "name": "web"}], "routes"'}
    program = asyncio.create_task(run(text, {"print": printed.append}, instead))
    try:
        await eventually(lambda: printed or program.done(), 20, "an address")
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{printed[0]}/") as answer,
        ):
            assert answer.status == 503  # Nobody has registered.
    finally:
        program.cancel()
        await asyncio.gather(program, return_exceptions=True)
    assert program.cancelled()


def test_the_record_of_its_page_is_an_instance() -> None:
    [text] = shown("registering.md", "json")
    parts = split_key(f"{KEY}users-1".encode(), b"/services/")
    assert parts == ("users", "users-1")
    instance, odd = read(*parts, text.encode())
    assert (instance.weight, instance.port, odd) == (2, 8080, "")
