"""Time-outs without timers: one wheel for a worker.

A request sets and moves several limits and nearly none ever passes, so moving one must cost an
attribute store. Each item carries its deadline; the wheel looks at it no earlier than when it
was filed, and files it again if the deadline has moved away meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from time import monotonic
from typing import Final

TICK: Final = 0.01
"""Seconds: what a limit may be late by. It keeps those of a tenth of a second and more within a
tenth; the wheel turns a hundred times a second at most, for a few microseconds."""
NEVER: Final = inf
"""A deadline that does not pass."""


class Timed:
    """Something with a deadline in seconds of the loop's clock; `NEVER` = none."""

    __slots__ = ("deadline", "filed")

    def __init__(self) -> None:
        self.deadline = NEVER
        self.filed = NEVER
        """When the wheel will look at it; `NEVER` = it is not on the wheel."""

    def on_deadline(self, now: float) -> None:
        """The deadline has passed. It is cleared before the call."""
        raise NotImplementedError


class Alarm(Timed):
    """A deadline of its own, for what has several or is no `Timed` itself."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[float], None]) -> None:
        """`call(now)` when the deadline has passed."""
        super().__init__()
        self._call = call

    def on_deadline(self, now: float) -> None:
        """See `Timed`."""
        self._call(now)


_NONE: Final[set[Timed]] = set()


class Deadlines:
    """Owns the wheel: ticks → items to look at then, and one timer for the next tick."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, now: Callable[[], float] = monotonic
    ) -> None:
        self._loop = loop
        self._slots: dict[int, set[Timed]] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._wake = NEVER
        self.now = now
        """The clock that deadlines are on, in seconds; the loop's is the same, rounded down to
        its last turn."""

    def __len__(self) -> int:
        """Items on the wheel, those whose deadline has moved away since included."""
        return sum(map(len, self._slots.values()))

    def arm(self, item: Timed, when: float) -> None:
        """`item.on_deadline` is called at `when`, a tick late at most, unless moved before."""
        item.deadline = when
        if when < item.filed:
            self.file(item, when)

    def forget(self, item: Timed) -> None:
        """The item is gone; the wheel keeps no reference to it."""
        item.deadline = NEVER
        if item.filed != NEVER:
            self._slots.get(round(item.filed / TICK), _NONE).discard(item)
            item.filed = NEVER

    def file(self, item: Timed, when: float) -> None:
        """Look at `item` at `when`. The busiest callers set `item.deadline` themselves and come
        here only if it is before `item.filed`."""
        if item.filed != NEVER:
            self._slots[round(item.filed / TICK)].discard(item)
        tick = int(when / TICK) + 1
        item.filed = tick * TICK
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = set()
            heappush(self._order, tick)
            if item.filed < self._wake:
                self._set_timer(item.filed)
        slot.add(item)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wake = when
        self._timer = self._loop.call_at(when, self._turn)

    def _turn(self) -> None:
        now = self._loop.time()
        self._timer = None
        self._wake = NEVER
        try:
            self.expire(now)
        finally:
            # One item that fails must not take every other limit of the worker with it.
            if self._order:
                self._set_timer(self._order[0] * TICK)

    def expire(self, now: float) -> None:
        """Look at everything filed up to `now`."""
        while self._order and self._order[0] * TICK <= now:
            tick = heappop(self._order)
            slot = self._slots[tick]
            try:
                while slot:
                    item = slot.pop()
                    item.filed = NEVER
                    if item.deadline <= now:
                        item.deadline = NEVER
                        item.on_deadline(now)
                    elif item.deadline != NEVER:
                        self.file(item, item.deadline)
            finally:
                if slot:
                    heappush(self._order, tick)  # One failed: the others are looked at next.
                else:
                    del self._slots[tick]
