"""The key of a shared configuration and what is kept beside it; who is meant by a canary. Pure.

KEY                     the text
KEY.canary              another one, for the proxies that it names (JSON of `Canary`)
KEY.history/NUMBER      texts that were pushed, the last twenty (JSON of `Version`)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from proxy.registry.etcd.wire import KeyValue
from proxy.settings.fleet import SharedText


class Canary(msgspec.Struct, frozen=True):
    """A configuration for some proxies of the fleet, before all get it."""

    text: str
    to: tuple[str, ...] = ()
    """Ids of proxies."""
    share: float = 0.0
    """Share of all proxies, 0 to 1."""
    by: str = ""
    at: str = ""

    def means(self, id_: str) -> bool:
        """Whether the proxy of this id is to take it. A larger share means all whom a smaller one
        means, whatever the text."""
        place = int.from_bytes(hashlib.sha256(id_.encode()).digest()[:8], "big") / 2**64
        return id_ in self.to or place < self.share


class Chosen(NamedTuple):
    """The text that is meant for one proxy."""

    shared: SharedText | None
    """None: there is no such key."""
    canary: bool = False
    problem: str = ""
    """Reason why a key that is there is not read; "" = it is."""


def canary_key(key: str) -> str:
    """The key of the canary."""
    return f"{key}.canary"


def range_of(key: str) -> tuple[bytes, bytes]:
    """The range with a key and its canary, without its history."""
    return key.encode(), canary_key(key).encode() + b"\0"


def place_of(key: str) -> str:
    """The name of a key in complaints."""
    return f"etcd:{key}"


def choose(held: Mapping[bytes, KeyValue], key: str, id_: str) -> Chosen:
    """The text for the proxy of this id, of what a range holds."""
    problem = ""
    if (found := held.get(canary_key(key).encode())) is not None:
        place = place_of(canary_key(key))
        try:
            canary = msgspec.json.decode(found.value, type=Canary)
            if canary.means(id_):
                return Chosen(SharedText(canary.text, place, found.mod_revision), canary=True)
        except (ValueError, RecursionError) as error:
            problem = f"{place}: no canary: {error}"
    if (found := held.get(key.encode())) is None:
        return Chosen(None, problem=problem)
    try:
        text = found.value.decode("utf-8-sig")
    except UnicodeDecodeError:
        return Chosen(None, problem=f"{place_of(key)}: not UTF-8")
    return Chosen(SharedText(text, place_of(key), found.mod_revision), problem=problem)


def digest(text: str) -> str:
    """A short name for a text, the same in all proxies that have it."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
