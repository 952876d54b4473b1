"""The Docker provider: running containers with a label, listed at each event and every 4 s.

What an event says to have ended is gone; what a list merely lacks is doubted as in any registry
that is asked again and again (`belief.py`): the daemon may have been another one.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import ClassVar, Final, Unpack

import msgspec

from proxy.registry.belief import Answer
from proxy.registry.docker.containers import (
    ENDS,
    LABEL,
    Container,
    Event,
    decode,
    key,
    read,
    record,
)
from proxy.registry.docker.options import Options
from proxy.registry.followed import Means, first_to_end
from proxy.registry.polled import Polled, aside
from proxy.registry.records import service_of
from proxy.registry.rest import RestEndpoint
from proxy.registry.roster import Roster, single

_LISTED: Final = msgspec.json.encode({"label": [LABEL]}).decode()
_TOLD: Final = msgspec.json.encode({"label": [LABEL], "type": ["container"]}).decode()


class DockerProvider(Polled[RestEndpoint]):
    """Owns what is known of one daemon's containers."""

    name: ClassVar[str] = "docker"

    def __init__(self, options: Options, **means: Unpack[Means]) -> None:
        super().__init__(
            [RestEndpoint(url, tls=options.tls) for url in options.endpoints],
            Roster(single(read), service_of),
            **means,
        )
        self._options = options
        self._told = asyncio.Event()
        """Set when something has happened."""
        self._ended: frozenset[bytes] = frozenset()  # ≤ events between two lists
        """Keys of containers that were said to have ended since the last list was asked for."""
        self._one_by_one = asyncio.Lock()

    async def _session(self, daemon: RestEndpoint) -> None:
        """Ends only by an exception."""
        await first_to_end(self._supervise(daemon), self._listen(daemon), self._settle(daemon))

    async def _listen(self, daemon: RestEndpoint) -> None:
        while True:
            lines = daemon.lines("/events", {"filters": _TOLD}, timeout=None)
            async with aclosing(lines):
                async for line in lines:
                    if line.strip() and (event := decode(line, Event)).changes:
                        self._happened(event)
            await asyncio.sleep(self._timing.probe)

    def _happened(self, event: Event) -> None:
        """Take note of a container that is said to have ended, so that nobody misses it."""
        attributes = event.actor.attributes
        gone = f"{attributes.get(LABEL)}/{attributes.get('name')}".encode()
        if event.action in ENDS:
            self._ended |= {gone}
        self._told.set()

    async def _settle(self, daemon: RestEndpoint) -> None:
        """List what is there after something has happened."""
        while True:
            await self._told.wait()
            self._told.clear()
            await self._confirm(daemon)
            await asyncio.sleep(self._timing.coalesce)

    async def _confirm(self, daemon: RestEndpoint) -> None:
        async with self._one_by_one:
            await super()._confirm(daemon)

    async def _poll(self, daemon: RestEndpoint) -> Answer:
        # A list that is under way may be from before an end that is told meanwhile.
        ended, self._ended = self._ended, frozenset()
        try:
            records = await self._ask(daemon)
        except BaseException:
            self._ended |= ended
            raise
        return Answer(records=records, left=ended - records.keys())

    async def _ask(self, daemon: RestEndpoint) -> dict[bytes, bytes]:
        """See `Followed`: the records of all containers."""
        answer = await daemon.get(
            "/containers/json", {"filters": _LISTED}, timeout=self._timing.probe_limit
        )

        def read_all() -> dict[bytes, bytes]:
            found = decode(answer.body, tuple[Container, ...])
            labelled = (one for one in found if LABEL in (one.labels or {}))
            return {key(one): record(one, self._options) for one in labelled}

        return await aside(read_all)
