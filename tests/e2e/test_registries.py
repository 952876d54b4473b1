"""Several registries at once, and a backup of another type, on a real etcd and files."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually
from tests.support.scraping import samples

ROUTES = [{"path_prefix": "/{service}", "strip_prefix": True}]


@pytest.fixture
async def etcd() -> AsyncIterator[EtcdServer]:
    async with EtcdServer() as server:
        yield server


def record(port: int) -> dict[str, Any]:
    return {"id": f"f{port}", "address": "10.0.0.1", "port": port}


async def origins(proxy: RunningProxy) -> dict[str, str]:
    """Origin of each instance."""
    _, known = await proxy.get("/api/v1/services/users")
    return {one["id"]: one["origin"] for one in known.get("instances", ())}


async def test_registries_are_merged_and_the_outage_of_one_changes_nothing(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    file = tmp_path / "instances.json"
    file.write_text(json.dumps({"users": [record(1), record(2)]}))
    config = {
        "registries": [
            {"name": "new", "type": "etcd", "endpoints": [etcd.url]},
            {"name": "old", "type": "file", "path": file.name, "interval": "100ms"},
        ],
        "routes": ROUTES,
    }
    async with EtcdClient(etcd.url) as client:
        for id_, port in (("e2", 2), ("e3", 3)):
            value = json.dumps({"address": "10.0.0.1", "port": port})
            await client.put(f"/services/users/{id_}", value)
    all_three = {"e2": "new/fairlead", "e3": "new/fairlead", "f1": "old"}
    running = RunningProxy(config, tmp_path)
    del running.config["registry"]
    running.file.write_text(json.dumps(running.config))
    async with running as proxy:

        async def is_known(expected: dict[str, str]) -> bool:
            return await origins(proxy) == expected

        await eventually(lambda: is_known(all_three))
        await etcd.kill()

        async def is_told() -> bool:
            _, told = await proxy.get("/api/v1/registry")
            return (told["connected"], str(told["last_error"])[:4]) == (False, "new:")

        await eventually(is_told)
        file.write_text(json.dumps({"users": [record(4)]}))
        await eventually(
            lambda: is_known({"e2": "new/fairlead", "e3": "new/fairlead", "f4": "old"})
        )
        _, told = await proxy.get("/api/v1/registry")
        sources = [(one["name"], one["provider"], one["alive"]) for one in told["sources"]]
        assert sources == [("new", "etcd", False), ("old", "file", True)]
        _, page = await proxy.get("/metrics")
        found = samples(page)

        def figure(what: str, name: str) -> float:
            return found[f'fairlead_registry_{what}{{registry="{name}"}}']

        assert (figure("up", "new"), figure("up", "old")) == (0, 1)
        assert (figure("instances", "new"), figure("instances", "old")) == (2, 1)
        assert (figure("connects_total", "new"), figure("errors_total", "old")) == (1, 0)
        assert figure("errors_total", "new") >= 1
        assert figure("age_seconds", "new") >= 0


async def test_a_reload_while_one_registry_is_down_keeps_what_it_said(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    file = tmp_path / "instances.json"
    file.write_text(json.dumps({"users": [record(1)]}))
    new = {"name": "new", "type": "etcd", "endpoints": [etcd.url]}
    old = {"name": "old", "type": "file", "path": file.name, "interval": "100ms"}
    config = {"registry": {"type": "etcd", "endpoints": [etcd.url]}, "routes": ROUTES}
    async with EtcdClient(etcd.url) as client:
        await client.put("/services/users/e2", json.dumps({"address": "10.0.0.1", "port": 2}))
    async with RunningProxy(config, tmp_path) as proxy, aiohttp.ClientSession() as session:

        async def is_known(*ids: str) -> bool:
            return set(await origins(proxy)) == set(ids)

        async def reload(*registries: dict[str, Any]) -> None:
            del proxy.config["registry" if "registry" in proxy.config else "registries"]
            proxy.config["registries"] = registries
            proxy.file.write_text(json.dumps(proxy.config))
            async with session.post(f"{proxy.admin}/api/v1/reload") as answer:
                assert answer.status == 200, await answer.text()

        await eventually(lambda: is_known("e2"))
        await reload(new, old)
        await eventually(lambda: is_known("e2", "f1"))
        await etcd.kill()
        file.write_text(json.dumps({"users": [record(3)]}))
        await reload(new, {**old, "interval": "200ms"})
        await eventually(lambda: is_known("e2", "f3"))


async def test_a_backup_may_be_of_another_type(etcd: EtcdServer, tmp_path: Path) -> None:
    file = tmp_path / "instances.json"
    file.write_text(json.dumps({"users": [record(1)]}))
    config = {
        "registry": {
            "type": "etcd",
            "endpoints": [etcd.url],
            "backups": [{"type": "file", "path": file.name}],
            "check_interval": "500ms",
            "check_timeout": "200ms",
        },
        "routes": ROUTES,
    }
    async with EtcdClient(etcd.url) as client:
        await client.put("/services/users/e2", json.dumps({"address": "10.0.0.1", "port": 2}))
    async with RunningProxy(config, tmp_path) as proxy:

        async def is_known(id_: str) -> bool:
            return id_ in await origins(proxy)

        await eventually(lambda: is_known("e2"))
        await etcd.kill()
        await eventually(lambda: is_known("f1"))  # Both are served for a while.

        async def backup_is_in_use() -> bool:
            """By the metrics. On a busy machine the registry may have been left before."""
            _, page = await proxy.get("/metrics")
            found = samples(page)
            of = 'fairlead_registry_source_%s{source="%d"}'
            return [
                *(found.get(of % ("active", source)) for source in (0, 1)),
                *(found.get(of % ("up", source)) for source in (0, 1)),
                found["fairlead_registry_up"],
            ] == [0, 1, 0, 1, 1]

        await eventually(backup_is_in_use)
