"""The http provider: asks a server for the whole list again and again."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import ClassVar, Final, Unpack

from proxy.registry.base import RegistryError
from proxy.registry.belief import Answer
from proxy.registry.followed import Means, Timing
from proxy.registry.http.options import Options
from proxy.registry.lists import NoList, decoded, read_record, records
from proxy.registry.polled import Polled, aside
from proxy.registry.records import service_of
from proxy.registry.rest import Answer as Response
from proxy.registry.rest import Answered, RestEndpoint, Secret, basic
from proxy.registry.roster import Roster, single

CALL_LIMIT: Final = 5.0
"""Seconds for an answer: lists are often made when they are asked for."""

HOLD: Final = 10.0
"""Seconds for which answers must lack what a pool can hardly lose. A server that is started anew,
or asked while its data are replaced, is right by then."""


class Server(RestEndpoint):
    """Owns the connections to one endpoint, and what it last said, so that it need not say it
    again."""

    def __init__(self, url: str, options: Options) -> None:
        self._token = Secret(options.token, options.token_file)
        self._username = options.username
        self._password = Secret(options.password, options.password_file)
        super().__init__(url, tls=options.tls, fields=self._shown)
        self.url = url  # With the slash at its end, which may mean something here.
        self._tag = ""
        self._digest = b""

    async def list(self, *, again: bool) -> bytes | None:
        """The list; None when it is the one of the last time, unless it is asked for `again`."""
        if again:
            self.forget()
        answer = await self.answers(timeout=CALL_LIMIT)
        if answer is None:
            return None
        self._tag = answer.headers.get("etag", "")
        before, self._digest = self._digest, sha256(answer.body).digest()
        return None if self._digest == before else answer.body

    async def answers(self, *, timeout: float) -> Response | None:
        """The answer of the server; None when that is "not modified"."""
        try:
            return await self.get("", timeout=timeout)
        except Answered as error:
            if error.status == 304 and self._tag:
                return None
            raise

    def forget(self) -> None:
        """Take whatever is said next for news."""
        self._tag, self._digest = "", b""

    def _shown(self) -> Mapping[str, str]:
        return {
            "Accept": "application/json",
            **({"If-None-Match": self._tag} if self._tag else {}),
            **self._token.bearer(),
            **basic(self._username, self._password()),
        }


class HttpProvider(Polled[Server]):
    """Owns the servers of one list."""

    name: ClassVar[str] = "http"

    def __init__(self, options: Options, **means: Unpack[Means]) -> None:
        means.setdefault("timing", Timing(probe=options.interval, hold=HOLD))
        super().__init__(
            [Server(url, options) for url in options.endpoints],
            Roster(single(read_record), service_of),
            **means,
        )
        self._label = options.service_label

    async def _poll(self, connection: Server) -> Answer | None:
        known = self._answer is not None and self._answer.source == connection.url
        body = await connection.list(again=self._list_for is not None or not known)
        if body is None:
            return None
        try:
            found = await aside(lambda: records(decoded(body), self._label))
        except (NoList, ValueError, RecursionError) as error:
            connection.forget()
            raise RegistryError(f"not a list of instances: {error}: {body[:60]!r}") from None
        return Answer(records=found, source=connection.url)

    async def _ask(self, connection: Server) -> object:
        """See `Followed`."""
        return await connection.answers(timeout=self._timing.probe_limit)
