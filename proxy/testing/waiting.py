"""Waiting for a condition, and a port that nobody listens on."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

EVERY = 0.02
"""Seconds between two looks."""


async def eventually(condition: Callable[[], object], within: float = 10.0) -> None:
    """Wait until the condition holds. TimeoutError if it does not in `within` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within:g} s")
        await asyncio.sleep(EVERY)


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
