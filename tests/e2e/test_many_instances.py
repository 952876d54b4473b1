"""Hundreds of instances: what workers know, what they tell, and what is left when one dies."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.drill

SERVICES, EACH = 60, 10
"""More than two messages to a worker."""


@pytest.fixture
async def instance() -> AsyncIterator[int]:
    """Port of an instance that answers everything on every address, in place of them all."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "0.0.0.0", port).start()
    yield port
    await runner.cleanup()


async def test_hundreds_of_instances(instance: int, tmp_path: Path) -> None:
    records = {
        f"/services/s{service}/i{number}": json.dumps({"address": "127.0.0.1", "port": instance})
        for service in range(SERVICES)
        for number in range(EACH)
    }
    async with EtcdServer(tmp_path) as etcd, EtcdClient(etcd.url) as client:
        await client.put_all(records)
        config = {
            "registry": {"type": "etcd", "endpoints": [etcd.url]},
            "routes": [{"path_prefix": "/svc/{service}", "strip_prefix": True}],
            "workers": 2,
        }
        async with (
            RunningProxy(config, tmp_path) as proxy,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        ):

            async def ask_all() -> None:
                for service in range(SERVICES):
                    async with session.get(f"{proxy.url}/svc/s{service}/") as answer:
                        assert answer.status == 200, f"s{service}"

            async def both_know(revision: int) -> bool:
                rows = await proxy.workers()
                return all(row["ready"] and row["revision"] >= revision for row in rows)

            await ask_all()
            first = await picks(proxy)
            assert len(first) == SERVICES * EACH
            assert sum(first.values()) == SERVICES
            assert all(row["longest_apply"] > 0 for row in await proxy.workers())

            # One moves, one leaves and its id is registered again elsewhere.
            await client.put(
                "/services/s0/i0", json.dumps({"address": "127.0.0.2", "port": instance})
            )
            await client.delete("/services/s1/i1")
            revision = await client.put(
                "/services/s1/i1", json.dumps({"address": "127.0.0.3", "port": instance})
            )
            await eventually(lambda: both_know(revision), 5, "both workers know")
            moved = await picks(proxy)
            assert moved.keys() == first.keys()
            assert moved["s0", "i0"] == moved["s1", "i1"] == 0  # other instances, who begin anew
            unmoved = [name for name in first if name not in (("s0", "i0"), ("s1", "i1"))]
            assert [moved[name] for name in unmoved] == [first[name] for name in unmoved]

            pid = (await proxy.worker_pids())[0]
            os.kill(pid, signal.SIGKILL)
            await eventually(
                lambda: replaced(proxy, pid), 10, "another worker in place of the one that died"
            )
            await eventually(lambda: both_know(revision), 10, "the new one knows everything")
            await ask_all()
            assert sum((await picks(proxy)).values()) == sum(moved.values()) + SERVICES


async def replaced(proxy: RunningProxy, pid: int) -> bool:
    pids = await proxy.worker_pids()
    return len(pids) == 2 and pid not in pids


async def picks(proxy: RunningProxy) -> dict[tuple[str, str], float]:
    """By service and instance, of all workers."""
    status, text = await proxy.get("/metrics")
    assert status == 200
    return {
        (sample.labels["service_name"], sample.labels["instance"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "load_balancer_selections_total"
    }
