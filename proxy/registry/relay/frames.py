"""Frames, lines of JSON that a relay tells its followers, and the digest that both know. Pure.

Records are written in one way, whoever writes them, so that two relays of one registry have the
same digest for the same instances, and a follower of one goes on at another where it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

import msgspec

from proxy.membership import Instance

PATH: Final = "/v1/memberships"
"""Where a relay tells them; the query `from` has the digest of what the follower knows."""

ALIVE: Final = "/v1/alive"
"""Where a relay says that it has something to tell, by status 200."""

BEAT: Final = 1.0
"""Seconds between two lines at most. A follower that has heard nothing for three times as long
leaves; a thousand of them cost a relay a fifth of a core."""

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
    """Owns a sum over records, each hashed with its name: the same in whatever order they came."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, service: str, id_: str, record: bytes) -> None:
        """A record is there."""
        self._sum = (self._sum + _hash(service, id_, record)) % _ALL

    def remove(self, service: str, id_: str, record: bytes) -> None:
        """A record that was there is gone."""
        self._sum = (self._sum - _hash(service, id_, record)) % _ALL

    def __str__(self) -> str:
        return f"{self._sum:032x}"


def digest_of(records: Iterable[tuple[str, str, bytes]]) -> Digest:
    """The digest of these: service, id and record."""
    digest = Digest()
    for one in records:
        digest.add(*one)
    return digest


def _hash(service: str, id_: str, record: bytes) -> int:
    name = f"{service}/{id_}\0".encode()
    return int.from_bytes(blake2b(name + record, digest_size=_SIZE).digest())
