"""A result that is worth asking for once, however many want it at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from proxy.waiting import ended

T = TypeVar("T")


class Shared(Generic[T]):
    """Owns the run that makes the result, and the one after it.

    One run at a time: whoever asks during one gets the result of the next, so that it is never
    older than the question. A thousand that ask at once cost two runs.
    """

    def __init__(self, make: Callable[[], Awaitable[T]], pace: float = 0.0) -> None:
        """`pace`: seconds from the beginning of one run to that of the next, at least."""
        self._make = make
        self._pace = pace
        self._earliest = time.monotonic()
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[T] | None = None
        """The run that has not begun."""
        self._runs: set[asyncio.Task[T]] = set()

    async def get(self) -> T:
        """The result of a run that begins after this call. Raises what that raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._run())
            self._runs.add(self._next)
            self._next.add_done_callback(self._done)
        # Who leaves takes nothing from the others.
        return await asyncio.shield(self._next)

    async def close(self) -> None:
        """End the runs."""
        runs = [*self._runs]
        await ended(*runs)

    async def _run(self) -> T:
        async with self._turn:
            await asyncio.sleep(max(0.0, self._earliest - time.monotonic()))
            self._next = None
            self._earliest = time.monotonic() + self._pace
            return await self._make()

    def _done(self, run: asyncio.Task[T]) -> None:
        self._runs.discard(run)
        if run is self._next:
            self._next = None
        if not run.cancelled():
            run.exception()  # Everybody who asked may have left.
