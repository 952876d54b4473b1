"""Frames, lines of JSON that a relay tells its followers, and the digest that both know. Pure.

Records are written in one way, whoever writes them, so that two relays of one registry have the
same digest for the same instances, and a follower of one goes on at another where it was. Where it
was is seldom a place at which the other has stood, too. So a digest has parts, of which each is
about some of the names: only those that differ are told again.
"""

from __future__ import annotations

import sys
from array import array
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final
from zlib import crc32

import msgspec

from proxy.membership import Instance

PATH: Final = "/v1/memberships"
"""Where a relay tells them; the query `from` has the digest of what the follower knows, `parts` the
parts of that."""

ALIVE: Final = "/v1/alive"
"""Where a relay says that it has something to tell, by status 200."""

BEAT: Final = 1.0
"""Seconds between two lines at most. A follower that has heard nothing for three times as long
leaves; a thousand of them cost a relay a fifth of a core."""

PARTS: Final = 2048
"""Of a digest: ten of 20,000 instances are in each, so that of 200 that changed meanwhile a tenth
of all is told. They are 5,462 characters, as much as fits into a line of a request (8,190)."""

_SIZE: Final = 16
_ALL: Final = 1 << 8 * _SIZE

_encoder = msgspec.json.Encoder(order="deterministic")


class Frame(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A line: what has changed, or a part of the whole list, or only that all is as it was."""

    cluster: str
    """The registry's id of its store."""
    revision: int
    """Of the registry, at which everything is as the digest says."""
    digest: str
    """Of all that is known after this frame."""
    full: bool = False
    """A list begins, or goes on, that takes the place of everything."""
    more: bool = False
    """The next frame goes on with it."""
    parts: tuple[int, ...] = ()
    """Of these parts, `put` has all there is."""
    put: tuple[tuple[str, str, msgspec.Raw], ...] = ()
    """Service, id and record of each instance that is new or another."""
    gone: tuple[tuple[str, str], ...] = ()
    """Service and id of those that left."""


def record_of(instance: Instance) -> bytes:
    """An instance as the value of a key, which `registry.records` reads back."""
    return _encoder.encode(
        {
            "address": instance.address,
            "port": instance.port,
            "version": instance.version,
            "metadata": instance.metadata,
            "health": {"status": instance.health, "message": instance.health_message},
        }
    )


class Digest:
    """Owns a sum over records, each hashed with its name: the same in whatever order they came. And
    the sums of its parts, of 16 bits: where two of them are equal by chance, the whole is not."""

    def __init__(self) -> None:
        self._sum = 0
        self._parts = array("H", bytes(2 * PARTS))

    def add(self, service: str, id_: str, record: bytes) -> None:
        """A record is there."""
        self._count(service, id_, record, 1)

    def remove(self, service: str, id_: str, record: bytes) -> None:
        """A record that was there is gone."""
        self._count(service, id_, record, -1)

    def _count(self, service: str, id_: str, record: bytes, sign: int) -> None:
        name = key_of(service, id_)
        found = blake2b(name + b"\0" + record, digest_size=_SIZE).digest()
        number = sign * int.from_bytes(found)
        self._sum = (self._sum + number) % _ALL
        part = part_of(name)
        self._parts[part] = (self._parts[part] + number) & 0xFFFF

    def __str__(self) -> str:
        return f"{self._sum:032x}"

    @property
    def parts(self) -> str:
        """The sums of the parts, as a relay is told them."""
        return urlsafe_b64encode(_ordered(self._parts).tobytes()).decode()

    def differing(self, parts: str) -> list[int]:
        """The parts of which somebody else knows something else; ValueError for no parts."""
        theirs = array("H", urlsafe_b64decode(parts))
        if len(theirs) != PARTS:
            raise ValueError(f"{len(theirs)} parts; allowed: {PARTS}")
        pairs = zip(self._parts, _ordered(theirs), strict=True)
        return [at for at, (one, other) in enumerate(pairs) if one != other]


def digest_of(records: Iterable[tuple[str, str, bytes]]) -> Digest:
    """The digest of these: service, id and record."""
    digest = Digest()
    for one in records:
        digest.add(*one)
    return digest


def key_of(service: str, id_: str) -> bytes:
    """A name as the key of a record."""
    return f"{service}/{id_}".encode()


def part_of(key: bytes) -> int:
    """The part of a digest that a name is counted in."""
    return crc32(key) % PARTS


def _ordered(sums: array[int]) -> array[int]:
    """Numbers in the byte order of the wire, or from it."""
    if sys.byteorder == "little":
        return sums
    swapped = sums[:]
    swapped.byteswap()
    return swapped
