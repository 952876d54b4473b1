"""A rate limit over two proxies."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.etcd_server import EtcdServer
from tests.e2e.origin import origins
from tests.e2e.reloading import name
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually

pytestmark = pytest.mark.timeout(120)


async def test_two_proxies_let_a_client_through_as_often_as_one_may(tmp_path: Path) -> None:
    async with (
        origins("one", script=name) as (one,),
        EtcdServer() as etcd,
        AsyncExitStack() as stack,
        aiohttp.ClientSession() as session,
    ):
        limit = {"requests": 40, "per": "1h", "key": "header:X-Customer", "scope": "fleet"}

        def config(id_: str) -> dict[str, Any]:
            return {
                "registry": {"type": "etcd", "endpoints": [etcd.url]},
                "fleet": {"id": id_},
                "services": {"users": {"instances": [one.instance], "rate_limit": limit}},
                "routes": [{"path_prefix": "/", "service": "users"}],
            }

        proxies = [
            await stack.enter_async_context(RunningProxy(config(id_), tmp_path))
            for id_ in ("a", "b")
        ]

        async def have_halves() -> bool:
            pages = [(await proxy.get("/metrics"))[1] for proxy in proxies]
            return all("fairlead_fleet_share 0.5" in page for page in pages)

        await eventually(have_halves, 60, "shares of a half")
        for proxy in proxies:
            statuses = []
            for _ in range(30):
                async with session.get(proxy.url, headers={"X-Customer": "ann"}) as answer:
                    statuses.append(answer.status)
            assert statuses.count(200) == 20
            assert statuses.count(429) == 10
        found = (await proxies[0].get("/api/v1/fleet"))[1]
        assert found["share"] == 0.5
        assert [row["id"] for row in found["proxies"]] == ["a", "b"]
        assert found["ejected_by_most"] == []
