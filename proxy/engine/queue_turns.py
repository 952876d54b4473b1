"""When requests that wait for room in a pool have their turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from proxy.engine.resilience.queue import Queue, Waiter

_LOOK_AGAIN: Final = 0.002
"""Seconds between two looks for room that did not come about here while requests wait: short
beside any request worth queueing for."""
_CALLED: Final = 64
"""Waiting requests that have their turn in one turn of the loop. More room than that comes about at
once where a reload raises `max_inflight`, or an instance is new."""


class QueueTurns:
    """Owns the looks for room that are arranged for one queue."""

    __slots__ = ("_freed", "_has_room", "_later", "_looking", "queue")

    def __init__(
        self,
        queue: Queue,
        later: Callable[[float, Callable[[], None]], object],
        has_room: Callable[[], bool],
    ) -> None:
        """`later`: calls something after so many seconds; `has_room`: some instance has room."""
        self.queue = queue
        self._later = later
        self._has_room = has_room
        self._looking = False
        """The next look for room that others made is arranged."""
        self._freed = False
        """The look that follows the end of a request of ours is arranged."""

    def enqueue(self, waiter: Waiter) -> bool:
        """Wait until some instance has room; False if the queue is full."""
        if not self.queue.enqueue(waiter):
            return False
        self._look_again()
        return True

    def on_freed(self) -> None:
        """A request has ended. The queue is served in the loop's next turn: whoever gives back is
        in the middle of something."""
        if not self._freed:
            self._freed = True
            self._later(0.0, self._serve_freed)

    def _look_again(self) -> None:
        """Arrange the next look for room. Room that own requests free is noticed at once, but that
        of other workers, and of new nodes, must be looked for."""
        if not self._looking:
            self._looking = True
            self._later(_LOOK_AGAIN, self._look)

    def _look(self) -> None:
        self._looking = False
        if self.queue:
            self._look_again()  # First: one who fails must not take the others' turn with it.
            self._serve()

    def _serve_freed(self) -> None:
        self._freed = False
        self._serve()

    def _serve(self) -> None:
        """Call up those for whom there is room, some of them in each turn of the loop."""
        queue = self.queue
        for _ in range(_CALLED):  # ≤ _CALLED
            if not self._has_room():
                return
            waiter = queue.dequeue()
            if waiter is None:
                return
            waiter.on_turn()
            if queue.is_first(waiter):
                return  # Another worker was quicker.
        if queue:
            self.on_freed()
