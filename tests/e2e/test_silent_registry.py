"""A primary registry that accepts and never answers, under traffic: real etcd, real proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.running import RunningProxy
from tests.e2e.tcp_fault import TcpFault
from tests.e2e.traffic import Fleet, Traffic
from tests.support.processes import eventually

pytestmark = pytest.mark.drill

NAMES = ("a", "b", "c")
INTERVAL, LIMIT = 2.0, 1.0


class Site:
    """Two registries, the primary behind a fault, and a proxy under traffic."""

    def __init__(
        self, fault: TcpFault, backup: EtcdServer, proxy: RunningProxy, traffic: Traffic
    ) -> None:
        self.fault = fault
        self.backup = backup
        self.proxy = proxy
        self.traffic = traffic

    async def registry(self) -> dict[str, Any]:
        status, body = await self.proxy.get("/api/v1/registry")
        assert status == 200
        document: dict[str, Any] = body
        return document

    async def uses(self, url: str) -> bool:
        document = await self.registry()
        return bool(document["connected"] and document["endpoint"] == url)

    async def takes_over(self) -> None:
        """Wait until the backup is in use; that it is so within the interval is proven on stepped
        time (`unit/test_failover.py`)."""
        await eventually(lambda: self.uses(self.backup.url), 5 * INTERVAL, "the backup")


Make = Callable[[], Any]


@pytest.fixture
def site(tmp_path: Path) -> Make:
    @asynccontextmanager
    async def make() -> AsyncIterator[Site]:
        async with AsyncExitStack() as stack:
            primary = await stack.enter_async_context(EtcdServer())
            backup = await stack.enter_async_context(EtcdServer())
            fault = await stack.enter_async_context(TcpFault(primary.client_port))
            fleet = await stack.enter_async_context(Fleet())
            await fleet.add(*NAMES)
            for server in (primary, backup):
                async with EtcdClient(server.url) as client:
                    await client.put_all(fleet.records("users", NAMES))
            config = {
                "registry": {
                    "type": "etcd",
                    "endpoints": [fault.url],
                    "backups": [{"type": "etcd", "endpoints": [backup.url]}],
                    "check_interval": f"{INTERVAL:g}s",
                    "check_timeout": f"{LIMIT:g}s",
                },
                "routes": [{"service": "users"}],
                "workers": 2,
            }
            proxy = await stack.enter_async_context(RunningProxy(config, tmp_path))
            traffic = await stack.enter_async_context(Traffic(proxy.port, "/", clients=8))
            site = Site(fault, backup, proxy, traffic)
            await eventually(lambda: site.uses(fault.url), 5, "the primary")
            yield site
        assert not traffic.failed

    return make


@pytest.mark.parametrize("after", [0.1, 0.9, 1.7])
async def test_on_the_backup_and_back(site: Make, after: float) -> None:
    async with site() as here:
        moment = monotonic() + after  # Wherever the checks are in their round.
        await eventually(lambda: monotonic() > moment, 3, "the moment")
        here.fault.freeze()
        await here.takes_over()
        here.fault.thaw()
        await eventually(lambda: here.uses(here.fault.url), 10, "the primary again")
        assert (await here.registry())["switches"] == 2


async def test_a_registry_that_is_there_for_moments_is_left_once(site: Make) -> None:
    async with site() as here:
        here.fault.freeze()
        await here.takes_over()
        for _ in range(4):
            accepted = here.fault.accepted
            here.fault.thaw()
            moment = monotonic() + 0.4
            await eventually(lambda moment=moment: monotonic() > moment, 3, "the moment")
            here.fault.freeze()
            # At least one check has failed since.
            await eventually(
                lambda accepted=accepted: here.fault.accepted > accepted, 10, "another check"
            )
        document = await here.registry()
        assert document["switches"] == 1
        assert document["endpoint"] == here.backup.url


async def test_a_slow_registry_is_not_left(site: Make) -> None:
    async with site() as here:
        # Each way, and a request may come in two pieces: up to 0.9 s of the limit of one.
        here.fault.delay = 0.3
        moment = monotonic() + 4 * INTERVAL
        await eventually(lambda: monotonic() > moment, 5 * INTERVAL, "some checks")
        document = await here.registry()
        assert document["switches"] == 0
        assert [source["active"] for source in document["sources"]] == [True, False]
        assert [source["alive"] for source in document["sources"]] == [True, True]
