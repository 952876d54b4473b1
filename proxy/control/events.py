"""Events as they happen, for all who listen: `GET /api/v1/events`.

Every listener has a buffer of its own with a bound. One that does not read loses the oldest
events, is told how many, and costs nobody else anything.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

BUFFER = 1000
"""Events that wait for one listener: a roll-out of a thousand instances while its terminal is
stopped. Some 200 bytes each."""

MAX_BYTES = 1024 * 1024
"""Of them: one that names thousands of services has a hundred thousand. The newest one is kept
whatever its size; it is the same object for all listeners."""

KEPT = 200
"""Events that are kept for who asks what has happened: those of some hours of a quiet day."""

MAX_LISTENERS = 32
"""Dashboards and terminals of a team; more are a client that reconnects without closing."""


class Event(msgspec.Struct, frozen=True):
    """One thing that happened."""

    number: int
    """Grows by one with each event since the start."""
    kind: str
    """`pools`, `ejected`, `reinstated`, `drained`, …; docs/operations.md lists them."""
    time: float
    """Seconds since 1970."""
    fields: dict[str, Any]


class TooManyListeners(Exception):
    """There are `MAX_LISTENERS` already."""


class Listener:
    """Owns the events that one listener has not taken yet."""

    def __init__(self, buffer: int, max_bytes: int) -> None:
        self.lost = 0
        """Events dropped since `take` was last called."""
        self._waiting: deque[bytes] = deque()
        self._buffer = buffer
        self._max_bytes = max_bytes
        self._size = 0
        self._news = asyncio.Event()

    def put(self, event: bytes) -> None:
        self._waiting.append(event)
        self._size += len(event)
        while len(self._waiting) > 1 and (
            len(self._waiting) > self._buffer or self._size > self._max_bytes
        ):
            self._size -= len(self._waiting.popleft())
            self.lost += 1
        self._news.set()

    def waiting(self) -> list[bytes]:
        """All events that wait, oldest first, which stay."""
        return list(self._waiting)

    def take(self) -> tuple[list[bytes], int]:
        """Take all events that wait, oldest first, and the number of those lost before them."""
        events, lost = list(self._waiting), self.lost
        self._waiting.clear()
        self.lost = self._size = 0
        self._news.clear()
        return events, lost

    async def wait(self, limit: float) -> bool:
        """Until something waits, `limit` seconds at most. False when nothing does."""
        try:
            async with asyncio.timeout(limit):
                await self._news.wait()
        except TimeoutError:
            return False
        return True


class Events:
    """Owns the listeners and the number of the last event."""

    def __init__(
        self,
        buffer: int = BUFFER,
        max_listeners: int = MAX_LISTENERS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._buffer = buffer
        self._max_bytes = max_bytes
        self._max = max_listeners
        self._number = 0
        self._listeners: set[Listener] = set()
        self._kept = Listener(KEPT, max_bytes)

    def publish(self, kind: str, now: float, /, **fields: Any) -> None:
        """Tell everybody. `now`: seconds since 1970."""
        self._number += 1
        event = encode(Event(self._number, kind, now, fields))
        self._kept.put(event)
        for listener in self._listeners:
            listener.put(event)

    def kept(self) -> list[bytes]:
        """The last events, oldest first, encoded."""
        return self._kept.waiting()

    @contextmanager
    def listen(self, kept: bool = False) -> Iterator[Listener]:
        """A listener for events from now on; `kept`: and those before. TooManyListeners."""
        if len(self._listeners) >= self._max:
            raise TooManyListeners
        listener = Listener(self._buffer, self._max_bytes)
        if kept:
            for event in self.kept():
                listener.put(event)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)


def encode(event: Event) -> bytes:
    """As a server-sent event."""
    data = {"time": event.time, **event.fields}
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (
        event.number,
        event.kind.encode(),
        msgspec.json.encode(data),  # JSON has no line breaks, so it is one `data:` line
    )
