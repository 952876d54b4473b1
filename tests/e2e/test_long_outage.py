"""The registry is away for a minute while every instance is restarted where it was."""

from __future__ import annotations

import asyncio
import re
import signal
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.redeploying import CountingLoad, Instances
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

OUTAGE = 60.0
NAMES = ("a", "b", "c", "d")


class Watcher:
    """Owns a look each second at what the proxy says of itself."""

    def __init__(self, proxy: RunningProxy) -> None:
        self.ready: list[int | None] = []
        self.ages: list[tuple[float, float]] = []
        """(when, age of the last contact as exported)"""
        self._proxy = proxy
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            self.ready.append(await self._proxy.readyz())
            _, metrics = await self._proxy.get("/metrics")
            found = re.search(r"^fairlead_registry_age_seconds (\S+)$", metrics, re.MULTILINE)
            assert found is not None
            self.ages.append((monotonic(), float(found[1])))
            await asyncio.sleep(1)

    async def end(self) -> None:
        if not self._task.done():
            self._task.cancel()
        (failed,) = await asyncio.gather(self._task, return_exceptions=True)
        if not isinstance(failed, asyncio.CancelledError):
            raise failed


async def shown(proxy: RunningProxy) -> dict[str, tuple[int, str]]:
    """Id → port and status of each instance in the pool."""
    status, body = await proxy.get("/api/v1/services/users")
    assert status == 200
    return {row["id"]: (row["port"], row["status"]) for row in body["instances"]}


@pytest.mark.drill
@pytest.mark.timeout(240)
async def test_a_minute_without_etcd_during_a_rolling_redeploy(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        # Nobody can say "draining" while the registry is away: connections end in mid-request.
        "defaults": {"retry": {"on": ["connect", "reset"]}},
        "routes": [{"service": "users"}],
        "workers": 2,
    }
    ports = {name: free_port() for name in NAMES}
    async with EtcdServer() as etcd:
        config["registry"] = {"type": "etcd", "endpoints": [etcd.url]}
        instances = Instances(etcd.url, ttl=2)
        try:
            await asyncio.gather(*(instances.start(name, ports[name]) for name in NAMES))
            async with RunningProxy(config, tmp_path) as proxy:

                async def are(*names: str) -> bool:
                    return await shown(proxy) == {name: (ports[name], "ready") for name in names}

                await eventually(lambda: are(*NAMES), 10, "all of them")
                async with CountingLoad(proxy.port, clients=8, pace=0.1) as load:
                    await eventually(lambda: len(load.answers) == 4, 10, "answers of all")
                    watcher = Watcher(proxy)
                    try:
                        await etcd.kill()
                        began = monotonic()
                        rounds = await redeploy(instances, ports, load, until=began + OUTAGE)
                        # Gone for good, and new: the view is to follow once etcd is back.
                        await instances.stop("d", signal.SIGKILL)
                        ports["late"] = free_port()  # A minute ago it might have been another's.
                        await instances.start("late", ports["late"])
                        away = monotonic() - began
                        age = watcher.ages[-1][1]
                        assert set(await shown(proxy)) == set(NAMES)
                        await etcd.start()
                        await eventually(lambda: are("a", "b", "c", "late"), 20, "the new view")
                        await eventually(lambda: load.answers["late"] > 0, 10, "traffic to it")
                    finally:
                        await watcher.end()
                async with EtcdClient(etcd.url) as client:
                    keys = await client.get_all("/services/users/")
                assert set(keys) == {f"/services/users/{name}" for name in await shown(proxy)}
                _, document = await proxy.get("/api/v1/registry")
        finally:
            await instances.close()
    assert load.failures == []
    assert rounds >= 1
    assert load.total > 20 * OUTAGE
    assert away >= OUTAGE
    assert set(watcher.ready) == {200}
    # It grew with the clock, and is small again.
    assert age > OUTAGE - 3
    during = [(at, age) for at, age in watcher.ages if began + 2 < at < began + OUTAGE]
    assert len(during) > OUTAGE / 3
    for (at, age), (later, older) in pairwise(during):
        assert older - age == pytest.approx(later - at, abs=0.5)
    assert document["connected"]
    assert document["age"] < 10
    assert document["differences"] == 0


async def redeploy(
    instances: Instances, ports: dict[str, int], load: CountingLoad, *, until: float
) -> int:
    """One after the other is stopped and started again on its port. Rounds that were made."""
    rounds = 0
    while monotonic() < until:
        for name in NAMES:
            await instances.stop(name, signal.SIGTERM)
            before = load.answers[name]
            await instances.start(name, ports[name])
            # Out of use for as long as an ejection takes at most, if it failed often enough.
            await load.shows(name, more_than=before, within=25)
        rounds += 1
    return rounds
