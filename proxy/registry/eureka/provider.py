"""The Eureka provider: everything at first, then what has changed, again and again.

Eureka's servers do not agree at any moment, and one that was started anew learns of its instances
as they renew. So one server is asked as long as it answers, and what others lack is retained.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Final
from zlib import crc32

from proxy.membership import Departure, Instance
from proxy.registry.belief import Answer
from proxy.registry.eureka.answers import Known, changed, everything
from proxy.registry.eureka.options import Options
from proxy.registry.eureka.server import Server
from proxy.registry.followed import Timing
from proxy.registry.polled import Polled, aside
from proxy.registry.records import read, service_of, split_key
from proxy.registry.rest import Answered
from proxy.registry.roster import Roster

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
    empty_start = 30.0

    def __init__(
        self,
        options: Options,
        *,
        timing: Timing | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            [Server(url, options) for url in options.endpoints],
            Roster(_read, partial(service_of, prefix=b"")),
            timing=timing or Timing(probe=options.interval, hold=HOLD),
            rng=rng,
            clock=clock,
        )
        self._options = options
        self._known: Known | None = None
        self._server = ""
        """URL of the one that said so."""
        self._whole_at = 0.0

    async def expired(self, departure: Departure) -> bool | None:
        """Never known: an instance that is cancelled and one that is not renewed go alike."""
        return None

    def _lease(self, key: bytes) -> int:
        """See `Polled`: each instance has a lease of its own."""
        return crc32(key) or 1

    async def _poll(self, connection: Server) -> Answer:
        known = None
        if self._list_for is None and not self._was_lost and self._server == connection.url:
            known = await self._changed_since(connection)
        if known is None:
            body = (await connection.get("/apps", timeout=CALL_LIMIT)).body
            known = await aside(partial(everything, body, self._options))
            self._whole_at = self._clock() + WHOLE * self._rng.uniform(0.8, 1.2)
        self._known, self._server = known, connection.url
        return Answer(records=known.records, source=connection.url, left=known.left)

    async def _changed_since(self, connection: Server) -> Known | None:
        """Add what has changed to what is known; None when everything is to be asked for."""
        if self._known is None or self._clock() >= self._whole_at:
            return None
        try:
            body = (await connection.get("/apps/delta", timeout=CALL_LIMIT)).body
        except Answered as error:
            if error.status in _NO_DELTA:
                return None
            raise
        known = changed(self._known, body, self._options)
        return known if known.agrees else None

    async def _ask(self, connection: Server) -> object:
        """See `Followed`. What has changed is the shorter answer, if it is told."""
        try:
            return await connection.get("/apps/delta", timeout=self._timing.probe_limit)
        except Answered as error:
            if error.status not in _NO_DELTA:
                raise
        return await connection.get("/apps", timeout=self._timing.probe_limit)


def _read(key: bytes, value: bytes) -> tuple[Instance, str]:
    return read(*split_key(key, b""), value)
