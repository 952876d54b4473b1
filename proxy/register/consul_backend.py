"""Registration in Consul: services of one agent, each with a check that is passed over and over.

Consul knows neither leases nor guards for services. So the lease is a number of ours in the meta of
what is written under it, a write is preceded by a look, and two programs that write the same name
in the same milliseconds are told apart by the look after the next renewal.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from typing import Any, ClassVar, Final
from urllib.parse import quote

import msgspec

from proxy.register.backend import Found, Lease, Outcome, RegistrationBackend, Write
from proxy.register.record import Name
from proxy.registry.base import RegistryError
from proxy.registry.consul.agent import Agent
from proxy.registry.consul.meta import lease_of, packed, unpacked
from proxy.registry.consul.options import Options
from proxy.registry.records import HEALTHY, weight
from proxy.registry.rest import Answered, Secret

_FORGET: Final = 60.0
"""Seconds after which Consul removes a service whose check fails; it takes no less."""


class Known(msgspec.Struct, frozen=True, rename="pascal"):
    """A service of the agent, as `/v1/agent/services` has it."""

    id_: str = msgspec.field(name="ID")
    address: str = ""
    port: int = 0
    tags: tuple[str, ...] | None = None
    meta: dict[str, str] | None = None


class ConsulBackend(RegistrationBackend):
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

    def key(self, name: Name) -> str:
        """The id at the agent, where ids of all services are one name-space."""
        return f"{name[0]}/{name[1]}"

    async def grant(self, ttl: float) -> Lease:
        await self._agent.get("/v1/status/leader", timeout=self._limit)
        return Lease(random.getrandbits(62) + 1, ttl)

    async def renew(self, lease: Lease, names: Collection[Name]) -> float:
        known = await self._known()
        for name in self._ours(known, lease, names):
            await self._pass(name, _record(known[self.key(name)]))
        return lease.ttl

    async def owned(self, lease: Lease, names: Collection[Name]) -> Collection[Name]:
        return self._ours(await self._known(), lease, names)

    async def find(self, names: Sequence[Name]) -> Sequence[Found | None]:
        known = await self._known()
        return [_found(known.get(self.key(name))) for name in names]

    async def write(self, lease: Lease, writes: Sequence[Write]) -> Sequence[Outcome]:
        known = await self._known()
        done = []
        for write in writes:
            there = known.get(self.key(write.name))
            found = _found(there)
            if (found.revision if found else 0) == write.revision:
                await self._do(lease, write, there)
                done.append(write.name)
        after = await self._known() if done else known
        outcomes = []
        for write in writes:
            found = _found(after.get(self.key(write.name)))
            if write.name in done:
                outcomes.append(Outcome(True, found.revision if found else 0))
            else:
                outcomes.append(Outcome(False, found=found))
        return outcomes

    async def revoke(self, lease: Lease, names: Collection[Name]) -> None:
        for name in self._ours(await self._known(), lease, names):
            await self._put(f"/v1/agent/service/deregister/{self._quoted(name)}")

    async def close(self) -> None:
        await self._agent.disconnect()

    # ------------------------------------------------------------------------- private

    async def _known(self) -> Mapping[str, Known]:
        answer = await self._agent.get("/v1/agent/services", timeout=self._limit)
        try:
            return msgspec.json.decode(answer.body, type=dict[str, Known])
        except msgspec.MsgspecError as error:
            raise RegistryError(f"/v1/agent/services: not an answer of Consul: {error}") from None

    def _ours(
        self, known: Mapping[str, Known], lease: Lease, names: Collection[Name]
    ) -> list[Name]:
        return [
            name
            for name in names
            if (one := known.get(self.key(name))) and lease_of(one.meta or {}) == lease.id
        ]

    async def _do(self, lease: Lease, write: Write, there: Known | None) -> None:
        if write.value is None:
            if there is not None:
                await self._put(f"/v1/agent/service/deregister/{self._quoted(write.name)}")
            return
        record = json.loads(write.value)
        service, id_ = write.name
        stated = weight(str(record.get("metadata", {}).get("weight", "1")))
        key = self.key(write.name)
        drains = _word(record) == "draining"
        drained = there is not None and _word(_record(there)) == "draining"
        if drains and there is not None:
            await self._maintain(write.name, enable=True)  # first: all else can wait
        await self._put(
            "/v1/agent/service/register",
            {
                "ID": key,
                "Name": service,
                "Address": record["address"],
                "Port": record["port"],
                "Meta": packed(id_, write.value, lease.id, random.getrandbits(62)),
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
        await self._pass(write.name, record)
        if drains and there is None:
            await self._maintain(write.name, enable=True)
        if drained and not drains:
            await self._maintain(write.name, enable=False)

    async def _maintain(self, name: Name, *, enable: bool) -> None:
        path = f"/v1/agent/service/maintenance/{self._quoted(name)}"
        query = {"enable": str(enable).lower(), "reason": "draining"}
        await self._agent.call("PUT", path, query, timeout=self._limit)

    async def _pass(self, name: Name, record: Mapping[str, Any]) -> None:
        """Renew a name; one that the agent has forgotten is found missing by the next look."""
        health = record.get("health")
        message = health.get("message", "") if isinstance(health, dict) else ""
        path = f"/v1/agent/check/update/{quote(f'service:{self.key(name)}', safe='')}"
        try:
            await self._put(path, {"Status": _status(record), "Output": message})
        except Answered as error:
            if error.status not in (404, 500):  # 1.8 says 500 and "does not have associated TTL"
                raise

    async def _put(self, path: str, body: Mapping[str, Any] | None = None) -> None:
        sent = None if body is None else msgspec.json.encode(body)
        await self._agent.call("PUT", path, body=sent, timeout=self._limit)

    def _quoted(self, name: Name) -> str:
        return quote(self.key(name), safe="")


def _record(one: Known) -> dict[str, Any]:
    """The record that was written, or one like it for a service of somebody else."""
    return unpacked(one.meta or {}) or {"address": one.address, "port": one.port}


def _found(one: Known | None) -> Found | None:
    if one is None:
        return None
    value = msgspec.json.encode(_record(one))
    seen = msgspec.json.encode((one.address, one.port, one.tags, sorted((one.meta or {}).items())))
    revision = int.from_bytes(blake2b(seen, digest_size=7).digest()) + 1
    return Found(value, revision, lease_of(one.meta or {}))


def _word(record: Mapping[str, Any]) -> str:
    health = record.get("health")
    return str(health.get("status", "healthy")) if isinstance(health, dict) else "healthy"


def _status(record: Mapping[str, Any]) -> str:
    """Word of Consul's for a check: what drains is well, and taken out by maintenance."""
    return "passing" if _word(record) in HEALTHY | {"draining"} else "critical"
