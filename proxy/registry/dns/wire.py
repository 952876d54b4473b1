"""Messages of the DNS: bytes of a question, and of an answer → its records. Pure.

RFC 1035 section 4 (messages), 2782 (SRV), 3596 (AAAA). Only what a client needs.
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


_WORDS = {1: "FORMERR", 2: "SERVFAIL", 4: "NOTIMP", 5: "REFUSED"}


def word(code: int) -> str:
    """The name of an error."""
    return _WORDS.get(code, f"error {code}")


def question(number: int, name: str, kind: Kind) -> bytes:
    """A question, with recursion asked for. ValueError for a name that cannot be in the DNS."""
    labels = name.rstrip(".").encode("ascii").split(b".")
    if not all(0 < len(label) < 64 for label in labels) or len(name) > 253:
        raise ValueError(f"{name!r} is no name of the DNS")
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
        tuple(record for section, record in found if section == 0),
        tuple(record for section, record in found if section == 2),
    )


def _records(message: bytes, at: int, counts: tuple[int, ...]) -> Iterator[tuple[int, Record]]:
    """Section and record of each that is of a known type."""
    for section, count in enumerate(counts):
        for _ in range(count):
            name, at = _name(message, at)
            kind, _, _, size = struct.unpack_from("!HHIH", message, at)
            at += 10
            if at + size > len(message):
                raise ValueError("a record is longer than the message")
            if kind == Kind.A:
                value = str(IPv4Address(message[at : at + size]))
                yield section, Record(name, Kind.A, value)
            elif kind == Kind.AAAA:
                value = str(IPv6Address(message[at : at + size]))
                yield section, Record(name, Kind.AAAA, value)
            elif kind == Kind.SRV:
                priority, weight, port = struct.unpack_from("!3H", message, at)
                target, _ = _name(message, at + 6)
                yield section, Record(name, Kind.SRV, target, priority, weight, port)
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
