"""Filters whose hooks hold the loop of their worker: their own request fails, and no other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from proxy.embed import Proxy
from proxy.filters.watch import INSISTS
from tests.e2e.blocking import WAYS
from tests.e2e.origin import Origin
from tests.e2e.raw_http import Answer, ask
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOOKS = ("request", "request content", "step", "response", "response content", "end")
MOVABLE = ("request", "response", "end")
WAITING = ("sleep", "receive", "insist")
BLOCK = [("X-Block", "1")]


def configured(one: Origin, ways: Sequence[str]) -> dict[str, Any]:
    """A route for each hook and way to block, one for each filter that says so, and one without."""

    def route(path: str, **settings: Any) -> dict[str, Any]:
        filters = [{"tests.e2e.blocking:Blocking": settings}]
        return {"path_prefix": path, "service": "s", "filters": filters}

    return {
        "services": {"s": {"instances": [one.instance]}},
        "routes": [
            *(route(path_of(hook, way), hook=hook, way=way) for hook in HOOKS for way in ways),
            *(route(f"/threads/{hook}", hook=hook, way="sleep", threads=True) for hook in MOVABLE),
            {"path_prefix": "/", "service": "s"},
        ],
    }


def path_of(hook: str, way: str) -> str:
    return f"/{hook.replace(' ', '-')}/{way}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningProxy]:
    directory: Path = tmp_path_factory.mktemp("blocking")
    async with Origin("one") as one, RunningProxy(configured(one, [*WAYS]), directory) as proxy:
        yield proxy


async def blocks(port: int, path: str) -> Answer:
    """A request whose filter blocks."""
    return await ask(port, "POST", path, BLOCK, b"body")


async def others(port: int, path: str) -> None:
    """Requests of the same worker, and of the same filter, that nothing blocks."""
    for one in ("/", path):
        assert (await ask(port, "POST", one, [], b"body")).status == 200


def said(proxy: RunningProxy, path: str) -> list[dict[str, Any]]:
    """Lines of the log about hooks of this route that blocked."""
    [position] = [at for at, one in enumerate(proxy.config["routes"]) if one["path_prefix"] == path]
    lines = [json.loads(line) for line in proxy.log().splitlines() if line.startswith("{")]
    name = f"routes.{position}.filters.0"
    return [one for one in lines if one["event"] == "filter_blocked" and one["filter"] == name]


def failed_for_it(hook: str, answer: Answer) -> bool:
    return answer.status == 200 if hook == "end" else b'"filter_timeout"' in answer.body


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("hook", HOOKS)
async def test_a_hook_that_blocks_fails_its_own_request_alone(
    proxy: RunningProxy, hook: str, way: str
) -> None:
    [worker] = await proxy.worker_pids()
    path = path_of(hook, way)
    for _ in range(3):
        blocked = asyncio.create_task(blocks(proxy.port, path))
        await others(proxy.port, path)
        assert failed_for_it(hook, await blocked)
        await others(proxy.port, path)
    assert await proxy.worker_pids() == [worker]
    moves = hook in MOVABLE and way in WAITING
    # The log has a thread of its own, which may be late.
    lines = await eventually(lambda: said(proxy, path), 10, "a line of the log")
    assert lines[0]["from_now_on"] == ("threads" if moves else "interrupted after 0.05 s")
    assert lines[0]["waited"] == (way in WAITING)
    assert "blocking.py:" in lines[0]["at"]
    count = 1 if moves else 3
    await eventually(lambda: len(said(proxy, path)) >= count, 10, "the other lines")
    assert len(said(proxy, path)) == count


@pytest.mark.parametrize("hook", MOVABLE)
async def test_a_filter_that_says_so_is_called_in_threads(proxy: RunningProxy, hook: str) -> None:
    path = f"/threads/{hook}"
    blocked = [asyncio.create_task(blocks(proxy.port, path)) for _ in range(5)]
    await others(proxy.port, path)
    for answer in await asyncio.gather(*blocked):
        assert failed_for_it(hook, answer)
    assert said(proxy, path) == []


@pytest.mark.parametrize("way", ["compute", "swallow"] if INSISTS else ["compute"])
@pytest.mark.parametrize("hook", HOOKS)
async def test_in_a_program_of_somebody_else_a_hook_that_computes_is_interrupted(
    hook: str, way: str
) -> None:
    listeners = [{"name": "web", "bind": "127.0.0.1:0"}]
    async with (
        Origin("one") as one,
        Proxy({**configured(one, [way]), "listeners": listeners}) as proxy,
    ):
        port = int(proxy.addresses["web"].rpartition(":")[2])
        path = path_of(hook, way)
        for _ in range(2):
            blocked = asyncio.create_task(blocks(port, path))
            await others(port, path)
            assert failed_for_it(hook, await blocked)
