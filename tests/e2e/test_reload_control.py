"""Reloads of what the control process has: the registry, the log, the admin server, ACME."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.discovering import DiscoveringProxy
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.origin import Call, origins
from tests.e2e.raw_http import ask
from tests.e2e.redeploying import CountingLoad
from tests.e2e.reloading import name, reload, rewrite
from tests.support.processes import eventually, free_port

EJECTION = {"defaults": {"ejection": {"base": "5m", "consecutive_failures": 2}}}


@pytest.fixture
async def etcd() -> AsyncIterator[EtcdServer]:
    async with EtcdServer() as server:
        yield server


async def register(etcd: EtcdServer, prefix: str = "/services/", **ports: int) -> None:
    """`users/NAME` at a port of this machine, for each."""
    async with EtcdClient(etcd.url) as client:
        for id_, port in ports.items():
            record = json.dumps({"address": "127.0.0.1", "port": port})
            await client.put(f"{prefix}users/{id_}", record)


async def hangs_up(call: Call) -> None:
    call.abort()


def registry(*endpoints: str, **more: Any) -> dict[str, Any]:
    return {"registry": {"type": "etcd", "endpoints": list(endpoints), **more}}


class Site(DiscoveringProxy):
    """A proxy all of whose requests go to the service `users`."""

    def __init__(self, directory: Path, *endpoints: str, **more: Any) -> None:
        super().__init__(directory, *endpoints)
        self.config |= {"routes": [{"service": "users"}], **more}
        rewrite(self, {})

    async def statuses(self) -> dict[str, str]:
        """Instance → status."""
        document = await self.document("/api/v1/services/users")
        return {row["id"]: row["status"] for row in document["instances"]}

    async def reloads(self, changed: dict[str, Any]) -> str:
        """Change the file, have it taken; what was printed."""
        rewrite(self, changed)
        code, said = await reload(self)
        assert code == 0, said
        assert "needs a restart" not in said
        return said


async def test_another_registry_takes_over_under_load_and_what_is_known_stays(
    tmp_path: Path, etcd: EtcdServer
) -> None:
    names = ("both", "old", "new", "drained", "bad")
    async with origins(*names, script=name) as all_, EtcdServer() as other:
        port = {one.name: one.port for one in all_}
        kept = {"both": port["both"], "drained": port["drained"], "bad": port["bad"]}
        all_[4].script = hangs_up
        await register(etcd, old=port["old"], **kept)
        await register(other, new=port["new"], **kept)
        async with Site(tmp_path, etcd.url, **EJECTION) as proxy:
            async with CountingLoad(proxy.port, clients=8, pace=0.01) as load:

                async def known() -> bool:
                    return (await proxy.statuses())["bad"] == "ejected"

                await eventually(known, 20, "the ejection")
                member = "/api/v1/services/users/instances/drained"
                drained = await ask(proxy.admin_port, "POST", f"{member}/drain", host="localhost")
                assert drained.status == 200
                said = await proxy.reloads(registry(other.url))
                assert f"registry.options.endpoints: [{etcd.url}] → [{other.url}]" in said
                await load.shows("new", more_than=20, within=20)
                since = load.answers["both"]
                await load.shows("both", more_than=since + 20, within=20)
                after = await proxy.statuses()
            assert load.failures == []
            assert after == {
                "both": "ready", "new": "ready", "drained": "draining", "bad": "ejected"
            }  # fmt: skip
            metrics = await proxy.metrics()
            assert [
                value for key, value in metrics.items() if key[0] == "fairlead_ejections_total"
            ] == [1.0]
            assert (await proxy.registry())["endpoint"] == other.url


async def test_a_registry_that_does_not_answer_changes_nothing_and_can_be_taken_back(
    tmp_path: Path, etcd: EtcdServer
) -> None:
    async with origins("a", "b", script=name) as (one, two):
        await register(etcd, a=one.port)
        async with Site(tmp_path, etcd.url) as proxy:
            async with CountingLoad(proxy.port, clients=4, pace=0.01) as load:
                nowhere = f"http://127.0.0.1:{free_port()}"
                await proxy.reloads(registry(nowhere))
                document = await proxy.registry()
                assert not document["connected"]
                assert await proxy.metric("fairlead_registry_up") == 0.0
                assert await proxy.readyz() == 200
                since = load.answers["a"]
                await load.shows("a", more_than=since + 20, within=20)
                await proxy.reloads({})
                await eventually(proxy.connected, 20, "the old registry")
                await register(etcd, b=two.port)
                await load.shows("b", more_than=20, within=20)
            assert load.failures == []


async def test_another_prefix_is_taken_and_one_where_nobody_is_is_doubted(
    tmp_path: Path, etcd: EtcdServer
) -> None:
    async with origins("a", "b", script=name) as (one, two):
        await register(etcd, a=one.port)
        await register(etcd, "/others/", b=two.port)
        async with Site(tmp_path, etcd.url) as proxy:
            async with CountingLoad(proxy.port, clients=4, pace=0.01) as load:
                await proxy.reloads(registry(etcd.url, prefix="/otters/"))
                await eventually(lambda: proxy.events("registry_empty"), 20, "the doubt")
                assert await proxy.statuses() == {"a": "ready"}
                await proxy.reloads(registry(etcd.url, prefix="/others/"))
                await load.shows("b", more_than=20, within=20)
            assert load.failures == []
            assert await proxy.statuses() == {"b": "ready"}


async def test_no_registry_any_more_leaves_what_the_file_has(
    tmp_path: Path, etcd: EtcdServer
) -> None:
    async with origins("a", "b", script=name) as (one, two):
        await register(etcd, a=one.port)
        snapshot = str(tmp_path / "pools.json")
        async with Site(tmp_path, etcd.url) as proxy:
            async with CountingLoad(proxy.port, clients=4, pace=0.01) as load:
                await load.shows("a", more_than=5, within=20)
                services = {"users": {"instances": [two.instance]}}
                await proxy.reloads({"registry": {"type": "static"}, "services": services})
                await load.shows("b", more_than=20, within=20)
                await proxy.reloads(registry(etcd.url, snapshot=snapshot))
                since = load.answers["a"]
                await load.shows("a", more_than=since + 20, within=20)
            assert load.failures == []
            await eventually(Path(snapshot).exists, 10, "the snapshot")


async def test_networks_that_are_allowed_are_so_in_all_processes(
    tmp_path: Path, etcd: EtcdServer
) -> None:
    async with Site(tmp_path, etcd.url) as proxy:
        await register(etcd, a=proxy.admin_port)
        await eventually(lambda: _is(proxy, "a", "unhealthy"), 10, "the refusal")
        await proxy.reloads(registry(etcd.url, allow=["127.0.0.0/8"]))
        assert (await ask(proxy.port, "GET", "/healthz", host="localhost")).status == 200
        await proxy.reloads({})
        assert await proxy.statuses() == {"a": "unhealthy"}


async def _is(proxy: Site, id_: str, status: str) -> bool:
    return await proxy.statuses() == {id_: status}


async def test_options_that_cannot_be_used_are_refused_and_nothing_is_touched(
    tmp_path: Path, etcd: EtcdServer
) -> None:
    async with origins("a", script=name) as (one,):
        await register(etcd, a=one.port)
        async with Site(tmp_path, etcd.url) as proxy:
            tls = {"ca": str(tmp_path / "none.pem")}
            rewrite(proxy, registry(etcd.url.replace("http", "https"), tls=tls))
            code, said = await reload(proxy)
            assert code == 2
            assert "registry.tls.ca" in said
            assert await proxy.connected()
            assert (await proxy.registry())["endpoint"] == etcd.url
