"""The DNS provider: asks one name server for the names of all services, again and again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

from proxy.registry.base import RegistryError
from proxy.registry.belief import Answer
from proxy.registry.dns.answers import (
    ADDRESSES,
    addresses,
    asked,
    records,
    targets,
    trouble,
)
from proxy.registry.dns.options import Options
from proxy.registry.dns.server import NameServer
from proxy.registry.followed import Timing
from proxy.registry.lists import complaint, read_record
from proxy.registry.polled import Polled
from proxy.registry.records import service_of
from proxy.registry.roster import Roster

HOLD: Final = 15.0
"""Seconds for which answers must lack what a pool can hardly lose: a name server that was started
anew says for a while that there is no such name."""

RESOLV_CONF: Final = "/etc/resolv.conf"


class DnsProvider(Polled[NameServer]):
    """Owns the name servers, and what they last said of each name."""

    name: ClassVar[str] = "dns"

    def __init__(
        self,
        options: Options,
        *,
        timing: Timing | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            [NameServer(address) for address in options.servers or _configured()],
            Roster(read_record, partial(service_of, prefix=b"")),
            timing=timing or Timing(probe=options.interval, hold=HOLD),
            rng=rng,
            clock=clock,
        )
        self._asked = {service: asked(name) for service, name in options.services.items()}
        self._said: dict[str, Mapping[bytes, bytes]] = {}
        """Service → its records, as they were last told."""

    async def _poll(self, connection: NameServer) -> Answer:
        every = [(one.name, kind) for one in self._asked.values() for kind in one.kinds]
        replies = iter(await connection.ask(every))
        of = {service: [next(replies) for _ in one.kinds] for service, one in self._asked.items()}
        wanted = sorted({name for each in of.values() for name in targets(each)})
        more = await connection.ask([(name, kind) for name in wanted for kind in ADDRESSES])
        of_target = {name: more[2 * n : 2 * n + 2] for n, name in enumerate(wanted)}
        found = {
            name: addresses(record for one in each for record in one.answers)
            for name, each in of_target.items()
        }
        made: dict[bytes, bytes] = {}
        for service, each in of.items():
            also = (one for name in targets(each) for one in of_target[name])
            wrong = trouble([*each, *also])
            if wrong:
                kept = "; what it said before is used" if service in self._said else ""
                name = self._asked[service].name
                made[service.encode()] = complaint(f"{name}: {wrong}{kept}")
            else:
                self._said[service] = records(service, self._asked[service], each, found)
            made |= self._said.get(service, {})
        if all(map(trouble, of.values())):
            raise RegistryError(f"{len(of)} names: {trouble(next(iter(of.values())))}")
        return Answer(records=made, source=connection.url)

    async def _ask(self, connection: NameServer) -> object:
        """See `Followed`."""
        one = next(iter(self._asked.values()))
        return await connection.ask([(one.name, one.kinds[0])])


def _configured() -> Sequence[str]:
    """Name servers of this machine."""
    lines = [line.split() for line in Path(RESOLV_CONF).read_text().splitlines()]
    names = [line[1] for line in lines if len(line) > 1 and line[0] == "nameserver"]
    if not names:
        raise ValueError(f"registry.servers: none given, and {RESOLV_CONF} names none")
    return [f"[{name}]:53" if ":" in name else f"{name}:53" for name in names]
