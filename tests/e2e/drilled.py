"""Registries under drill: how each is started, harmed and written to, and a provider that is
watched while that happens. `test_registry_drills.py` has the drills."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable
from typing import Any, ClassVar, Protocol, Self

import aiohttp
import msgspec

from proxy.catalog import PROVIDERS, load, registry_options
from proxy.control.relay import Relay
from proxy.membership import Instance, Membership
from proxy.registry.base import Provider
from proxy.registry.followed import Timing
from proxy.registry.own import packed
from proxy.settings.file import Settings
from proxy.settings.registry import Registry, RegistryOptions
from proxy.settings.relay import RelaySettings
from proxy.statuses import RegistryStatus
from tests.e2e.consul_server import MANAGEMENT, ConsulServer
from tests.e2e.consul_server import missing as missing_consul
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.eureka_server import EurekaServer
from tests.e2e.eureka_server import missing as missing_eureka
from tests.e2e.nacos_server import NacosServer
from tests.e2e.nacos_server import missing as missing_nacos
from tests.e2e.scripted_etcd import ScriptedEtcd
from tests.e2e.zookeeper_server import ZooKeeperClient, ZooKeeperServer
from tests.e2e.zookeeper_server import missing as missing_zookeeper
from tests.support.processes import eventually, free_port
from tests.support.scripted_consul import ScriptedConsul, check, entry
from tests.support.scripted_docker import ScriptedDocker, container
from tests.support.scripted_eureka import ScriptedEureka, registered
from tests.support.scripted_kubernetes import ScriptedKubernetes, endpoint, slice_of
from tests.support.scripted_list import ScriptedList
from tests.support.scripted_nacos import ScriptedNacos, host
from tests.support.scripted_nacos_push import ScriptedNacosPush

SERVICE = "users"
TIMING = Timing(probe=0.4, probe_limit=1.0, catch_up=0.3, recheck=0.5, hold=1.5, backoff_limit=0.3)
"""Shorter than in earnest, in the same proportions."""
SLOW = msgspec.structs.replace(TIMING, hold=12.0)
"""For servers that take seconds to hear of everybody after a start, on a busy machine ten."""


class Owner(Protocol):
    """Who has registered something that is bound to it."""

    async def renew(self) -> None:
        """Say that it is alive, also after an outage."""

    async def leave(self) -> None:
        """End without a word."""


class Drilled(ABC):
    """Owns one registry, real or scripted. All instances are of `SERVICE`."""

    server: Any
    """The one that is harmed; its own end throws the data away."""
    type: ClassVar[str]
    asked: ClassVar[bool] = False
    """Whether the registry is asked for everything, and so can only lack somebody."""
    at_once: ClassVar[bool] = True
    """Whether its first answer after a start names all that it knows then."""
    missing: ClassVar[str] = ""
    """The program that is not on this machine."""
    rights: ClassVar[bool] = False
    """Whether they can be taken away."""
    lies: ClassVar[tuple[str, ...]] = ()
    """What `lie` can do."""
    lags: ClassVar[bool] = False
    """Whether it can be made to go back."""
    drained: ClassVar[str] = "draining"
    """Word of an instance that is taken out without being deregistered."""
    timing: ClassVar[Timing] = TIMING
    address = "10.0.0.1"
    """Of all instances that do not name theirs."""
    addressed: ClassVar[bool] = True
    """Whether several instances may have it."""
    ttl: ClassVar[float] = 0.0
    """Seconds that bound registrations outlive their owner; 0 = there are none."""

    @abstractmethod
    def options(self) -> RegistryOptions:
        """Keys of the provider."""

    def writing(self) -> RegistryOptions:
        """Keys of a registrar."""
        return self.options()

    @abstractmethod
    async def start(self) -> None:
        """On the same address and data as before, if there was a before."""

    @abstractmethod
    async def kill(self) -> None:
        """At once; again is no error."""

    @abstractmethod
    def wipe(self) -> None:
        """Throw the data away. The server must not run."""

    @abstractmethod
    def pause(self) -> None:
        """Connections stay, nobody answers."""

    @abstractmethod
    def resume(self) -> None:
        """Answer again."""

    @abstractmethod
    async def register(self, *ids: str, port: int = 8080, status: str = "healthy") -> None:
        """Register, or state again."""

    @abstractmethod
    async def deregister(self, id_: str) -> None:
        """On purpose."""

    async def take_rights(self) -> None:
        """Whoever asks may not see the instances any more."""
        raise NotImplementedError

    async def give_rights(self) -> None:
        """Undo that."""
        raise NotImplementedError

    async def register_bound(self, id_: str, address: str = "10.0.0.1", port: int = 8080) -> Owner:
        """Register under a lease or session, which lives as long as it is renewed."""
        raise NotImplementedError

    async def lie(self, kind: str) -> None:
        """Answer with something that is not the truth: `empty`, `partial`, `garbage`, `cut` in the
        middle, `huge`; or "" = the truth again."""
        raise NotImplementedError

    async def go_back(self) -> None:
        """Answer as a member does that lags behind what was told already."""
        raise NotImplementedError

    def provider(self) -> Provider:
        kind = load(PROVIDERS, self.type)
        built: Provider = kind(self.options(), timing=self.timing, rng=random.Random(7))
        return built

    def watched(self) -> Watched:
        return Watched(self.provider())

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.resume()
        await self.kill()
        await self.server.__aexit__()


def id_of(instance: Instance) -> str:
    """The id that a drill gave it, which is a part of the one in registries that make theirs."""
    return instance.id.rpartition("#")[2]


class Watched:
    """Owns a provider while it is watched, and remembers every membership that it yielded."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.memberships: list[Membership] = []
        self._task: asyncio.Task[None] | None = None

    async def _watch(self) -> None:
        async for membership in self.provider.watch():
            self.memberships.append(membership)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        await self.provider.close()
        await self._task

    @property
    def status(self) -> RegistryStatus:
        return self.provider.status()

    @property
    def pool(self) -> tuple[Instance, ...]:
        return self.memberships[-1].services.get(SERVICE, ()) if self.memberships else ()

    def ids(self) -> set[str]:
        return set(self.by_id())

    def by_id(self) -> dict[str, Instance]:
        """The pool by the ids of the drills."""
        return {id_of(one): one for one in self.pool}

    async def has(self, *ids: str) -> None:
        """The pool becomes these."""
        await eventually(lambda: self.ids() == set(ids), 15.0, lambda: (self.ids(), self.status))

    async def connects(self) -> None:
        await eventually(lambda: self.status.connected, 15.0, lambda: self.status)

    async def doubts_it(self) -> None:
        """The registry's answer is not believed, or is none."""
        await eventually(
            lambda: not self.status.connected or self.status.resyncs, 15.0, lambda: self.status
        )

    async def loses_it(self) -> str:
        """The registry is lost; why."""
        await eventually(lambda: not self.status.connected, 15.0, lambda: self.status)
        error: str = await eventually(lambda: self.status.last_error)
        return error

    def since(self, number: int) -> Iterable[set[str]]:
        """Ids in each membership from the one with this number on."""
        return [
            set(map(id_of, membership.services.get(SERVICE, ())))
            for membership in self.memberships[number:]
        ]


class DrilledEtcd(Drilled):
    """A real etcd; its lies are told by somebody else on its port."""

    type = "etcd"
    rights = True
    lies = ("garbage", "cut", "huge")
    ttl = 2.0

    def __init__(self) -> None:
        self.server = EtcdServer()
        self._liar: asyncio.Server | None = None
        self._guarded = False
        """Whoever is not logged in may do nothing."""

    def options(self) -> RegistryOptions:
        options: RegistryOptions = registry_options(self.type)(endpoints=(self.server.url,))
        return options

    async def start(self) -> None:
        await self.server.start()

    async def kill(self) -> None:
        await self.server.kill()

    def wipe(self) -> None:
        self.server.wipe()

    def pause(self) -> None:
        self.server.pause()

    def resume(self) -> None:
        self.server.resume()

    async def register(self, *ids: str, port: int = 8080, status: str = "healthy") -> None:
        record = {"address": self.address, "port": port, "health": {"status": status}}
        async with EtcdClient(self.server.url) as client:
            if self._guarded:
                await client.login("root", "root")
            await client.put_all({f"/services/{SERVICE}/{id_}": json.dumps(record) for id_ in ids})

    async def deregister(self, id_: str) -> None:
        async with EtcdClient(self.server.url) as client:
            await client.delete(f"/services/{SERVICE}/{id_}")

    async def take_rights(self) -> None:
        async with EtcdClient(self.server.url) as client:
            await client.enable_auth("reader", "reader", "/services/")
        self._guarded = True

    async def give_rights(self) -> None:
        async with EtcdClient(self.server.url) as client:
            await client.login("root", "root")
            await client.call("/auth/disable")
        self._guarded = False

    async def register_bound(self, id_: str, address: str = "10.0.0.1", port: int = 8080) -> Owner:
        async with EtcdClient(self.server.url) as client:
            lease = await client.grant(int(self.ttl))
            record = json.dumps({"address": address, "port": port})
            await client.put(f"/services/{SERVICE}/{id_}", record, lease)
        return EtcdOwner(self.server.url, lease)

    async def lie(self, kind: str) -> None:
        if self._liar is not None:
            self._liar.close()
            await self._liar.wait_closed()
            self._liar = None
            await self.start()
            return
        size, body = {
            "garbage": (28, b"<html>502 Bad gateway</html>"),
            "cut": (100, b'{"header": {"cluster_id": "7"'),
            "huge": (2**24, b" " * 2**24),
        }[kind]

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body)
            writer.close()

        await self.kill()
        self._liar = await asyncio.start_server(answer, "127.0.0.1", self.server.client_port)


class DrilledScriptedEtcd(Drilled):
    """A scripted one, which shares the rows with the real one and can lag behind."""

    type = "etcd"
    lies = ("garbage", "cut", "huge")
    lags = True

    def __init__(self) -> None:
        self.server = ScriptedEtcd()

    def options(self) -> RegistryOptions:
        options: RegistryOptions = registry_options(self.type)(endpoints=(self.server.url,))
        return options

    async def start(self) -> None:
        await self.server.start()

    async def kill(self) -> None:
        await self.server.kill()

    def wipe(self) -> None:
        self.server.wipe()

    def pause(self) -> None:
        self.server.pause()

    def resume(self) -> None:
        self.server.resume()

    async def register(self, *ids: str, port: int = 8080, status: str = "healthy") -> None:
        record = {"address": self.address, "port": port, "health": {"status": status}}
        for id_ in ids:
            await self.server.put(f"/services/{SERVICE}/{id_}", json.dumps(record))

    async def deregister(self, id_: str) -> None:
        await self.server.delete(f"/services/{SERVICE}/{id_}")

    async def lie(self, kind: str) -> None:
        bodies = {"garbage": b"<html>Bad gateway</html>", "huge": b" " * 2**24}
        self.server.cut = kind == "cut"
        self.server.lies = {"/v3/kv": bodies[kind]} if kind in bodies else {}

    async def go_back(self) -> None:
        self.server.lag = 3
        await self.kill()  # so that it is read again
        await self.start()


class EtcdOwner:
    """Owns a lease."""

    def __init__(self, url: str, lease: int) -> None:
        self._url = url
        self._lease = lease

    async def renew(self) -> None:
        async with EtcdClient(self._url) as client:
            await client.call("/lease/keepalive", {"ID": self._lease})

    async def leave(self) -> None:
        """Nothing holds the lease."""


class DrilledConsul(Drilled):
    """A real Consul with access control, asked with a token that may read."""

    type = "consul"
    missing = missing_consul()
    rights = True
    rules: ClassVar[str] = 'service_prefix "" { policy = "%s" } node_prefix "" { policy = "read" }'
    """Of the token, with the word for what it may do."""

    def __init__(self) -> None:
        self.server = ConsulServer(acl=True)
        self._policy: dict[str, Any] = {}
        self._token = "66666666-7777-8888-9999-000000000000"

    def options(self) -> RegistryOptions:
        options: RegistryOptions = registry_options(self.type)(
            endpoints=(self.server.url,), token=self._token
        )
        return options

    def writing(self) -> RegistryOptions:
        return msgspec.structs.replace(self.options(), token=MANAGEMENT)

    async def start(self) -> None:
        await self.server.start()
        known = await self.server.get("/v1/acl/policies")
        if all(one["Name"] != "reader" for one in known):
            self._policy = await self.server.put(
                "/v1/acl/policy", {"Name": "reader", "Rules": self.rules % "read"}
            )
            await self.server.put(
                "/v1/acl/token", {"SecretID": self._token, "Policies": [{"Name": "reader"}]}
            )

    async def kill(self) -> None:
        await self.server.kill()

    def wipe(self) -> None:
        self.server.wipe()

    def pause(self) -> None:
        self.server.pause()

    def resume(self) -> None:
        self.server.resume()

    async def register(self, *ids: str, port: int = 8080, status: str = "healthy") -> None:
        for id_ in ids:
            await self.server.register(SERVICE, id_, port, Address=self.address)
            if status == "draining":
                await self.server.put(f"/v1/agent/service/maintenance/{id_}?enable=true")

    async def deregister(self, id_: str) -> None:
        await self.server.deregister(id_)

    async def take_rights(self) -> None:
        await self._may("deny")

    async def give_rights(self) -> None:
        await self._may("read")

    async def _may(self, word: str) -> None:
        policy = {"ID": self._policy["ID"], "Name": "reader", "Rules": self.rules % word}
        await self.server.put(f"/v1/acl/policy/{self._policy['ID']}", policy)


class DrilledScriptedConsul(Drilled):
    """The scripted one, which shares the rows with the real one and has more."""

    type = "consul"
    rights = True
    lies = ("empty", "partial", "garbage", "cut", "huge")
    lags = True

    def __init__(self) -> None:
        self.server = ScriptedConsul()

    def options(self) -> RegistryOptions:
        options: RegistryOptions = registry_options(self.type)(endpoints=(self.server.url,))
        return options

    async def start(self) -> None:
        await self.server.start()

    async def kill(self) -> None:
        await self.server.kill()

    def wipe(self) -> None:
        self.server.wipe()

    def pause(self) -> None:
        self.server.pause()

    def resume(self) -> None:
        self.server.resume()

    async def register(self, *ids: str, port: int = 8080, status: str = "healthy") -> None:
        checks = [check(f"_service_maintenance:{SERVICE}", "critical")]
        changes = {} if status == "healthy" else {"Checks": checks}
        changes["Address"] = self.address
        await self.server.put(SERVICE, *(entry(SERVICE, id_, port, **changes) for id_ in ids))

    async def deregister(self, id_: str) -> None:
        await self.server.delete(SERVICE, id_)

    async def take_rights(self) -> None:
        self.server.rights = False

    async def give_rights(self) -> None:
        self.server.rights = True

    async def lie(self, kind: str) -> None:
        path = f"/v1/health/service/{SERVICE}"
        one = next(iter(self.server.services.get(SERVICE, {}).values()), None)
        bodies = {
            "empty": b"[]",
            "partial": json.dumps([one]).encode(),
            "garbage": b"<html>Bad gateway</html>",
            "huge": b"[" + b" " * 2**24 + b"]",
        }
        self.server.cut = kind == "cut"
        self.server.lies = {path: bodies[kind]} if kind in bodies else {}
        await self._reconnected()

    async def go_back(self) -> None:
        self.server.lag = 3
        await self._reconnected()

    async def _reconnected(self) -> None:
        """Nobody waits any more, so that all that is known is asked for again."""
        await self.kill()
        await self.start()


class DrilledConsulKv(DrilledConsul):
    """Keys of that Consul, bound ones by a session, and a token that may read keys only."""

    type = "consul-kv"
    rules = 'key_prefix "services/" { policy = "%s" }'
    ttl = 2.0
    timing = msgspec.structs.replace(TIMING, hold=4.0)
    """Consul doubles the time of a session, and its owner comes back after that of a server."""

    async def register(self, *ids: str, port: int = 8080, status: str = "healthy") -> None:
        record = {"address": self.address, "port": port, "health": {"status": status}}
        value = base64.b64encode(json.dumps(record).encode()).decode()
        for start in range(0, len(ids), 64):
            some = [f"services/{SERVICE}/{id_}" for id_ in ids[start : start + 64]]
            writes = [{"KV": {"Verb": "set", "Key": key, "Value": value}} for key in some]
            await self.server.put("/v1/txn", writes)

    async def deregister(self, id_: str) -> None:
        await self.server.call("DELETE", f"/v1/kv/services/{SERVICE}/{id_}")

    async def register_bound(self, id_: str, address: str = "10.0.0.1", port: int = 8080) -> Owner:
        asked = {"TTL": f"{self.ttl / 2:g}s", "Behavior": "delete", "LockDelay": "0s"}
        session = (await self.server.put("/v1/session/create", asked))["ID"]
        path = f"/v1/kv/services/{SERVICE}/{id_}?acquire={session}"
        assert await self.server.put(path, {"address": address, "port": port})
        return ConsulOwner(self.server, session)


class ConsulOwner:
    """Owns a session."""

    def __init__(self, server: ConsulServer, session: str) -> None:
        self._server = server
        self._session = session

    async def renew(self) -> None:
        await self._server.put(f"/v1/session/renew/{self._session}")

    async def leave(self) -> None:
        """Nothing holds the session."""


class DrilledScriptedConsulKv(DrilledScriptedConsul):
    """Keys of the scripted one."""

    type = "consul-kv"

    async def register(self, *ids: str, port: int = 8080, status: str = "healthy") -> None:
        record = {"address": self.address, "port": port, "health": {"status": status}}
        for id_ in ids:
            await self.server.put_key(f"services/{SERVICE}/{id_}", json.dumps(record).encode())

    async def deregister(self, id_: str) -> None:
        await self.server.delete_key(f"services/{SERVICE}/{id_}")

    async def lie(self, kind: str) -> None:
        bodies = {
            "empty": b"[]",
            "partial": json.dumps(list(self.server.pairs.values())[:1]).encode(),
            "garbage": b"<html>Bad gateway</html>",
            "huge": b"[" + b" " * 2**24 + b"]",
        }
        self.server.cut = kind == "cut"
        self.server.lies = {"/v1/kv/": bodies[kind]} if kind in bodies else {}
        await self._reconnected()


class DrilledList(Drilled):
    """A list on a scripted HTTP server."""

    type = "http"
    asked = True
    rights = True
    lies = ("empty", "partial", "garbage", "cut", "huge")

    def __init__(self) -> None:
        self.server = ScriptedList()
        self._known: dict[str, dict[str, Any]] = {}

    def options(self) -> RegistryOptions:
        options: RegistryOptions = registry_options(self.type)(endpoints=(self.server.url,))
        return options

    async def start(self) -> None:
        await self.server.start()

    async def kill(self) -> None:
        await self.server.kill()

    def wipe(self) -> None:
        self._known.clear()

    def pause(self) -> None:
        self.server.pause()

    def resume(self) -> None:
        self.server.resume()

    async def register(self, *ids: str, port: int = 8080, status: str = "healthy") -> None:
        record = {"address": self.address, "port": port, "health": status}
        self._known |= {id_: {"id": id_, **record} for id_ in ids}
        self._write()

    async def deregister(self, id_: str) -> None:
        del self._known[id_]
        self._write()

    async def take_rights(self) -> None:
        self.server.token = "secret"

    async def give_rights(self) -> None:
        self.server.token = ""

    async def lie(self, kind: str) -> None:
        one = list(self._known.values())[:1]
        self.server.cut = kind == "cut"
        self.server.lies = {
            "empty": {"/": b"{}"},
            "partial": {"/": json.dumps({SERVICE: one}).encode()},
            "garbage": {"/": b"<html>Bad gateway</html>"},
            "huge": {"/": b"{" + b" " * 2**24 + b"}"},
        }.get(kind, {})

    def _write(self) -> None:
        self.server.document = {SERVICE: list(self._known.values())}


class DrilledZooKeeper(Drilled):
    """A real ZooKeeper; its lies are told by somebody else on its port."""

    type = "zookeeper"
    missing = missing_zookeeper()
    rights = True
    lies = ("garbage", "cut", "huge")
    ttl = 1.0

    def __init__(self) -> None:
        self.server = ZooKeeperServer()
        self._liar: asyncio.Server | None = None

    def options(self) -> RegistryOptions:
        options: RegistryOptions = registry_options(self.type)(endpoints=(self.server.url,))
        return options

    async def start(self) -> None:
        await self.server.start()

    async def kill(self) -> None:
        await self.server.kill()

    def wipe(self) -> None:
        self.server.wipe()

    def pause(self) -> None:
        self.server.pause()

    def resume(self) -> None:
        self.server.resume()

    async def register(self, *ids: str, port: int = 8080, status: str = "healthy") -> None:
        record = {"address": self.address, "port": port, "health": {"status": status}}
        async with self.server.client() as client:
            for id_ in ids:
                await client.put(f"/services/{SERVICE}/{id_}", json.dumps(record).encode())

    async def deregister(self, id_: str) -> None:
        async with self.server.client() as client:
            await client.delete(f"/services/{SERVICE}/{id_}")

    async def take_rights(self) -> None:
        async with self.server.client() as client:
            await client.permit("/services", 30)

    async def give_rights(self) -> None:
        async with self.server.client() as client:
            await client.permit("/services", 31)

    async def register_bound(self, id_: str, address: str = "10.0.0.1", port: int = 8080) -> Owner:
        client = self.server.client(self.ttl)
        await client.link.connect(0)
        record = json.dumps({"address": address, "port": port}).encode()
        await client.put(f"/services/{SERVICE}/{id_}", record, ephemeral=True)
        return ZooKeeperOwner(client)

    async def lie(self, kind: str) -> None:
        if self._liar is not None:
            self._liar.close()
            await self._liar.wait_closed()
            self._liar = None
            await self.start()
            return
        said = {
            "garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "cut": struct.pack(">i", 100) + bytes(50),
            "huge": struct.pack(">i", 2**31 - 1),
        }

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(49)
            writer.write(struct.pack(">iiiqi", 37, 0, 10_000, 7, 16) + bytes(17))
            writer.write(said[kind])
            writer.close()

        await self.kill()
        self._liar = await asyncio.start_server(answer, "127.0.0.1", self.server.port)


class ZooKeeperOwner:
    """Owns a session."""

    def __init__(self, client: ZooKeeperClient) -> None:
        self._client = client
        self._session = client.link.accepted
        self._keeping = asyncio.create_task(client.link.keep())

    async def renew(self) -> None:
        await self.leave()
        await self._client.link.connect(0, self._session)
        self._keeping = asyncio.create_task(self._client.link.keep())

    async def leave(self) -> None:
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        await self._client.link.disconnect()


class DrilledKubernetes(Drilled):
    """A scripted API server. Its lists are statements, also empty ones."""

    type = "kubernetes"
    rights = True
    lies = ("garbage", "cut", "huge")

    def __init__(self) -> None:
        self.server = ScriptedKubernetes()

    def options(self) -> RegistryOptions:
        options: RegistryOptions = registry_options(self.type)(endpoints=(self.server.url,))
        return options

    async def start(self) -> None:
        await self.server.start()

    async def kill(self) -> None:
        await self.server.kill()

    def wipe(self) -> None:
        self.server.wipe()

    def pause(self) -> None:
        self.server.pause()

    def resume(self) -> None:
        self.server.resume()

    async def register(self, *ids: str, port: int = 8080, status: str = "healthy") -> None:
        """A slice for each, since a port is of a whole one."""
        conditions = {"ready": status == "healthy", "terminating": status == "draining"}
        conditions["serving"] = True
        for id_ in ids:
            ports = [{"name": "http", "port": port}]
            one = endpoint(id_, self.address, conditions=conditions)
            await self.server.put(slice_of(SERVICE, f"slice-{id_}", one, ports=ports))

    async def deregister(self, id_: str) -> None:
        await self.server.delete(f"slice-{id_}")

    async def take_rights(self) -> None:
        self.server.token = "another"

    async def give_rights(self) -> None:
        self.server.token = ""

    async def lie(self, kind: str) -> None:
        bodies = {"garbage": b"<html>Bad gateway</html>", "huge": b"[" + b" " * 2**24 + b"]"}
        self.server.cut = kind == "cut"
        self.server.lies = {"/": bodies[kind]} if kind in bodies else {}


class DrilledEureka(Drilled):
    """A scripted Eureka. What it lies is said of everything and of changes alike."""

    type = "eureka"
    asked = True
    rights = True
    lies = ("empty", "partial", "garbage", "cut", "huge")

    def __init__(self) -> None:
        self.server = ScriptedEureka()

    def options(self) -> RegistryOptions:
        options: RegistryOptions = registry_options(self.type)(endpoints=(self.server.url,))
        return options

    async def start(self) -> None:
        await self.server.start()

    async def kill(self) -> None:
        await self.server.kill()

    def wipe(self) -> None:
        self.server.wipe()

    def pause(self) -> None:
        self.server.pause()

    def resume(self) -> None:
        self.server.resume()

    async def register(self, *ids: str, port: int = 8080, status: str = "healthy") -> None:
        word = "UP" if status == "healthy" else "OUT_OF_SERVICE"
        for id_ in ids:
            one = registered(SERVICE, id_, port, status=word, ipAddr=self.address)
            self.server.put(one)

    async def deregister(self, id_: str) -> None:
        self.server.delete(id_)

    async def take_rights(self) -> None:
        self.server.status = 401

    async def give_rights(self) -> None:
        self.server.status = 200

    async def lie(self, kind: str) -> None:
        one = list(self.server.instances.values())[:1]
        empty = self.server.document([])
        # As of a server that has them so: with the hash that fits.
        empty["applications"]["apps__hashcode"] = ""
        partial = self.server.document(one)
        partial["applications"]["apps__hashcode"] = "UP_1_"
        self.server.cut = kind == "cut"
        self.server.lies = {
            "empty": {"/eureka": json.dumps(empty).encode()},
            "partial": {"/eureka": json.dumps(partial).encode()},
            "garbage": {"/eureka": b"<html>Bad gateway</html>"},
            "huge": {"/eureka": b"{" + b" " * 2**24 + b"}"},
        }.get(kind, {})


class DrilledRealEureka(DrilledEureka):
    """The one of `.ci/eureka`, which knows no rights and tells no lies. It forgets everybody when
    it stops: those who were registered register again as their owners do, one after the other."""

    server: EurekaServer
    missing = missing_eureka
    rights = False
    lies = ()
    at_once = False
    timing = SLOW

    def __init__(self) -> None:
        self.server = EurekaServer()
        self._known: dict[str, dict[str, Any]] = {}

    async def start(self) -> None:
        await self.server.start()
        await self._put(*self._known)

    async def kill(self) -> None:
        await self.server.process.kill()

    def wipe(self) -> None:
        self._known.clear()

    def pause(self) -> None:
        self.server.process.pause()

    def resume(self) -> None:
        self.server.process.resume()

    async def register(self, *ids: str, port: int = 8080, status: str = "healthy") -> None:
        for id_ in ids:
            written = time.time_ns() // 10**6
            fields = {"lastDirtyTimestamp": str(written), "metadata": {}, "ipAddr": self.address}
            self._known[id_] = registered(SERVICE, id_, port, **fields)
        await self._put(*ids)
        # Of an instance that is up it believes no other status that is registered.
        for id_ in ids if status != "healthy" else ():
            await self._call("PUT", f"/{id_}/status", params={"value": "OUT_OF_SERVICE"})

    async def deregister(self, id_: str) -> None:
        del self._known[id_]
        await self._call("DELETE", f"/{id_}")

    async def _put(self, *ids: str) -> None:
        for id_ in ids:
            one = {**self._known[id_], "dataCenterInfo": _OWN_CENTRE}
            await self._call("POST", "", json={"instance": one})

    async def _call(self, method: str, path: str, **content: Any) -> None:
        url = f"{self.server.url}/apps/{SERVICE}{path}"
        async with aiohttp.request(method, url, **content) as response:
            assert response.status in (200, 204), await response.text()


_OWN_CENTRE = {
    "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
    "name": "MyOwn",
}


class DrilledNacos(Drilled):
    """A scripted Nacos. Ids are made of addresses there, so the drills' are clusters."""

    type = "nacos"
    asked = True
    rights = True
    lies = ("empty", "partial", "garbage", "cut", "huge")

    def __init__(self) -> None:
        self.server = ScriptedNacos()
        self._known: dict[str, dict[str, Any]] = {}

    def options(self) -> RegistryOptions:
        options: RegistryOptions = registry_options(self.type)(endpoints=(self.server.url,))
        return options

    async def start(self) -> None:
        await self.server.start()

    async def kill(self) -> None:
        await self.server.kill()

    def wipe(self) -> None:
        self._known.clear()
        self.server.services.clear()

    def pause(self) -> None:
        self.server.pause()

    def resume(self) -> None:
        self.server.resume()

    async def register(self, *ids: str, port: int = 8080, status: str = "healthy") -> None:
        weight = 1.0 if status == "healthy" else 0.0
        for id_ in ids:
            enabled = status == "healthy"
            fields = {"clusterName": id_, "weight": weight, "enabled": enabled}
            self._known[id_] = host(port, ip=self.address, **fields)
        self.server.services[SERVICE] = list(self._known.values())

    async def deregister(self, id_: str) -> None:
        del self._known[id_]
        self.server.services[SERVICE] = list(self._known.values())

    async def take_rights(self) -> None:
        self.server.password = "secret"

    async def give_rights(self) -> None:
        self.server.password = ""

    async def lie(self, kind: str) -> None:
        one = list(self._known.values())[:1]
        self.server.cut = kind == "cut"
        self.server.lies = {
            "empty": {"/nacos/v1/ns/instance": b'{"hosts": []}'},
            "partial": {"/nacos/v1/ns/instance": json.dumps({"hosts": one}).encode()},
            "garbage": {"/nacos": b"<html>Bad gateway</html>"},
            "huge": {"/nacos": b"{" + b" " * 2**24 + b"}"},
        }.get(kind, {})


class DrilledNacosPush(DrilledNacos):
    """The same Nacos where it tells changes over gRPC. What it lies, it tells."""

    server: ScriptedNacosPush

    def __init__(self) -> None:
        super().__init__()
        self.server = ScriptedNacosPush()

    async def register(self, *ids: str, port: int = 8080, status: str = "healthy") -> None:
        await super().register(*ids, port=port, status=status)
        self.server.push.tell(SERVICE)

    async def deregister(self, id_: str) -> None:
        await super().deregister(id_)
        self.server.push.tell(SERVICE)

    async def lie(self, kind: str) -> None:
        await super().lie(kind)
        if kind in ("empty", "partial"):
            self.server.push.tell(SERVICE)


class DrilledRealNacos(DrilledNacos):
    """The one of `.ci/nacos`, which tells changes over gRPC, knows no rights and tells no lies. It
    forgets everybody when it stops: see `DrilledRealEureka`. One address is one instance there, and
    one that is not enabled is in no list, so those who drain say it as registrars of ours do."""

    server: NacosServer
    missing = missing_nacos
    rights = False
    lies = ()
    addressed = False
    at_once = False
    timing = SLOW

    def __init__(self) -> None:
        self.server = NacosServer()
        self._known: dict[str, dict[str, str]] = {}
        self._addresses = itertools.count(1)

    async def start(self) -> None:
        await self.server.start()
        for one in self._known.values():
            await self._call("POST", one)

    async def kill(self) -> None:
        await self.server.process.kill()

    def wipe(self) -> None:
        self._known.clear()

    def pause(self) -> None:
        self.server.process.pause()

    def resume(self) -> None:
        self.server.process.resume()

    async def register(self, *ids: str, port: int = 8080, status: str = "healthy") -> None:
        for id_ in ids:
            before = self._known.get(id_)
            if before is not None and before["port"] != str(port):
                await self.deregister(id_)
            number = next(self._addresses)
            ip = before["ip"] if before else f"10.0.{number // 200}.{number % 200 + 1}"
            one = {
                "serviceName": SERVICE,
                "ip": ip,
                "port": str(port),
                "clusterName": id_,
                "weight": "1" if status == "healthy" else "0",
                "metadata": json.dumps(_NO_BEATS),
            }
            if status != "healthy":
                record = {"id": id_, "health": {"status": status}}
                one["metadata"] = json.dumps({**packed(record, 1), **_NO_BEATS})
            self._known[id_] = one
            await self._call("POST", one)

    async def deregister(self, id_: str) -> None:
        await self._call("DELETE", self._known.pop(id_))

    async def _call(self, method: str, one: dict[str, str]) -> None:
        assert await self.server.call(method, **one) == 200


_NO_BEATS = {
    "preserved.heart.beat.timeout": "600000",
    "preserved.ip.delete.timeout": "600000",
}


class DrilledDocker(Drilled):
    """A scripted daemon. What its lists merely lack is held for a while."""

    type = "docker"
    lies = ("garbage", "cut", "huge")
    drained = "paused"

    def __init__(self) -> None:
        self.server = ScriptedDocker()

    def options(self) -> RegistryOptions:
        options: RegistryOptions = registry_options(self.type)(endpoints=(self.server.url,))
        return options

    async def start(self) -> None:
        await self.server.start()

    async def kill(self) -> None:
        await self.server.kill()

    def wipe(self) -> None:
        self.server.wipe()

    def pause(self) -> None:
        self.server.pause()

    def resume(self) -> None:
        self.server.resume()

    async def register(self, *ids: str, port: int = 8080, status: str = "healthy") -> None:
        state = "running" if status == "healthy" else "paused"
        fields = {
            "State": state,
            "NetworkSettings": {"Networks": {"b": {"IPAddress": self.address}}},
        }
        await self.server.put(*(container(SERVICE, id_, port, **fields) for id_ in ids))

    async def deregister(self, id_: str) -> None:
        await self.server.delete(id_)

    async def lie(self, kind: str) -> None:
        bodies = {"garbage": b"<html>Bad gateway</html>", "huge": b"[" + b" " * 2**24 + b"]"}
        self.server.cut = kind == "cut"
        self.server.lies = {"/containers": bodies[kind]} if kind in bodies else {}


class RelayInFront:
    """Owns a relay of an etcd in this process, on a port that stays the same."""

    def __init__(
        self, etcd: str, token: str = "", write_limit: float = 10.0, port: int = 0
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        registry = registry_options("etcd")(endpoints=(etcd,))
        self._settings = Settings(
            relay=RelaySettings(bind=f"127.0.0.1:{self.port}", token=token),
            registry=Registry(type="etcd", options=registry),
        )
        self._write_limit = write_limit
        self._relay: Relay | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        self._tasks.append(asyncio.create_task(work, name=name))
        return self._tasks[-1]

    def start(self) -> None:
        if self._relay is not None:
            return

        def build(options: RegistryOptions) -> Provider:
            built: Provider = load(PROVIDERS, "etcd")(options, timing=TIMING)
            return built

        relay = Relay(self._own, lambda: None, build, stale=1.5, write_limit=self._write_limit)
        relay.follow(self._settings)
        self._relay = relay

    async def kill(self) -> None:
        if self._relay is not None:
            self._relay.leave()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._relay = None

    def samples(self) -> list[Any]:
        return [] if self._relay is None else [*self._relay.samples()]

    def cut(self, reason: str) -> float:
        """Followers that were sent away for this reason."""
        return sum(value for _, labels, value in self.samples() if labels == {"reason": reason})

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()


class DrilledRelay(DrilledEtcd):
    """A relay in front of a real etcd, which is what is harmed. Whether a lease ran out a follower
    cannot ask."""

    type = "relay"
    ttl = 0.0

    def __init__(self) -> None:
        super().__init__()
        self._relay = RelayInFront(self.server.url)

    def options(self) -> RegistryOptions:
        # Not before: what is registered in a moment would be told as a change.
        self._relay.start()
        options: RegistryOptions = registry_options("relay")(endpoints=(self._relay.url,))
        return options

    async def __aexit__(self, *exc: object) -> None:
        await self._relay.kill()
        await super().__aexit__()


DRILLED: dict[str, type[Drilled]] = {
    "etcd": DrilledEtcd,
    "etcd-scripted": DrilledScriptedEtcd,
    "consul": DrilledConsul,
    "consul-scripted": DrilledScriptedConsul,
    "consul-kv": DrilledConsulKv,
    "consul-kv-scripted": DrilledScriptedConsulKv,
    "eureka": DrilledRealEureka,
    "eureka-scripted": DrilledEureka,
    "http": DrilledList,
    "docker": DrilledDocker,
    "kubernetes": DrilledKubernetes,
    "relay": DrilledRelay,
    "zookeeper": DrilledZooKeeper,
    "nacos": DrilledRealNacos,
    "nacos-http": DrilledNacos,
    "nacos-push": DrilledNacosPush,
}
