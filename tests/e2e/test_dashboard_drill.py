"""A slow, a failing and a flapping instance and a dead registry, told apart by what the dashboard
shows and nothing else (docs/dashboard.md)."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tests.e2e.browser import CHROMIUM, Browser
from tests.e2e.running import RunningProxy
from tests.e2e.test_dashboard import narrow, save, shows
from tests.support.processes import free_port

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

NAMES = ("good", "slow", "failing", "flapping")
MINUTES = float(os.environ.get("FAIRLEAD_DRILL_MINUTES", "0"))
"""How long the drill by hand is looked at: `FAIRLEAD_DRILL_MINUTES=5 pytest -s` and this file."""
LOOK = 2.0
"""Seconds between two looks of somebody who watches."""
FLAP = 5.0
"""Seconds for which the flapping instance is well, then ill, in the drill by hand."""
SLOW = 0.4
"""Seconds that the slow one takes."""
CELL = """
[...document.querySelectorAll('#content tbody tr')]
  .find((row) => row.cells[0].innerText === {name!r})?.cells[
    [...document.querySelectorAll('#content thead th')]
      .findIndex((head) => head.innerText.startsWith({column!r}))].innerText
"""


def cell(name: str, column: str) -> str:
    return CELL.format(name=name, column=column).strip()


ROWS = """
[...document.querySelectorAll('#content tbody tr')].map((row) => Object.fromEntries(
  [...document.querySelectorAll('#content thead th')].map(
    (head, at) => [head.innerText, row.cells[at].innerText])))
"""


def looks(name: str, columns: dict[str, str]) -> str:
    """Whether the row of an instance has these texts."""
    return " && ".join(f"{cell(name, one)}.includes({text!r})" for one, text in columns.items())


class Instances:
    """Owns four instances, of which each has its own ailment."""

    def __init__(self) -> None:
        self.well = True
        """What the flapping one says of itself."""
        self.ports = {name: free_port() for name in NAMES}
        self.list_port = free_port()
        """Where all of them are listed."""

    async def serve(self, stack: AsyncExitStack) -> None:
        """Start them, until the stack is closed."""
        for name, port in {**self.ports, "": self.list_port}.items():
            app = web.Application()
            app.router.add_get("/health", partial(self._health, name))
            app.router.add_get("/instances", self._list)
            app.router.add_get("/{path:.*}", partial(self._answer, name))
            runner = web.AppRunner(app)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", port).start()

    async def _list(self, _: web.Request) -> web.Response:
        records = [
            {"id": name, "address": "127.0.0.1", "port": port} for name, port in self.ports.items()
        ]
        return web.json_response({"users": records})

    async def _health(self, name: str, _: web.Request) -> web.Response:
        well = self.well or name != "flapping"
        return web.Response(status=200 if well else 503)

    async def _answer(self, name: str, _: web.Request) -> web.Response:
        match name:
            case "slow":
                await asyncio.sleep(SLOW)
            case "failing":
                return web.Response(status=503)
        return web.Response(text="hi")


@pytest_asyncio.fixture
async def instances() -> AsyncIterator[Instances]:
    async with AsyncExitStack() as stack:
        all_ = Instances()
        await all_.serve(stack)
        yield all_


@pytest_asyncio.fixture
async def proxy(instances: Instances, tmp_path: Path) -> AsyncIterator[RunningProxy]:
    admin = free_port()
    config: dict[str, Any] = {
        "admin": {"bind": f"127.0.0.1:{admin}"},
        "registry": {
            "type": "etcd",
            "endpoints": [f"http://127.0.0.1:{free_port()}"],  # Where nobody listens.
            "check_interval": "500ms",
            "backups": [
                {"type": "http", "endpoints": [f"http://127.0.0.1:{instances.list_port}/instances"]}
            ],
        },
        "services": {
            "users": {
                "balancer": "round_robin",
                "retry": {"max_retries": 0},
                "ejection": {"consecutive_failures": 3, "base": "1m"},
                "health_check": {
                    "type": "http", "path": "/health", "interval": "500ms", "fall": 1, "rise": 1,
                },
            }
        },
        "routes": [{"path_prefix": "/", "service": "users"}],
        "workers": 1,
    }  # fmt: skip
    running = RunningProxy(config, tmp_path)
    running.admin_port = admin
    async with running as started:
        yield started


@pytest_asyncio.fixture
async def traffic(proxy: RunningProxy) -> AsyncIterator[None]:
    async def ask(client: aiohttp.ClientSession) -> None:
        while True:
            async with client.get(proxy.url + "/x") as answer:
                await answer.read()

    async with aiohttp.ClientSession() as client:
        tasks = [asyncio.create_task(ask(client)) for _ in range(4)]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.usefixtures("traffic")
async def test_ailments_are_told_apart_by_the_dashboard_alone(
    proxy: RunningProxy, instances: Instances, tmp_path: Path
) -> None:
    async with Browser(tmp_path / "profile") as browser:
        await browser.open(proxy.admin + "/#service=users")
        # In one look: a check that it passes brings it back, until it has failed again.
        failing = {"State": "ejected", "Reason": "back in", "Failures": "503"}
        await browser.until(looks("failing", failing), "who fails is out", 30)
        slow = f"parseFloat({cell('slow', 'p50')}) > 10 * parseFloat({cell('good', 'p50')})"
        await browser.until(slow, "who is slow", 30)
        assert await browser.run(cell("slow", "State")) == "ready"
        instances.well = False
        flapping = {"State": "unhealthy", "Reason": "fails its checks"}
        await browser.until(looks("flapping", flapping), "who is ill", 30)
        await save("drill-instances", browser)
        await browser.run("location.hash = 'events'")
        await browser.until("document.querySelector('#filter')", "the events")
        await narrow(browser, "filter", "flapping")
        for well, event in ((True, "check_healthy"), (False, "check_unhealthy")) * 2:
            instances.well = well
            count = (
                f"[...document.querySelectorAll('#content tbody tr')].filter((row) =>"
                f" row.innerText.includes({event!r}) && row.innerText.includes('flapping')).length"
            )
            before = await browser.run(count)
            await browser.until(f"{count} > {before}", f"{event} once more", 30)
        await save("drill-events", browser)
        await browser.run("location.hash = 'registry'")
        await browser.until(shows("does not answer"), "the registry that is dead", 30)
        assert await browser.run(shows("in use"))
        await save("drill-registry", browser)
        assert browser.errors == []


def ailment(row: dict[str, str], good: dict[str, str]) -> str:
    """What somebody who sees a row, and that of a healthy instance, takes it for."""
    if row["State"] == "unhealthy":
        return "fails its checks"
    if "503" in row["Failures"]:
        return "fails requests"
    if milliseconds(row["p50"]) > 10 * milliseconds(good["p50"]):
        return "slow"
    return "well"


def milliseconds(text: str) -> float:
    """`p50` as the page writes it; 0 where nothing was measured."""
    number, _, unit = text.partition(" ")
    return float(number) * {"s": 1000.0}.get(unit, 1.0) if number[:1].isdigit() else 0.0


@pytest.mark.skipif(not MINUTES, reason="FAIRLEAD_DRILL_MINUTES is not set")
@pytest.mark.timeout(60 * MINUTES + 120)
@pytest.mark.usefixtures("traffic")
async def test_at_every_look_for_minutes(
    proxy: RunningProxy, instances: Instances, tmp_path: Path
) -> None:
    seen: Counter[tuple[str, str]] = Counter()
    events: set[str] = set()

    async def flap() -> None:
        while True:
            instances.well = not instances.well
            await asyncio.sleep(FLAP)

    async with Browser(tmp_path / "profile") as browser, asyncio.TaskGroup() as group:
        await browser.open(proxy.admin + "/#service=users")
        failing = {"State": "ejected", "Failures": "503"}
        await browser.until(looks("failing", failing), "who fails is out", 30)
        slow = f"parseFloat({cell('slow', 'p50')}) > 10 * parseFloat({cell('good', 'p50')})"
        await browser.until(slow, "who is slow", 30)
        flapping = group.create_task(flap())
        until = asyncio.get_running_loop().time() + 60 * MINUTES
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(LOOK)
            rows = {row["Instance"]: row for row in await browser.run(ROWS)}
            for name, row in rows.items():
                seen[name, ailment(row, rows["good"])] += 1
        await save("drill-five-minutes", browser)
        await browser.run("location.hash = 'events'")
        await browser.until(shows("check_unhealthy"), "the events")
        for row in await browser.run(ROWS):
            events.add(" ".join(row.values()))
        await narrow(browser, "filter", "flapping")
        await browser.until(
            f"{ROWS.strip()}.every((row) => row.What.includes('flapping'))", "its events"
        )
        await save("drill-five-minutes-events", browser)
        flapping.cancel()
        await browser.run("location.hash = 'registry'")
        await browser.until(shows("does not answer"), "the registry that is dead", 30)
        assert await browser.run(shows("in use"))
        assert browser.errors == []
    for (name, what), count in sorted(seen.items()):
        sys.stdout.write(f"{name:<10} {what:<18} at {count} looks\n")
    turns = Counter(
        what
        for what in ("check_healthy", "check_unhealthy")
        for event in events
        if f"{what} " in event and "flapping" in event
    )
    sys.stdout.write(f"events of the flapping one that the page shows: {dict(turns)}\n")
    assert {what for name, what in seen if name == "good"} == {"well"}
    assert {what for name, what in seen if name == "slow"} == {"slow"}
    assert {what for name, what in seen if name == "failing"} == {"fails requests"}
    assert {what for name, what in seen if name == "flapping"} == {"fails its checks", "well"}
    assert min(turns.values()) >= 2
