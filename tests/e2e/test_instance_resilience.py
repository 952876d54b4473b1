"""Instances that fail, recover and are drained: the real proxy, the real command."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy.control.ejections import Refusal
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.running import RunningProxy
from tests.e2e.test_cli import fairlead
from tests.e2e.traffic import Fleet, Traffic
from tests.support.processes import eventually

pytestmark = pytest.mark.drill


class Instance:
    """One that answers with its name, with whatever status the test wants."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = 200
        self.health = 200
        self.checks = 0
        application = web.Application()
        application.router.add_get("/health", self._check)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self.runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        self.port = 0

    async def start(self) -> None:
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def _check(self, request: web.Request) -> web.Response:
        self.checks += 1
        return web.Response(status=self.health)

    async def _answer(self, request: web.Request) -> web.Response:
        return web.Response(status=self.status, text=self.name)


@pytest.fixture
async def instances() -> AsyncIterator[list[Instance]]:
    made = [Instance(name) for name in "abcd"]
    for one in made:
        await one.start()
    yield made
    for one in made:
        await one.runner.cleanup()


def config(instances: list[Instance], **service: Any) -> dict[str, Any]:
    listed = [{"id": one.name, "address": "127.0.0.1", "port": one.port} for one in instances]
    return {
        "services": {"users": {"instances": listed, **service}},
        "routes": [{"service": "users"}],
    }


async def rows(proxy: RunningProxy) -> dict[str, dict[str, Any]]:
    status, body = await proxy.get("/api/v1/services/users")
    assert status == 200
    return {row["id"]: row for row in body["instances"]}


async def is_now(proxy: RunningProxy, id_: str, status: str) -> bool:
    return str((await rows(proxy))[id_]["status"]) == status


class Events:
    """Listens to /api/v1/events."""

    def __init__(self, proxy: RunningProxy) -> None:
        self._proxy = proxy
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.connected = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Events:
        self._task = asyncio.create_task(self._listen())
        await eventually(lambda: self.connected, 5, "the stream of events")
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.seen]

    async def _listen(self) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(self._proxy.admin + "/api/v1/events") as answer,
        ):
            assert answer.content_type == "text/event-stream"
            kind = ""
            async for line in answer.content:
                self.connected = True
                if line.startswith(b"event: "):
                    kind = line[7:].decode().strip()
                elif line.startswith(b"data: "):
                    self.seen.append((kind, json.loads(line[6:])))


async def ask_until(proxy: RunningProxy, done: Any, what: str) -> None:
    """Keep asking until the condition holds."""
    async with aiohttp.ClientSession() as session:

        async def one() -> bool:
            async with session.get(proxy.url + "/") as answer:
                await answer.read()
            return bool(await done())

        await eventually(one, 10, what)


async def test_an_instance_that_is_gone_is_left_alone_until_it_is_back(
    instances: list[Instance], tmp_path: Path
) -> None:
    gone = instances[0]
    async with RunningProxy(config(instances), tmp_path) as proxy:
        await gone.runner.cleanup()

        async def noticed() -> bool:
            return (await rows(proxy))["a"]["unreachable_from"] == 1

        await ask_until(proxy, noticed, "a connection that failed")
        requests = (await rows(proxy))["a"]["requests"]
        async with aiohttp.ClientSession() as session:
            for _ in range(40):
                async with session.get(proxy.url + "/") as answer:
                    assert (answer.status, await answer.text()) in [
                        (200, "b"),
                        (200, "c"),
                        (200, "d"),
                    ]
        _, text = await proxy.get("/metrics")
        assert 'fairlead_unreachable{service="users",upstream="a"} 1' in text
        back = Instance("a")
        await back.runner.setup()
        await web.TCPSite(back.runner, "127.0.0.1", gone.port).start()
        try:
            # Without a request: it is the worker that looks.
            await eventually(
                lambda: "instance_reachable" in proxy.log(),
                10,
                "a connection to the one that is back",
            )
            row = await eventually(
                lambda: served_again(proxy, requests), 10, "a request to the one that is back"
            )
            assert row["failures"] == 1
        finally:
            await back.runner.cleanup()


async def served_again(proxy: RunningProxy, requests: int) -> dict[str, Any] | None:
    """The row of `a` once it got more requests, of which there is one at each look."""
    async with aiohttp.ClientSession() as session, session.get(proxy.url + "/") as answer:
        await answer.read()
    row = (await rows(proxy))["a"]
    return row if row["requests"] > requests and not row["unreachable_from"] else None


async def test_an_instance_that_fails_is_ejected_and_comes_back(
    instances: list[Instance], tmp_path: Path
) -> None:
    sick = instances[0]
    settings = config(instances, ejection={"base": "1s"})
    async with RunningProxy(settings, tmp_path) as proxy, Events(proxy) as events:
        sick.status = 503
        await ask_until(proxy, lambda: is_now(proxy, "a", "ejected"), "the ejection")
        assert 0 <= (await rows(proxy))["a"]["back_in"] <= 1
        _, text = await proxy.get("/metrics")
        assert 'fairlead_ejections_total{service="users",upstream="a"} 1' in text
        sick.status = 200
        await eventually(lambda: is_now(proxy, "a", "ready"), 3, "its return")
        await eventually(lambda: "reinstated" in events.kinds(), 2, "the event")
        assert events.kinds()[:2] == ["ejected", "pools"]
        _, ejected = events.seen[0]
        assert (ejected["service"], ejected["instance"], ejected["failures"]) == ("users", "a", 5)


async def test_a_breaker_that_opens_is_seen_and_closes_again(
    instances: list[Instance], tmp_path: Path
) -> None:
    breaker = {"failure_ratio": 0.5, "min_requests": 5, "window": "30s", "open": "300ms"}
    settings = config(instances[:1], ejection=False, retry=False, circuit_breaker=breaker)

    async def limits(proxy: RunningProxy) -> dict[str, Any]:
        _, body = await proxy.get("/api/v1/services/users")
        found: dict[str, Any] = body["limits"]
        return found

    async with RunningProxy(settings, tmp_path) as proxy, Events(proxy) as events:
        assert (await limits(proxy))["breaker"] == {"closed": 1}
        instances[0].status = 503

        async def refused() -> bool:
            return bool((await limits(proxy))["refused"].get("circuit_breaker"))

        await ask_until(proxy, refused, "a request that the breaker refused")
        assert (await limits(proxy))["breaker_opened"] >= 1
        _, text = await proxy.get("/metrics")
        assert 'fairlead_limited_total{service="users",limit="circuit_breaker"}' in text
        assert 'fairlead_breaker_open{service="users"} 1' in text
        instances[0].status = 200

        async def closed() -> bool:
            return bool((await limits(proxy))["breaker"] == {"closed": 1})

        await ask_until(proxy, closed, "the breaker closed again")
        await eventually(lambda: events.kinds()[-1:] == ["breaker_closed"], 2, "the event")
        assert events.seen[0] == (
            "breaker_opened",
            {"time": events.seen[0][1]["time"], "service": "users", "worker": 0},
        )
        await proxy.logs("breaker_turned")


async def test_the_last_that_is_ready_is_never_ejected(
    instances: list[Instance], tmp_path: Path
) -> None:
    for one in instances[:2]:
        one.status = 503
    async with RunningProxy(config(instances[:2]), tmp_path) as proxy, Events(proxy) as events:
        await ask_until(
            proxy, lambda: _logged(proxy, "instance_not_ejected"), "a suspect that stays"
        )
        await eventually(lambda: "not_ejected" in events.kinds(), 2, "the event")
        [because] = {told["because"] for kind, told in events.seen if kind == "not_ejected"}
        assert because == Refusal.LAST.value
        _, text = await proxy.get("/metrics")
        assert 'fairlead_ejections_refused_total{service="users",rule="last_ready"}' in text
        assert sorted(row["status"] for row in (await rows(proxy)).values()) == ["ejected", "ready"]


async def _logged(proxy: RunningProxy, event: str) -> bool:
    return event in proxy.log()


async def test_an_instance_that_fails_its_checks_gets_nothing_until_it_passes(
    instances: list[Instance], tmp_path: Path
) -> None:
    check = {"interval": "100ms", "timeout": "1s", "fall": 2, "rise": 2}
    async with RunningProxy(config(instances, health_check=check), tmp_path) as proxy:
        await eventually(lambda: all(one.checks > 1 for one in instances), 5, "checks of all")
        instances[1].health = 500
        await eventually(lambda: is_now(proxy, "b", "unhealthy"), 5, "unhealthy")
        assert "HTTP 500" in (await rows(proxy))["b"]["reason"]
        assert await is_now(proxy, "a", "ready")
        _, text = await proxy.get("/metrics")
        assert 'health_checks_total{service_name="users",status="failed"}' in text
        instances[1].health = 204
        await eventually(lambda: is_now(proxy, "b", "ready"), 5, "ready again")


async def test_a_passed_check_ends_an_ejection(instances: list[Instance], tmp_path: Path) -> None:
    sick = instances[0]
    settings = config(
        instances,
        ejection={"base": "60s"},
        health_check={"interval": "300ms", "fall": 100},
    )
    async with RunningProxy(settings, tmp_path) as proxy, Events(proxy) as events:
        sick.health = sick.status = 503
        await ask_until(proxy, lambda: is_now(proxy, "a", "ejected"), "the ejection")
        sick.health = sick.status = 200
        await eventually(lambda: is_now(proxy, "a", "ready"), 5, "its return")
        await eventually(lambda: "reinstated" in events.kinds(), 2, "the event")
        [why] = [fields["because"] for kind, fields in events.seen if kind == "reinstated"]
        assert "check" in why


async def test_a_fallback_is_seen_while_it_serves(
    instances: list[Instance], tmp_path: Path
) -> None:
    last_resort = {"id": "z", "address": "127.0.0.1", "port": instances[0].port}
    async with Fleet() as fleet, EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        await fleet.add("a")
        await client.put_all(fleet.records("users", "a"))
        settings = {
            "registry": {"type": "etcd", "endpoints": [etcd.url]},
            "services": {"users": {"fallback_instances": [last_resort]}},
            "routes": [{"service": "users"}],
        }
        async with RunningProxy(settings, tmp_path) as proxy, Events(proxy) as events:
            await client.delete("/services/users/a")
            await eventually(lambda: "fallback_began" in events.kinds(), 5, "its begin")
            _, text = await proxy.get("/metrics")
            assert 'fairlead_fallback{service="users"} 1' in text
            await client.put("/services/users/a", fleet.record("a"))
            await eventually(lambda: "fallback_ended" in events.kinds(), 5, "its end")
            _, text = await proxy.get("/metrics")
            assert 'fairlead_fallback{service="users"} 0' in text
            # That it was there in case, before the registry answered, was no news.
            told = [kind for kind in events.kinds() if kind.startswith("fallback")]
            assert told == ["fallback_began", "fallback_ended"]
            await proxy.logs('"fallback_began"')
            assert proxy.log().count('"fallback_began"') == 1


async def test_an_exec_check(instances: list[Instance], tmp_path: Path) -> None:
    flag = tmp_path / "up"
    flag.touch()
    check = {
        "type": "exec",
        "command": f"test -e {flag}",
        "interval": "200ms",
        "fall": 1,
        "rise": 1,
    }
    async with RunningProxy(config(instances[:1], health_check=check), tmp_path) as proxy:
        flag.unlink()
        await eventually(lambda: is_now(proxy, "a", "unhealthy"), 10, "unhealthy")
        assert "exit 1" in (await rows(proxy))["a"]["reason"]


async def test_a_drain_by_the_operator_survives_workers_and_updates(tmp_path: Path) -> None:
    async with Fleet() as fleet, EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        await fleet.add("a", "b", "c")
        await client.put_all(fleet.records("users", "abc"))
        settings = {
            "registry": {"type": "etcd", "endpoints": [etcd.url]},
            "routes": [{"service": "users"}],
            "workers": 2,
        }
        async with RunningProxy(settings, tmp_path) as proxy:

            async def command(*what: str) -> tuple[int, str, str]:
                return await fairlead(*what, "--admin", proxy.admin, cwd=tmp_path)

            async def updated() -> bool:
                return (await rows(proxy)).get("b", {}).get("version") == "3"

            async with Traffic(proxy.port, "/") as traffic:
                assert await command("drain", "users/b") == (0, "users/b: drained\n", "")
                await traffic.loses("b", since=traffic.samples[-1].ended)
                assert await is_now(proxy, "b", "draining")
                # The registry says something new about it, and forgets it for a moment.
                await client.put("/services/users/b", fleet.record("b", version="2"))
                await client.delete("/services/users/b")
                await client.put("/services/users/b", fleet.record("b", version="3"))
                await eventually(updated, 5, "the update")
                assert await is_now(proxy, "b", "draining")
                assert not traffic.failed
                victim = (await proxy.worker_pids())[0]
                os.kill(victim, signal.SIGKILL)

                async def replaced() -> bool:
                    return victim not in await proxy.worker_pids() and await proxy.readyz() == 200

                await eventually(replaced, 15, "the replacement")
                # In the new worker it is out as well: that is checked over all traffic.
                began = traffic.samples[-1].ended
                await traffic.until(
                    lambda: len({sample.worker for sample in traffic.since(began)}) == 2,
                    "answers through the new worker",
                )
            assert await command("undrain", "users/b") == (0, "users/b: undrained\n", "")
            assert await command("weight", "users/b", "3") == (0, "users/b: weight 3\n", "")
            code, _, error = await command("weight", "users/none", "3")
            assert (code, "no instance" in error) == (1, True)
            assert await is_now(proxy, "b", "ready")
            code, _, errors = await command("drain", "users/nobody")
            assert code == 1
            assert "404" in errors
            assert "nobody" in errors
            assert (await command("drain", "users"))[0] == 2
