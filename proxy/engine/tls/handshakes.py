"""Handshakes take turns: one step of one of them in each turn of the loop.

A full handshake is a millisecond of computing that cannot be divided. Two hundred of them that
arrive together would hold a worker for a quarter of a second; one per turn, and whoever has a
connection already is served between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Handshakes:
    """Owns the order in which the handshakes of a worker go on."""

    __slots__ = ("_due", "_soon", "_waiting")

    def __init__(self, soon: Callable[..., object]) -> None:
        """`soon`: calls a function in a turn of the loop to come."""
        self._soon = soon
        self._waiting: deque[Callable[[], None]] = deque()  # ≤ 1 KiB + 100 B per connection
        self._due = False

    def __len__(self) -> int:
        """Handshakes that wait for their turn."""
        return len(self._waiting)

    def want(self, step: Callable[[], None]) -> None:
        """Call `step` when it is its turn: it goes as far as what has arrived allows."""
        self._waiting.append(step)
        if not self._due:
            self._due = True
            self._soon(self._turn)

    def _turn(self) -> None:
        step = self._waiting.popleft()
        # Arranged before the step: one that raises must not take the others' turns with it.
        self._due = bool(self._waiting)
        if self._due:
            self._soon(self._turn)
        step()
