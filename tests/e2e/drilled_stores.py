"""Stores of keys under drill: etcd, a relay in front of one, and ZooKeeper."""

from __future__ import annotations

import asyncio
import struct
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from proxy.catalog import registry_options
from proxy.settings.registry import RegistryOptions
from tests.e2e.drilled import ONE, SERVICE, Drilled, Owner, Scripted, garbled, rows
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.relay_in_front import RelayInFront
from tests.e2e.scripted_etcd import ScriptedEtcd
from tests.e2e.zookeeper_server import ZooKeeperClient, ZooKeeperServer
from tests.e2e.zookeeper_server import missing as missing_zookeeper


class Replaced(Drilled):
    """A real one; its lies are told by somebody else on its port."""

    _liar: asyncio.Server | None = None

    @property
    @abstractmethod
    def _port(self) -> int: ...

    @abstractmethod
    async def _said(self, kind: str, reader: asyncio.StreamReader) -> bytes:
        """The lie that answers what is read."""

    async def lie(self, kind: str) -> None:
        if self._liar is not None:
            self._liar.close()
            await self._liar.wait_closed()
            self._liar = None
            await self.start()
            return

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await self._said(kind, reader))
            writer.close()

        await self.kill()
        self._liar = await asyncio.start_server(answer, "127.0.0.1", self._port)


class DrilledEtcd(Replaced):
    """A real etcd; its lies are told by somebody else on its port."""

    type = "etcd"
    real = True
    ttl = 2.0
    lacks = rows("a real one tells the truth", "empty", "partial", "lag") | ONE

    def __init__(self) -> None:
        self.server = EtcdServer()
        self._guarded = False
        """Whoever is not logged in may do nothing."""

    @property
    def _port(self) -> int:
        return self.server.client_port

    async def _register(self, ids: tuple[str, ...], port: int, status: str) -> None:
        record = self.record(port, status)
        async with EtcdClient(self.server.url) as client:
            if self._guarded:
                await client.login("root", "root")
            await client.put_all({f"/services/{SERVICE}/{id_}": record for id_ in ids})

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

    async def _register_bound(self, id_: str, port: int) -> Owner:
        async with EtcdClient(self.server.url) as client:
            lease = await client.grant(int(self.ttl))
            await client.put(f"/services/{SERVICE}/{id_}", self.record(port), lease)
        return EtcdOwner(self.server.url, lease)

    async def _said(self, kind: str, reader: asyncio.StreamReader) -> bytes:
        await reader.readuntil(b"\r\n\r\n")
        size = 100 if kind == "cut" else len(garbled(kind))
        body = b'{"header": {"cluster_id": "7"' if kind == "cut" else garbled(kind)
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body


class DrilledScriptedEtcd(Scripted):
    """A scripted one, which shares the rows with the real one, can lag behind, and hide keys."""

    type = "etcd"
    path = "/v3/kv"
    lacks = rows("the scripted one knows neither", "owners", "expiry", "rights") | ONE

    def __init__(self) -> None:
        self.server = ScriptedEtcd()

    async def _register(self, ids: tuple[str, ...], port: int, status: str) -> None:
        for id_ in ids:
            await self.server.put(f"/services/{SERVICE}/{id_}", self.record(port, status))

    async def deregister(self, id_: str) -> None:
        await self.server.delete(f"/services/{SERVICE}/{id_}")

    async def lie(self, kind: str) -> None:
        shown = {"empty": 0, "partial": 1}.get(kind)
        self.server.hidden = set() if shown is None else {*list(self.server.keys)[shown:]}
        await super().lie(kind if shown is None else "")

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


class DrilledZooKeeper(Replaced):
    """A real ZooKeeper; its lies are told by somebody else on its port."""

    type = "zookeeper"
    missing = missing_zookeeper()
    real = True
    ttl = 1.0
    lacks: ClassVar[Mapping[str, str]] = {
        **rows("what may not be read is refused, and a list is a statement", "empty", "partial"),
        **rows("a server that is behind hangs up on who has seen more", "lag"),
        **ONE,
    }

    def __init__(self) -> None:
        self.server = ZooKeeperServer()

    @property
    def _port(self) -> int:
        return self.server.port

    async def _register(self, ids: tuple[str, ...], port: int, status: str) -> None:
        record = self.record(port, status).encode()
        async with self.server.client() as client:
            paths = [f"/services/{SERVICE}/{id_}" for id_ in ids]
            await client.put(paths[0], record)  # with those above it
            await asyncio.gather(*(client.put(path, record) for path in paths[1:]))

    async def deregister(self, id_: str) -> None:
        async with self.server.client() as client:
            await client.delete(f"/services/{SERVICE}/{id_}")

    async def take_rights(self) -> None:
        async with self.server.client() as client:
            await client.permit("/services", 30)

    async def give_rights(self) -> None:
        async with self.server.client() as client:
            await client.permit("/services", 31)

    async def _register_bound(self, id_: str, port: int) -> Owner:
        client = self.server.client(self.ttl)
        await client.link.connect(0)
        record = self.record(port).encode()
        await client.put(f"/services/{SERVICE}/{id_}", record, ephemeral=True)
        return ZooKeeperOwner(client)

    async def _said(self, kind: str, reader: asyncio.StreamReader) -> bytes:
        await reader.readexactly(49)
        said = {
            "garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "cut": struct.pack(">i", 100) + bytes(50),
            "huge": struct.pack(">i", 2**31 - 1),
        }
        return struct.pack(">iiiqi", 37, 0, 10_000, 7, 16) + bytes(17) + said[kind]


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


class DrilledRelay(DrilledEtcd):
    """A relay in front of a real etcd, which is what is harmed. Whether a lease ran out a follower
    cannot ask."""

    type = "relay"
    ttl = 0.0
    lacks: ClassVar[Mapping[str, str]] = {
        **rows("the relay judges what etcd says", "empty", "partial", "lag"),
        **rows("a follower cannot ask whether a lease ran out", "owners", "expiry"),
        **rows("the leader is etcd's", "leader"),
    }

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
