"""One member of Nacos over its HTTP API, v1 or v3: services, instances, and the login."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from proxy.registry.base import RegistryError
from proxy.registry.nacos import answers
from proxy.registry.nacos.answers import Hosts
from proxy.registry.nacos.options import Options
from proxy.registry.rest import Answer, Answered, Denied, RestEndpoint, Secret

CALL_LIMIT: Final = 5.0
"""Seconds for an answer, which a member has in its memory."""

PAGE: Final = 500
"""Services on a page."""
MOST_PAGES: Final = 200
"""Of those: a hundred thousand services."""

_ABSENT: Final = (404, 410, 501)
"""Statuses of an API that this version does not have, or has switched off."""


async def every_name(ask: Callable[[int], Awaitable[bytes]]) -> list[str]:
    """Names of all services; `ask`: for the page of a number, from 1. RegistryError where there is
    no end to them."""
    found: list[str] = []
    for number in range(1, MOST_PAGES + 1):
        count, names = answers.names(await ask(number))
        found += names
        if len(found) >= count or not names:
            return found
    raise RegistryError(f"more than {MOST_PAGES * PAGE:,} services are named")


class Member(RestEndpoint):
    """Owns the connections to one member, and the token it gave us. See `RestEndpoint` for
    errors."""

    def __init__(
        self,
        url: str,
        options: Options,
        clock: Callable[[], float] = time.monotonic,
        limit: float = CALL_LIMIT,
    ) -> None:
        super().__init__(url, tls=options.tls, fields=self._shown)
        self._context = "" if urlsplit(url).path.strip("/") else "/nacos"
        self._options = options
        self._password = Secret(options.password, options.password_file)
        self._clock = clock
        self._limit = limit
        self._token = ""
        self._token_until = 0.0
        self._v3 = False
        """Whether instances are asked for by the API v3."""

    async def services(self) -> list[str]:
        """Names of all services of the group."""

        async def page(number: int) -> bytes:
            query = {**self._place(), "pageNo": str(number), "pageSize": str(PAGE)}
            try:
                return (await self._ask("/v1/ns/service/list", query)).body
            except Answered as error:
                if error.status in _ABSENT:
                    raise RegistryError(
                        f"{error}: only the API v1 tells names; name them in registry.services"
                    ) from None
                raise

        return await every_name(page)

    async def instances(self, service: str) -> Hosts:
        """All instances of a service, whatever their health."""
        options = self._options
        query = {"healthyOnly": "false"}
        if options.clusters:
            query["clusters"] = query["clusterName"] = ",".join(options.clusters)
        if not self._v3:
            try:
                answer = await self._ask("/v1/ns/instance/list", self._named(service) | query)
            except Answered as error:
                if error.status not in _ABSENT:
                    raise
                self._v3 = True
        if self._v3:
            answer = await self._ask("/v3/client/ns/instance/list", self._named(service) | query)
        return answers.hosts(answer.body)

    async def register(self, service: str, instance: Mapping[str, str]) -> None:
        """Register, or state again. Of `service` it was asked before which instances it has, here
        and below, so that it is known which API there is."""
        api = "/v3/client/ns/instance" if self._v3 else "/v1/ns/instance"
        answer = await self._ask(api, {**self._named(service), **instance}, "POST", form=True)
        answers.done(answer.body)

    async def beat(self, service: str, instance: Mapping[str, str]) -> None:
        """Say that an instance lives. One that is not known is no error."""
        query = {**self._named(service), **instance}
        if self._v3:
            await self._ask("/v3/client/ns/instance", query | {"heartBeat": "true"}, "POST")
        else:
            await self._ask("/v1/ns/instance/beat", query, "PUT")

    async def deregister(self, service: str, instance: Mapping[str, str]) -> None:
        """Let an instance go. One that is not known is no error."""
        api = "/v3/client/ns/instance" if self._v3 else "/v1/ns/instance"
        await self._ask(api, {**self._named(service), **instance}, "DELETE")

    async def disconnect(self) -> None:
        """See `RestEndpoint`. The next call logs in again, and finds out which API there is."""
        self._token_until = 0.0
        self._v3 = False
        await super().disconnect()

    async def credentials(self, again: bool) -> Mapping[str, str]:
        """Headers over gRPC that tell who asks; `again`: those from before were refused."""
        if again:
            self._token_until = 0.0
        await self._authenticate()
        return {"accessToken": self._token} if self._token else {}

    def _named(self, service: str) -> dict[str, str]:
        """A service in the words of the API in use."""
        name = service if self._v3 else f"{self._options.group}@@{service}"
        return {**self._place(), "serviceName": name}

    def _place(self) -> dict[str, str]:
        return {"namespaceId": self._options.namespace, "groupName": self._options.group}

    async def _ask(
        self, path: str, query: Mapping[str, str], method: str = "GET", form: bool = False
    ) -> Answer:
        """`form`: the query is sent as a body, which has more room."""
        given = (None, query) if form else (query, None)
        await self._authenticate()
        try:
            return await self.call(method, self._context + path, *given, timeout=self._limit)
        except Denied:
            if not self._options.username:
                raise
        # Once: of a token that has run out and of a right that is missing Nacos says the same.
        self._token_until = 0.0
        await self._authenticate()
        return await self.call(method, self._context + path, *given, timeout=self._limit)

    async def _authenticate(self) -> None:
        if not self._options.username or self._clock() < self._token_until:
            return
        user = {"username": self._options.username, "password": self._password()}
        self._token = ""
        try:
            answer = await self._log_in("/v3/auth/user/login", user)
        except Answered as error:
            if error.status not in _ABSENT:
                raise
            answer = await self._log_in("/v1/auth/login", user)
        given = answers.token(answer.body)
        self._token = given.access_token
        self._token_until = self._clock() + given.ttl * 0.9

    async def _log_in(self, path: str, user: Mapping[str, str]) -> Answer:
        return await self.call("POST", self._context + path, body=user, timeout=self._limit)

    def _shown(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}
