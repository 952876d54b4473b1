"""Messages of the DNS: bytes of a question, and of an answer → its records. Pure.

RFC 1035 section 4 (messages), 2308 (what does not exist), 2782 (SRV), 3596 (AAAA). Only what a
client needs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

import msgspec

from proxy.registry.base import RegistryError

MAX_POINTERS = 32
"""In a row, in one name: a message is no maze."""


class Kind(IntEnum):
    """Types of records."""

    A = 1
    SOA = 6
    AAAA = 28
    SRV = 33


class Record(msgspec.Struct, frozen=True):
    """A record of one of these types."""

    name: str
    """In lower case, without a dot at the end; so the others."""
    kind: Kind
    value: str
    """An address, or the target of an SRV record."""
    priority: int = 0
    weight: int = 0
    port: int = 0


class Reply(msgspec.Struct, frozen=True):
    """An answer to one question."""

    number: int
    code: int
    """0 = no error, 3 = there is no such name."""
    answers: tuple[Record, ...] = ()
    extra: tuple[Record, ...] = ()
    """Addresses that the server gives unasked."""
    ttl: int | None = None
    """Seconds for which it holds: as long as each of its records, or as the zone says of what does
    not exist; None = nothing is said."""


_WORDS = {1: "FORMERR", 2: "SERVFAIL", 4: "NOTIMP", 5: "REFUSED"}


def word(code: int) -> str:
    """The name of an error."""
    return _WORDS.get(code, f"error {code}")


def is_name(name: str) -> bool:
    """Whether this can be asked for."""
    labels = name.rstrip(".").split(".")
    return name.isascii() and len(name) <= 253 and all(0 < len(label) < 64 for label in labels)


def question(number: int, name: str, kind: Kind) -> bytes:
    """A question, with recursion asked for. ValueError for a name that cannot be in the DNS."""
    if not is_name(name):
        raise ValueError(f"{name!r} is no name of the DNS")
    labels = name.rstrip(".").encode("ascii").split(b".")
    encoded = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + encoded + struct.pack("!2H", kind, 1)


def reply(message: bytes) -> Reply:
    """RegistryError for anything but an answer that is whole."""
    try:
        number, flags, asked, answers, authority, extra = struct.unpack_from("!6H", message)
        if not flags & 0x8000 or flags & 0x0200:
            raise RegistryError("not an answer of a name server, or one that is cut off")
        at = 12
        for _ in range(asked):
            _, at = _name(message, at)
            at += 4
        found = list(_records(message, at, (answers, authority, extra)))
    except (struct.error, IndexError, ValueError) as error:
        raise RegistryError(f"not an answer of a name server: {error}") from None
    return Reply(
        number,
        flags & 0xF,
        tuple(record for section, _, record in found if section == 0 and record),
        tuple(record for section, _, record in found if section == 2 and record),
        min((ttl for _, ttl, _ in found), default=None),
    )


def _records(
    message: bytes, at: int, counts: tuple[int, ...]
) -> Iterator[tuple[int, int, Record | None]]:
    """Section of each record, for how long it holds, and itself, of known types; of other types in
    the answer, and of what says for how long it is that there is none, no more than that."""
    for section, count in enumerate(counts):
        for _ in range(count):
            name, at = _name(message, at)
            kind, _, ttl, size = struct.unpack_from("!HHIH", message, at)
            ttl = ttl if ttl < 2**31 else 0  # RFC 2181 section 8
            at += 10
            if at + size > len(message):
                raise ValueError("a record is longer than the message")
            if kind == Kind.A:
                value = str(IPv4Address(message[at : at + size]))
                yield section, ttl, Record(name, Kind.A, value)
            elif kind == Kind.AAAA:
                value = str(IPv6Address(message[at : at + size]))
                yield section, ttl, Record(name, Kind.AAAA, value)
            elif kind == Kind.SRV:
                priority, weight, port = struct.unpack_from("!3H", message, at)
                target, _ = _name(message, at + 6)
                yield section, ttl, Record(name, Kind.SRV, target, priority, weight, port)
            elif kind == Kind.SOA and section == 1:
                (minimum,) = struct.unpack_from("!I", message, at + size - 4)
                yield section, min(ttl, minimum), None
            elif section == 0:
                yield section, ttl, None
            at += size


def _name(message: bytes, at: int) -> tuple[str, int]:
    """The name at a place, and the place behind it."""
    labels: list[bytes] = []
    behind = 0
    for _ in range(MAX_POINTERS + 128):
        size = message[at]
        if size >= 0xC0:
            behind = behind or at + 2
            at = struct.unpack_from("!H", message, at)[0] & 0x3FFF
            continue
        at += 1
        if not size:
            return b".".join(labels).decode("ascii", "replace").lower(), behind or at
        label = message[at : at + size]
        if size > 63 or len(label) < size:
            raise ValueError("a label is cut off")
        labels.append(label)
        at += size
    raise ValueError("a name has no end")
