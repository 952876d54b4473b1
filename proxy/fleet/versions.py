"""Writing the key of a shared configuration: pushes, canaries, and the way back.

Each change is one transaction that holds only if nobody else has written meanwhile. What is written
is decided from what was found (`Found`), so that it can be tried without an etcd.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from proxy.fleet.config import Canary, canary_key
from proxy.fleet.store import Store
from proxy.registry.etcd.gateway import delete_op, prefix_end, put_op, revision_is
from proxy.registry.etcd.wire import KeyValue

_NUMBER = re.compile(rb"[0-9]{10}")
KEPT = 20
"""Texts in the history."""


class Version(msgspec.Struct, frozen=True):
    """A text that was pushed."""

    text: str
    by: str = ""
    at: str = ""
    number: int = 0


class Refused(Exception):
    """A change cannot be made. The text is one line for people."""


class Writes(NamedTuple):
    """Transaction of etcd: what must hold, and what is written then."""

    compare: Sequence[Mapping[str, Any]]
    success: Sequence[Mapping[str, Any]]


class Found:
    """A key, its canary and its history, as they were read together."""

    def __init__(self, key: str, held: Mapping[bytes, KeyValue]) -> None:
        self.key = key
        self._held = held
        main = held.get(key.encode())
        self.text = None if main is None else main.value.decode("utf-8-sig", "replace")
        found = held.get(canary_key(key).encode())
        self.canary = None if found is None else _canary(found.value)
        self.history = [
            one
            for name in sorted(held)
            if name.startswith(history_prefix(key).encode())
            and (one := _version(name, held[name].value)) is not None
        ]
        """Oldest first; what somebody else has put among them is left out."""

    def revision(self, key: str) -> int:
        """Where a key was last written; 0 = it is not there."""
        found = self._held.get(key.encode())
        return 0 if found is None else found.mod_revision

    def general(self, text: str, by: str, at: str, more: Sequence[Any] = ()) -> Writes:
        """A text for all. `more`: what else is to be written."""
        number = self.history[-1].number + 1 if self.history else 1
        entry = f"{history_prefix(self.key)}{number:010}"
        old = self.history[: max(0, len(self.history) + 1 - KEPT)]
        return Writes(
            [
                *(revision_is(one.encode(), self.revision(one))
                  for one in (self.key, canary_key(self.key))),
                revision_is(entry.encode(), 0),
            ],
            [
                put_op(self.key.encode(), text.encode(), 0),
                put_op(entry.encode(), msgspec.json.encode(Version(text, by, at)), 0),
                *(delete_op(f"{history_prefix(self.key)}{one.number:010}".encode())
                  for one in old),
                *more,
            ],
        )  # fmt: skip

    def push(self, text: str, by: str, at: str) -> Writes:
        """A text for all; Refused while there is a canary, which would hide it from some."""
        if self.canary is not None:
            raise Refused("there is a canary; allowed: promote it, or rollback, before")
        return self.general(text, by, at)

    def try_out(self, canary: Canary) -> Writes:
        """A text for some, in place of a canary that there is."""
        name = canary_key(self.key)
        compare = [revision_is(name.encode(), self.revision(name))]
        return Writes(compare, [put_op(name.encode(), msgspec.json.encode(canary), 0)])

    def promote(self, by: str, at: str) -> Writes:
        """The canary for all."""
        if self.canary is None:
            raise Refused("there is no canary; allowed: after push with --to or --share")
        if self.canary is UNREADABLE:
            raise Refused("the canary cannot be read; allowed: rollback")
        return self.general(self.canary.text, by, at, [delete_op(canary_key(self.key).encode())])

    def back(self, number: int | None, by: str, at: str) -> tuple[Writes, str]:
        """Without the canary, if there is one and no version is asked for; else an earlier version:
        the last that is another text than now. And a few words about it."""
        if self.canary is not None and number is None:
            name = canary_key(self.key)
            compare = [revision_is(name.encode(), self.revision(name))]
            return Writes(compare, [delete_op(name.encode())]), "canary withdrawn"
        for one in reversed(self.history):
            if one.number == number or (number is None and one.text != self.text):
                return self.push_back(one, by, at), f"version {one.number} is in force again"
        raise Refused("there is no such version; allowed: one of `fairlead config history`")

    def push_back(self, version: Version, by: str, at: str) -> Writes:
        """An earlier version for all, and no canary."""
        gone = [delete_op(canary_key(self.key).encode())] if self.canary is not None else []
        return self.general(version.text, by, at, gone)


UNREADABLE = Canary("", by="somebody whose canary cannot be read")


def _canary(value: bytes) -> Canary:
    try:
        return msgspec.json.decode(value, type=Canary)
    except (ValueError, RecursionError):
        return UNREADABLE


def _version(name: bytes, value: bytes) -> Version | None:
    number = name.rpartition(b"/")[2]
    try:
        found = msgspec.json.decode(value, type=Version)
    except (ValueError, RecursionError):
        return None
    return msgspec.structs.replace(found, number=int(number)) if _NUMBER.fullmatch(number) else None


def history_prefix(key: str) -> str:
    """The beginning of the keys of a history."""
    return f"{key}.history/"


async def find(store: Store, key: str) -> Found:
    """The key, its canary and its history. EtcdError."""
    held = await store.read(key.encode(), prefix_end(history_prefix(key).encode()))
    return Found(key, held)


async def write(store: Store, writes: Writes) -> int:
    """Make a change; the revision at which it holds. Refused if somebody else was faster."""
    reply = await store.call(lambda gateway: gateway.txn(writes.compare, writes.success))
    if not reply.succeeded:
        raise Refused("somebody else has written meanwhile; look at `fairlead config diff` again")
    return reply.header.revision
