"""The Eureka provider: everything at first, then what has changed, again and again.

Eureka's servers do not agree at any moment, and one that was started anew learns of its instances
as they renew. So one server is asked as long as it answers, and what others lack is retained.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Final, Unpack

from proxy.registry.belief import Answer
from proxy.registry.eureka.answers import Known, changed, everything
from proxy.registry.eureka.options import Options
from proxy.registry.eureka.server import Server
from proxy.registry.followed import Means, Timing
from proxy.registry.polled import Polled, aside
from proxy.registry.records import read_below, service_of
from proxy.registry.rest import Answered
from proxy.registry.roster import Roster, single

CALL_LIMIT: Final = 5.0
"""Seconds for an answer: all of a registry with thousands of instances are some megabytes."""

HOLD: Final = 90.0
"""Seconds for which answers must lack what a pool can hardly lose: instances renew every 30 s, and
register again when the server says that it does not know them."""

WHOLE: Final = 300.0
"""Seconds between two questions for everything, since equal hashes prove little."""

_NO_DELTA: Final = (403, 404)
"""Statuses of a server at which it is switched off to tell what has changed."""


class EurekaProvider(Polled[Server]):
    """Owns what one server of Eureka has said so far."""

    name: ClassVar[str] = "eureka"
    leased = True
    empty_start = 30.0

    def __init__(self, options: Options, **means: Unpack[Means]) -> None:
        means.setdefault("timing", Timing(probe=options.interval, hold=HOLD))
        super().__init__(
            [Server(url, options) for url in options.endpoints],
            Roster(single(read_below), service_of),
            **means,
        )
        self._options = options
        self._known: Known | None = None
        self._server = ""
        """URL of the one that said so."""
        self._whole_at = 0.0

    async def _poll(self, connection: Server) -> Answer:
        known = told = None
        if self._list_for is None and not self._was_lost and self._server == connection.url:
            told = await self._changed_since(connection)
        if told is not None and told.agrees and self._clock() < self._whole_at:
            known = told
        else:
            body = (await connection.get("/apps", timeout=CALL_LIMIT)).body
            known = await aside(partial(everything, body, self._options))
            self._whole_at = self._clock() + WHOLE * self._rng.uniform(0.8, 1.2)
        self._known, self._server = known, connection.url
        # Who is said to have left has, whatever else the changes did not tell.
        left = told.left - known.records.keys() if told is not None else frozenset()
        return Answer(records=known.records, source=connection.url, left=left)

    async def _changed_since(self, connection: Server) -> Known | None:
        """Add what has changed to what is known; None when it is not told."""
        if self._known is None:
            return None
        try:
            body = (await connection.get("/apps/delta", timeout=CALL_LIMIT)).body
        except Answered as error:
            if error.status in _NO_DELTA:
                return None
            raise
        return changed(self._known, body, self._options)

    async def _ask(self, connection: Server) -> object:
        """See `Followed`. What has changed is the shorter answer, if it is told."""
        try:
            return await connection.get("/apps/delta", timeout=self._timing.probe_limit)
        except Answered as error:
            if error.status not in _NO_DELTA:
                raise
        return await connection.get("/apps", timeout=self._timing.probe_limit)
