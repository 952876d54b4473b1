"""Writing to a peer of HTTP/2, client or instance: frames, gathered, and content, in turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from proxy.http2 import frames
from proxy.http2.errors import FLOW_CONTROL_ERROR, GoAway
from proxy.http2.flow import FIRST_WINDOW, Pieces, SendWindow
from proxy.http2.hpack import NO_TABLE
from proxy.http2.limits import ConnectionLimits
from proxy.http2.settings import PeerSettings

GATHER: Final = 64 * 1024
"""Bytes that are written at once before their turn of the loop is over: as much as uvloop's
transports take before they say that they are full."""
_JOIN: Final = 16 * 1024
"""Bytes up to which frames are copied into one, as in HTTP/1."""
_TURN: Final = 256 * 1024
"""Bytes of content that one turn of the loop writes: uvloop says only in the next one that it has
enough."""
FULL: Final = 64 * 1024
"""Bytes of a stream that wait for the peer, beyond which their source is not read."""
DRAINED: Final = 16 * 1024
"""Bytes from which on it is read again; both as in uvloop's transports."""


class Outflow(Pieces):
    """Owns what one stream has yet to say: content that waits for its window, and its end."""

    __slots__ = ("done", "id", "said_end", "trailers")

    def __init__(self, id: int, window: int) -> None:
        """`window`: bytes that the peer takes."""
        super().__init__(window)
        self.id = id
        self.done = False
        """The end is told, perhaps with trailers."""
        self.trailers = b""  # ≤ 64 KiB
        self.said_end = False
        """The last frame is written."""


class FrameSender(frames.FrameReader):
    """Owns what is to be written to a peer, gathered for each turn of the loop: a transport of
    uvloop makes one call of the system for each call of its own. And how much content it takes."""

    __slots__ = ("_begun", "_call_soon", "_due", "_out", "_peer", "_pumped", "_sent", "_size",
                 "_waiting", "full", "limits", "now", "transport")  # fmt: skip

    def __init__(
        self,
        of_client: bool,
        max_block: int,
        soon: Callable[..., object],
        now: Callable[[], float],
    ) -> None:
        """`of_client`, `max_block`: see `FrameReader`; `soon`: calls a function in a turn of the
        loop to come."""
        super().__init__(of_client, max_block)
        self._call_soon = soon
        self.now = now
        self.transport: asyncio.Transport
        self.limits = ConnectionLimits(now())
        self.full = False
        """The peer does not read as fast as we write."""
        self._out: list[bytes] = []  # ≤ GATHER + 256 KiB
        """Frames that this turn of the loop writes."""
        self._size = 0
        self._begun = False
        """A field block is written."""
        self._due = False
        """The turn of the loop to write them is arranged."""
        self._peer = PeerSettings(of_server=not of_client)
        self._waiting: dict[int, Outflow] = {}  # ≤ 64 KiB
        """Streams whose content waits for a window or the connection, as their turns come."""
        self._sent = SendWindow(FIRST_WINDOW)
        self._pumped = 0
        """Bytes of content in this turn of the loop."""

    # -- what a session makes of it

    def _writes_at_once(self) -> bool:
        """Whether, as far as is known, there is nothing else to gather in this turn of the loop."""
        return False

    def _on_turn(self) -> None:
        """Write what was gathered, unless nothing may be written any more."""
        raise NotImplementedError

    def _outflow(self, stream: int) -> Outflow | None:
        """The output of a stream; None: it is closed. Raises `GoAway` if nobody opened it."""
        raise NotImplementedError

    def _outflows(self) -> list[Outflow]:
        """Outputs of all streams that are open."""
        raise NotImplementedError

    def _on_written(self, stream: int) -> None:
        """Content of a stream that waited is written, or a part of it."""
        raise NotImplementedError

    # -- frames

    def write(self, data: bytes) -> None:
        """Frames, or a part of one, that go out with the rest of this turn of the loop."""
        self._out.append(data)
        self._size += len(data)
        if not self._due:
            self._due = True
            self._call_soon(self._flush)
        elif self._size >= GATHER:
            self._send()

    def _pump_soon(self) -> None:
        """Look once in a turn of the loop at the streams that wait, however often that is asked."""
        if self._waiting and not self._due:
            self._due = True
            self._call_soon(self._flush)

    def _flush(self) -> None:
        self._due = False
        self._on_turn()

    def _send(self) -> None:
        out, size = self._out, self._size
        self._out = []
        self._size = 0
        if not out or self.transport.is_closing():
            return
        if size <= _JOIN:
            self.transport.write(b"".join(out))
        else:
            self.transport.writelines(out)

    def write_head(self, out: Outflow, block: bytes, end: bool) -> None:
        """Write a head; `end`: the stream's last frame."""
        if not self._begun:
            self._begun = True
            block = NO_TABLE + block
        self.write(frames.head_frames(out.id, block, end, frames.LARGEST))

    def write_whole(self, out: Outflow, block: bytes, content: bytes) -> bool:
        """Write all that a stream says. False: there is more of it than may be said in one go."""
        size = len(content)
        if not self._begun:
            block = NO_TABLE + block
        if size:
            if (
                size > min(out.left, self._sent.left)
                or max(size, len(block)) > frames.LARGEST
                or self.full
                or self._pumped >= _TURN
            ):
                return False
            self._sent.left -= size
            self.limits.note_sent()
            data = frames.answer_frames(out.id, block, content)
        else:
            data = frames.head_frames(out.id, block, True, frames.LARGEST)
        self._begun = out.said_end = True
        if self._due or self.full or not self._writes_at_once():
            self._pumped += size
            self.write(data)
        elif not self.transport.is_closing():
            self.transport.write(data)
        return True

    # -- content

    def pump(self, out: Outflow) -> None:
        """Write what the windows let of a stream's content, and its end."""
        while self._pump_one(out):  # ≤ 256
            pass

    def _pump_one(self, out: Outflow) -> bool:
        """Send a frame of the content. False: there is none, or nothing may be sent."""
        size = out.size
        if size:
            room = min(min(size, out.left), min(self._sent.left, frames.LARGEST))
            if room <= 0 or self.full or self._pumped >= _TURN:
                self._waiting[out.id] = out
                return False
            pieces = out.take(room)
            end = room == size and out.done and not out.trailers
            self.write(frames.data_header(room, out.id, end))
            for piece in pieces:  # ≤ 16 KiB
                self.write(piece)
            out.left -= room
            self._sent.left -= room
            self._pumped += room
            self.limits.note_sent()
            out.said_end = end
            if room < size:
                return True
        if self._waiting:
            self._waiting.pop(out.id, None)
        if out.done and not out.said_end:
            out.said_end = True
            if out.trailers:
                self.write_head(out, out.trailers, True)
            else:
                self.write(frames.data_header(0, out.id, True))
        return False

    def _on_room(self) -> None:
        """More may be written."""
        self._pumped = 0
        self._pump_waiting()

    def _pump_waiting(self) -> None:
        """Streams that wait get a frame each, in turn, as long as anything may be sent."""
        moved = len(self._waiting) > 0
        while moved and not self.full:  # ≤ 16
            moved = False
            for out in list(self._waiting.values()):  # ≤ requests
                size = out.size
                self._pump_one(out)
                if out.size < size:
                    moved = True
                    self._on_written(out.id)

    def _end_output(self, out: Outflow) -> None:
        """Say nothing more on a stream."""
        out.said_end = True
        out.clear()
        if self._waiting:
            self._waiting.pop(out.id, None)

    def on_window(self, stream: int, increment: int) -> None:
        """See `FrameReader`."""
        self.limits.note_update()
        if stream == 0:
            if not self._sent.grow(increment):
                raise GoAway(FLOW_CONTROL_ERROR, "too large a window of the connection")
            self._pump_soon()
            return
        out = self._outflow(stream)
        if out is None:
            return
        if not out.grow(increment):
            self.on_bad_frame(stream, FLOW_CONTROL_ERROR, "too large a window of a stream")
        elif stream in self._waiting:
            self.spend(2)
            self.pump(out)
            self._on_written(stream)

    def on_settings(self, settings: list[tuple[int, int]]) -> None:
        """See `FrameReader`."""
        by = self._peer.take(settings)
        if by:
            outflows = self._outflows()
            for out in outflows:  # ≤ 16 per request
                if not out.grow(by):
                    raise GoAway(FLOW_CONTROL_ERROR, "too large a window by SETTINGS")  # §6.9.2
            self.spend(len(outflows) // 8)
            self._pump_soon()
        self.acknowledge(frames.SETTINGS_ACK)

    # -- what costs more than it is worth

    def acknowledge(self, frame: bytes) -> None:
        """Write an acknowledgement: the one thing that cannot wait for a peer to read."""
        if self.full:
            self.limits.queue_ack()
        self.write(frame)

    def on_settings_ack(self) -> None:
        """See `FrameReader`."""
        self.limits.note_control(self.now())

    def on_ping(self, content: bytes, ack: bool) -> None:
        """See `FrameReader`."""
        self.limits.note_control(self.now())
        if not ack:
            self.acknowledge(frames.ping(content, True))

    def on_ignored(self, kind: int) -> None:
        """See `FrameReader`."""
        self.limits.note_control(self.now())
