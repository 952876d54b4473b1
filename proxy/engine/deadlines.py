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
HORIZON: Final = 30.0
"""Seconds ahead that an item is filed at most; one whose deadline is later is filed again then. So
the wheel has 3,000 ticks, however long the limits are and however many were set and forgotten."""
LOOKS: Final = 256
"""Items looked at in one turn of the loop. Ten thousand clients that fell silent together must not
keep the others waiting while they are closed."""
_PASSED: Final = 7
"""Looks more that one costs whose deadline has passed: an answer, a line of the log, a close. So 32
of them are a turn."""


class Timed:
    """An item with a deadline in seconds of the loop's clock; `NEVER` = none."""

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


class Deadlines:
    """Owns the wheel: ticks → items to look at then, and one timer for the next tick."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, now: Callable[[], float] = monotonic
    ) -> None:
        self._loop = loop
        self._slots: dict[int, set[Timed] | None] = {}  # ≤ 1 MiB + 300 B per connection
        """Tick → items to look at then; None where none is left. Its tick comes up all the same: to
        look for it in the heap would cost more, and to enter it again each time would fill that."""
        self._order: list[int] = []  # ≤ 256 KiB
        """The ticks, as a heap."""
        self._timer: asyncio.TimerHandle | None = None
        self._wake = NEVER
        self.now = now
        """The clock that deadlines are on, in seconds; the loop's is the same, rounded down to
        its last turn."""

    def __len__(self) -> int:
        """Items on the wheel, those whose deadline has moved away since included."""
        return sum(len(slot) for slot in self._slots.values() if slot)

    def arm(self, item: Timed, when: float) -> None:
        """`item.on_deadline` is called at `when`, a tick late at most, unless moved before."""
        item.deadline = when
        if when < item.filed:
            self.file(item, when)

    def forget(self, item: Timed) -> None:
        """The item is gone; the wheel keeps no reference to it."""
        item.deadline = NEVER
        if item.filed != NEVER:
            self._take_out(item)

    def file(self, item: Timed, when: float) -> None:
        """Look at `item` at `when`, or before. The busiest callers set `item.deadline` themselves
        and come here only if it is before `item.filed`."""
        if item.filed != NEVER:
            self._take_out(item)
        tick = int(min(when, self.now() + HORIZON) / TICK) + 1
        item.filed = tick * TICK
        slot = self._slots.get(tick)
        if slot is not None:
            slot.add(item)
            return
        if tick not in self._slots:
            heappush(self._order, tick)
            if item.filed < self._wake:
                self._set_timer(item.filed)
        self._slots[tick] = {item}

    def _take_out(self, item: Timed) -> None:
        tick = int(item.filed / TICK + 0.5)
        item.filed = NEVER
        slot = self._slots[tick]
        if slot is not None:
            slot.discard(item)
            if not slot:
                self._slots[tick] = None

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
        """Look at what is filed up to `now`, at `LOOKS` of it at most: the rest is due already, so
        the timer comes up in the loop's next turn."""
        looks = LOOKS
        while self._order and self._order[0] * TICK <= now:  # ≤ 3001
            tick = heappop(self._order)
            try:
                while slot := self._slots[tick]:  # ≤ LOOKS + 3001
                    if looks <= 0:
                        return
                    looks -= 1
                    item = slot.pop()
                    item.filed = NEVER
                    if item.deadline <= now:
                        looks -= _PASSED
                        item.deadline = NEVER
                        item.on_deadline(now)
                    elif item.deadline != NEVER:
                        self.file(item, item.deadline)
            finally:
                if self._slots[tick]:
                    heappush(self._order, tick)  # Too many, or one failed: the others are next.
                else:
                    del self._slots[tick]
