"""Registration in Nacos: ephemeral instances that beat one by one.

Nacos knows an instance by its endpoint, so its id is in the metadata. One that is not to be used
has the weight 0: taken out by `enabled` it would be missing from every list, as if it had gone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, ClassVar

import msgspec

from proxy.register.backend import Lease
from proxy.register.beating import BeatingBackend, There, revision_of
from proxy.register.record import Name
from proxy.registry.nacos.answers import Hosts
from proxy.registry.nacos.member import Member
from proxy.registry.nacos.options import Options
from proxy.registry.own import metadata_of, own_of, packed, word_of
from proxy.registry.records import HEALTHY, weight
from proxy.waiting import together

_HEAVIEST = 10_000
"""Largest weight that Nacos takes."""


class NacosBackend(BeatingBackend):
    """Owns the connections to one member, which tells the others."""

    name: ClassVar[str] = "nacos"
    batch: ClassVar[int] = 20
    """Names are written one after the other."""

    def __init__(self, options: Options, url: str, limit: float) -> None:
        super().__init__(options, url, limit)
        self._member = Member(url, options, limit=limit)
        self._cluster = options.clusters[0] if options.clusters else "DEFAULT"

    @property
    def remedy(self) -> str:
        return "check the user, who needs to write in the namespace, and the TLS files"

    async def close(self) -> None:
        await self._member.disconnect()

    async def _answers(self) -> None:
        await self._member.instances("fairlead")

    async def _look(self, names: Collection[Name]) -> Mapping[Name, There]:
        services = sorted({service for service, _ in names})
        asks = [partial(self._member.instances, service) for service in services]
        lists = await together(self.batch, asks)
        found: dict[Name, There] = {}
        for service, hosts in zip(services, lists, strict=True):
            found |= _by_name(service, hosts)
        return {name: found[name] for name in names if name in found}

    async def _put(
        self, lease: Lease, name: Name, record: dict[str, Any], there: There | None
    ) -> int:
        endpoint = self._endpoint(record)
        if there is not None and self._endpoint(there.record) != endpoint:
            await self._remove(name, there)
        metadata = packed(record, lease.id)
        served = word_of(record) in HEALTHY
        stated = weight(metadata.get("weight", "1")) if served else 0
        beats = {
            "preserved.heart.beat.interval": str(round(lease.ttl / 3 * 1000)),
            "preserved.heart.beat.timeout": str(round(lease.ttl * 1000)),
            "preserved.ip.delete.timeout": str(round(lease.ttl * 2000)),
        }
        instance = {
            **endpoint,
            "weight": str(min(stated, _HEAVIEST)),
            "enabled": "true",
            "healthy": "true",
            "metadata": msgspec.json.encode(metadata | beats).decode(),
        }
        await self._member.register(name[0], instance)
        return revision_of(record["address"], record["port"], metadata | beats)

    async def _remove(self, name: Name, there: There) -> None:
        await self._member.deregister(name[0], self._endpoint(there.record))

    async def _beat(self, name: Name, there: There) -> None:
        await self._member.beat(name[0], self._endpoint(there.record))

    def _endpoint(self, record: Mapping[str, Any]) -> dict[str, str]:
        """Nacos' identity of an instance."""
        place = {"ip": str(record["address"]), "port": str(record["port"])}
        return {**place, "clusterName": self._cluster, "ephemeral": "true"}


def _by_name(service: str, hosts: Hosts) -> dict[Name, There]:
    found = {}
    for one in hosts.hosts:
        metadata = one.get("metadata") or {}
        own = own_of(metadata)
        if own is None:
            continue
        address, port = one.get("ip"), one.get("port")
        record = {**own.record, "address": address, "port": port}
        record["metadata"] = metadata_of(metadata)
        name = service, str(own.record.get("id"))
        found[name] = There(record, own.lease, revision_of(address, port, metadata))
    return found
