"""Answers of name servers → records in our form. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from proxy.registry.dns.wire import Kind, Record, Reply, is_name, word
from proxy.registry.lists import complaint

NO_SUCH_NAME: Final = 3

ADDRESSES: Final = (Kind.A, Kind.AAAA)


class Asked(msgspec.Struct, frozen=True):
    """A service's name in the DNS."""

    name: str
    port: int
    """0 = the name has SRV records, which tell it."""

    @property
    def kinds(self) -> Sequence[Kind]:
        """Types of the records to ask for."""
        return ADDRESSES if self.port else (Kind.SRV,)


def asked(target: str) -> Asked:
    """The name and the port of a value of `services`."""
    name, colon, port = target.rpartition(":")
    return Asked(name, int(port)) if colon else Asked(target, 0)


def told(replies: Sequence[Reply]) -> Sequence[Reply]:
    """Of the answers about one name's addresses, in the order of `ADDRESSES`, those that count.
    Servers that know nothing of IPv6 answer questions for it with errors (RFC 4074)."""
    if any(record.kind is Kind.A for record in replies[0].answers):
        return [one for one in replies if not trouble([one])]
    return replies


def trouble(replies: Iterable[Reply]) -> str:
    """Why the answers about a name say nothing of it; "" = they do, and if only that there is
    none."""
    return next((word(one.code) for one in replies if one.code not in (0, NO_SUCH_NAME)), "")


def lifetime(replies: Collection[Reply]) -> int | None:
    """Seconds for which the answers about a name hold; None = none says. What does not exist counts
    only if nothing does: a name with addresses of one family goes by these."""
    named = [one for one in replies if one.answers] or replies
    return min((one.ttl for one in named if one.ttl is not None), default=None)


def targets(replies: Iterable[Reply]) -> set[str]:
    """Names of servers whose addresses no answer gave."""
    known: set[str] = set()
    wanted: set[str] = set()
    for one in replies:
        known |= {record.name for record in one.extra if record.kind in ADDRESSES}
        wanted |= {record.value for record in _preferred(one.answers)}
    return {name for name in wanted - known if is_name(name)}


def addresses(known: Iterable[Record]) -> Sequence[str]:
    """The addresses of one server: of IPv4 if there are any, so that one with both is one."""
    found: dict[Kind, list[str]] = {kind: [] for kind in ADDRESSES}
    for record in known:
        if record.kind in ADDRESSES:
            found[record.kind].append(record.value)
    return found[Kind.A] or found[Kind.AAAA]


def records(
    service: str, question: Asked, replies: Sequence[Reply], found: Mapping[str, Sequence[str]]
) -> dict[bytes, bytes]:
    """Key and record of each instance, or why there is none. `found`: addresses of targets that
    were asked for."""
    if question.port:
        every = [record for one in replies for record in one.answers]
        return {
            _key(service, address, question.port): _record(address, question.port, 1)
            for address in addresses(every)
        }
    known: dict[str, list[Record]] = {}
    for record in (record for one in replies for record in one.extra):
        known.setdefault(record.name, []).append(record)
    made: dict[bytes, bytes] = {}
    servers = _preferred(record for one in replies for record in one.answers)
    for server in servers:
        if not is_name(server.value):
            why = complaint(f"target {server.value[:60]!r} is no name of the DNS")
            made[_key(service, server.value, server.port)] = why
        for address in addresses(known.get(server.value, [])) or found.get(server.value, ()):
            # Without any weight all are equal (RFC 2782); else 0 is "hardly ever", not never.
            weight = max(1, server.weight)
            made[_key(service, address, server.port)] = _record(address, server.port, weight)
    return made


def _preferred(answers: Iterable[Record]) -> list[Record]:
    """The servers that come first: those behind them are for when none of them can be reached. A
    target "." means that there is no such service (RFC 2782)."""
    servers = [one for one in answers if one.kind is Kind.SRV and one.value]
    first = min((one.priority for one in servers), default=0)
    return [one for one in servers if one.priority == first]


def _key(service: str, address: str, port: int) -> bytes:
    shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return f"{service}/{shown}".encode()


def _record(address: str, port: int, weight: int) -> bytes:
    metadata = {"weight": str(weight)} if weight != 1 else {}
    return msgspec.json.encode({"address": address, "port": port, "metadata": metadata})
