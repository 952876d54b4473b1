"""From the registry to the answer: real etcd, real control process, real workers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port


@pytest.fixture
async def instance() -> AsyncIterator[int]:
    """Port of an instance that answers everything."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield port
    await runner.cleanup()


def config(etcd: EtcdServer, **more: Any) -> dict[str, Any]:
    return {
        "registry": {"type": "etcd", "endpoints": [etcd.url]},
        "routes": [{"path_prefix": "/svc/{service}", "strip_prefix": True}],
        "workers": 2,
        **more,
    }


def record(port: int, **fields: Any) -> str:
    return json.dumps({"address": "127.0.0.1", "port": port, **fields})


async def fetch(proxy: RunningProxy, path: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(proxy.url + path) as answer:
        await answer.read()
        return answer.status


async def answers(proxy: RunningProxy, path: str, status: int) -> bool:
    return await fetch(proxy, path) == status


async def shown(proxy: RunningProxy, service: str) -> dict[str, str]:
    """Instance id → status, {} for a service that is not known."""
    code, body = await proxy.get(f"/api/v1/services/{service}")
    return {row["id"]: row["status"] for row in body["instances"]} if code == 200 else {}


async def shows(proxy: RunningProxy, service: str, expected: dict[str, str]) -> bool:
    return await shown(proxy, service) == expected


async def metric(proxy: RunningProxy, name: str, **labels: str) -> float | None:
    """Value of one series, None if there is no such series."""
    _, text = await proxy.get("/metrics")
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                value: float = sample.value
                return value
    return None


async def test_a_registered_instance_is_served_shown_and_counted(
    instance: int, tmp_path: Path
) -> None:
    async with (
        EtcdServer() as etcd,
        EtcdClient(etcd.url) as registry,
        RunningProxy(config(etcd), tmp_path) as proxy,
    ):
        assert await fetch(proxy, "/svc/users/") == 404
        await registry.put("/services/users/a", record(instance))
        await registry.put("/services/users/b", record(instance, health={"status": "draining"}))
        expected = {"a": "ready", "b": "draining"}
        await eventually(lambda: shows(proxy, "users", expected), 5, "both instances")
        await eventually(lambda: answers(proxy, "/svc/users/", 200), 5, "an answer")
        selections = {"service_name": "users", "algorithm": "round_robin", "instance": "a"}
        assert await metric(proxy, "load_balancer_selections_total", **selections)

        await registry.put("/services/users/c", "{")
        await eventually(lambda: _invalid(proxy), 5, "the unreadable key")
        _, status = await proxy.get("/api/v1/registry")
        assert status["endpoint"] == etcd.url
        assert [row["key"] for row in status["invalid"]] == ["/services/users/c"]

        await registry.delete("/services/users/a")
        await eventually(lambda: shows(proxy, "users", {"b": "draining"}), 5, "a's end")
        assert await metric(proxy, "load_balancer_selections_total", **selections) is None
        # The one that is left drains on purpose, so it is not used for want of a better one.
        await eventually(lambda: answers(proxy, "/svc/users/", 503), 5, "no usable instance")
        counted = {"service_name": "users"}
        name = "service_registrations_total"
        assert await metric(proxy, name, status="registered", **counted) == 2
        assert await metric(proxy, name, status="deregistered", **counted) == 1

        await registry.delete("/services/users/b")
        await eventually(lambda: shows(proxy, "users", {}), 5, "b's end")
        # A service that was there a moment ago is unavailable, not unknown.
        assert await fetch(proxy, "/svc/users/") == 503


async def _invalid(proxy: RunningProxy) -> bool:
    _, body = await proxy.get("/api/v1/registry")
    return bool(body["invalid"])


async def test_panic_serves_the_unhealthy_and_says_so(instance: int, tmp_path: Path) -> None:
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as registry:
        await registry.put("/services/users/a", record(instance, health={"status": "bad"}))
        async with RunningProxy(config(etcd), tmp_path) as proxy:
            assert await shown(proxy, "users") == {"a": "unhealthy"}
            assert await fetch(proxy, "/svc/users/") == 200
            assert await metric(proxy, "fairlead_panic", service="users") == 1
            await proxy.logs('"panic_began"')
            await registry.put("/services/users/a", record(instance))
            await eventually(lambda: shows(proxy, "users", {"a": "ready"}), 5, "health")
            assert await metric(proxy, "fairlead_panic", service="users") == 0


async def test_an_outage_changes_nothing_not_even_for_a_new_worker(
    instance: int, tmp_path: Path
) -> None:
    async with EtcdServer() as etcd:
        async with EtcdClient(etcd.url) as registry:
            await registry.put("/services/users/a", record(instance))
        async with RunningProxy(config(etcd, workers=1), tmp_path) as proxy:
            await etcd.kill()
            await eventually(lambda: _registry_up(proxy, 0.0), 10, "the outage noticed")
            assert await proxy.readyz() == 200
            victim = (await proxy.worker_pids())[0]
            os.kill(victim, signal.SIGKILL)
            await eventually(lambda: _replaced(proxy, victim), 10, "the replacement")
            assert await fetch(proxy, "/svc/users/") == 200
            await etcd.start()
            await eventually(lambda: _registry_up(proxy, 1.0), 20, "etcd back")
            async with EtcdClient(etcd.url) as registry:
                await registry.put("/services/users/b", record(instance))
            expected = {"a": "ready", "b": "ready"}
            await eventually(lambda: shows(proxy, "users", expected), 10, "the next change")


async def _registry_up(proxy: RunningProxy, value: float) -> bool:
    return await metric(proxy, "fairlead_registry_up") == value


async def _replaced(proxy: RunningProxy, victim: int) -> bool:
    return victim not in await proxy.worker_pids() and await proxy.readyz() == 200


async def test_a_registry_that_comes_later_makes_it_ready(instance: int, tmp_path: Path) -> None:
    etcd = EtcdServer(tmp_path)
    proxy = RunningProxy(config(etcd, workers=1), tmp_path)
    proxy.launch()
    try:
        await eventually(lambda: _readiness(proxy, 503), 15, "the admin server")
        await etcd.start()
        async with EtcdClient(etcd.url) as registry:
            await registry.put("/services/users/a", record(instance))
        await eventually(lambda: _readiness(proxy, 200), 20, "ready")
        await eventually(lambda: answers(proxy, "/svc/users/", 200), 5, "an answer")
        assert await proxy.stop() == 0
    finally:
        await proxy.kill()
        await etcd.kill()


async def _readiness(proxy: RunningProxy, status: int) -> bool:
    return await proxy.readyz() == status
