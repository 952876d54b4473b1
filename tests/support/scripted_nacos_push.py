"""A Nacos that answers over gRPC, too, and tells its subscribers what changes."""

from __future__ import annotations

import json
from typing import Any

from proxy.registry.nacos import wire
from tests.support.processes import free_port
from tests.support.scripted_grpc import GrpcConnection, ScriptedGrpc
from tests.support.scripted_nacos import ScriptedNacos, host

OFFSET = 1000
_GROUP = "DEFAULT_GROUP"


class ScriptedPush(ScriptedGrpc):
    """Owns the connections that are registered, and what they want to be told."""

    def __init__(self, nacos: ScriptedNacosPush) -> None:
        super().__init__()
        self.heard_kinds: list[str] = []
        self.acknowledged = 0
        self.starting = False
        """The member is not up yet, although its HTTP answers."""
        self.streams: dict[GrpcConnection, int] = {}
        """Of the connections that are registered."""
        self.subscribed: dict[GrpcConnection, set[str]] = {}
        self.owned: dict[GrpcConnection, list[tuple[str, dict[str, Any]]]] = {}
        """Instances that go with their connections."""
        self._nacos = nacos
        self._pushes = 0

    async def heard(self, connection: GrpcConnection, stream: int, message: bytes) -> None:
        kind, body = wire.read(message)
        given = json.loads(body)
        self.heard_kinds.append(kind)
        if kind == "ConnectionSetupRequest":
            self.streams[connection] = stream
        elif connection.paths[stream] == "/BiRequestStream/requestBiStream":
            self.acknowledged += kind == "NotifySubscriberResponse"
        else:
            answer = self._answer(connection, kind, given, message)
            await self._nacos.speaks.wait()
            self._send(connection, stream, kind.replace("Request", "Response"), answer, True)

    def left(self, connection: GrpcConnection) -> None:
        self.streams.pop(connection, None)
        self.subscribed.pop(connection, None)
        for name, one in self.owned.pop(connection, []):
            self._remove(name, one)

    def tell(self, name: str, *, only: str = "") -> None:
        """Send a service to whoever wants it. `only`: say something else in its place."""
        for connection, stream in self.streams.items():
            if name in self.subscribed.get(connection, ()):
                self._pushes += 1
                info = {"requestId": str(self._pushes), "serviceInfo": self._info(name)}
                self._send(connection, stream, only or "NotifySubscriberRequest", info, False)

    def ask_to_leave(self) -> None:
        """Ask all clients to connect to somebody else."""
        for connection, stream in self.streams.items():
            self._send(connection, stream, "ConnectResetRequest", {"requestId": "r"}, False)

    def _send(
        self, connection: GrpcConnection, stream: int, kind: str, body: dict[str, Any], end: bool
    ) -> None:
        lies = self._nacos.lies
        content = lies.get("/nacos") or lies.get("/nacos/v1/ns/instance")
        message = wire.payload(kind, {}, body)
        if "/nacos" in lies and content is not None:
            message = content
        if self._nacos.cut:
            connection.cut(stream, message)
        else:
            connection.send(stream, message, end)

    def _answer(
        self, connection: GrpcConnection, kind: str, given: dict[str, Any], message: bytes
    ) -> dict[str, Any]:
        nacos = self._nacos
        if self.starting:
            return {"resultCode": 500, "errorCode": 300, "message": "Server is starting"}
        if kind == "ServerCheckRequest":
            return {"resultCode": 200, "connectionId": str(id(connection))}
        if connection not in self.streams:
            return {"resultCode": 500, "errorCode": 301, "message": "Connection is unregistered."}
        if kind == "HealthCheckRequest":
            return {"resultCode": 200}
        # A token is in the headers of the metadata.
        if nacos.password and nacos.token.encode() not in message:
            return {"resultCode": 500, "errorCode": 403, "message": "authorization failed!"}
        name = given["serviceName"].rpartition("@@")[2]
        if kind == "ServiceListRequest":
            names = [f"{_GROUP}@@{one}" for one in sorted(nacos.services.keys() - nacos.forgotten)]
            start = (given["pageNo"] - 1) * given["pageSize"]
            page = names[start : start + given["pageSize"]]
            return {"resultCode": 200, "count": len(names), "serviceNames": page}
        if kind == "SubscribeServiceRequest":
            wanted = self.subscribed.setdefault(connection, set())
            (wanted.add if given["subscribe"] else wanted.discard)(name)
            return {"resultCode": 200, "serviceInfo": self._info(name)}
        if kind == "ServiceQueryRequest":
            return {"resultCode": 200, "serviceInfo": self._info(name)}
        assert kind == "InstanceRequest", kind
        one = given["instance"]
        one = host(one["port"], ip=one["ip"], weight=one["weight"], metadata=one["metadata"])
        self._remove(name, one)
        if given["type"] == "registerInstance":
            nacos.services.setdefault(name, []).append(one)
            self.owned.setdefault(connection, []).append((name, one))
        self.tell(name)
        return {"resultCode": 200, "type": given["type"]}

    def _remove(self, name: str, one: dict[str, Any]) -> None:
        hosts = self._nacos.services.get(name, [])
        place = one["ip"], one["port"]
        hosts = [other for other in hosts if (other["ip"], other["port"]) != place]
        self._nacos.services[name] = hosts
        self.tell(name)

    def _info(self, name: str) -> dict[str, Any]:
        nacos = self._nacos
        hosts = nacos.services.get(name, [])
        if told := nacos.lies.get("/nacos/v1/ns/instance"):
            hosts = json.loads(told)["hosts"]
        if nacos.protects:
            hosts = [{**one, "healthy": True} for one in hosts]
        return {
            "name": name,
            "groupName": _GROUP,
            "clusters": "",
            "cacheMillis": 10000,
            "hosts": hosts,
            "lastRefTime": self._pushes,
            "checksum": "",
            "allIPs": False,
            "reachProtectionThreshold": nacos.protects,
            "valid": True,
        }


class ScriptedNacosPush(ScriptedNacos):
    """Owns a member that listens on two ports."""

    def __init__(self, password: str = "") -> None:
        super().__init__(password)
        self.port = free_port(OFFSET)
        self.url = f"http://127.0.0.1:{self.port}"
        self.push = ScriptedPush(self)
        self.serves_push = True

    async def start(self) -> None:
        # As Nacos does: who finds HTTP open and this port closed believes that nothing is told.
        if self.serves_push:
            await self.push.start(self.port + OFFSET)
        await super().start()

    async def kill(self) -> None:
        await self.push.kill()
        await super().kill()
