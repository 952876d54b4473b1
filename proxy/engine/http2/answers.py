"""Answers to a client of HTTP/2: its streams, whose turn it is, and how they end."""

from __future__ import annotations

from typing import Final

from proxy.engine.http2.connection import Phase
from proxy.engine.http2.server_stream import ServerStream, StreamSession
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.services import Services
from proxy.errors import BAD_REQUEST, Refused
from proxy.http2 import frames
from proxy.http2.errors import FLOW_CONTROL_ERROR, NO_ERROR, PROTOCOL_ERROR, GoAway
from proxy.http2.flow import FIRST_WINDOW, SendWindow
from proxy.http2.settings import PeerSettings
from proxy.messages import UNROUTED

_LENT: Final = 4 * 1024 * 1024
"""Bytes by which the windows of all its streams may be larger than they are at first."""
_TURN: Final = 256 * 1024
"""Bytes of content that one turn of the loop writes: uvloop says only in the next one that it has
enough."""
_RESETS_KNOWN: Final = 256
"""Streams of which is known that it was us who ended them, so that what the client sent before it
knew is no mistake of its."""


class AnsweringSession(StreamSession):
    """Owns the streams of one client, and how much of their answers it takes."""

    __slots__ = ("_lent", "_peer", "_pumped", "_read", "_reset", "_sent", "_streams",
                 "_waiting")  # fmt: skip

    def __init__(
        self,
        services: Services,
        listener: ListenerConfig,
        announced: tuple[str, int] | None = None,
    ) -> None:
        super().__init__(services, listener, announced)
        self._peer = PeerSettings(of_server=False)
        self._streams: dict[int, ServerStream] = {}  # ≤ 64 KiB + 512 B per request
        self._read: dict[int, ServerStream] = {}  # ≤ 64 KiB
        """Streams of which there is something to pass on."""
        self._waiting: dict[int, ServerStream] = {}  # ≤ 64 KiB
        """Streams whose content waits for a window or the connection, as their turns come."""
        self._reset: dict[int, None] = {}  # ≤ _RESETS_KNOWN * 100 B
        self._sent = SendWindow(FIRST_WINDOW)
        self._lent = 0
        self._pumped = 0
        """Bytes of content in this turn of the loop."""

    @property
    def busy(self) -> bool:
        """See `SessionConnection`."""
        return len(self._streams) > 0

    # -- what is sent

    def write_head(self, stream: ServerStream, block: bytes, end: bool) -> None:
        """See `StreamSession`."""
        self.write(frames.head_frames(stream.id, block, end, frames.LARGEST))

    def pump(self, stream: ServerStream) -> None:
        """See `StreamSession`."""
        while self._pump_one(stream):  # ≤ 64
            pass

    def _pump_one(self, stream: ServerStream) -> bool:
        """Send a frame of the content. False: there is none, or nothing may be sent."""
        content = stream.content
        size = content.size
        if size:
            room = min(size, stream.window.left, self._sent.left, frames.LARGEST)
            if room <= 0 or self.full or self._pumped >= _TURN:
                self._waiting[stream.id] = stream
                return False
            pieces = content.take(room)
            end = room == size and stream.out_done and not stream.out_trailers
            self.write(frames.data_header(room, stream.id, end))
            for piece in pieces:  # ≤ 16 KiB
                self.write(piece)
            stream.window.left -= room
            self._sent.left -= room
            self._pumped += room
            self.limits.note_sent()
            stream.said_end = end
            if room < size:
                return True
        self._waiting.pop(stream.id, None)
        if stream.out_done and not stream.said_end:
            stream.said_end = True
            if stream.out_trailers:
                self.write_head(stream, stream.out_trailers, True)
            else:
                self.write(frames.data_header(0, stream.id, True))
        return False

    def _on_room(self) -> None:
        """See `SessionConnection`."""
        self._pumped = 0
        self._pump_waiting()

    def _pump_waiting(self) -> None:
        """Streams that wait get a frame each, in turn, as long as anything may be sent."""
        moved = len(self._waiting) > 0
        while moved and not self.full:  # ≤ 16
            moved = False
            for stream in list(self._waiting.values()):  # ≤ requests
                size = stream.content.size
                self._pump_one(stream)
                if stream.content.size < size:
                    moved = True
                    stream.on_written()

    def on_window(self, stream: int, increment: int) -> None:
        """See `FrameReader`."""
        self.limits.note_update()
        if stream == 0:
            if not self._sent.grow(increment):
                raise GoAway(FLOW_CONTROL_ERROR, "too large a window of the connection")
            self._pump_waiting()
            return
        open_ = self._streams.get(stream)
        if open_ is None:
            if stream > self.last:
                raise GoAway(PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that nobody opened")
        elif not open_.window.grow(increment):
            self._violate(open_, FLOW_CONTROL_ERROR, "too large a window of a stream")
        elif stream in self._waiting:
            self.pump(open_)
            open_.on_written()

    def grant(self, stream: ServerStream, count: int) -> None:
        """See `StreamSession`."""
        self.write(frames.window_update(stream.id, count))

    def lend(self, count: int) -> bool:
        """See `StreamSession`."""
        if self._lent + count > _LENT:
            return False
        self._lent += count
        return True

    def on_settings(self, settings: list[tuple[int, int]]) -> None:
        """See `FrameReader`."""
        if self.phase is Phase.START:
            self.phase = Phase.OPEN
            self.rest()
        else:
            self.limits.note_control(self.services.now())
        by = self._peer.take(settings)
        if by:
            for stream in self._streams.values():  # ≤ requests
                if not stream.window.grow(by):
                    raise GoAway(FLOW_CONTROL_ERROR, "too large a window by SETTINGS")  # §6.9.2
            self._pump_waiting()
        self._acknowledge(frames.SETTINGS_ACK)

    def _acknowledge(self, frame: bytes) -> None:
        if self.full:
            self.limits.queue_ack()
        self.write(frame)

    # -- the end of streams

    def _end_without_answer(self, stream: int, code: int) -> None:
        self.write(frames.reset(stream, code))
        if len(self._reset) >= _RESETS_KNOWN:
            del self._reset[next(iter(self._reset))]
        self._reset[stream] = None

    def close_stream(self, stream: ServerStream) -> None:
        """See `StreamSession`."""
        if self._streams.get(stream.id) is stream:
            if not stream.ended or stream.code != NO_ERROR:
                self._end_without_answer(stream.id, stream.code)  # §8.1: the rest may stay away.
            self._forget(stream)
            self._rest_if_quiet()

    def reset_stream(self, stream: ServerStream, code: int) -> None:
        """See `StreamSession`."""
        if self._streams.get(stream.id) is stream:
            self._end_without_answer(stream.id, code)
            self._forget(stream)
            self._rest_if_quiet()

    def _forget(self, stream: ServerStream) -> None:
        stream.said_end = True
        stream.content.clear()
        del self._streams[stream.id]
        self._waiting.pop(stream.id, None)
        self._read.pop(stream.id, None)
        self._lent -= stream.borrowed
        self.services.deadlines.forget(stream)

    def _rest_if_quiet(self) -> None:
        if not self._streams:
            self.rest()

    def _lose_streams(self) -> None:
        """See `SessionConnection`."""
        streams, self._streams = self._streams, {}
        self._waiting = {}
        self._read = {}
        for stream in streams.values():  # ≤ requests
            stream.said_end = True
            self.services.deadlines.forget(stream)
            stream.lose()

    def _note(self, refusal: Refused) -> None:
        services = self.services
        services.counters.service(UNROUTED).failed(refusal.fault.code)
        address = self.facts.address.decode("ascii")
        services.faults.refusal(refusal.fault, refusal.detail, address)

    def _violate(self, stream: ServerStream, code: int, detail: str) -> None:
        """The client breaks the protocol on a stream."""
        self._note(Refused(BAD_REQUEST, detail))
        self.reset_stream(stream, code)
        stream.lose()
        self.limits.note_violation(self.services.now())
