"""The queue of a service whose instances are all at their `max_inflight`.

First in, first out; bounded in length and in time. Waiting is cheaper than failing when the load
is a burst, and no use when it is not, which is why both bounds are short by default.
"""

from __future__ import annotations

from collections import OrderedDict


class Waiter:
    """A request that may wait in the queue."""

    __slots__ = ()

    def on_turn(self) -> None:
        """Take the turn: some instance has room, and the request is not in the queue any more."""
        raise NotImplementedError


class Queue:
    """Owns who waits, in order of arrival."""

    __slots__ = ("_waiters", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        """So many may wait. Those who do already may stay if it becomes less."""
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()  # ≤ 1 KiB + 320 B per request
        """Not a deque: whoever leaves is found at once, however many wait."""

    def __len__(self) -> int:
        return len(self._waiters)

    def enqueue(self, waiter: Waiter) -> bool:
        """Wait at the end; False if the queue is full."""
        if len(self._waiters) >= self.size:
            return False
        self._waiters[waiter] = None
        return True

    def requeue(self, waiter: Waiter) -> None:
        """A request that had its turn in vain is the first again, however long the queue is."""
        self._waiters[waiter] = None
        self._waiters.move_to_end(waiter, last=False)

    def leave(self, waiter: Waiter) -> None:
        """Wait no longer. Without effect for a request that is not in the queue."""
        self._waiters.pop(waiter, None)  # It may have its turn in this very moment.

    def is_first(self, waiter: Waiter) -> bool:
        """Whether `waiter` has waited longest."""
        return bool(self._waiters) and next(iter(self._waiters)) is waiter

    def dequeue(self) -> Waiter | None:
        """The request that has waited longest, which leaves the queue by this."""
        return self._waiters.popitem(last=False)[0] if self._waiters else None
