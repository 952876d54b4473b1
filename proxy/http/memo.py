"""Memory of messages that repeat themselves, bounded in bytes whatever peers send."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

ENTRY: Final = 256
"""Bytes of an entry besides those of its texts: its place in a dict that has just grown, and the
headers of a few objects. Rather too many than too few."""

Key = TypeVar("Key")
Value = TypeVar("Value")


class Memo(Generic[Key, Value]):
    """Owns the results for the latest distinct keys, as many as there is room for.

    Two generations: when the young one has half of the room it becomes the old one, and the old
    one is forgotten. That is nearly "least recently used" at the price of a dict look-up. A client
    that makes every key different only ever pushes out other entries, at the cost it would have
    had anyway.
    """

    def __init__(self, room: int, largest: int) -> None:
        """`room`: bytes of all entries together, at most; `largest`: of an entry beyond which it
        would push out too many others."""
        self.young: dict[Key, Value] = {}  # ≤ room
        """The generation that is filling. Whoever finds a key only in the old one puts it here:
        both are looked up by the caller, which is one call less."""
        self.old: dict[Key, Value] = {}  # ≤ room
        self.room = room
        """In bytes."""
        self._largest = largest
        self._left = room // 2

    def clear(self) -> None:
        """Forget everything."""
        self.young = {}
        self.old = {}
        self._left = self.room // 2

    def put(self, key: Key, value: Value, size: int) -> None:
        """Remember a result. `size`: bytes of key and value, and an `ENTRY`."""
        if size > self._largest:
            return
        left = self._left - size
        if left < 0:
            self.old = self.young
            self.young = {}
            left = self.room // 2 - size
        self._left = left
        self.young[key] = value
