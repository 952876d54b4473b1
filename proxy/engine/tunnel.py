"""Two connections as one pipe, after a 101: bytes both ways, half-closes passed on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from proxy.engine.deadlines import NEVER, Deadlines, Timed
from proxy.engine.endings import cut, end_by_reset
from proxy.engine.flow import PEER_FULL, ReadGate, as_protocol
from proxy.engine.hangups import RESET, Hangups

FLUSH: Final = 10.0
"""Seconds for a side to read what was written before the tunnel closed: enough for a full
socket buffer on a slow line; a side that has stalled would otherwise keep both for ever."""


class _End:
    """One side of a tunnel as its transport sees it."""

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, hangups: Hangups) -> None:
        self.tunnel = tunnel
        self.transport = transport
        self.gate = ReadGate(transport, hangups)
        self.peer: asyncio.Transport
        self.received = 0
        """Bytes from this side."""
        self.ended = False
        """Whether the side has said its last byte."""
        self.reset = False
        """Whether the side is gone, and with it whatever it had not taken yet."""

    def data_received(self, data: bytes) -> None:
        self.tunnel.touch()
        self.received += len(data)
        self.peer.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        return self.tunnel.on_eof(self)

    def on_hangup(self) -> None:
        """Abort a side that is reset while it is not read now, or never again. What it has said
        before an end in good order is still to be passed on."""
        if self.gate.heard & RESET and (self.ended or not self.gate.open):
            self.reset = True
            self.transport.abort()

    def pause_writing(self) -> None:
        other = self.tunnel.other(self)
        other.gate.hold(PEER_FULL, other.on_hangup)

    def resume_writing(self) -> None:
        other = self.tunnel.other(self)
        if not other.ended:
            other.gate.release(PEER_FULL)

    def connection_lost(self, error: Exception | None) -> None:
        self.gate.leave()
        self.tunnel.on_lost(self, self.reset or error is not None)


class Tunnel(Timed):
    """Owns both transports until both are closed, then says so once."""

    __slots__ = (
        "_client", "_closed", "_closing", "_deadlines", "_idle", "_instance", "_lost", "_on_cut",
        "leaving",
    )  # fmt: skip

    def __init__(
        self,
        client: asyncio.Transport,
        instance: asyncio.Transport,
        deadlines: Deadlines,
        hangups: Hangups,
        idle: float,
        closed: Callable[[], None],
    ) -> None:
        """`idle`: seconds without a byte in either direction, 0 = no limit; `closed` is called
        when both sides are gone."""
        super().__init__()
        self._client = _End(self, client, hangups)
        self._instance = _End(self, instance, hangups)
        self._client.peer = instance
        self._instance.peer = client
        self._deadlines = deadlines
        self._idle = idle
        self._closed = closed
        self._closing = False
        self.leaving = False
        """Whether the end of the tunnel is set, however busy it is."""
        self._on_cut: Callable[[], None] | None = None
        self._lost = 0

    def start(
        self, *, from_client: bytes, from_instance: bytes, client_ended: bool = False
    ) -> None:
        """Take the transports over, with what each side had sent before the switch.
        `client_ended`: nothing more comes from the client."""
        for end in (self._client, self._instance):
            end.transport.set_protocol(as_protocol(end))
        self._client.received += len(from_client)
        self._instance.received += len(from_instance)
        if from_client:
            self._instance.transport.write(from_client)
        if from_instance:
            self._client.transport.write(from_instance)
        if client_ended and not self._client.transport.is_closing():
            self._client.eof_received()
        for end in (self._client, self._instance):
            if end.ended:
                continue  # Read again, it would end a second time.
            if end.gate.open and not end.transport.is_closing() and not end.transport.is_reading():
                end.transport.resume_reading()
        self.touch()

    @property
    def passed(self) -> tuple[int, int]:
        """Bytes from the client, and from the instance."""
        return self._client.received, self._instance.received

    def touch(self) -> None:
        """Note that bytes went through, and put off the idle limit."""
        if self._idle and not self._closing and not self.leaving:
            self._deadlines.arm(self, self._deadlines.now() + self._idle)

    def other(self, end: _End) -> _End:
        """The opposite side."""
        return self._instance if end is self._client else self._client

    def on_eof(self, end: _End) -> bool:
        """One side is done. The other may go on; True keeps this side's write half open."""
        other = self.other(end)
        if other.ended:
            self.close()
            return False
        if other.transport.can_write_eof() and not other.transport.is_closing():
            other.transport.write_eof()
        end.gate.listen(end.on_hangup)  # The loop reads no more, and would not hear a reset.
        return True

    def on_lost(self, end: _End, reset: bool) -> None:
        """One side's connection is gone; `reset`: not in good order."""
        self._lost += 1
        other = self.other(end)
        if self._lost == 2:
            self._deadlines.forget(self)
            self._closed()
        elif reset:
            end_by_reset(other.transport, True)  # Passed on as what it is.
            other.transport.abort()
        else:
            self.close()

    def stop_after(self, grace: float, cut: Callable[[], None] | None = None) -> None:
        """The worker stops, or the instance leaves: the tunnel may go on for so many seconds.
        `cut` is called if it is then closed for that; not if its own end comes first."""
        self.leaving = True
        self._on_cut = cut
        if not self._closing:
            self._deadlines.arm(self, self._deadlines.now() + grace)

    def stay(self) -> None:
        """The instance does not leave after all."""
        self.leaving = False
        self._on_cut = None
        if not self._closing:
            self._deadlines.arm(self, self._deadlines.now() + self._idle if self._idle else NEVER)

    def close(self) -> None:
        """Close both sides after what was written, which a side that does not read delays for
        a while only."""
        if not self._closing:
            self._closing = True
            self._deadlines.arm(self, self._deadlines.now() + FLUSH)
        self._client.transport.close()
        self._instance.transport.close()

    def on_deadline(self, now: float) -> None:
        """See `Timed`: idle for too long, or not closed in time."""
        if self._closing:
            cut(self._client.transport)
            cut(self._instance.transport)
        else:
            if self._on_cut is not None:
                self._on_cut()
            self.close()
