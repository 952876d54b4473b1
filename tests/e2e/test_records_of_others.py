"""Records as other tools write them, side by side in real registries: all of them are served while
they change, and what cannot be read says why."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.registry.formats.layout import literal
from tests.e2e.consul_server import ConsulServer
from tests.e2e.consul_server import missing as missing_consul
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.h2_origin import H2Origin
from tests.e2e.origin import Call, Origin
from tests.e2e.running import RunningProxy
from tests.e2e.test_records import fairlead
from tests.e2e.zookeeper_server import ZooKeeperClient, ZooKeeperServer
from tests.e2e.zookeeper_server import missing as missing_zookeeper
from tests.support.processes import eventually

SERVED = {
    "ours/1": '{"address":"127.0.0.1","port":PORT}',
    "text/1": "127.0.0.1:PORT",
    "deep/servers/1": "127.0.0.1:PORT",
    "listen/1/listen": "127.0.0.1:PORT",
    "alone": "127.0.0.1:PORT",
    "url/1": "http://127.0.0.1:PORT",
    "url-alone": "http://127.0.0.1:PORT/",
    "registrator/host:container:80": "127.0.0.1:PORT",
    "go-zero/7587869": "127.0.0.1:PORT",
    "in-key/127.0.0.1:PORT": "",
    "in-key-weighted/127.0.0.1:PORT:3": "",
    "port-alone/127.0.0.1": "PORT",
    "nerve/1": '{"host":"127.0.0.1","port":PORT,"name":"a"}',
    "nerve-deep/services/1_0000000001": '{"host":"127.0.0.1","port":PORT,"name":"a"}',
    "nerve-alone": '{"host":"127.0.0.1","port":"PORT"}',
    "ip/1": '{"ip":"127.0.0.1","port":"PORT"}',
    "capitals/1": '{"Host":"127.0.0.1","Port":PORT}',
    "addr/1": '{"addr":"127.0.0.1:PORT"}',
    "joined/1": '{"address":"127.0.0.1:PORT"}',
    "endpoint/1": '{"endpoint":"http://127.0.0.1:PORT"}',
    "registrator-zookeeper/127.0.0.1:PORT": '{"Name":"a","IP":"127.0.0.1","PublicPort":PORT}',
    "kratos/1": '{"id":"1","name":"a","endpoints":["http://127.0.0.1:PORT?isSecure=false"]}',
    "micro/1": '{"name":"a","nodes":[{"id":"1","address":"127.0.0.1:PORT"}]}',
    "curator/1": '{"name":"a","id":"1","address":"127.0.0.1","port":PORT,"sslPort":null,'
    '"serviceType":"DYNAMIC"}',
    "serverset/member_1": '{"serviceEndpoint":{"host":"127.0.0.1","port":PORT},"status":"ALIVE"}',
}
"""Key behind the prefix → value, as registrars write them."""
SERVED_OVER_HTTP_2 = {
    "grpc/127.0.0.1:PORT": '{"Op":0,"Addr":"127.0.0.1:PORT","Metadata":null}',
    "team/nested/127.0.0.1:PORT": '{"Op":0,"Addr":"127.0.0.1:PORT","Metadata":{"weight":2}}',
    "kratos-grpc/1": '{"id":"1","name":"a","endpoints":["grpc://127.0.0.1:PORT?isSecure=false"]}',
}
"""The same, of instances that speak HTTP/2."""
FORMATS = "curator 1, fairlead 1, go-micro 1, grpc 2, kratos 2, nerve 9, serverset 1, text 11"
REFUSED = {
    "broken/1": ("no address", "'no address' is not host:port, and no URL"),
    "port/1": ("127.0.0.1:http", "'127.0.0.1:http' is not host:port, and no URL"),
    "docker/1": (
        '{"Id":"3f","Config":{"Image":"a"},"NetworkSettings":{"IPAddress":"172.17.0.2"}}',
        "no address and no port in the value, which has: Id, Config, NetworkSettings",
    ),
    "redis/1": (
        "redis://127.0.0.1:6379",
        "'redis://127.0.0.1:6379' has the scheme 'redis'; read are http, https, grpc",
    ),
    "settings/timeout": ("30", "'30' is not host:port, and no URL"),
    "cut/1": ('{"host":"127.0.0.1",', "the value is not JSON"),
}
"""Key → value, and why it is no instance."""


class Store(ABC):
    """Owns a client of a real registry. Keys begin with `prefix`."""

    type: str
    missing = ""

    def __init__(self, url: str, prefix: str) -> None:
        self.config: dict[str, Any] = {"type": self.type, "endpoints": [url], "prefix": prefix}

    @classmethod
    @abstractmethod
    def open(cls, prefix: str) -> Any:
        """A context with a server of its own."""

    @abstractmethod
    async def put(self, key: str, value: str) -> None: ...

    @abstractmethod
    async def delete(self, key: str) -> None: ...


class Etcd(Store):
    type = "etcd"
    client: EtcdClient

    @classmethod
    @asynccontextmanager
    async def open(cls, prefix: str) -> AsyncIterator[Store]:
        async with EtcdServer() as server, EtcdClient(server.url) as client:
            store = cls(server.url, prefix)
            store.client = client
            yield store

    async def put(self, key: str, value: str) -> None:
        await self.client.put(key, value)

    async def delete(self, key: str) -> None:
        await self.client.delete(key)


class ZooKeeper(Store):
    type = "zookeeper"
    missing = missing_zookeeper()
    client: ZooKeeperClient

    @classmethod
    @asynccontextmanager
    async def open(cls, prefix: str) -> AsyncIterator[Store]:
        async with ZooKeeperServer() as server, server.client() as client:
            store = cls(server.url, prefix)
            store.client = client
            yield store

    async def put(self, key: str, value: str) -> None:
        await self.client.put(key, value.encode())

    async def delete(self, key: str) -> None:
        await self.client.delete(key)


class ConsulKv(Store):
    type = "consul-kv"
    missing = missing_consul()

    @classmethod
    @asynccontextmanager
    async def open(cls, prefix: str) -> AsyncIterator[Store]:
        async with ConsulServer() as server:
            yield cls(server.url, prefix)

    async def put(self, key: str, value: str) -> None:
        await self._call("PUT", key, value)

    async def delete(self, key: str) -> None:
        await self._call("DELETE", key, "")

    async def _call(self, method: str, key: str, value: str) -> None:
        url = f"{self.config['endpoints'][0]}/v1/kv/{key}"
        async with aiohttp.request(method, url, data=value.encode()) as response:
            assert response.status == 200, await response.text()


@pytest.fixture(
    params=[(Etcd, "/services/"), (Etcd, ""), (ZooKeeper, "/services"), (ConsulKv, "services/")],
    ids=["etcd", "etcd-without-prefix", "zookeeper", "consul-kv"],
)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    kind, prefix = request.param
    if kind.missing:
        pytest.skip(f"there is no {kind.missing} on this machine")
    async with kind.open(prefix) as opened:
        yield opened


class Asking:
    """Owns a client that asks one service after the other, over and over."""

    def __init__(self, url: str, services: list[str]) -> None:
        self.told = dict.fromkeys(services, "")
        """Service → the instance that answered last."""
        self.failures: list[str] = []
        self.answers = 0
        self._url = url
        self._task = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                for service in self.told:
                    async with session.get(f"{self._url}/{service}/") as answer:
                        self.told[service] = (await answer.text()).strip()
                        self.answers += 1
                        if answer.status != 200:
                            self.failures.append(f"{service}: {answer.status}")

    async def all_hear(self, name: str) -> None:
        """Every service is served by that instance."""

        def others() -> list[str]:
            assert not self._task.done() or self._task.result() is None
            return [service for service, told in self.told.items() if told != name]

        await eventually(lambda: others() == [], 20.0, others)

    async def __aenter__(self) -> Asking:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def answering(name: str) -> Origin:
    async def script(call: Call) -> None:
        await call.reply(name.encode())

    return Origin(name, script)


async def test_records_of_all_registrars_are_served_side_by_side_while_they_change(
    store: Store, tmp_path: Path
) -> None:
    prefix = literal(store.config["prefix"])
    config = {
        "registry": store.config,
        "routes": [{"path_prefix": "/{service}", "strip_prefix": True}],
    }

    def written(port: int, port_2: int) -> dict[str, str]:
        return {
            prefix + key.replace("PORT", str(to)): value.replace("PORT", str(to))
            for known, to in ((SERVED, port), (SERVED_OVER_HTTP_2, port_2))
            for key, value in known.items()
        }

    services = [key.partition("/")[0] for key in (*SERVED, *SERVED_OVER_HTTP_2)]
    services[services.index("team")] = "team.nested"
    async with (
        answering("old") as old,
        answering("new") as new,
        H2Origin("old") as old_2,
        H2Origin("new") as new_2,
    ):
        before, after = written(old.port, old_2.port), written(new.port, new_2.port)
        for key, value in before.items():
            await store.put(key, value)
        for key, (value, _) in REFUSED.items():
            await store.put(prefix + key, value)
        async with RunningProxy(config, tmp_path) as proxy:
            async with Asking(proxy.url, services) as clients:
                await clients.all_hear("old")
                printed = await fairlead(proxy, "registry")
                assert f"formats    {FORMATS}" in printed
                for key, (_, reason) in REFUSED.items():
                    assert f"{prefix}{key}: {reason}" in printed
                for key, value in after.items():
                    await store.put(key, value)
                for key in before.keys() - after.keys():
                    await store.delete(key)
                await clients.all_hear("new")
                # What becomes unreadable keeps what it said.
                await store.put(f"{prefix}text/1", "nowhere")

                async def told() -> bool:
                    return f"{prefix}text/1: 'nowhere'" in await fairlead(proxy, "registry")

                await eventually(told, 10, "the record in `fairlead registry`")
                answers = clients.answers
                await eventually(lambda: clients.answers > answers + 2 * len(services))
                assert clients.failures == []
                await clients.all_hear("new")
            for key in after:
                await store.delete(key)

            async def gone() -> bool:
                _, document = await proxy.get("/api/v1/registry")
                return bool(document["instances"] == 0)

            await eventually(gone, 10, "no instance left")


async def test_nodes_of_one_record_are_instances_that_come_and_go_one_by_one(
    store: Store, tmp_path: Path
) -> None:
    key = f"{literal(store.config['prefix'])}shop/1"
    config = {"registry": store.config, "routes": [{"service": "shop"}]}
    async with answering("a") as a, answering("b") as b, answering("c") as c:

        def record(**ports: int | str) -> str:
            nodes = [{"id": id_, "address": f"127.0.0.1:{at}"} for id_, at in ports.items()]
            return json.dumps({"name": "shop", "version": "1", "nodes": nodes})

        await store.put(key, record(a=a.port, b=b.port))
        async with RunningProxy(config, tmp_path) as proxy:

            async def shows(**ports: int) -> None:
                """The service has these instances, and no more."""

                async def known() -> bool:
                    status, shop = await proxy.get("/api/v1/services/shop")
                    found = shop["instances"] if status == 200 else []
                    assert {one["origin"] for one in found} <= {"go-micro"}
                    return {one["id"]: one["port"] for one in found} == ports

                await eventually(known, 10, proxy.log)

            await shows(a=a.port, b=b.port)
            assert "formats    go-micro 2" in await fairlead(proxy, "registry")
            async with Asking(proxy.url, ["shop"]) as clients:
                await store.put(key, record(a=a.port, b=b.port, c=c.port))
                await shows(a=a.port, b=b.port, c=c.port)
                await store.put(key, record(a=a.port, b=b.port, c=a.port))
                await shows(a=a.port, b=b.port, c=a.port)
                # A node that cannot be read any more keeps what it said, and the others change.
                await store.put(key, record(b="nowhere", c=c.port))
                await shows(b=b.port, c=c.port)
                printed = await fairlead(proxy, "registry")
                assert f"{key}: nodes[0]: '127.0.0.1:nowhere' is not host:port" in printed
                await store.put(key, record(c=c.port))
                await shows(c=c.port)
                assert clients.failures == []
                answers = clients.answers
                await eventually(lambda: clients.answers > answers + 2)
                assert clients.told == {"shop": "c"}
            assert clients.failures == []
            await store.delete(key)
            await shows()
