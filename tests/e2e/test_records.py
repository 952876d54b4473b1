"""Records as other tools and hurried people write them, from etcd to the answer of an instance."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.origin import Origin
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually

SLOPPY: dict[str, dict[str, Any]] = {
    "php": {"metadata": [], "health": []},
    "labels": {"metadata": {"tags": ["a"], "nested": {"zone": "eu"}, "none": None}},
    "version": {"version": {"major": 1}, "register_time": 17, "tags": 5},
    "message": {"health": {"status": "healthy", "message": {"db": "ok"}}},
    "text-port": {},
    "UP": {"health": {"status": "UP"}},
    "passing": {"health": {"status": "passing"}},
    "plain": {"health": " Healthy "},
}
"""Service → what its record says beside a good address and port."""


@pytest.fixture
async def etcd() -> AsyncIterator[EtcdServer]:
    async with EtcdServer() as server:
        yield server


async def fairlead(proxy: RunningProxy, *arguments: str) -> str:
    """What a command that asks the proxy prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", *arguments, "--admin", proxy.admin),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    return output.decode()


async def test_sloppy_labels_cost_no_instance(etcd: EtcdServer, tmp_path: Path) -> None:
    config = {
        "registry": {"type": "etcd", "endpoints": [etcd.url]},
        "routes": [{"path_prefix": "/{service}", "strip_prefix": True}],
    }
    async with Origin() as origin, EtcdClient(etcd.url) as client:
        for name, more in SLOPPY.items():
            port = str(origin.port) if name == "text-port" else origin.port
            record = {"address": "127.0.0.1", "port": port, **more}
            await client.put(f"/services/{name}/1", json.dumps(record))
        async with RunningProxy(config, tmp_path) as proxy, aiohttp.ClientSession() as session:
            for name in SLOPPY:
                async with session.get(f"{proxy.url}/{name}/") as answer:
                    assert answer.status == 200, name
            document = json.loads(await fairlead(proxy, "services", "--json"))
            assert {row["name"]: row["ready"] for row in document["services"]} == dict.fromkeys(
                SLOPPY, 1
            )


async def test_a_refused_record_is_told_where_one_looks(etcd: EtcdServer, tmp_path: Path) -> None:
    key = "/services/users/bad"
    bad = json.dumps({"address": "127.0.0.1", "port": "http"})
    config = {
        "registry": {"type": "etcd", "endpoints": [etcd.url]},
        "routes": [{"path_prefix": "/{service}", "strip_prefix": True}],
    }
    async with EtcdClient(etcd.url) as client, RunningProxy(config, tmp_path) as proxy:
        await client.put(key, bad)

        async def told() -> bool:
            return key in await fairlead(proxy, "registry")

        await eventually(told, 10, "the record in `fairlead registry`")
        _, document = await proxy.get("/api/v1/services/users")
        [record] = document["refused"]
        reason = record["reason"]
        assert record == {"key": key, "reason": reason, "kept": False}
        assert 'port "http"' in reason
        line = f"refused    {key}: {reason}"
        assert line in await fairlead(proxy, "registry")
        # Nobody can be reached there, so it has no instance; that is no reason to hide it.
        assert await fairlead(proxy, "instances", "users") == f"no instances\n{line}\n"
        row = (await fairlead(proxy, "services")).splitlines()[1]
        assert row.split()[:2] == ["users", "0/0"]
        assert row.endswith("1 RECORD REFUSED")

        def lines() -> list[dict[str, Any]]:
            log = map(json.loads, proxy.log().splitlines())
            return [line for line in log if line["event"] == "registry_record_refused"]

        # Once for each change, however often it is written.
        for number in range(5):
            await client.put(key, json.dumps({"address": "a", "port": "http", "n": number}))
        await client.put("/services/users/other", "10.0.0.5")
        await eventually(lambda: len(lines()) == 2, 10, "the second line of the log")
        first = lines()[0]
        assert (first["key"], first["reason"], first["level"]) == (key, reason, "warning")


async def test_any_name_can_be_asked_for_drained_and_counted(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    config = {"registry": {"type": "etcd", "endpoints": [etcd.url]}, "routes": [{"service": "x"}]}
    names = {
        "gr\u00f6\u00dfe {}": "a b",
        "100%2F": "?#",
        "..": ".",
        'qu"ote\\': "a:b@c",
        "Caps": "+&=",
    }
    async with EtcdClient(etcd.url) as client:
        for service, id_ in names.items():
            record = json.dumps({"address": "127.0.0.1", "port": 1})
            await client.put(f"/services/{service}/{id_}", record)
        async with RunningProxy(config, tmp_path) as proxy:
            rows = (await fairlead(proxy, "services")).splitlines()[1:]
            assert sorted(row.split("  ")[0] for row in rows) == sorted([*names, "x"])
            for service, id_ in names.items():
                said = await fairlead(proxy, "drain", f"{service}/{id_}")
                assert said.startswith(f"{service}/{id_}: ")
                _, row = (await fairlead(proxy, "instances", service)).splitlines()
                assert row.startswith(f"{id_}  ")
                assert "  draining  " in row
            _, text = await proxy.get("/metrics")
            drained = {
                sample.labels["service_name"]
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == "service_instances"
                and sample.labels["status"] == "draining"
                and sample.value == 1
            }
            assert drained == set(names)
