"""The connections being made to one instance at a time.

Thousands of clients in one turn of the loop would else mean as many connections at once: more than
the instance's backlog takes, which then drops them, and most of which nobody needs once the first
requests have been answered. Those beyond `DIALS` wait, for their turn or for a connection that an
exchange leaves behind, whichever is first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

DIALS: Final = 256
"""Connections being made to one instance by one worker. Servers commonly let 511 wait to be
accepted (nginx, Node) or more; and over a path of 100 ms these are 2,560 new connections a
second."""

NO_PORT_PAUSE: Final = 0.1
"""Seconds in which no connection to an instance is tried after there was no local port for one: the
kernel looks through all of them each time, which takes milliseconds."""


class Turns:
    """Owns how many connections are being made to an instance, and who waits to make one."""

    __slots__ = ("_waiting", "ports_from", "under_way")

    def __init__(self) -> None:
        self.under_way = 0
        self.ports_from = 0.0
        """Not before is there a local port, as far as is known."""
        self._waiting: deque[asyncio.Future[None]] = deque()  # ≤ 1 KiB + 400 B per request

    @property
    def full(self) -> bool:
        """Whether who wants a connection has to wait."""
        return self.under_way >= DIALS

    async def wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until a connection was made, or not, or one is idle. Whoever waits longest is told,
        and may find that somebody who has just come was quicker."""
        turn = loop.create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.call()  # It was told, and is gone.
            raise

    def call(self) -> None:
        """Tell whoever waits longest to look again."""
        while self._waiting:  # ≤ requests
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def end(self) -> None:
        """A connection that was being made is there, or will not be."""
        self.under_way -= 1
        self.call()
