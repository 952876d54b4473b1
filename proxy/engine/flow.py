"""Back-pressure: why a transport is not being read.

Several parts may want a connection's reading stopped for reasons of their own (the other side
is full, the next requests are piling up). Reading goes on when the last reason is gone.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

PEER_FULL: Final = 1
"""What would be read has nowhere to go: the other side's write buffer is full, or there is no
other side yet."""
AHEAD: Final = 2
"""Enough of the following pipelined requests is buffered."""


def as_protocol(connection: object) -> asyncio.Protocol:
    """`connection`, as the types of asyncio want it. Our connections have the methods of a
    protocol without inheriting from `asyncio.Protocol`: below an interpreted class they could
    not be compiled to extension types (see decision 0008)."""
    return cast(asyncio.Protocol, connection)


class ReadGate:
    """Owns whether one transport is read."""

    __slots__ = ("_reasons", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._reasons = 0

    @property
    def open(self) -> bool:
        """Nobody holds the gate."""
        return self._reasons == 0

    def hold(self, reason: int) -> None:
        """Stop reading until `release(reason)`."""
        if self._reasons == 0:
            self._transport.pause_reading()
        self._reasons |= reason

    def release(self, reason: int) -> None:
        """This reason is gone. Without effect if it was not held."""
        if self._reasons & reason:
            self._reasons &= ~reason
            if self._reasons == 0 and not self._transport.is_closing():
                self._transport.resume_reading()
