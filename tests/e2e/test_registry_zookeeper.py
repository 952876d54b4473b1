"""The ZooKeeper provider against real servers: what is its own. What it shares with other
registries is in `test_registry_drills.py`."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from proxy.registry.zookeeper.options import Options
from proxy.registry.zookeeper.provider import ZooKeeperProvider
from proxy.registry.zookeeper.wire import ALL, Op
from tests.e2e.drill_traffic import Instances, Served
from tests.e2e.drilled import SERVICE, TIMING, Watched
from tests.e2e.zookeeper_server import ZooKeeperEnsemble, ZooKeeperServer, missing
from tests.support.processes import eventually

pytestmark = pytest.mark.skipif(missing() != "", reason=f"there is no {missing()}")


def watched(*urls: str, **options: Any) -> Watched:
    return Watched(provider(*urls, **options))


def provider(*urls: str, **options: Any) -> ZooKeeperProvider:
    known = msgspec.structs.replace(Options(endpoints=urls), **options)
    return ZooKeeperProvider(known, timing=TIMING)


def record(port: int = 8080) -> bytes:
    return json.dumps({"address": "10.0.0.1", "port": port}).encode()


async def test_a_node_that_went_while_its_session_has_others_was_deleted() -> None:
    async with ZooKeeperServer() as server, watched(server.url) as seen:
        async with server.client(timeout=2.0) as owner:
            for id_ in ("a", "b", "c"):
                await owner.put(f"/services/{SERVICE}/{id_}", record(), ephemeral=True)
            await seen.has("a", "b", "c")
            await owner.delete(f"/services/{SERVICE}/a")
            await seen.has("b", "c")
            [departure] = seen.memberships[-1].departures
            assert departure.lease == owner.link.accepted.session
            assert await seen.provider.expired(departure) is False
        await seen.has()
        departures = seen.memberships[-1].departures
        assert [await seen.provider.expired(one) for one in departures] == [None] * len(departures)


async def test_nodes_that_only_a_user_may_read_need_that_user() -> None:
    digest = base64.b64encode(hashlib.sha1(b"proxy:secret").digest()).decode()
    rights = ((ALL, "digest", f"proxy:{digest}"),)
    async with ZooKeeperServer() as server:
        async with server.client() as client:
            await client.put(f"/services/{SERVICE}/a", record(), rights=rights)
        async with watched(server.url) as seen:
            assert "NoAuth" in await seen.loses_it()
            assert seen.memberships == []
        async with watched(server.url, username="proxy", password="secret") as seen:
            await seen.has("a")


async def test_members_of_a_server_set_that_register_anew_are_the_same() -> None:
    value = json.dumps({"serviceEndpoint": {"host": "10.0.0.1", "port": 80}}).encode()
    async with ZooKeeperServer() as server, server.client() as client:
        await client.put(f"/own/{SERVICE}/member_0000000001", value)
        async with watched(server.url, prefix="/own", format="serverset") as seen:
            await seen.has("10.0.0.1:80")
            pool = seen.pool
            await client.put(f"/own/{SERVICE}/member_0000000002", value)
            await client.delete(f"/own/{SERVICE}/member_0000000001")
            await client.put(f"/own/other/{SERVICE}", value)
            await eventually(lambda: "other" in seen.memberships[-1].services)
            assert seen.pool is pool


async def test_nodes_on_any_level_are_records_and_directories_are_none() -> None:
    """And one may become the other."""
    nerve = f"{SERVICE}/services/1_0000000001"
    nodes = {
        nerve: b'{"host": "10.0.0.1", "port": 80}',
        f"{SERVICE}/2": b"10.0.0.2:80",
        f"{SERVICE}/10.0.0.3:80": b"",
    }
    async with ZooKeeperServer() as server, server.client() as client:
        for path, value in nodes.items():
            await client.put(f"/services/{path}", value)
        await client.put("/services/alone", b"10.0.0.4:80")
        await client.put("/services/nobody", b"")
        async with watched(server.url, format="text") as seen:
            await seen.has("2", "10.0.0.3:80")
            [refused] = seen.status.invalid
            assert (refused.key, refused.service) == (f"/services/{nerve}", SERVICE)
            assert "the format text has host:port" in refused.reason
        async with watched(server.url) as seen:
            await eventually(lambda: seen.memberships)
            services = seen.memberships[-1].services
            assert sorted(services) == ["alone", SERVICE]
            assert seen.ids() == {"services:1_0000000001", "2", "10.0.0.3:80"}
            assert seen.status.invalid == ()
            await client.put("/services/alone/1", b"10.0.0.5:80")
            await eventually(lambda: ids(seen, "alone") == ["1"])
            await client.delete("/services/alone/1")
            await eventually(lambda: ids(seen, "alone") == ["10.0.0.4:80"])
            await client.put("/services/nobody/1", b"10.0.0.6:80")
            await eventually(lambda: ids(seen, "nobody") == ["1"])
            await client.put("/services/nobody/1", b"")
            await eventually(lambda: seen.status.invalid)
            assert ids(seen, "nobody") == ["1"]
            await client.delete("/services/nobody/1")
            await eventually(lambda: ids(seen, "nobody") == [])
            await client.put(f"/services/{SERVICE}/2", b"10.0.0.2:81")
            await eventually(lambda: seen.by_id()["2"].port == 81)


def ids(seen: Watched, service: str) -> list[str]:
    return [one.id for one in seen.memberships[-1].services.get(service, ())]


async def test_an_ensemble_that_loses_its_leader_and_its_quorum_loses_no_instance() -> None:
    async with AsyncExitStack() as stack:
        instances = await stack.enter_async_context(Instances())
        ensemble = await stack.enter_async_context(ZooKeeperEnsemble())
        seen = await stack.enter_async_context(Served(provider(*ensemble.urls)))
        here = json.dumps({"address": "127.0.0.1", "port": instances.ports[0]}).encode()
        [leader] = [server for server in ensemble.servers if server.mode == "leader"]
        one, two = [server for server in ensemble.servers if server is not leader]
        async with one.client() as client:
            await client.put(f"/services/{SERVICE}/a", here)
            await client.put(f"/services/{SERVICE}/b", here)
        await seen.has("a", "b")
        both = len(seen.memberships) - 1  # They may have come one after the other.
        await leader.kill()
        await one.serves()
        await two.serves()
        await seen.connects()
        async with two.client() as client:
            await client.put(f"/services/{SERVICE}/c", here)
        await seen.has("a", "b", "c")
        await two.kill()
        await seen.loses_it()
        two.launch()
        await two.serves()
        await seen.connects()
        async with two.client() as client:
            await client.delete(f"/services/{SERVICE}/a")
        await seen.has("b", "c")
        assert seen.status.resyncs == {}
        assert all("b" in ids for ids in seen.since(both))


async def test_four_thousand_nodes_are_listed_in_slices(record_property: Any) -> None:
    async with ZooKeeperServer() as server, server.client() as client:
        await client.put("/services/x/x", record())
        body = [
            (path := f"/services/x/i{number}", client.creation(path, record(number + 1)))
            for number in range(4000)
        ]
        for start in range(0, 4000, 200):
            some = body[start : start + 200]
            await client.link.calls([(Op.CREATE, one, path) for path, one in some])
        stalls: list[float] = []

        async def watch_the_loop() -> None:
            while True:
                before = time.monotonic()
                await asyncio.sleep(0.001)
                stalls.append(time.monotonic() - before)

        looking = asyncio.create_task(watch_the_loop())
        begun = time.monotonic()
        async with watched(server.url) as seen:
            await eventually(lambda: seen.status.instances == 4001, every=0.001)
            took = time.monotonic() - begun
            await eventually(lambda: seen.memberships)
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            assert len(seen.memberships) == 1
        line = f"4,001 nodes of ZooKeeper listed in {took:.2f} s, loop held for {max(stalls):.3f} s"
        record_property("drill", line)
