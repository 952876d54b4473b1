"""Calls over HTTP/2 on both sides, while the proxy and the instances change under them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.changing import command
from tests.e2e.h2_origin import H2Origin
from tests.e2e.programs import NODE, need
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually

STREAMS = 32
"""At a time on each of four connections."""


def config(directory: Path, **service: Any) -> dict[str, Any]:
    """Instances are those of a file."""
    return {
        "workers": 2,
        "registry": {"type": "file", "path": str(directory / "instances.json")},
        "routes": [{"path_prefix": "/", "service": "s"}],
        "services": {"s": {"protocol": "h2c", "ejection": False, **service}},
    }


def register(directory: Path, *origins: H2Origin) -> None:
    records = [{**one.instance, "id": str(one.port)} for one in origins]
    new = directory / "new"
    new.write_text(json.dumps({"s": records}))
    new.rename(directory / "instances.json")


@asynccontextmanager
async def crowd(proxy: RunningProxy) -> AsyncIterator[None]:
    """Clients that ask until the block is over; whatever fails is an error then."""
    asking = await asyncio.create_subprocess_exec(
        *(need("node"), str(NODE / "h2_crowd.mjs"), proxy.url + "/page", str(STREAMS)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield
        out, _ = await asyncio.wait_for(asking.communicate(b""), 30)
    finally:
        if asking.returncode is None:
            asking.kill()
            await asking.wait()
    found = json.loads(out)
    assert found["failures"] == []
    assert found["answers"] > 1000


async def answer(*origins: H2Origin, more: int = 300) -> None:
    """Each of these goes on answering."""
    before = [one.answered for one in origins]

    def done() -> bool:
        return all(one.answered >= was + more for one, was in zip(origins, before, strict=True))

    await eventually(done, 30, lambda: [one.answered for one in origins])


@pytest.mark.drill
@pytest.mark.parametrize("change", ["restart-workers", "reload", "upgrade"])
async def test_a_change_of_the_proxy_costs_no_call(change: str, tmp_path: Path) -> None:
    async with H2Origin("page") as a, H2Origin("page") as b:
        register(tmp_path, a, b)
        async with RunningProxy(config(tmp_path), tmp_path) as proxy, crowd(proxy):
            await answer(a, b)
            for retries in (2, 1):
                changed = {**proxy.config, **config(tmp_path, retry={"max_retries": retries})}
                proxy.file.write_text(json.dumps(changed))
                code, said = await command(proxy, change)
                assert code == 0, said
                await answer(a, b)


@pytest.mark.drill
async def test_a_rolling_redeploy_costs_no_call(tmp_path: Path) -> None:
    """Each instance is registered, takes calls, is deregistered, lets finish and goes."""
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(H2Origin("page")) for _ in range(3)]
        register(tmp_path, *running)
        async with RunningProxy(config(tmp_path), tmp_path) as proxy, crowd(proxy):
            await answer(*running)
            for _ in range(4):
                new = await stack.enter_async_context(H2Origin("page"))
                old, *running = [*running, new]
                register(tmp_path, *running)
                await answer(new)
                await eventually(lambda old=old: old.in_flight == 0, 10, "it is left alone")
                old.leave()
                old.die()
            await answer(*running)


async def test_least_connections_are_exact_over_streams(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        origins = [
            await stack.enter_async_context(H2Origin(name, delay=1.0, streams=4)) for name in "abc"
        ]
        register(tmp_path, *origins)
        balancer = {"balancer": "least_connections"}
        async with RunningProxy(config(tmp_path, **balancer), tmp_path) as proxy:
            limits = httpx.Limits(max_connections=1)
            async with httpx.AsyncClient(http1=False, http2=True, limits=limits) as client:
                url = proxy.url + "/x"
                asked = [asyncio.create_task(client.get(url)) for _ in range(30)]
                await eventually(lambda: sum(one.in_flight for one in origins) == 30, 10)
                assert [one.in_flight for one in origins] == [10, 10, 10]
                answers = await asyncio.gather(*asked)
            assert {one.status_code for one in answers} == {200}
