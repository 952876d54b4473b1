"""The Docker provider: running containers with a label, listed at each event and every 4 s.

What an event says to have ended is gone; what a list merely lacks is doubted as in any registry
that is asked again and again (`belief.py`): the daemon may have been another one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import ClassVar, Final

import msgspec

from proxy.membership import Instance
from proxy.registry.belief import Answer
from proxy.registry.docker.containers import (
    ENDS,
    LABEL,
    Container,
    Event,
    decode,
    key,
    record,
)
from proxy.registry.docker.options import Options
from proxy.registry.followed import Timing, first_to_end
from proxy.registry.polled import Polled, aside
from proxy.registry.records import read
from proxy.registry.rest import RestEndpoint
from proxy.registry.roster import Roster

TIMING: Final = Timing()

_LISTED: Final = msgspec.json.encode({"label": [LABEL]}).decode()
_TOLD: Final = msgspec.json.encode({"label": [LABEL], "type": ["container"]}).decode()


class DockerProvider(Polled[RestEndpoint]):
    """Owns what is known of one daemon's containers."""

    name: ClassVar[str] = "docker"

    def __init__(
        self,
        options: Options,
        *,
        timing: Timing = TIMING,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            [RestEndpoint(url, tls=options.tls) for url in options.endpoints],
            Roster(_read, _service_of),
            timing=timing,
            rng=rng,
            clock=clock,
        )
        self._options = options
        self._told = asyncio.Event()
        """Set when something has happened."""
        self._one_by_one = asyncio.Lock()

    async def _session(self, daemon: RestEndpoint) -> None:
        """Ends only by an exception."""
        await first_to_end(self._supervise(daemon), self._listen(daemon), self._settle(daemon))

    async def _listen(self, daemon: RestEndpoint) -> None:
        while True:
            lines = daemon.lines("/events", {"filters": _TOLD}, timeout=None)
            async with aclosing(lines):
                async for line in lines:
                    if line.strip():
                        self._happened(decode(line, Event))
            await asyncio.sleep(self._timing.probe)

    def _happened(self, event: Event) -> None:
        """Forget a container that is said to have ended, so that nobody misses it."""
        attributes = event.actor.attributes
        gone = f"{attributes.get(LABEL)}/{attributes.get('name')}".encode()
        if event.action in ENDS and self._answer is not None:
            records = {key: one for key, one in self._answer.records.items() if key != gone}
            self._answer = msgspec.structs.replace(self._answer, records=records)
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
        answer = await daemon.get(
            "/containers/json", {"filters": _LISTED}, timeout=self._timing.probe_limit
        )

        def read_all() -> dict[bytes, bytes]:
            found = decode(answer.body, tuple[Container, ...])
            return {
                key(one): record(one, self._options)
                for one in found
                if (one.labels or {}).get(LABEL, "/").count("/") == 0
            }

        return Answer(records=await aside(read_all))


def _service_of(key: bytes) -> str:
    return key.decode().partition("/")[0]


def _read(key: bytes, value: bytes) -> tuple[Instance, str]:
    service, _, instance = key.decode().partition("/")
    return read(service, instance, value)
