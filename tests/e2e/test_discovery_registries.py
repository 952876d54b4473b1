"""The library over each type of registry, with the keys that this has in `proxy.yaml`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from proxy.discovery import Discovery, DiscoverySession
from tests.e2e.drilled import SERVICE, id_of
from tests.e2e.every_registry import EVERY, keys_of
from tests.support.processes import eventually


@asynccontextmanager
async def instances() -> AsyncIterator[dict[str, int]]:
    """Servers at any address of this machine that answer their names, and their ports."""
    ports: dict[str, int] = {}
    async with AsyncExitStack() as stack:
        for name in ("a", "b", "c"):

            async def answer(_: web.Request, name: str = name) -> web.Response:
                return web.Response(text=name)

            app = web.Application()
            app.router.add_get("/", answer)
            runner = web.AppRunner(app)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "0.0.0.0", 0).start()
            ports[name] = runner.addresses[0][1]
        yield ports


@pytest.mark.parametrize("type_", sorted(EVERY))
async def test_a_session_balances_over_who_comes_and_goes_in_each_type_of_registry(
    type_: str,
) -> None:
    if EVERY[type_].missing:
        pytest.skip(f"there is no {EVERY[type_].missing} on this machine")
    async with EVERY[type_]() as registry, instances() as ports:
        registry.address = "127.0.0.1"
        for name in ("a", "b"):
            await registry.register(name, port=ports[name])
        async with (
            Discovery(keys_of(registry, interval="200ms")) as discovery,
            DiscoverySession(discovery) as session,
        ):

            async def has(*names: str) -> None:
                await eventually(
                    lambda: (
                        sorted(id_of(one) for one in discovery.instances(SERVICE)) == list(names)
                    ),
                    15.0,
                )
                answered = []
                for _ in names:
                    async with session.get(f"http://{SERVICE}/") as answer:
                        answered.append(await answer.text())
                assert sorted(answered) == list(names)

            await discovery.wait_ready(10)
            await has("a", "b")
            await registry.register("c", port=ports["c"])
            await has("a", "b", "c")
            await registry.deregister("a")
            await has("b", "c")
            await registry.kill()
            await eventually(lambda: not discovery.status().connected, 15.0)
            await has("b", "c")


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
