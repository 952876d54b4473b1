"""The DNS provider: asks one name server for the names of services, again as they run out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Unpack

from proxy.registry.base import RegistryError
from proxy.registry.belief import Answer
from proxy.registry.dns.answers import (
    ADDRESSES,
    addresses,
    asked,
    lifetime,
    records,
    targets,
    told,
    trouble,
)
from proxy.registry.dns.due import Due
from proxy.registry.dns.options import Options
from proxy.registry.dns.server import NameServer
from proxy.registry.dns.wire import Reply
from proxy.registry.followed import Means, Timing
from proxy.registry.lists import complaint, read_record
from proxy.registry.polled import Polled
from proxy.registry.records import service_of
from proxy.registry.roster import Roster, single

HOLD: Final = 15.0
"""Seconds for which answers must lack what a pool can hardly lose: a name server that was started
anew says for a while that there is no such name."""

RESOLV_CONF: Final = "/etc/resolv.conf"


class DnsProvider(Polled[NameServer]):
    """Owns the name servers, and what they last said of each name."""

    name: ClassVar[str] = "dns"

    def __init__(self, options: Options, **means: Unpack[Means]) -> None:
        means.setdefault("timing", Timing(probe=options.interval, hold=HOLD))
        super().__init__(
            [NameServer(address) for address in options.servers or _configured()],
            Roster(single(read_record), service_of),
            **means,
        )
        self._asked = {service: asked(name) for service, name in options.services.items()}
        self._said: dict[str, Mapping[bytes, bytes]] = {}
        """Service → its records, as they were last told."""
        self._trouble: dict[str, str] = {}
        """Service → why it was told nothing the last time."""
        self._due = Due(self._asked, self._timing.probe)
        self._source = ""
        """The server that said it."""

    async def _rest(self, seconds: float) -> None:
        """See `Followed`."""
        await super()._rest(max(0.0, min(seconds, self._due.next_at - self._clock())))

    async def _poll(self, connection: NameServer) -> Answer:
        services: Collection[str] = self._asked
        doubted = self._list_for is not None or self._in_doubt or self._roster.retained
        if not doubted and self._lost_at is None and connection.url == self._source:
            services = self._due.now(self._clock())
        questions = {service: self._asked[service] for service in services}
        every = [(one.name, kind) for one in questions.values() for kind in one.kinds]
        replies = iter(await connection.ask(every))
        of: dict[str, Sequence[Reply]] = {
            service: [next(replies) for _ in one.kinds] for service, one in questions.items()
        }
        of |= {service: told(each) for service, each in of.items() if questions[service].port}
        wanted = sorted({name for each in of.values() for name in targets(each)})
        more = await connection.ask([(name, kind) for name in wanted for kind in ADDRESSES])
        of_target = {name: told(more[2 * n : 2 * n + 2]) for n, name in enumerate(wanted)}
        found = {
            name: addresses(record for one in each for record in one.answers)
            for name, each in of_target.items()
        }
        for service, each in of.items():
            whole = [*each, *(one for name in targets(each) for one in of_target[name])]
            self._trouble[service] = wrong = trouble(whole)
            self._due.told(service, None if wrong else lifetime(whole), self._clock())
            if not wrong:
                self._said[service] = records(service, self._asked[service], each, found)
        if all(self._trouble.values()):
            raise RegistryError(f"{len(self._trouble)} names: {next(iter(self._trouble.values()))}")
        self._source = connection.url
        made: dict[bytes, bytes] = {}
        for service, wrong in self._trouble.items():
            if wrong:
                kept = "; what it said before is used" if service in self._said else ""
                name = self._asked[service].name
                made[service.encode()] = complaint(f"{name}: {wrong}{kept}")
            made |= self._said.get(service, {})
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
