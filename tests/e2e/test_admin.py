"""The admin API of a real proxy, over real HTTP."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

import proxy as package
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

CONFIG: dict[str, Any] = {
    "services": {
        "users": {"balancer": {"type": "consistent_hash", "key": "header:X-User"}},
        "orders": {},
    },
    "routes": [
        {"host": "users.example.com", "service": "users"},
        {"path_prefix": "/orders", "strip_prefix": True, "service": "orders"},
        {"path_prefix": "/empty", "service": "empty"},
    ],
}


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


def config(port: int, **more: Any) -> dict[str, Any]:
    good = {"id": "one", "address": "127.0.0.1", "port": port}
    drained = {"id": "two", "address": "127.0.0.1", "port": port, "weight": 0}
    services = {
        name: {**settings, "instances": [good, drained]}
        for name, settings in CONFIG["services"].items()
    }
    return {**CONFIG, "services": services, "workers": 2, **more}


async def fetch(url: str, **options: Any) -> int:
    async with aiohttp.ClientSession() as session, session.get(url, **options) as answer:
        await answer.read()
        return answer.status


async def test_the_documents(instance: int, tmp_path: Path) -> None:
    async with RunningProxy(config(instance), tmp_path) as proxy:
        for _ in range(4):
            assert await fetch(proxy.url + "/orders/7") == 200
        assert await fetch(proxy.url + "/empty") == 503

        assert (await proxy.get("/healthz"))[0] == 200
        assert await proxy.get("/readyz") == (200, {"ready": True, "missing": []})

        status, body = await proxy.get("/api/v1/services")
        assert status == 200
        assert [row["name"] for row in body["services"]] == ["empty", "orders", "users"]

        status, body = await proxy.get("/api/v1/services/orders")
        one, two = body["instances"]
        assert (one["id"], one["status"], one["requests"], one["failures"]) == (
            "one",
            "ready",
            4,
            0,
        )
        assert (two["id"], two["status"], two["weight"]) == ("two", "draining", 0)
        assert two["reason"]

        status, body = await proxy.get("/api/v1/routes")
        assert [route["index"] for route in body["routes"]] == [0, 1, 2]

        status, body = await proxy.get("/api/v1/registry")
        assert (body["provider"], body["complete"]) == ("static", True)

        rows = await proxy.workers()
        assert [row["state"] for row in rows] == ["accepting", "accepting"]
        assert sum(row["requests"] for row in rows) == 5

        status, body = await proxy.get("/", {"Accept": "application/json"})
        assert "/api/v1/services/{service}" in body["paths"]


async def test_errors_are_problems(instance: int, tmp_path: Path) -> None:
    async with RunningProxy(config(instance), tmp_path) as proxy:
        async with aiohttp.ClientSession() as session:
            for method, path, status in (
                ("GET", "/api/v1/services/ghost", 404),
                ("GET", "/api/v1/nothing", 404),
                ("POST", "/api/v1/services", 405),
                ("GET", "/api/v1/explain", 400),
                ("GET", "/api/v1/explain?url=/&header=x", 400),
                ("GET", "/api/v1/explain?url=/a%20b", 400),
            ):
                async with session.request(method, proxy.admin + path) as answer:
                    assert answer.status == status, path
                    assert answer.content_type == "application/problem+json"
                    body = await answer.json(content_type=None)
                    assert body["status"] == status
                    assert body["title"]
        _, body = await proxy.get("/api/v1/services/ghost")
        assert "'ghost'" in body["detail"]


async def test_metrics_add_up_over_workers_and_restarts(instance: int, tmp_path: Path) -> None:
    async with RunningProxy(config(instance), tmp_path) as proxy:

        async def counted() -> float:
            status, text = await proxy.get("/metrics")
            assert status == 200
            return sum(
                sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == "fairlead_requests_total" and sample.labels["service"] == "orders"
            )

        for _ in range(10):
            # A new connection each: both workers get some.
            assert await fetch(proxy.url + "/orders/7") == 200
        assert await counted() == 10

        victim = (await proxy.worker_pids())[0]
        os.kill(victim, signal.SIGKILL)

        async def replaced() -> bool:
            pids = await proxy.worker_pids()
            return len(pids) == 2 and victim not in pids

        await eventually(replaced, 10, "the replacement")
        assert await counted() == 10
        assert await fetch(proxy.url + "/orders/7") == 200
        assert await counted() == 11


async def test_each_process_of_the_proxy_has_series_of_its_own(
    instance: int, tmp_path: Path
) -> None:
    async with RunningProxy(config(instance), tmp_path) as proxy:
        _, text = await proxy.get("/metrics")
        pids = await proxy.worker_pids()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    resident = [s for s in samples if s.name == "process_resident_memory_bytes"]
    assert {s.labels["process"] for s in resident} == {"control", "worker-0", "worker-1"}
    assert len(pids) == 2
    assert all(s.value > 2**20 for s in resident)
    (build,) = [s.labels for s in samples if s.name == "fairlead_build_info"]
    assert build["version"] == package.__version__
    assert build["compiled"] in ("true", "false")


async def test_a_token_is_asked_for_everything_but_health(instance: int, tmp_path: Path) -> None:
    port = free_port()
    admin = {"bind": f"127.0.0.1:{port}", "token": "s3cret"}
    proxy = RunningProxy(config(instance, admin=admin), tmp_path)
    proxy.admin_port = port
    async with proxy:
        assert (await proxy.get("/healthz"))[0] == 200
        assert (await proxy.get("/readyz"))[0] == 200
        assert (await proxy.get("/"))[0] == 200  # The page, which asks for it.
        assert (await proxy.get("/", {"Accept": "application/json"}))[0] == 401
        paths = ("/metrics", "/api/v1/services", "/api/v1/nothing", "/healthz/")
        for path in paths:
            assert (await proxy.get(path))[0] == 401, path
        for wrong in ("Bearer s3cre", "Basic s3cret", "s3cret", "Bearer", "Bearer ünïcode"):
            assert (await proxy.get("/metrics", {"Authorization": wrong}))[0] == 401
        for right in ("Bearer s3cret", "bearer s3cret"):
            assert (await proxy.get("/metrics", {"Authorization": right}))[0] == 200


async def test_explain(instance: int, tmp_path: Path) -> None:
    async with RunningProxy(config(instance), tmp_path) as proxy:
        status, body = await proxy.get(
            "/api/v1/explain?method=GET&url=http://users.example.com/x&header=X-User:%2042"
        )
        assert status == 200
        assert (body["service"], body["balancer"]) == ("users", "consistent_hash")
        assert body["key"]["value"] == "42"
        assert [row["id"] for row in body["candidates"]] == ["one"]
        assert [(row["id"], row["status"]) for row in body["others"]] == [("two", "draining")]
        _, body = await proxy.get("/api/v1/explain?url=/nothing")
        assert body["answer"]["status"] == 404


async def test_a_registry_that_is_down_at_the_start(instance: int, tmp_path: Path) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    registry = {"type": "etcd", "endpoints": [dead]}
    proxy = RunningProxy(config(instance, registry=registry), tmp_path)
    proxy.launch()
    try:
        await eventually(lambda: _status(proxy), 15, "the admin server")
        assert (await proxy.get("/healthz"))[0] == 200
        status, body = await proxy.get("/readyz")
        assert status == 503
        assert body["missing"]
        _, body = await proxy.get("/api/v1/registry")
        assert (body["connected"], body["complete"]) == (False, False)
        # Workers accept after a while nevertheless: clients get an answer and do not hang.
        await eventually(lambda: "registry_not_reached" in proxy.log(), 15, "the warning")
        assert await fetch(proxy.url + "/empty") == 503
        # What the file states is served without the registry.
        assert await fetch(proxy.url + "/orders/1") == 200
        await proxy.logs(dead)
        assert await proxy.stop() == 0
    finally:
        await proxy.kill()


async def _status(proxy: RunningProxy) -> int | None:
    return await proxy.readyz()
