"""The queue of a service whose instances are all at their `max_inflight`.

First in, first out; bounded in length and in time. Waiting is cheaper than failing when the load
is a burst, and no use when it is not, which is why both bounds are short by default.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Waiter = TypeVar("Waiter")


class WaitingLine(Generic[Waiter]):
    """Owns who waits, in order of arrival."""

    __slots__ = ("_waiters", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        """So many may wait. Those who do already may stay if it becomes less."""
        self._waiters: deque[Waiter] = deque()

    def __len__(self) -> int:
        return len(self._waiters)

    def join(self, waiter: Waiter) -> bool:
        """Wait at the end; False if the line is full."""
        if len(self._waiters) >= self.size:
            return False
        self._waiters.append(waiter)
        return True

    def leave(self, waiter: Waiter) -> None:
        """Wait no longer. Without effect for one who is not in the line."""
        try:
            self._waiters.remove(waiter)
        except ValueError:
            pass  # It was called up in this very moment.

    def rejoin(self, waiter: Waiter) -> None:
        """Who was called in vain is the first again, however long the line is."""
        self._waiters.appendleft(waiter)

    def is_first(self, waiter: Waiter) -> bool:
        """Nobody has waited longer."""
        return bool(self._waiters) and self._waiters[0] is waiter

    def call(self) -> Waiter | None:
        """The one who has waited longest, who leaves the line by this."""
        return self._waiters.popleft() if self._waiters else None
