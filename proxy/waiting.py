"""Waiting for an event, and no longer than that."""

from __future__ import annotations

import asyncio


async def set_within(event: asyncio.Event, limit: float | None) -> bool:
    """Wait for the event; False if it was not set within `limit` seconds (None: no limit)."""
    try:
        async with asyncio.timeout(None if limit is None else max(0.0, limit)):
            return await event.wait()
    except TimeoutError:
        return False
