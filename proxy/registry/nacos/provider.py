"""The Nacos provider: asks one member for all services, again and again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Final
from zlib import crc32

from proxy.membership import Departure, Instance
from proxy.registry.belief import Answer
from proxy.registry.followed import Timing
from proxy.registry.nacos.answers import records
from proxy.registry.nacos.member import Member
from proxy.registry.nacos.options import Options
from proxy.registry.polled import Polled, aside
from proxy.registry.records import read, service_of, split_key
from proxy.registry.roster import Roster
from proxy.waiting import together

AT_A_TIME: Final = 16
"""Questions under way: a member answers some thousand a second."""

HOLD: Final = 15.0
"""Seconds for which answers must lack what a pool can hardly lose: instances beat every 5 s, and
register again when a member does not know them."""


class NacosProvider(Polled[Member]):
    """Owns the members of one cluster of Nacos."""

    name: ClassVar[str] = "nacos"
    empty_start = 15.0

    def __init__(
        self,
        options: Options,
        *,
        timing: Timing | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            [Member(url, options) for url in options.endpoints],
            Roster(_read, partial(service_of, prefix=b"")),
            timing=timing or Timing(probe=options.interval, hold=HOLD),
            rng=rng,
            clock=clock,
        )
        self._services = options.services

    async def expired(self, departure: Departure) -> bool | None:
        """Never known: an instance that is deregistered and one that does not beat go alike."""
        return None

    def _lease(self, key: bytes) -> int:
        """See `Polled`: each instance has a lease of its own."""
        return crc32(key) or 1

    async def _poll(self, connection: Member) -> Answer:
        before = {} if self._answer is None else self._answer.records
        names = set(self._services or await connection.services())
        if not self._services:
            # The list of names forgets services at times whose instances are there.
            names |= {self._roster.service_of(key) for key in before}
        asked = sorted(names)
        lists = await together(AT_A_TIME, [partial(connection.instances, name) for name in asked])

        def read_all() -> dict[bytes, bytes]:
            found: dict[bytes, bytes] = {}
            for name, hosts in zip(asked, lists, strict=True):
                found |= records(name, hosts, before)
            return found

        return Answer(records=await aside(read_all), source=connection.url)

    async def _ask(self, connection: Member) -> object:
        """See `Followed`."""
        if self._services:
            return await connection.instances(self._services[0])
        return await connection.services()


def _read(key: bytes, value: bytes) -> tuple[Instance, str]:
    return read(*split_key(key, b""), value)
