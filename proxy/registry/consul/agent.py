"""Consul's HTTP API at one agent: the catalogue, the instances of a service, and keys."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Final, Protocol
from urllib.parse import quote

from proxy.registry.base import RegistryError
from proxy.registry.consul.answers import hides, index_of
from proxy.registry.consul.options import AgentOptions
from proxy.registry.rest import Answer, Answered, RestEndpoint, Secret, basic

CALL_LIMIT: Final = 5.0
"""Seconds for an answer that is not waited for. A server without a leader takes up to 7 s to say
so, and is better left for the next agent."""

WAIT: Final = 55
"""Seconds that an agent holds a request while nothing changes: less than proxies and firewalls
allow an idle connection, which often is a minute."""

WAIT_LIMIT: Final = WAIT * 17 / 16 + CALL_LIMIT
"""Seconds after which a held request is given up; agents add up to a sixteenth."""


class Listed:
    """The catalogue, the instances of a service, or keys."""

    def __init__(self, answer: Answer) -> None:
        """RegistryError for an answer that may be out of date."""
        self.index = index_of(answer.headers)
        self.hides = hides(answer.headers)
        self.body = answer.body


class Ask(Protocol):
    """A question to an agent."""

    def __call__(self, *, leader: bool = False) -> Awaitable[Listed]: ...


async def newest(ask: Ask, known: int) -> Listed:
    """An answer from the agent's server, or from the leader if that is older than what is known;
    the leader's may be so as well."""
    listed = await ask()
    return await ask(leader=True) if listed.index < known else listed


class Agent(RestEndpoint):
    """Owns the connections to one agent. See `RestEndpoint` for errors."""

    def __init__(self, url: str, options: AgentOptions, token: Secret) -> None:
        self.query = {"dc": options.datacenter} if options.datacenter else {}
        """Of each request that is about the datacenter."""
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
        return (await self.get(path, self.query, timeout=timeout)).body

    async def keys(self, prefix: str, *, index: int = 0, leader: bool = False) -> Listed:
        """All keys that begin with `prefix`, and their values; otherwise as `catalogue`."""
        return await self._list(_key(prefix), index, leader, CALL_LIMIT, recurse="")

    async def folders(self, prefix: str, *, leader: bool = False, timeout: float) -> Listed:
        """As `keys`, but of each only what stands before the next slash."""
        return await self._list(_key(prefix), 0, leader, timeout, keys="", separator="/")

    async def key(self, key: str, *, timeout: float) -> Listed:
        """The key as the leader knows it, in a list."""
        return await self._list(_key(key), 0, True, timeout)

    async def may_read(self, prefix: str, *, timeout: float = CALL_LIMIT) -> None:
        """Denied if the token may not read keys that begin so. Of one key Consul says it; of many
        it says that there are none."""
        await self._list(_key(prefix), 0, False, timeout)

    async def lives(self, session: str, *, timeout: float) -> bool:
        """Whether there is such a session, and the token may see it."""
        path = f"/v1/session/info/{session}"
        return (await self.get(path, self.query, timeout=timeout)).body.strip() != b"[]"

    async def _list(
        self, path: str, index: int, leader: bool, timeout: float, **further: str
    ) -> Listed:
        query = {**self.query, **further}
        if not leader:
            query["stale"] = ""
        if index:
            query |= {"index": str(index), "wait": f"{WAIT}s"}
            timeout = WAIT_LIMIT
        try:
            answer = await self.get(path, query, timeout=timeout)
        except Answered as error:
            if error.status != 404 or "x-consul-index" not in error.headers:
                raise
            answer = Answer(error.headers, b"[]")  # So Consul says that there are no keys.
        try:
            return Listed(answer)
        except RegistryError as error:
            raise RegistryError(f"{path}: {error}") from None

    def _shown(self) -> Mapping[str, str]:
        token = self._token()
        fields = {"X-Consul-Token": token} if token else {}
        return {**fields, **basic(self._options.username, self._password())}


def _key(prefix: str) -> str:
    return f"/v1/kv/{quote(prefix)}"
