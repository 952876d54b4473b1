"""A registrar in each registry, through what happens to these; a provider looks on."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.catalog import REGISTRATION_BACKENDS
from proxy.register import Record, Registrar
from proxy.register.backend import backends
from tests.e2e.drilled import SERVICE, Drilled
from tests.e2e.every_registry import DRILLED
from tests.e2e.running import RunningProxy
from tests.support.processes import AwaitedProcess, eventually

RECORD = Record(service=SERVICE, port=8080, address="10.0.0.1", id="a", weight=3, version="2")


@pytest.fixture(params=sorted(REGISTRATION_BACKENDS))
async def registry(request: pytest.FixtureRequest) -> AsyncIterator[Drilled]:
    if DRILLED[request.param].missing:
        pytest.skip(f"there is no {DRILLED[request.param].missing} on this machine")
    async with DRILLED[request.param]() as registry:
        yield registry


async def test_an_instance_is_seen_as_it_was_registered(registry: Drilled) -> None:
    async with registry.watched() as seen:
        async with Registrar(RECORD, registry=registry.writing(), ttl=5) as registrar:
            await seen.has("a")
            [one] = seen.pool
            assert (one.address, one.port, one.weight, one.version) == ("10.0.0.1", 8080, 3, "2")
            assert one.health == "healthy"
            assert await registrar.drain()
            await eventually(lambda: seen.pool[0].health == "draining", what=lambda: seen.pool)
        await seen.has()


async def test_a_registration_survives_a_restart_and_a_wiped_store(registry: Drilled) -> None:
    async with (
        registry.watched() as seen,
        Registrar(RECORD, registry=registry.writing(), ttl=5),
    ):
        await seen.has("a")
        await registry.kill()
        await seen.loses_it()
        await registry.start()
        await seen.connects()
        await registry.kill()
        registry.wipe()
        await seen.loses_it()
        await registry.start()
        await seen.connects()
        [backend] = backends(registry.writing(), 5.0)

        async def is_there() -> bool:
            return await backend.find([(SERVICE, "a")]) != [None]

        await eventually(is_there, 20.0, what=lambda: seen.status)
        await backend.close()
        await seen.has("a")


async def test_the_side_car_registers_where_its_url_says(registry: Drilled, tmp_path: Path) -> None:
    [url] = registry.options().addresses
    options = registry.writing()
    wait = "1500ms" if registry.asked else "300ms"  # Who asks must come by meanwhile.
    sidecar = AwaitedProcess(
        [
            *(sys.executable, "-m", "proxy", "register", "--service", SERVICE, "--port", "80"),
            *("--id", "a", "--address", "10.0.0.1", "--ttl", "5s", "--drain-wait", wait),
            *("--registry", f"{registry.type}://{url.rpartition('://')[2]}"),
        ],
        tmp_path / "log",
        {"CONSUL_HTTP_TOKEN": getattr(options, "token", "")},
    )
    async with registry.watched() as seen:
        sidecar.launch()
        try:
            await seen.has("a")
            await sidecar.stop()
            assert sidecar.returncode == 0, sidecar.log()
            await seen.has()
        finally:
            await sidecar.kill()
        assert "draining" in [one.services[SERVICE][0].health for one in seen.memberships[1:-1]]


async def test_a_service_registers_over_the_admin_api(registry: Drilled, tmp_path: Path) -> None:
    await registry.register("b")  # An empty registry may have been started just now.
    keys = {"type": registry.type, "endpoints": list(registry.options().addresses)}
    if token := getattr(registry.writing(), "token", ""):
        keys["token"] = token
    if registry.asked:
        keys["interval"] = "200ms"
    path = f"/api/v1/services/{SERVICE}/instances/a"
    config = {"registry": keys, "routes": [{"path_prefix": "/{service}"}]}
    async with RunningProxy(config, tmp_path) as proxy, aiohttp.ClientSession() as session:

        async def knows(*ids: str) -> bool:
            _, known = await proxy.get(f"/api/v1/services/{SERVICE}")
            return {one["id"].rpartition("#")[2] for one in known["instances"]} == {*ids}

        record = {"address": "10.0.0.1", "port": 8081, "metadata": {"zone": "b"}}
        for status in (201, 200):
            async with session.put(proxy.admin + path, json=record) as answer:
                assert answer.status == status, await answer.text()
            await eventually(lambda: knows("a", "b"), 15.0, what=proxy.log)
        async with session.post(f"{proxy.admin}{path}/heartbeat") as answer:
            assert (answer.status, (await answer.json())["state"]) == (200, "registered")
        async with session.delete(proxy.admin + path) as answer:
            assert answer.status == 204, await answer.text()
        await eventually(lambda: knows("b"), 15.0, what=proxy.log)
