"""Requests to an instance of HTTP/2, a stream for each: its body out, its answer in."""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.engine.deadlines import NEVER, TICK, Deadlines, Timed
from proxy.engine.http1.answers import MAX_HEAD
from proxy.engine.http1.client import MAX_INTERIM
from proxy.engine.http1.heads import extra_lines
from proxy.engine.http1.keepalive import Upstreams
from proxy.engine.http2.sender import DRAINED, FULL, Outflow
from proxy.engine.http2.shared import SharedSession
from proxy.engine.node import Node
from proxy.engine.streams import Loss, StreamEvents, UpstreamStream
from proxy.errors import (
    BAD_ANSWER,
    CLOSED_EARLY,
    CUT_SHORT,
    FIRST_BYTE_TIMEOUT,
    IDLE_TIMEOUT,
    STREAM_REFUSED,
    Fault,
    Refused,
)
from proxy.http.messages import ResponseHead
from proxy.http2.blocks import fields_block, request_block
from proxy.http2.errors import (
    CANCEL,
    CONNECT_ERROR,
    HTTP_1_1_REQUIRED,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    Malformed,
    name_of,
)
from proxy.http2.flow import ReceiveWindow, add_piece
from proxy.http2.heads import AnswerReader
from proxy.settings.service import ServiceSettings

MAX_FIELDS: Final = 1000
"""Of the head of an answer; one of HTTP/1 may have as many as its bytes have room for."""
WINDOW: Final = 256 * 1024
"""Bytes of an answer that are on their way, or wait for a client that does not read: what one read
of an HTTP/1 connection may have."""
_NO_CONTENT: Final = (204, 304)
_LATE: Final = 32
"""Requests that end in one turn of the loop since their time is over: others want one, too."""
_GAVE_UP: Final = (NO_ERROR, INTERNAL_ERROR, CANCEL, CONNECT_ERROR)
"""Codes that say nothing of the protocol: the program behind the instance has given up."""


class StreamClock(Timed):
    """Owns when the time of one of a session's streams is over: they come and go too fast for a
    place of each on the wheel."""

    __slots__ = ("_deadlines", "_streams")

    def __init__(self, deadlines: Deadlines, streams: dict[int, InstanceStream]) -> None:
        super().__init__()
        self._deadlines = deadlines
        self._streams = streams

    def arm(self, stream: InstanceStream, when: float) -> None:
        """`stream.on_deadline` is called at `when`, unless it is moved before."""
        stream.deadline = when
        if when < self.deadline:
            self._deadlines.arm(self, when)

    def on_deadline(self, now: float) -> None:
        """See `Timed`. Some of those that are late end in each turn of the loop."""
        late = [stream for stream in self._streams.values() if stream.deadline <= now]
        for stream in late[:_LATE]:  # ≤ _LATE
            if stream.deadline <= now:  # It may have ended with another.
                stream.deadline = NEVER
                stream.on_deadline(now)
        first = NEVER
        for stream in self._streams.values():  # ≤ requests
            first = min(first, stream.deadline)
        self._deadlines.arm(self, max(first, now + TICK))


class InstanceStreams(SharedSession):
    """Owns what its subclass does; here is what a stream asks of it."""

    __slots__ = ("clock", "deadlines", "first_byte", "heads", "idle_limit", "most_streams",
                 "most_uses", "node", "settings")  # fmt: skip

    clock: StreamClock

    def __init__(self, node: Node, settings: ServiceSettings, upstreams: Upstreams) -> None:
        deadlines = upstreams.deadlines
        super().__init__(False, MAX_HEAD, upstreams.soon, deadlines.now)
        self.node = node
        self.adopt(settings)
        self.deadlines = deadlines
        self.heads = AnswerReader(MAX_HEAD, MAX_FIELDS)

    def adopt(self, settings: ServiceSettings) -> None:
        """Go by other settings; what each stream asks of them is here as well, found sooner."""
        self.settings = settings
        self.first_byte, self.idle_limit = settings.timeouts.first_byte, settings.timeouts.idle
        self.most_streams = settings.keepalive.streams
        self.most_uses = settings.keepalive.max_requests

    def begin_stream(self, stream: InstanceStream) -> Outflow:
        """The next stream of the session; what it has to say."""
        raise NotImplementedError

    def write_request(self, out: Outflow, block: bytes, end: bool) -> None:
        """Write the head of a request; `end`: that is all of it."""
        raise NotImplementedError

    def pass_on_soon(self, stream: InstanceStream) -> None:
        """Have `pass_on` called: in this turn of the loop if it reads, else in the next one."""
        raise NotImplementedError

    def grant(self, stream: InstanceStream, count: int) -> None:
        """Let the instance send so many bytes more."""
        raise NotImplementedError

    def end_stream(self, stream: InstanceStream, code: int = -1) -> None:
        """Forget a stream; with a RST_STREAM, if there is a code."""
        raise NotImplementedError


class InstanceStream(UpstreamStream):
    """Owns how much of an answer is here and not passed on, and what of its request waits."""

    __slots__ = ("_bare", "_events", "_full", "_head", "_interims", "_owed", "_paused", "_pieces",
                 "_received", "_session", "_told", "_trailers", "ended", "out",
                 "over", "window")  # fmt: skip

    def __init__(self, session: InstanceStreams) -> None:
        super().__init__()
        self._session = session
        self._events: StreamEvents | None = None
        """Hears of the answer; None = not begun, or over."""
        self.out: Outflow | None = None
        """The request, as far as it waits for the instance."""
        self._full = False
        self._interims = 0
        self._head: ResponseHead | None = None
        self._bare = False
        """The answer has no content."""
        self._received = 0
        self._pieces: list[bytes] = []  # ≤ WINDOW
        """Content that is here and not passed on: within the window, however slow the client."""
        self._trailers = b""  # ≤ 64 KiB
        self._told = False
        """The exchange has the head of the answer."""
        self.ended = False
        """The instance has said its last frame."""
        self.over = False
        """The session has forgotten the stream."""
        self._paused = False
        """The client does not read as fast as the instance writes."""
        self.window = ReceiveWindow(WINDOW)
        self._owed = 0
        """Bytes that were passed on, and that the client has not taken yet."""

    def __repr__(self) -> str:
        id = 0 if self.out is None else self.out.id
        return f"<InstanceStream {id} {self._session.node.key} {self._events!r}>"

    def is_quiet(self) -> bool:
        """See `UpstreamStream`. There are further attempts for what an instance never saw."""
        return True

    # -- the request

    def begin(
        self,
        events: StreamEvents,
        settings: ServiceSettings,
        pieces: list[bytes],
        done: bool,
        trailers: bytes,
        now: float,
    ) -> None:
        """See `UpstreamStream`."""
        session = self._session
        if settings is not session.settings:
            session.adopt(settings)
        self._events = events
        request, facts = events.request, events.client.facts
        self._bare = request.method == b"HEAD"
        tail = facts.tail(request.fields, events.set_host)
        extra = events.id_line
        if events.prefix is not None:
            extra += extra_lines(None, events.prefix)
        scheme = b"http" if session.node.server_name is None else b"https"
        block = request_block(request.method, scheme, events.target, tail, extra)
        out = self.out = session.begin_stream(self)
        end = done and not trailers and not any(piece for piece in pieces)
        out.said_end = end
        session.write_request(out, block, end)
        if not end:
            self.send(pieces, done, trailers)
        limit = session.first_byte
        self.asked = now
        session.clock.arm(self, now + limit if limit else NEVER)

    def send(self, pieces: list[bytes], done: bool, trailers: bytes) -> None:
        """See `UpstreamStream`."""
        out, events = self.out, self._events
        if out is None or out.said_end or events is None:
            return
        out.put(pieces)
        if done:
            out.done = True
            out.trailers = fields_block(trailers) if trailers else b""
        self._session.pump(out)
        if out.size > FULL and not self._full:
            self._full = True
            events.on_upstream_full()

    def on_written(self) -> None:
        """Content that waited is written, or a part of it."""
        out, events = self.out, self._events
        if self._full and out is not None and out.size <= DRAINED:
            self._full = False
            if events is not None:
                try:
                    events.on_upstream_drained()
                except Exception as error:
                    self._fail_inside(events, error)

    def expect_answer(self) -> None:
        """See `UpstreamStream`."""
        limit = self._session.first_byte
        if self._head is None and limit and self._events is not None:
            self._session.clock.arm(self, self._session.now() + limit)

    def expect_nothing(self) -> None:
        """See `UpstreamStream`."""
        if self._head is None:
            self.deadline = NEVER

    # -- the answer

    def on_head(self, block: bytes, end: bool) -> None:
        """A head, or trailers. Raises `GoAway` where the table is lost."""
        events, heads = self._events, self._session.heads
        assert events is not None
        ids = events.client.ids
        try:
            if self._head is None:
                self._on_head(events, heads.read(block, end, ids), end)
            else:
                self._trailers = heads.trailers(block, end, ids.beside(frozenset()))
                self._on_end()
        except Malformed as error:
            self.violate(str(error))
        except Refused as refusal:
            self._fail(refusal.fault, refusal.detail, PROTOCOL_ERROR)

    def _on_head(self, events: StreamEvents, head: ResponseHead, end: bool) -> None:
        if head.status >= 200:
            self._head = head
            self._bare = self._bare or head.status in _NO_CONTENT
            if end:
                self._on_end()
            else:
                self._expect_more()
                self._session.pass_on_soon(self)
            return
        self._interims += 1
        if self._interims > MAX_INTERIM:
            self.violate(f"more than {MAX_INTERIM} interim answers to one request")
            return
        try:
            events.on_interim(head)
        except Exception as error:
            self._fail_inside(events, error)

    def on_data(self, piece: bytes, counted: int, end: bool) -> None:
        """More of the content: see `FrameReader.on_data`."""
        if not self.window.take(counted):
            self.violate("more DATA than the window of the stream")
            return
        size = len(piece)
        self._received += size
        head = self._head
        if head is None:
            self.violate("DATA before the head")
            return
        length = head.fields.length
        if size and (self._bare or (length is not None and self._received > length)):
            self.violate("more content than the head says")
            return
        if size:
            add_piece(self._pieces, piece)
        self._owed += counted - size
        if end:
            self._on_end()
        elif size and not self._paused:
            self._session.pass_on_soon(self)
        elif not self._paused:
            self._return_window()  # Padding alone: behind it there may be nothing to pass on.

    def _on_end(self) -> None:
        """The instance has said its last frame."""
        head = self._head
        assert head is not None
        length = head.fields.length
        if not self._bare and length is not None and self._received != length:
            self.violate(f"content-length is {length}, and the content is another")  # §8.1.1
            return
        self.ended = True
        self.deadline = NEVER
        if not self._paused:
            self._session.pass_on_soon(self)

    def pass_on(self) -> None:
        """Pass on what is here of the answer, if somebody takes it."""
        events, head = self._events, self._head
        if events is None or head is None or self._paused:
            return
        pieces, self._pieces = self._pieces, []
        done = self.ended
        told, self._told = self._told, True
        try:
            if not told:
                events.on_answer(head, pieces, done, self._trailers)
            elif pieces or done:
                events.on_body(pieces, done, self._trailers)
        except Exception as error:
            self._fail_inside(events, error)
            return
        if self._events is events and not done:
            self._owed += sum(len(piece) for piece in pieces)
            if not self._paused:
                self._expect_more()
                self._return_window()

    def _return_window(self) -> None:
        """Let the instance send more, once what it has sent is taken."""
        count = self.window.give(self._owed)
        self._owed = 0
        if count:
            self._session.grant(self, count)

    def _expect_more(self) -> None:
        limit = self._session.idle_limit
        self._session.clock.arm(self, self._session.now() + limit if limit else NEVER)

    def pause_reading(self) -> None:
        """See `UpstreamStream`. The session is read on, for others: what comes is kept, up to the
        window, which is not given back meanwhile."""
        if self._events is not None and not self._paused:
            self._paused = True
            self.deadline = NEVER  # Not the instance's silence.

    def resume_reading(self) -> None:
        """See `UpstreamStream`."""
        if not self._paused:
            return
        self._paused = False
        if self._pieces or self.ended or not self._told:
            self._session.pass_on_soon(self)
        elif self._events is not None:
            self._expect_more()
            self._return_window()

    # -- the end

    def release(self, now: float) -> None:
        """See `UpstreamStream`."""
        self._events = None
        out = self.out
        # §8.1: an instance that has answered need not take the rest of the request.
        self._session.end_stream(self, -1 if out is None or out.said_end else CANCEL)

    def park(self, now: float, limit: float | None = None) -> None:
        """See `UpstreamStream`. Nobody needs the stream, and the session stays."""
        self._session.end_stream(self)

    def close(self) -> None:
        """See `UpstreamStream`."""
        self.abort()

    def abort(self) -> None:
        """See `UpstreamStream`. Others of its session live on."""
        self._events = None
        self._pieces = []
        out = self.out
        over = out is None or (self.ended and out.said_end)
        self._session.end_stream(self, -1 if over else CANCEL)

    def hand_over(self) -> tuple[asyncio.Transport, bytes]:
        """See `UpstreamStream`. There is no 101 in HTTP/2 (§8.6)."""
        raise NotImplementedError

    def violate(self, detail: str) -> None:
        """The instance breaks the protocol on this stream."""
        self._fail(BAD_ANSWER, detail, PROTOCOL_ERROR)

    def on_reset(self, code: int) -> None:
        """The instance has ended the stream."""
        if self.ended:
            return  # It does not want the rest of the request (§8.1), and the answer is whole.
        name = f"{self._session.node.id} reset the stream ({name_of(code)})"
        if code == REFUSED_STREAM:
            self.lose(Loss(STREAM_REFUSED, name, True, True, False))  # §8.7
        elif code == HTTP_1_1_REQUIRED:
            self.lose(Loss(BAD_ANSWER, f"{name}: set `protocol: h1` for it", unsent=True))
        elif self._head is not None:
            self.lose(Loss(CUT_SHORT, name))
        else:
            fault = CLOSED_EARLY if code in _GAVE_UP else BAD_ANSWER
            self.lose(Loss(fault, name))

    def on_lost(self, fault: Fault, detail: str, used: bool, against: bool) -> None:
        """The session is lost. `used`: it had served others before; `against`: nobody has heard of
        that yet, so that it counts."""
        early = fault is CLOSED_EARLY
        if self._head is None:
            self.lose(Loss(fault, detail, used and early, against=against))
        else:
            self.lose(Loss(CUT_SHORT if early else fault, detail, against=against))

    def lose(self, loss: Loss, code: int = -1) -> None:
        """Tell the exchange that there will be no more: see `StreamEvents.on_upstream_failed`."""
        events, self._events = self._events, None
        self._pieces = []
        self._session.end_stream(self, code)
        if events is not None:
            try:
                events.on_upstream_failed(self, loss)
            except Exception as error:
                events.fail_inside(error)

    def _fail(self, fault: Fault, detail: str, code: int) -> None:
        self.lose(Loss(fault, f"{self._session.node.id}: {detail}"), code)

    def _fail_inside(self, events: StreamEvents, error: Exception) -> None:
        """Fail `events`, whose callback raised, and abort if its exchange is still under way."""
        events.fail_inside(error)
        if self._events is events:
            self.abort()

    def on_deadline(self, now: float) -> None:
        """See `Timed`."""
        timeouts = self._session.settings.timeouts
        if self._head is None:
            detail = f"no answer within {timeouts.first_byte:g} s"
            self._fail(FIRST_BYTE_TIMEOUT, detail, CANCEL)
        else:
            self._fail(IDLE_TIMEOUT, f"silent for {timeouts.idle:g} s", CANCEL)
