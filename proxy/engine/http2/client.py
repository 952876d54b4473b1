"""HTTP/2 with one instance: a session that the exchanges of a worker share."""

from __future__ import annotations

from functools import partial
from typing import Final

import structlog

from proxy.engine.deadlines import NEVER
from proxy.engine.hangups import has_ended
from proxy.engine.http1.answers import MAX_HEAD
from proxy.engine.http1.keepalive import Upstreams
from proxy.engine.http2.client_connection import Lines, SessionLife
from proxy.engine.http2.client_stream import WINDOW, InstanceStream
from proxy.engine.http2.sender import Outflow
from proxy.engine.node import Node
from proxy.engine.streams import Loss, UpstreamStream
from proxy.errors import CLOSED_EARLY, STREAM_REFUSED, Refused
from proxy.http2 import frames, settings
from proxy.http2.errors import (
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    GoAway,
    Malformed,
    name_of,
)
from proxy.http2.flow import FIRST_WINDOW, ReceiveWindow
from proxy.settings.service import ServiceSettings

_log = structlog.get_logger()

_WINDOW: Final = 4 * 1024 * 1024
"""Bytes of a session that are on their way at most; its streams bound what is kept."""
_LAST_ID: Final = 0x7FFFFFFF - 1_000_000
"""The stream behind which a session takes no further ones: it has no numbers for them (§5.1.1)."""
UNREAD: Final = 1024 * 1024
"""Bytes that an instance does not read, beyond which it gets no further requests over the session:
heads alone, since content waits in its stream."""
_RESET: Final = 8
"""Cost of a request whose stream is reset, in frames of which a turn of the loop reads 256."""
CALM: Final = 1.0
"""Seconds without a new session to an instance that has asked for calm."""


class InstanceSession(SessionLife):
    """Owns the streams of one session, and how many it may have."""

    __slots__ = ("_astray", "_last", "_most", "_received")

    def __init__(
        self, node: Node, settings: ServiceSettings, upstreams: Upstreams, lines: Lines
    ) -> None:
        super().__init__(node, settings, upstreams, lines)
        self._received = ReceiveWindow(FIRST_WINDOW)
        self._astray = 0
        """Bytes of content that the instance may still send on streams that are over for us."""
        self._last = -1
        self._most = _LAST_ID
        """Streams at a time, once the instance has refused more."""

    def _greeting(self) -> bytes:
        """See `SessionLife`."""
        ours = [
            (settings.ENABLE_PUSH, 0),
            (settings.INITIAL_WINDOW_SIZE, WINDOW),
            (settings.MAX_HEADER_LIST_SIZE, MAX_HEAD),
        ]
        more = frames.window_update(0, self._received.enlarge(_WINDOW))
        return frames.PREFACE + frames.settings(ours) + more

    # -- streams

    def _room(self) -> int:
        """Streams that may be open."""
        if not self.settled:
            return 1  # §6.5.2: nobody knows how many; peers end sessions that have too many.
        return min(min(self._peer.max_streams, self.most_streams), self._most)

    def stream(self) -> UpstreamStream | None:
        """See `SharedSession`."""
        if self._open >= self._room() or self._retired or self.transport.is_closing():
            return None
        if not self._open and self._uses and has_ended(self.transport):
            self.retire()  # No request is sent to who has gone while nobody asked.
            return None
        if self.full and self.transport.get_write_buffer_size() > UNREAD:
            return None
        self._open += 1
        self._upstreams.streams += 1
        self._uses += 1
        if self._uses >= self.most_uses or self._last > _LAST_ID:
            self.retire()
        return InstanceStream(self)

    def begin_stream(self, stream: InstanceStream) -> Outflow:
        """See `InstanceStreams`."""
        self._last += 2
        self._streams[self._last] = stream
        self.limits.begin_stream()
        if len(self._streams) == 1 and self.settled:
            self._heard = self.now()
            self._watch()
        return Outflow(self._last, self._peer.window)

    def write_request(self, out: Outflow, block: bytes, end: bool) -> None:
        """See `InstanceStreams`."""
        self.write_head(out, block, end)

    def grant(self, stream: InstanceStream, count: int) -> None:
        """See `InstanceStreams`."""
        if not self.closed and stream.out is not None:
            self.write(frames.window_update(stream.out.id, count))

    def end_stream(self, stream: InstanceStream, code: int = -1) -> None:
        """See `InstanceStreams`."""
        if stream.over:
            return
        stream.over = True
        stream.deadline = NEVER
        self._open -= 1
        self._upstreams.streams -= 1
        out = stream.out
        if out is not None:
            self._streams.pop(out.id, None)
            self._read.pop(out.id, None)
            self._end_output(out)
            if not stream.ended:
                self._astray += stream.window.left
            if code >= 0 and not self.closed:
                self.write(frames.reset(out.id, code))
        if self.closed:
            return
        if not self._open:
            self._be_idle()
        if not self._retired:
            self._lines.on_room(self.node)

    def _outflow(self, stream: int) -> Outflow | None:
        """See `FrameSender`."""
        open_ = self._streams.get(stream)
        if open_ is None and stream > self._last:
            raise GoAway(PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that nobody opened")
        return None if open_ is None else open_.out

    def _outflows(self) -> list[Outflow]:
        """See `FrameSender`."""
        return [stream.out for stream in self._streams.values() if stream.out is not None]

    def _on_written(self, stream: int) -> None:
        """See `FrameSender`."""
        open_ = self._streams.get(stream)
        if open_ is not None:
            open_.on_written()

    # -- frames

    def is_known(self, block: bytes) -> bool:
        """See `FrameReader`."""
        return self.heads.knows(block)

    def on_head(self, stream: int, block: bytes, end: bool) -> None:
        """See `FrameReader`."""
        heads = self.heads
        cost = heads.cost
        open_ = self._streams.get(stream)
        if open_ is not None and not open_.ended:
            open_.on_head(block, end)
        else:
            try:
                heads.trailers(block, True)  # The table must be what the instance believes.
            except (Malformed, Refused):
                pass
            self._on_closed(stream)
        self.spend(heads.cost - cost)

    def on_data(self, stream: int, piece: bytes, counted: int, end: bool) -> None:
        """See `FrameReader`."""
        if not self._received.take(counted):
            raise GoAway(FLOW_CONTROL_ERROR, "more DATA than the window of the connection")
        self.spend(1)
        # Given back as it comes: what is kept of it, the windows of the streams bound.
        more = self._received.give(counted)
        if more:
            self.write(frames.window_update(0, more))
        open_ = self._streams.get(stream)
        if open_ is not None and not open_.ended:
            if piece:
                self.limits.note_received()
            elif not end:
                self.limits.note_control(self.now())
            open_.on_data(piece, counted, end)
            return
        if not piece or stream > self._last:
            self._on_closed(stream)
        self._astray -= counted
        if self._astray < 0:
            raise GoAway(FLOW_CONTROL_ERROR, "more DATA than the window of streams that are over")

    def _on_closed(self, stream: int) -> None:
        """A frame on a stream that is not open: one that is over for us may go on for a while."""
        if stream > self._last:
            raise GoAway(PROTOCOL_ERROR, "a frame on a stream that nobody opened")  # §5.1
        self.limits.note_control(self.now())

    def on_reset(self, stream: int, code: int) -> None:
        """See `FrameReader`."""
        open_ = self._streams.get(stream)
        if open_ is None:
            self._on_closed(stream)
            return
        if code == REFUSED_STREAM:
            self._most = max(1, self._open - 1)
        if open_.out is not None:
            self._end_output(open_.out)
        self.spend(_RESET)
        open_.on_reset(code)

    def on_bad_frame(self, stream: int, code: int, detail: str) -> None:
        """See `FrameReader`."""
        open_ = self._streams.get(stream)
        if open_ is None:
            self._on_closed(stream)
        elif not open_.ended:
            open_.violate(detail)

    def on_settings(self, settings: list[tuple[int, int]]) -> None:
        """See `FrameReader`."""
        self.limits.note_control(self.now())
        super().on_settings(settings)
        if not self.settled:
            self.settled = True
            if not self._room():
                self.retire()
                self._lines.on_no_session(
                    self.node, STREAM_REFUSED, f"{self.node.id} takes no streams"
                )
                return
            if self._streams:
                self._watch()
            elif not self._open:
                self._be_idle()
        # Not at once: what is read behind them may be further ones, that allow fewer.
        self._call_soon(self._lines.on_room, self.node)

    def on_goaway(self, last: int, code: int, debug: bytes) -> None:
        """See `FrameReader`. What it has not begun it will not (§6.8), and others may."""
        self.limits.note_control(self.now())
        self.retire()
        detail = f"{self.node.id} said GOAWAY ({name_of(code)})"
        if code != NO_ERROR:
            said = debug[:200].decode("utf-8", "replace")
            _log.warning("instance_ended_session", instance=self.node.id, code=name_of(code),
                         said=said, streams=self._open)  # fmt: skip
        if code == ENHANCE_YOUR_CALM:
            self.node.calm_until = self.now() + CALM
        begun_not = [stream for id, stream in self._streams.items() if id > last]
        self._end_streams(begun_not, partial(self._send_away, detail, code != NO_ERROR))

    def _send_away(self, detail: str, against: bool, stream: InstanceStream) -> None:
        stream.lose(Loss(CLOSED_EARLY, detail, True, True, against and self._blame()))
