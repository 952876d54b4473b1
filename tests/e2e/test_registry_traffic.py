"""Each type of registry, harmed in every way it can be, while clients ask the proxy that follows
it: no request fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import repeat
from pathlib import Path

import pytest

from tests.e2e.changing import CLOSE, Fresh
from tests.e2e.drilled import DRILLED, Drilled
from tests.e2e.origin import Call, Origin
from tests.e2e.raw_http import request
from tests.e2e.running import RunningProxy
from tests.e2e.test_discovery_registries import keys_of
from tests.support.processes import eventually

pytestmark = pytest.mark.drill


@pytest.fixture(params=sorted(name for name, kind in DRILLED.items() if kind.addressed))
async def registry(request: pytest.FixtureRequest) -> AsyncIterator[Drilled]:
    if DRILLED[request.param].missing:
        pytest.skip(f"there is no {DRILLED[request.param].missing} on this machine")
    async with DRILLED[request.param]() as registry:
        registry.address = "127.0.0.1"
        yield registry


async def test_a_registry_that_is_harmed_fails_no_request(
    registry: Drilled, tmp_path: Path
) -> None:
    async def answer(call: Call) -> None:
        await call.reply(b"here")

    async with Origin("here", answer) as origin:
        await registry.register("a", "b", port=origin.port)
        config = {"registry": keys_of(registry), "routes": [{"service": "users"}]}
        async with RunningProxy(config, tmp_path) as proxy:

            async def is_known(ids: set[str], connected: bool) -> bool:
                _, state = await proxy.get("/api/v1/registry")
                _, users = await proxy.get("/api/v1/services/users")
                found = {one["id"].rpartition("#")[2] for one in users.get("instances", ())}
                return state["connected"] is connected and found == ids

            async def becomes(*ids: str, connected: bool = True) -> None:
                await eventually(lambda: is_known({*ids}, connected), 30.0, proxy.log)

            await becomes("a", "b")
            asked = repeat(request("GET", "/users", CLOSE))
            clients = Fresh(proxy.port, asked, clients=2, pace=0.005)
            clients.failures = []
            async with clients:
                await registry.kill()
                await becomes("a", "b", connected=False)
                await registry.start()
                await becomes("a", "b")
                if registry.rights:
                    await registry.take_rights()
                    await becomes("a", "b", connected=False)
                    await registry.give_rights()
                    await becomes("a", "b")
                for lie in registry.lies:
                    await registry.lie(lie)
                    seen = clients.answers + 200
                    await eventually(lambda seen=seen: clients.answers > seen, 20.0)  # type: ignore[misc]
                    await registry.lie("")
                    await registry.register("a", "b", port=origin.port)
                    await becomes("a", "b")
                await registry.register("c", port=origin.port)
                await becomes("a", "b", "c")
                await registry.deregister("a")
                await becomes("b", "c")
                await registry.kill()
                registry.wipe()
                await becomes("b", "c", connected=False)
                await registry.start()
                await registry.register("b", port=origin.port)
                await becomes("b", "c")
            assert clients.failures == []
