"""The service manager, systemd or one that speaks its protocol, is told how the proxy is doing:
sd_notify(3), without its library.

    READY=1 ─▶ WATCHDOG=1 … ─▶ RELOADING=1 ─▶ READY=1 ─▶ … ─▶ STOPPING=1
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping

LOOK = 1.0
"""Seconds between two looks at workers that are not all alive."""

LONGEST_STATUS = 500
"""Characters of a status, which is one line of `systemctl status`."""


class ServiceManager:
    """Owns what the service manager has been told: nothing is ready before all of it was once, and
    nothing after it stops."""

    def __init__(
        self,
        send: Callable[[str], None],
        watchdog: float = 0.0,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`send`: a message, one NAME=value in each line; it never fails and never waits.
        `watchdog`: seconds in which a sign of life is expected; 0 = none is."""
        self._send = send
        self._watchdog = watchdog
        self._now = now
        self._sleep = sleep
        self._state = "starting"

    def ready(self, status: str) -> None:
        """The proxy serves, for the first time or after a reload."""
        if self._state != "stopping":
            self._state = "ready"
            self._tell("READY=1", status)

    def reloading(self) -> None:
        """A reload begins; `reloaded` is next."""
        if self._state == "ready":
            self._state = "reloading"
            microseconds = int(self._now() * 1_000_000)
            self._tell("RELOADING=1", f"MONOTONIC_USEC={microseconds}", "reloading")

    def reloaded(self, status: str) -> None:
        """A reload is over, whatever came of it."""
        if self._state == "reloading":
            self.ready(status)

    def stopping(self, status: str) -> None:
        """The proxy stops."""
        self._state = "stopping"
        self._tell("STOPPING=1", status)

    def status(self, status: str) -> None:
        """The proxy is as it was, but there is something to say."""
        self._tell(status)

    async def keep_alive(self, alive: Callable[[], bool]) -> None:
        """Give a sign of life at half of the time in which one is expected, while `alive()`."""
        while self._watchdog:
            if alive():
                self._send("WATCHDOG=1")
                await self._sleep(self._watchdog / 2)
            else:
                await self._sleep(min(LOOK, self._watchdog / 2))

    def _tell(self, *words: str) -> None:
        *words_, status = words
        self._send("\n".join((*words_, f"STATUS={' '.join(status.split())[:LONGEST_STATUS]}")))


def from_environment(
    environ: MutableMapping[str, str], send: Callable[[str], None] | None
) -> ServiceManager:
    """The service manager, told through `send`; None = there is nobody. What it says of its
    watchdog is for this process alone, and taken out of the environment."""
    within = environ.pop("WATCHDOG_USEC", "0")
    if send is None:
        return ServiceManager(lambda text: None)
    is_number = within.isascii() and within.isdigit()
    return ServiceManager(send, int(within) / 1_000_000 if is_number else 0.0)
