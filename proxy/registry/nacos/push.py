"""A member of Nacos over gRPC: questions, and lists of instances that it sends by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import proxy
from proxy.registry.base import BadReply, Refused, RegistryError
from proxy.registry.grpc import GrpcLink, Leaving
from proxy.registry.nacos import answers, wire
from proxy.registry.nacos.answers import Hosts
from proxy.registry.nacos.member import CALL_LIMIT, PAGE, every_name
from proxy.registry.nacos.options import Options
from proxy.settings.registry import RegistryTls

PORT_OFFSET: Final = 1000
"""From the port of HTTP to that of gRPC."""

_CALL: Final = "/Request/request"
_STREAM: Final = "/BiRequestStream/requestBiStream"

_NO_RIGHT: Final = 403
_STARTING: Final = 300
_UNREGISTERED: Final = 301

_TURN: Final = 0.1
"""Seconds between two questions whether the connection is registered."""

_REPLIES: Final = {
    "NotifySubscriberRequest": "NotifySubscriberResponse",
    "ClientDetectionRequest": "ClientDetectionResponse",
    "ConnectResetRequest": "ConnectResetResponse",
    "SetupAckRequest": "SetupAckResponse",
}
"""Questions of a member, and the kind of the answer."""


class _Failed(BadReply):
    """An answer that says that it is none."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


class _NoRight(_Failed, Refused):
    """The member does not know who asks, or what is asked is not for him."""


class Starting(_Failed):
    """The member is not up yet. Over HTTP it answers already, as one that knows nobody."""


class Push:
    """Owns one connection to a member, which ends with whatever goes wrong on it. Calls raise
    RegistryError only."""

    def __init__(
        self,
        url: str,
        options: Options,
        headers: Callable[[bool], Awaitable[Mapping[str, str]]],
        limit: float,
    ) -> None:
        """`headers`: what tells who asks; with True those from before were refused. `limit`:
        seconds for an answer that is short."""
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        tls = options.tls or RegistryTls() if secure else None
        self._link = GrpcLink(parts.hostname or "", port + PORT_OFFSET, tls)
        self._options = options
        self._headers = headers
        self._limit = limit
        self.subscribed: set[str] = set()
        """Services of which changes are told."""
        self._changed: dict[str, Hosts] = {}  # ≤ subscribed
        """Lists that were told and are not taken yet."""
        self.mentioned = asyncio.Event()
        """There are some."""
        self._reply: Callable[[bytes], None] = lambda message: None

    async def open(self) -> None:
        """Connect, and register the connection."""
        await self._link.connect()
        await self._ask("ServerCheckRequest", {})
        self._reply = self._link.stream(_STREAM, self._hear)
        setup = {
            "clientVersion": f"Fairlead:v{proxy.__version__}",
            "tenant": self._options.namespace,
            "labels": {"source": "sdk", "module": "naming", "AppName": "fairlead"},
        }
        self._reply(wire.payload("ConnectionSetupRequest", {}, setup))
        try:
            async with asyncio.timeout(self._limit):
                await self._registered()
        except TimeoutError:
            raise RegistryError(f"not registered within {self._limit:g} s") from None

    async def _registered(self) -> None:
        """Old members do not say when they have taken note, new ones say it while they wait for
        an answer; all of them answer then."""
        while True:
            try:
                await self.check()
            except _Failed as error:
                if error.code != _UNREGISTERED:
                    raise
            else:
                return
            await asyncio.sleep(_TURN)

    async def close(self) -> None:
        """Hang up. Safe at any time, more than once."""
        await self._link.disconnect()

    async def ended(self) -> None:
        """Wait for the end of the connection, and raise why."""
        await self._link.ended()

    # ------------------------------------------------------------------------- questions

    async def check(self) -> None:
        """Ask whether the connection is good."""
        await self._ask("HealthCheckRequest", {})

    async def services(self) -> list[str]:
        """Names of all services of the group."""
        return await every_name(
            lambda number: self._ask(
                "ServiceListRequest", {**self._named(""), "pageNo": number, "pageSize": PAGE}
            )
        )

    async def instances(self, service: str) -> Hosts:
        """All instances of a service, whose changes are told from now on."""
        clusters = ",".join(self._options.clusters)
        if service in self.subscribed:
            query: dict[str, Any] = {"cluster": clusters, "healthyOnly": False}
            query |= self._named(service)
            body = await self._ask("ServiceQueryRequest", query, CALL_LIMIT)
        else:
            body = await self._subscribe(service, True)
            self.subscribed.add(service)
        return answers.service_info(body)[1]

    async def forget(self, service: str) -> None:
        """Have no more changes of a service told."""
        await self._subscribe(service, False)
        self.subscribed.discard(service)

    def taken(self) -> dict[str, Hosts]:
        """Lists that were told since the last time."""
        changed, self._changed = self._changed, {}
        self.mentioned.clear()
        return changed

    async def _subscribe(self, service: str, subscribe: bool) -> bytes:
        clusters = ",".join(self._options.clusters)
        asked = {**self._named(service), "subscribe": subscribe, "clusters": clusters}
        return await self._ask("SubscribeServiceRequest", asked, CALL_LIMIT)

    def _named(self, service: str) -> dict[str, Any]:
        return {
            "namespace": self._options.namespace,
            "groupName": self._options.group,
            "serviceName": service,
            "module": "naming",
        }

    async def _ask(self, kind: str, body: Mapping[str, Any], limit: float = 0.0) -> bytes:
        limit = limit or self._limit
        try:
            return await self._once(kind, body, limit, await self._headers(False))
        except _Failed as error:
            if error.code != _NO_RIGHT or not self._options.username:
                raise
        return await self._once(kind, body, limit, await self._headers(True))

    async def _once(
        self, kind: str, body: Mapping[str, Any], limit: float, headers: Mapping[str, str]
    ) -> bytes:
        message = wire.payload(kind, headers, body)
        _, found = _read(await self._link.call(_CALL, message, limit))
        code, words = answers.outcome(found)
        if code == _NO_RIGHT:
            raise _NoRight(code, f"{kind}: {words}")
        if code:
            raise (Starting if code == _STARTING else _Failed)(
                code, f"{kind}: error {code}: {words}"
            )
        return found

    # -------------------------------------------------------------------- what is told

    def _hear(self, message: bytes) -> None:
        """Take note of a message that was not asked for. RegistryError ends the connection."""
        kind, body = _read(message)
        reply = _REPLIES.get(kind)
        if reply is None:
            return  # Of what later versions may have to say nothing is for us.
        answer = {"resultCode": 200, "success": True, "requestId": answers.request_id(body)}
        self._reply(wire.payload(reply, {}, answer))
        if kind == "ConnectResetRequest":
            raise Leaving("the member asks to connect to another one")
        if kind == "NotifySubscriberRequest":
            service, hosts = answers.service_info(body)
            if service in self.subscribed:
                self._changed[service] = hosts
                self.mentioned.set()


def _read(message: bytes) -> tuple[str, bytes]:
    try:
        return wire.read(message)
    except (ValueError, UnicodeDecodeError) as error:
        raise RegistryError(f"not a message of Nacos: {error}") from None
