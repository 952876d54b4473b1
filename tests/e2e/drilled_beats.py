"""Registries that live on beats under drill: Eureka and Nacos."""

from __future__ import annotations

import itertools
import json
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import aiohttp

from proxy.registry.own import packed
from tests.e2e.drilled import (
    SERVICE,
    SLOW,
    TRUTHFUL,
    UNLED,
    UNORDERED,
    Drilled,
    Listed,
    Owner,
    Scripted,
    rows,
)
from tests.e2e.eureka_server import EurekaServer
from tests.e2e.eureka_server import missing as missing_eureka
from tests.e2e.nacos_server import NacosServer
from tests.e2e.nacos_server import missing as missing_nacos
from tests.support.scripted_eureka import ScriptedEureka, registered
from tests.support.scripted_nacos import ScriptedNacos, host
from tests.support.scripted_nacos_push import ScriptedNacosPush


class Forgetful(Drilled):
    """One that forgets instances without a word about why."""

    asked = True
    tells_purpose = False
    lacks: ClassVar[Mapping[str, str]] = {
        **rows("it forgets all leases when it stops, so nobody waits for owners", "owners"),
        **UNORDERED,
        **UNLED,
    }

    async def _register_bound(self, id_: str, port: int) -> Owner:
        await self.register(id_, port=port)
        return GoneOwner(self, id_)


class GoneOwner:
    """Owns an instance that a registry forgets."""

    def __init__(self, registry: Drilled, id_: str) -> None:
        self._registry = registry
        self._id = id_

    async def renew(self) -> None:
        """Nothing holds it."""

    async def leave(self) -> None:
        await self._registry.deregister(self._id)


class Restarted(Forgetful):
    """A real one in a process of its own, which tells no lies and forgets everybody when it stops:
    those who were registered register again as their owners do, one after the other."""

    real = True
    at_once = False
    timing = SLOW
    known: dict[str, dict[str, Any]]

    async def start(self) -> None:
        await self.server.start()
        await self._put(*self.known)

    async def kill(self) -> None:
        await self.server.process.kill()

    def wipe(self) -> None:
        self.known.clear()

    def pause(self) -> None:
        self.server.process.pause()

    def resume(self) -> None:
        self.server.process.resume()

    @abstractmethod
    async def _put(self, *ids: str) -> None:
        """Register what is `known` of these."""


class DrilledEureka(Scripted, Forgetful):
    """A scripted Eureka. What it lies is said of everything and of changes alike."""

    type = "eureka"
    path = "/eureka"
    rights = ("status", 200, 401)

    def __init__(self) -> None:
        self.server = ScriptedEureka()

    async def _register(self, ids: tuple[str, ...], port: int, status: str) -> None:
        word = "UP" if status == "healthy" else "OUT_OF_SERVICE"
        for id_ in ids:
            one = registered(SERVICE, id_, port, status=word, ipAddr=self.address)
            self.server.put(one)

    async def deregister(self, id_: str) -> None:
        self.server.delete(id_)

    def first(self, number: int) -> object:
        document = self.server.document(list(self.server.instances.values())[:number])
        # As of a server that has them so: with the hash that fits.
        document["applications"]["apps__hashcode"] = f"UP_{number}_" if number else ""
        return document


class DrilledRealEureka(Restarted):
    """The one of `.ci/eureka`, which knows no rights."""

    server: EurekaServer
    type = "eureka"
    missing = missing_eureka
    lacks: ClassVar[Mapping[str, str]] = {
        **Forgetful.lacks,
        **TRUTHFUL,
        **rows("it has none", "rights"),
        **rows("it takes minutes to miss somebody", "expiry"),
    }

    def __init__(self) -> None:
        self.server = EurekaServer()
        self.known = {}

    async def _register(self, ids: tuple[str, ...], port: int, status: str) -> None:
        for id_ in ids:
            written = time.time_ns() // 10**6
            fields = {"lastDirtyTimestamp": str(written), "metadata": {}, "ipAddr": self.address}
            self.known[id_] = registered(SERVICE, id_, port, **fields)
        await self._put(*ids)
        # Of an instance that is up it believes no other status that is registered.
        for id_ in ids if status != "healthy" else ():
            await self._call("PUT", f"/{id_}/status", params={"value": "OUT_OF_SERVICE"})

    async def deregister(self, id_: str) -> None:
        del self.known[id_]
        await self._call("DELETE", f"/{id_}")

    async def _put(self, *ids: str) -> None:
        for id_ in ids:
            one = {**self.known[id_], "dataCenterInfo": _OWN_CENTRE}
            await self._call("POST", "", json={"instance": one})

    async def _call(self, method: str, path: str, **content: Any) -> None:
        url = f"{self.server.url}/apps/{SERVICE}{path}"
        async with aiohttp.request(method, url, **content) as response:
            assert response.status in (200, 204), await response.text()


_OWN_CENTRE = {
    "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
    "name": "MyOwn",
}


class DrilledNacos(Scripted, Listed, Forgetful):
    """A scripted Nacos. Ids are made of addresses there, so the drills' are clusters."""

    type = "nacos"
    path = "/nacos"
    rights = ("password", "", "secret")

    def __init__(self) -> None:
        super().__init__()
        self.server = ScriptedNacos()

    def entry(self, id_: str, port: int, status: str) -> Any:
        well = status == "healthy"
        fields = {"clusterName": id_, "weight": float(well), "enabled": well}
        return host(port, ip=self.address, **fields)

    def write(self) -> None:
        self.server.services = {SERVICE: list(self.known.values())} if self.known else {}

    async def lie(self, kind: str) -> None:
        await super().lie(kind)
        if kind in ("empty", "partial"):  # of the service, which is still in the list of names
            self.server.lies = {"/nacos/v1/ns/instance": self.server.lies[self.path]}

    def first(self, number: int) -> object:
        return {"hosts": list(self.known.values())[:number]}


class DrilledNacosPush(DrilledNacos):
    """The same Nacos where it tells changes over gRPC. What it lies, it tells."""

    server: ScriptedNacosPush

    def __init__(self) -> None:
        super().__init__()
        self.server = ScriptedNacosPush()

    def write(self) -> None:
        super().write()
        self.server.push.tell(SERVICE)

    async def lie(self, kind: str) -> None:
        await super().lie(kind)
        if kind in ("empty", "partial"):
            self.server.push.tell(SERVICE)


class DrilledRealNacos(Restarted):
    """The one of `.ci/nacos`, which tells changes over gRPC and knows no rights. One address is one
    instance there, and one that is not enabled is in no list, so those who drain say it as
    registrars of ours do."""

    server: NacosServer
    type = "nacos"
    missing = missing_nacos
    lacks: ClassVar[Mapping[str, str]] = {
        **Forgetful.lacks,
        **TRUTHFUL,
        **rows("the one that is built knows none", "rights"),
        **rows("the scripted one has no beats to wait for", "expiry"),
    }

    def __init__(self) -> None:
        self.server = NacosServer()
        self.known = {}
        self._addresses = itertools.count(1)

    async def _register(self, ids: tuple[str, ...], port: int, status: str) -> None:
        for id_ in ids:
            before = self.known.get(id_)
            if before is not None and before["port"] != str(port):
                await self.deregister(id_)
            number = next(self._addresses)
            ip = before["ip"] if before else f"127.8.{number // 200}.{number % 200 + 1}"
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
            self.known[id_] = one
        await self._put(*ids)

    async def deregister(self, id_: str) -> None:
        await self._call("DELETE", self.known.pop(id_))

    async def _put(self, *ids: str) -> None:
        for id_ in ids:
            await self._call("POST", self.known[id_])

    async def _call(self, method: str, one: dict[str, str]) -> None:
        assert await self.server.call(method, **one) == 200


_NO_BEATS = {
    "preserved.heart.beat.timeout": "600000",
    "preserved.ip.delete.timeout": "600000",
}
