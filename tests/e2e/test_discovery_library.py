"""The library against a real etcd, its outages, and the proxy beside it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from proxy.discovery import Balancing, Discovery, DiscoverySession, Instance, NotReady
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.origin import Origin, origins
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port


@pytest.fixture
async def etcd() -> AsyncIterator[EtcdServer]:
    async with EtcdServer() as server:
        yield server


@pytest.fixture
async def writer(etcd: EtcdServer) -> AsyncIterator[EtcdClient]:
    async with EtcdClient(etcd.url) as client:
        yield client


async def put(writer: EtcdClient, origin: Origin, prefix: str = "/services/") -> None:
    record = {"address": "127.0.0.1", "port": origin.port}
    await writer.put(f"{prefix}users/{origin.name}", json.dumps(record))


def ids(instances: tuple[Instance, ...]) -> str:
    return " ".join(instance.id for instance in instances)


async def test_from_etcd_to_callback(etcd: EtcdServer, writer: EtcdClient) -> None:
    await writer.put("/services/users/a", '{"address": "10.0.0.1", "port": 80}')
    await writer.put("/services/users/broken", "not JSON")
    await writer.put("/elsewhere/users/x", '{"address": "10.0.0.9", "port": 80}')
    calls: list[str] = []
    registry = CollectorRegistry()
    async with (
        Discovery([etcd.url], metrics=registry) as discovery,
        Discovery(etcd.url, prefix="/elsewhere/") as elsewhere,
    ):
        discovery.on_change("users", lambda service, known: calls.append(ids(known)))
        await discovery.wait_ready(10)
        await elsewhere.wait_ready(10)
        assert ids(discovery.instances("users")) == "a"
        assert ids(elsewhere.instances("users")) == "x"
        assert [record.key for record in discovery.status().invalid] == ["/services/users/broken"]
        async with aclosing(discovery.watch("users")) as changes, asyncio.timeout(10):
            assert ids(await anext(changes)) == "a"
            await writer.put(
                "/services/users/b",
                '{"address": "10.0.0.2", "port": 80, "health": {"status": "unhealthy"}}',
            )
            assert ids(await anext(changes)) == "a b"
            assert ids(discovery.healthy("users")) == "a"
            await writer.delete("/services/users/a")
            assert ids(await anext(changes)) == "b"
        await eventually(lambda: calls == ["a", "a b", "b"], what=lambda: calls)
        sample = registry.get_sample_value(
            "service_instances", {"service_name": "users", "status": "unhealthy"}
        )
        assert sample == 1.0


async def test_the_cache_outlives_an_outage(etcd: EtcdServer, writer: EtcdClient) -> None:
    async with origins("a", "b") as [a, b], Discovery(etcd.url) as discovery:
        await put(writer, a)
        await discovery.wait_ready(10)
        await eventually(lambda: ids(discovery.instances("users")) == "a")
        known = discovery.instances("users")
        async with DiscoverySession(discovery) as session:
            await etcd.kill()
            await eventually(lambda: not discovery.status().connected)
            age = discovery.age
            assert age is not None
            await eventually(lambda: (discovery.age or 0) > age)
            assert discovery.instances("users") is known
            for _ in range(5):
                async with session.get("http://users/x") as answer:
                    assert (answer.status, answer.headers["X-Origin"]) == (200, "a")
            await etcd.start()
            await put(writer, b)
            await eventually(lambda: ids(discovery.instances("users")) == "a b")
            await eventually(lambda: discovery.status().connected)
            answered = set()
            for _ in range(2):
                async with session.get("http://users/x") as answer:
                    answered.add(answer.headers["X-Origin"])
            assert answered == {"a", "b"}


async def test_a_start_without_etcd() -> None:
    etcd = EtcdServer()
    async with Discovery(etcd.url) as discovery:
        with pytest.raises(NotReady, match=re.escape(etcd.url)):
            await discovery.wait_ready(0.2)
        async with etcd:
            await discovery.wait_ready(10)
            assert discovery.services() == ()


async def test_a_key_leads_to_the_same_instance_as_in_the_proxy(
    etcd: EtcdServer, writer: EtcdClient, tmp_path: Path
) -> None:
    config = {
        "registry": {"type": "etcd", "endpoints": [etcd.url]},
        "services": {"users": {"balancer": {"type": "consistent_hash", "key": "header:X-User"}}},
        "routes": [{"path_prefix": "/", "service": "users"}],
    }
    by_user = Balancing(
        balancer="consistent_hash", key=lambda request: request.headers.get("X-User")
    )
    async with origins("a", "b", "c") as all_, Discovery(etcd.url) as discovery:
        for origin in all_:
            await put(writer, origin)
        await writer.put("/services/users/sick", json.dumps(_sick()))
        await discovery.wait_ready(10)
        await eventually(lambda: len(discovery.instances("users")) == 4)
        async with (
            RunningProxy(config, tmp_path) as proxy,
            DiscoverySession(discovery, services={"users": by_user}) as session,
        ):

            async def answered(url: str) -> list[str]:
                names = []
                for user in range(20):
                    headers = {"X-User": f"user-{user}"}
                    async with session.get(url, headers=headers) as answer:
                        names.append(answer.headers["X-Origin"])
                return names

            direct = await answered("http://users/x")
            assert set(direct) == {"a", "b", "c"}
            assert await answered(proxy.url + "/x") == direct


def _sick() -> dict[str, object]:
    return {"address": "127.0.0.1", "port": free_port(), "health": {"status": "unhealthy"}}


async def test_an_instance_that_dies_costs_no_request(etcd: EtcdServer, writer: EtcdClient) -> None:
    """The registry notices by the lease; until then its neighbours stand in."""
    async with origins("a", "b") as [a, b], Discovery(etcd.url) as discovery:
        await put(writer, a)
        await put(writer, b)
        await discovery.wait_ready(10)
        await eventually(lambda: ids(discovery.instances("users")) == "a b")
        # No connection may be kept, so that each request has to find out.
        connector = aiohttp.TCPConnector(force_close=True)
        async with DiscoverySession(discovery, connector=connector) as session:
            await b.stop()
            for _ in range(10):
                async with session.post("http://users/x", data=b"order") as answer:
                    assert (answer.status, answer.headers["X-Origin"]) == (200, "a")
