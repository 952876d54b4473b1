"""Back-pressure: why a transport is not being read.

Several parts may want a connection's reading stopped for reasons of their own (the other side
is full, the next requests are piling up). Reading goes on when the last reason is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from proxy.engine.hangups import Hangups, Watch

PEER_FULL: Final = 1
"""A reason to stop: the other side's write buffer is full, or there is no other side yet."""
AHEAD: Final = 2
"""Enough of the following pipelined requests is buffered."""
BEHIND: Final = 4
"""A reason to stop: the latest read is more than one turn of the loop passes on."""


def as_protocol(connection: object) -> asyncio.Protocol:
    """`connection`, as the types of asyncio want it. Our connections have the methods of a
    protocol without inheriting from `asyncio.Protocol`: below an interpreted class they could
    not be compiled to extension types (see decision 0008)."""
    return cast(asyncio.Protocol, connection)


class ReadGate:
    """Owns whether one transport is read, and who hears of a peer that hangs up while it is not."""

    __slots__ = ("_hangups", "_reasons", "_transport", "_watch")

    def __init__(self, transport: asyncio.Transport, hangups: Hangups) -> None:
        self._transport = transport
        self._hangups = hangups
        self._reasons = 0
        self._watch: Watch | None = None

    @property
    def open(self) -> bool:
        """Whether no reason holds the gate."""
        return self._reasons == 0

    def holds(self, reason: int) -> bool:
        """Whether `reason` holds the gate."""
        return self._reasons & reason != 0

    @property
    def heard(self) -> int:
        """Bits of `hangups` heard of the peer since it was first not read."""
        return 0 if self._watch is None else self._watch.heard

    def hold(self, reason: int, on_hangup: Callable[[], None]) -> None:
        """Stop reading until `release(reason)`. If the peer hangs up meanwhile, or has done so,
        `on_hangup()` is called in a turn of the loop to come; and perhaps later, too, when the
        gate is open and the loop tells of it as well."""
        if self._reasons == 0:
            self._transport.pause_reading()
            self.listen(on_hangup)
        self._reasons |= reason

    def listen(self, on_hangup: Callable[[], None]) -> None:
        """The same without stopping: for a peer that has said its last byte."""
        if self._watch is None:
            self._watch = self._hangups.watch(self._transport, on_hangup)
        elif self._watch.heard:
            self._hangups.tell(self._watch)

    def release(self, reason: int) -> None:
        """Give up `reason`, and read on if it was the last. Without effect if it was not held."""
        if self._reasons & reason:
            self._reasons &= ~reason
            if self._reasons == 0 and not self._transport.is_closing():
                self._transport.resume_reading()

    def leave(self) -> None:
        """The connection is closed, or somebody else's from here on."""
        if self._watch is not None:
            self._hangups.forget(self._watch)
            self._watch = None
