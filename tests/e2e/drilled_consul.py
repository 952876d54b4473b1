"""Consul under drill: its catalogue, and its keys."""

from __future__ import annotations

import base64
from typing import Any, ClassVar

import msgspec

from proxy.catalog import registry_options
from proxy.settings.registry import RegistryOptions
from tests.e2e.consul_server import MANAGEMENT, ConsulServer
from tests.e2e.consul_server import missing as missing_consul
from tests.e2e.drilled import ONE, SERVICE, TIMING, TRUTHFUL, Drilled, Owner, Scripted, rows
from tests.support.scripted_consul import ScriptedConsul, check, entry

CRITICAL = rows("who is dead is `critical`, which is a status", "owners", "expiry")


class DrilledConsul(Drilled):
    """A real Consul with access control, asked with a token that may read."""

    type = "consul"
    real = True
    missing = missing_consul()
    lacks = TRUTHFUL | CRITICAL | ONE
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

    async def _register(self, ids: tuple[str, ...], port: int, status: str) -> None:
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


class DrilledScriptedConsul(Scripted):
    """The scripted one, which shares the rows with the real one and has more."""

    type = "consul"
    path = f"/v1/health/service/{SERVICE}"
    rights = ("rights", True, False)
    lacks = CRITICAL | ONE

    def __init__(self) -> None:
        self.server = ScriptedConsul()

    async def _register(self, ids: tuple[str, ...], port: int, status: str) -> None:
        checks = [check(f"_service_maintenance:{SERVICE}", "critical")]
        changes = {} if status == "healthy" else {"Checks": checks}
        changes["Address"] = self.address
        await self.server.put(SERVICE, *(entry(SERVICE, id_, port, **changes) for id_ in ids))

    async def deregister(self, id_: str) -> None:
        await self.server.delete(SERVICE, id_)

    async def lie(self, kind: str) -> None:
        await super().lie(kind)
        await self._reconnected()

    def first(self, number: int) -> object:
        return list(self.server.services.get(SERVICE, {}).values())[:number]

    async def go_back(self) -> None:
        self.server.lag = 3
        await self._reconnected()

    async def _reconnected(self) -> None:
        """Nobody waits any more, so that all that is known is asked for again."""
        await self.kill()
        await self.start()


AGENTS = rows("the servers are those of `consul`", "leader")


class DrilledConsulKv(DrilledConsul):
    """Keys of that Consul, bound ones by a session, and a token that may read keys only."""

    type = "consul-kv"
    lacks = TRUTHFUL | AGENTS
    rules = 'key_prefix "services/" { policy = "%s" }'
    ttl = 2.0
    timing = msgspec.structs.replace(TIMING, hold=4.0)
    """Consul doubles the time of a session, and its owner comes back after that of a server."""

    async def _register(self, ids: tuple[str, ...], port: int, status: str) -> None:
        value = base64.b64encode(self.record(port, status).encode()).decode()
        for start in range(0, len(ids), 64):
            some = [f"services/{SERVICE}/{id_}" for id_ in ids[start : start + 64]]
            writes = [{"KV": {"Verb": "set", "Key": key, "Value": value}} for key in some]
            await self.server.put("/v1/txn", writes)

    async def deregister(self, id_: str) -> None:
        await self.server.call("DELETE", f"/v1/kv/services/{SERVICE}/{id_}")

    async def _register_bound(self, id_: str, port: int) -> Owner:
        asked = {"TTL": f"{self.ttl / 2:g}s", "Behavior": "delete", "LockDelay": "0s"}
        session = (await self.server.put("/v1/session/create", asked))["ID"]
        path = f"/v1/kv/services/{SERVICE}/{id_}?acquire={session}"
        assert await self.server.put(path, {"address": self.address, "port": port})
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
    path = "/v1/kv/"
    lacks = rows("the scripted one has no sessions", "owners", "expiry") | AGENTS

    async def _register(self, ids: tuple[str, ...], port: int, status: str) -> None:
        record = self.record(port, status).encode()
        for id_ in ids:
            await self.server.put_key(f"services/{SERVICE}/{id_}", record)

    async def deregister(self, id_: str) -> None:
        await self.server.delete_key(f"services/{SERVICE}/{id_}")

    def first(self, number: int) -> object:
        return list(self.server.pairs.values())[:number]
