"""Registration in Consul: services of one agent, each with a check that is passed over and over."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Final
from urllib.parse import quote

import msgspec

from proxy.register.backend import Lease
from proxy.register.beating import BeatingBackend, There, revision_of
from proxy.register.record import Name
from proxy.registry.consul.agent import Agent
from proxy.registry.consul.answers import decode
from proxy.registry.consul.meta import lease_of, packed, unpacked
from proxy.registry.consul.options import Options
from proxy.registry.own import word_of
from proxy.registry.records import HEALTHY, weight
from proxy.registry.rest import Answered, Secret

_FORGET: Final = 60.0
"""Seconds after which Consul removes a service whose check fails; it takes no less."""


class Known(msgspec.Struct, frozen=True, rename="pascal"):
    """A service of the agent, as `/v1/agent/services` has it."""

    id_: str = msgspec.field(name="ID")
    address: str = ""
    port: int = 0
    meta: dict[str, str] | None = None


class ConsulBackend(BeatingBackend):
    """Owns the connections to one agent: that of this machine, which Consul takes for the one that
    knows what runs here."""

    name: ClassVar[str] = "consul"
    batch: ClassVar[int] = 20
    """Names are written one after the other, a few requests each."""

    def __init__(self, options: Options, url: str, limit: float) -> None:
        super().__init__(options, url, limit)
        self._agent = Agent(url, options, Secret(options.token, options.token_file))

    @property
    def remedy(self) -> str:
        return "check the token, which needs the policy write for the service, and the TLS files"

    async def close(self) -> None:
        await self._agent.disconnect()

    async def _answers(self) -> None:
        await self._agent.get("/v1/status/leader", timeout=self._limit)

    async def _look(self, names: Collection[Name]) -> Mapping[Name, There]:
        answer = await self._agent.get("/v1/agent/services", timeout=self._limit)
        known = decode(answer.body, dict[str, Known])
        return {name: _there(one) for name in names if (one := known.get(self.key(name)))}

    async def _remove(self, name: Name, there: There) -> None:
        await self._put_to(f"/v1/agent/service/deregister/{self._quoted(name)}")

    async def _put(
        self, lease: Lease, name: Name, record: dict[str, Any], there: There | None
    ) -> int:
        service, id_ = name
        stated = weight(str(record.get("metadata", {}).get("weight", "1")))
        key = self.key(name)
        drains = word_of(record) == "draining"
        drained = there is not None and word_of(there.record) == "draining"
        if drains and there is not None:
            await self._maintain(name, enable=True)  # first: all else can wait
        meta = packed(id_, msgspec.json.encode(record), lease.id, random.getrandbits(62))
        await self._put_to(
            "/v1/agent/service/register",
            {
                "ID": key,
                "Name": service,
                "Address": record["address"],
                "Port": record["port"],
                "Meta": meta,
                "Weights": {"Passing": max(1, stated), "Warning": 1},  # no 0 is taken
                "Check": {
                    "CheckID": f"service:{key}",
                    "Name": "renewed by its registrar",
                    "TTL": f"{lease.ttl:g}s",
                    "Status": _status(record),
                    "DeregisterCriticalServiceAfter": f"{max(_FORGET, 6 * lease.ttl):g}s",
                },
            },
        )
        await self._pass(name, record)
        if drains and there is None:
            await self._maintain(name, enable=True)
        if drained and not drains:
            await self._maintain(name, enable=False)
        return revision_of(record["address"], record["port"], meta)

    async def _beat(self, name: Name, there: There) -> None:
        await self._pass(name, there.record)

    async def _maintain(self, name: Name, *, enable: bool) -> None:
        path = f"/v1/agent/service/maintenance/{self._quoted(name)}"
        query = {"enable": str(enable).lower(), "reason": "draining"}
        await self._agent.call("PUT", path, query, timeout=self._limit)

    async def _pass(self, name: Name, record: Mapping[str, Any]) -> None:
        health = record.get("health")
        message = health.get("message", "") if isinstance(health, dict) else ""
        path = f"/v1/agent/check/update/{quote(f'service:{self.key(name)}', safe='')}"
        try:
            await self._put_to(path, {"Status": _status(record), "Output": message})
        except Answered as error:
            if error.status not in (404, 500):  # 1.8 says 500 and "does not have associated TTL"
                raise

    async def _put_to(self, path: str, body: Mapping[str, Any] | None = None) -> None:
        sent = None if body is None else msgspec.json.encode(body)
        await self._agent.call("PUT", path, body=sent, timeout=self._limit)

    def _quoted(self, name: Name) -> str:
        return quote(self.key(name), safe="")


def _there(one: Known) -> There:
    meta = one.meta or {}
    record = unpacked(meta) or {"address": one.address, "port": one.port}
    return There(record, lease_of(meta), revision_of(one.address, one.port, meta))


def _status(record: Mapping[str, Any]) -> str:
    """Word of Consul's for a check: what drains is well, and taken out by maintenance."""
    return "passing" if word_of(record) in HEALTHY | {"draining"} else "critical"
