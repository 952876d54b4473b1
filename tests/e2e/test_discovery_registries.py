"""The library over each type of registry, with the keys that this has in `proxy.yaml`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from proxy.discovery import Discovery, DiscoverySession
from tests.e2e.drilled import DRILLED, SERVICE, Drilled, id_of
from tests.support.processes import eventually


def keys_of(registry: Drilled) -> dict[str, Any]:
    """What a user writes."""
    options = msgspec.to_builtins(registry.options())
    given = {key: value for key, value in options.items() if value not in (None, "", (), [], {})}
    told = {key: given[key] for key in given.keys() & {"endpoints", "token", "prefix", "namespace"}}
    return {"type": registry.type, **told, **({"interval": "200ms"} if registry.asked else {})}


@pytest.fixture(params=sorted(DRILLED))
async def registry(request: pytest.FixtureRequest) -> AsyncIterator[Drilled]:
    if DRILLED[request.param].missing:
        pytest.skip(f"there is no {DRILLED[request.param].missing} on this machine")
    async with DRILLED[request.param]() as registry:
        await registry.register("a", "b")
        yield registry


async def test_each_type_of_registry_tells_who_comes_and_goes(registry: Drilled) -> None:
    async with Discovery(keys_of(registry)) as discovery:

        async def has(*ids: str) -> None:
            await eventually(
                lambda: sorted(map(id_of, discovery.instances(SERVICE))) == list(ids), 15.0
            )

        await discovery.wait_ready(10)
        await has("a", "b")
        await registry.register("c")
        await has("a", "b", "c")
        await registry.deregister("a")
        await has("b", "c")
        await registry.kill()
        await eventually(lambda: not discovery.status().connected, 15.0)
        await has("b", "c")


async def test_a_session_balances_over_a_file(tmp_path: Path) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="here")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    (tmp_path / "instances.json").write_text(json.dumps({"users": [f"127.0.0.1:{port}"]}))
    keys = {"type": "file", "path": str(tmp_path / "instances.json")}
    async with Discovery(keys) as discovery, asyncio.timeout(10):
        await discovery.wait_ready(10)
        async with DiscoverySession(discovery) as session, session.get("http://users/") as got:
            assert await got.text() == "here"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"type": "consol"}, 'registry.type: "consol" is not a registry type .did you mean'),
        ({"type": "consul"}, "registry.endpoints: is missing"),
        ({"type": "eureka", "endpoints": ["http://a"], "intervall": 1}, 'mean "interval"'),
        ({"type": "nacos", "endpoints": ["http://a"], "interval": "3"}, "has no unit"),
    ],
)
def test_keys_that_will_not_do_are_told_as_for_a_file(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Discovery(keys)
