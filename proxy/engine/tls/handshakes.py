"""Handshakes take turns: one step of one of them in each turn of the loop.

A full handshake is a millisecond of computing that cannot be divided. Two hundred of them that
arrive together would hold a worker for a quarter of a second; one per turn, and whoever has a
connection already is served between them.
"""

from __future__ import annotations

from collections.abc import Callable


class Handshakes:
    """Owns the order in which the handshakes of a worker go on."""

    __slots__ = ("_due", "_soon", "_waiting")

    def __init__(self, soon: Callable[..., object]) -> None:
        """`soon`: calls a function in a turn of the loop to come."""
        self._soon = soon
        self._waiting: dict[object, Callable[[], None]] = {}  # ≤ 1 KiB + 200 B per connection
        """Connection → its next step, in the order of their turns."""
        self._due = False

    def __len__(self) -> int:
        """Handshakes that wait for their turn."""
        return len(self._waiting)

    def want(self, connection: object, step: Callable[[], None]) -> None:
        """Call `step` when it is its turn: it goes as far as what has arrived allows."""
        self._waiting[connection] = step
        if not self._due:
            self._due = True
            self._soon(self._turn)

    def forget(self, connection: object) -> None:
        """The connection is gone. Who comes and goes faster than turns are taken must not make
        others wait, nor fill the memory."""
        self._waiting.pop(connection, None)

    def _turn(self) -> None:
        first = next(iter(self._waiting), None)
        if first is None:
            self._due = False  # All of them are gone.
            return
        step = self._waiting.pop(first)
        # Arranged before the step: one that raises must not take the others' turns with it.
        self._due = bool(self._waiting)
        if self._due:
            self._soon(self._turn)
        step()
