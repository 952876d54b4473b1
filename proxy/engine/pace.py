"""How many requests begin, and how many answers are passed on, in one turn of the loop.

The loop reads from everybody who has said something, up to a thousand at a time, before anything
else has its turn. Under ten thousand busy clients a turn that was long finds more of them, and is
longer yet. So after some time in one turn what is read is put off, and has the next ones, a piece
in each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

LONG: Final = 0.0012
"""Seconds of a turn for what was put off before and for what is read, from the first look at the
clock; what is read later is put off. Usual turns of ten thousand busy clients are shorter."""
UNSEEN: Final = 32
"""Requests and answers from one look at the clock to the next: half a millisecond."""


class Pace:
    """Owns what is put off, and until when in this turn nothing is."""

    __slots__ = ("_arranged", "_line", "_now", "_soon", "_until", "left")

    def __init__(self, soon: Callable[..., object], now: Callable[[], float]) -> None:
        """`soon`: calls a function in the loop's next turn."""
        self._soon = soon
        self._now = now
        self._line: deque[Callable[[], None]] = deque()  # ≤ 1 KiB + 100 B per connection
        self._until = 0.0
        self._arranged = False
        """The next turn is to tell that it has begun."""
        self.left = UNSEEN
        """Requests and answers before one asks `is_over`; each counts itself."""

    def is_over(self) -> bool:
        """Whether what is read now is to be put off."""
        if not self._arranged:
            self._until = self._now() + LONG
            self._arrange()
        elif self._line or self._now() > self._until:
            return True
        self.left = UNSEEN
        return False

    def put_off(self, work: Callable[[], None]) -> None:
        """Call `work` in a turn to come, behind all that was put off before."""
        self._line.append(work)
        self._arrange()

    def _arrange(self) -> None:
        if not self._arranged:
            self._arranged = True
            self._soon(self._turn)

    def _turn(self) -> None:
        """Do what has waited longest, for as long as a turn may be; what is read in this one has
        the rest of that."""
        self._arranged = False
        line = self._line
        if not line:
            return
        self._until = until = self._now() + LONG
        try:
            for _ in range(len(line)):  # ≤ connections
                line.popleft()()
                if self._now() >= until:
                    return
        finally:
            self._arrange()  # One who fails must not take the others' turn with it.
