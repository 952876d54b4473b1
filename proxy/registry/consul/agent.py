"""Consul's HTTP API at one agent: the catalogue, and the instances of a service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from proxy.registry.base import RegistryError
from proxy.registry.consul.answers import hides, index_of
from proxy.registry.consul.options import Options
from proxy.registry.rest import Answer, RestEndpoint, Secret, basic

CALL_LIMIT: Final = 5.0
"""Seconds for an answer that is not waited for. A server without a leader takes up to 7 s to say
so, and is better left for the next agent."""

WAIT: Final = 55
"""Seconds that an agent holds a request while nothing changes: less than proxies and firewalls
allow an idle connection, which often is a minute."""

WAIT_LIMIT: Final = WAIT * 17 / 16 + CALL_LIMIT
"""Seconds after which a held request is given up; agents add up to a sixteenth."""


class Listed:
    """The catalogue, or the instances of a service."""

    def __init__(self, answer: Answer) -> None:
        """RegistryError for an answer that may be out of date."""
        self.index = index_of(answer.headers)
        self.hides = hides(answer.headers)
        self.body = answer.body


class Agent(RestEndpoint):
    """Owns the connections to one agent. See `RestEndpoint` for errors."""

    def __init__(self, url: str, options: Options, token: Secret) -> None:
        self._query = {"dc": options.datacenter} if options.datacenter else {}
        self._options = options
        self._token = token
        self._password = Secret(options.password, options.password_file)
        super().__init__(url, tls=options.tls, fields=self._shown)

    async def catalogue(
        self, *, index: int = 0, leader: bool = False, timeout: float = CALL_LIMIT
    ) -> Listed:
        """All services, as the agent's server knows them, or the `leader`; with an `index`, once
        something has changed since."""
        return await self._list("/v1/catalog/services", index, leader, timeout)

    async def health(self, service: str, *, index: int = 0, leader: bool = False) -> Listed:
        """All instances of a service, whatever their checks say; otherwise as `catalogue`."""
        path = f"/v1/health/service/{quote(service, safe='')}"
        return await self._list(path, index, leader, CALL_LIMIT)

    async def node(self, node: str, *, timeout: float) -> bytes:
        """Checks of a node."""
        path = f"/v1/health/node/{quote(node, safe='')}"
        return (await self.get(path, self._query, timeout=timeout)).body

    async def _list(self, path: str, index: int, leader: bool, timeout: float) -> Listed:
        query = dict(self._query)
        if not leader:
            query["stale"] = ""
        if index:
            query |= {"index": str(index), "wait": f"{WAIT}s"}
            timeout = WAIT_LIMIT
        answer = await self.get(path, query, timeout=timeout)
        try:
            return Listed(answer)
        except RegistryError as error:
            raise RegistryError(f"{path}: {error}") from None

    def _shown(self) -> Mapping[str, str]:
        token = self._token()
        fields = {"X-Consul-Token": token} if token else {}
        return {**fields, **basic(self._options.username, self._password())}
