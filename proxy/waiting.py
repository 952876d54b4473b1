"""Waiting: for an event and no longer than that, for several things at a time, for their end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def set_within(event: asyncio.Event, limit: float | None) -> bool:
    """Wait for the event; False if it was not set within `limit` seconds (None: no limit)."""
    try:
        async with asyncio.timeout(None if limit is None else max(0.0, limit)):
            return await event.wait()
    except TimeoutError:
        return False


async def together(limit: int, works: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Results of all `works`, of which `limit` are under way at a time. The first that fails ends
    the others."""
    free = asyncio.Semaphore(limit)

    async def one(work: Callable[[], Awaitable[T]]) -> T:
        async with free:
            return await work()

    tasks = [asyncio.create_task(one(work)) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await ended(*tasks)


async def ended(*tasks: asyncio.Future[Any] | None) -> None:
    """Cancel these tasks, and return when nothing of them runs; what they raise is nobody's."""
    there = [task for task in tasks if task is not None]
    for task in there:
        task.cancel()
    await asyncio.gather(*there, return_exceptions=True)
