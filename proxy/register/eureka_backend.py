"""Registration in Eureka: instances that are renewed one by one.

Eureka takes no new status for an instance that it has, unless it is DOWN: one that drains is put
out of service by an override, as its operators do it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from proxy.register.backend import Lease
from proxy.register.beating import BeatingBackend, There, revision_of
from proxy.register.record import Name
from proxy.registry.base import Refused, decode
from proxy.registry.eureka.options import Options
from proxy.registry.eureka.server import Server
from proxy.registry.own import metadata_of, own_of, packed, word_of
from proxy.registry.records import HEALTHY
from proxy.registry.rest import Answer, Answered
from proxy.waiting import together


class Instance(msgspec.Struct, frozen=True, rename="camel"):
    """An instance, as `/apps/{app}/{id}` has it."""

    ip_addr: str = ""
    host_name: str = ""
    port: Any = None
    metadata: dict[str, Any] = {}


class One(msgspec.Struct, frozen=True):
    """The answer about one instance."""

    instance: Instance


class EurekaBackend(BeatingBackend):
    """Owns the connections to one server, which tells its peers."""

    name: ClassVar[str] = "eureka"
    batch: ClassVar[int] = 20
    """Names are written one after the other, two requests each."""

    def __init__(self, options: Options, url: str, limit: float) -> None:
        super().__init__(options, url, limit)
        self._server = Server(url, options)
        self._lower = options.names == "lower"

    @property
    def remedy(self) -> str:
        return "check the user, the path in the URL, and the TLS files"

    async def close(self) -> None:
        await self._server.disconnect()

    async def _answers(self) -> None:
        await self._asked("GET", ("fairlead", "fairlead"))

    async def _look(self, names: Collection[Name]) -> Mapping[Name, There]:
        looks = [partial(self._there, name) for name in names]
        found = await together(self.batch, looks)
        return {name: there for name, there in zip(names, found, strict=True) if there}

    async def _there(self, name: Name) -> There | None:
        answer = await self._asked("GET", name)
        if answer is None:
            return None
        one = decode("Eureka", answer.body, One).instance
        port = one.port.get("$") if isinstance(one.port, dict) else one.port
        address = one.ip_addr or one.host_name
        own = own_of(one.metadata)
        record = {**(own.record if own else {}), "address": address, "port": port}
        record["metadata"] = metadata_of(one.metadata)
        revision = revision_of(address, int(port or 0), one.metadata)
        return There(record, own.lease if own else 0, revision)

    async def _put(
        self, lease: Lease, name: Name, record: dict[str, Any], there: There | None
    ) -> int:
        service, id_ = name
        spelt = service.upper().lower() if self._lower else service.upper()
        if spelt != service:
            raise Refused(f"service {service!r}: Eureka would call it {spelt!r}")
        drains = word_of(record) == "draining"
        drained = there is not None and word_of(there.record) == "draining"
        if drains and there is not None:
            await self._override(name, "PUT", "OUT_OF_SERVICE")  # first: all else can wait
        metadata = packed(record, lease.id)
        address, port = record["address"], record["port"]
        now = str(round(time.time() * 1000))
        instance = {
            "instanceId": id_,
            "app": service.upper(),
            "hostName": address,
            "ipAddr": address,
            "vipAddress": service,
            "status": _status(record),
            "port": {"$": port, "@enabled": "true"},
            "securePort": {"$": 443, "@enabled": "false"},
            "dataCenterInfo": {
                "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
                "name": "MyOwn",
            },
            "leaseInfo": {
                "renewalIntervalInSecs": max(1, math.floor(lease.ttl / 3)),
                "durationInSecs": math.ceil(lease.ttl),
            },
            "metadata": metadata,
            "lastDirtyTimestamp": now,
            "lastUpdatedTimestamp": now,
        }
        body = msgspec.json.encode({"instance": instance})
        path = f"/apps/{quote(service.upper(), safe='')}"
        await self._server.call("POST", path, body=body, timeout=self._limit)
        if drains and there is None:
            await self._override(name, "PUT", "OUT_OF_SERVICE")
        if drained and not drains:
            await self._override(name, "DELETE", _status(record))
        return revision_of(address, port, metadata)

    async def _override(self, name: Name, method: str, status: str) -> None:
        """Put a status in the place of that which is registered, or take it back."""
        await self._asked(method, name, "/status", {"value": status})

    async def _remove(self, name: Name, there: There) -> None:
        await self._asked("DELETE", name)

    async def _beat(self, name: Name, there: There) -> None:
        await self._asked("PUT", name)

    async def _asked(
        self, method: str, name: Name, rest: str = "", query: Mapping[str, str] | None = None
    ) -> Answer | None:
        """An answer about an instance; None if the server does not know it."""
        app, id_ = name[0].upper(), name[1]
        path = f"/apps/{quote(app, safe='')}/{quote(id_, safe='')}{rest}"
        try:
            return await self._server.call(method, path, query, timeout=self._limit)
        except Answered as error:
            if error.status != 404:
                raise
        return None


def _status(record: Mapping[str, Any]) -> str:
    """Word of Eureka's: what drains is well, and put out of service by an override."""
    return "UP" if word_of(record) in HEALTHY | {"draining"} else "DOWN"
