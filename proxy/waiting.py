"""Waiting: for an event and no longer than that, and for several things at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

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
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
