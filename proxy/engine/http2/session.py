"""HTTP/2 with one client: its frames become requests, each with an exchange of its own."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from proxy.engine.grpc import is_grpc, trailers_only
from proxy.engine.http2.answers import AnsweringSession
from proxy.engine.http2.connection import CLOSING, LEFT, OPEN
from proxy.engine.http2.server_stream import ServerStream
from proxy.engine.http2.tunnel_stream import TunnelStream
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.own_answers import problem
from proxy.engine.services import Services
from proxy.errors import BAD_REQUEST, BODY_TOO_LARGE, TARGET_TOO_LONG, TOO_MANY_STREAMS, Refused
from proxy.http.messages import RequestHead
from proxy.http2 import frames, settings
from proxy.http2.errors import (
    FLOW_CONTROL_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    GoAway,
    Malformed,
)
from proxy.http2.flow import FIRST_WINDOW, ReceiveWindow
from proxy.http2.heads import RequestReader
from proxy.messages import UNROUTED

_WINDOW: Final = 1024 * 1024
"""Bytes of a connection that are on their way at most; its streams bound what is kept."""
_BEGIN: Final = 7
"""Cost of a request besides its frame, in frames of which a turn of the loop reads 256: so 32
requests are begun in one, of those that cost the least. A read has room for thousands."""
_LOOK: Final = 40
"""Cost of a path that may be read in several ways, in the same frames."""
_ODD: Final = re.compile(rb"[%;]|//|/\.")
_END: Final = 5
"""Cost of a request that is cancelled, in the same frames."""
_PASSED: Final = 64
"""Requests that get more of their bodies in one turn."""


class ClientSession(AnsweringSession):
    """Owns what a client asks, and how much it may send."""

    __slots__ = ("_heads", "_named", "_received", "_soon", "_usual")

    def __init__(
        self,
        services: Services,
        listener: ListenerConfig,
        announced: tuple[str, int] | None = None,
    ) -> None:
        super().__init__(services, listener, announced)
        limits = listener.limits
        self._heads = RequestReader(listener.ids, limits.head, limits.fields, True)
        self._named = listener.ids.beside(frozenset())
        """Names that are no trailer's."""
        self._soon = False
        """The turn of the loop to do that is arranged."""
        self._usual = b""  # ≤ 64 KiB
        """The latest target that is read in one way: in a head that is remembered it is the same
        object."""
        self._received = ReceiveWindow(FIRST_WINDOW)

    def _begin(self, transport: asyncio.Transport) -> None:
        """See `SessionConnection`."""
        super()._begin(transport)
        self._heads.takes_https = self.facts.trusted or self.facts.scheme == b"https"

    def settings(self) -> bytes:
        """See `SessionConnection`."""
        limits = self.listener.limits
        ours = frames.settings(
            [
                (settings.MAX_CONCURRENT_STREAMS, limits.streams),
                (settings.MAX_HEADER_LIST_SIZE, limits.head),
                (settings.ENABLE_CONNECT_PROTOCOL, 1),
            ]
        )
        return ours + frames.window_update(0, self._received.enlarge(_WINDOW))

    # -- requests

    def is_known(self, block: bytes) -> bool:
        """See `FrameReader`."""
        return self._heads.knows(block)

    def on_head(self, stream: int, block: bytes, end: bool) -> None:
        """See `FrameReader`."""
        heads = self._heads
        cost = heads.cost
        open_ = self._streams.get(stream)
        if open_ is not None:
            self._on_trailers(open_, block, end)
        elif stream > self.last:
            self._open(stream, block, end)
        else:
            try:
                heads.trailers(block, True)  # The table must be what the client believes.
            except (Malformed, Refused):
                pass
            self._on_closed(stream)
        self.spend(heads.cost - cost)

    def _open(self, id: int, block: bytes, end: bool) -> None:
        self.last = id
        self.limits.begin_stream()
        self.spend(_BEGIN)
        listener = self.listener
        most = listener.max_requests
        if most and id >= 2 * most - 1:
            self.drain()  # Those on their way are served, too.
        refusal: Refused | None = None
        request: RequestHead | None = None
        try:
            request = self._heads.read(block, end)
            most = listener.max_body
            if len(request.target) > listener.max_target:
                detail = f"the target is longer than {listener.max_target} bytes"
                refusal = Refused(TARGET_TOO_LONG, detail)
            elif most and (request.fields.length or 0) > most:
                refusal = Refused(BODY_TOO_LARGE, f"the body is longer than {most} bytes")
        except Refused as error:
            refusal = error
        except Malformed as error:
            self._note(Refused(BAD_REQUEST, f"a malformed head: {error}"))
            self._end_without_answer(id, PROTOCOL_ERROR)
            self.limits.note_violation(self.services.now())
            return
        if self.phase is LEFT or self.phase is CLOSING:
            return  # The client was told so, and asks elsewhere.
        if len(self._streams) >= listener.max_streams:
            self.services.counters.service(UNROUTED).failed(TOO_MANY_STREAMS.code)
            self._end_without_answer(id, REFUSED_STREAM)
            self.limits.lose_stream(self.services.now())
            return
        if request is not None and request.fields.upgrade is not None:
            stream: ServerStream = TunnelStream(self, id, self._peer.window, end, request)
        else:
            stream = ServerStream(self, id, self._peer.window, end)
        self._streams[id] = stream
        self.services.counters.http2_streams += 1
        if len(self._streams) == 1 and self.phase is OPEN:
            self._wait(0)
        if refusal is not None:
            self._refuse(stream, refusal, b"" if request is None else request.fields.grpc)
            return
        assert request is not None
        target = request.target
        if target is not self._usual:
            if _ODD.search(target) is None:
                self._usual = target
            else:
                self.spend(_LOOK)
        services = self.services
        make = services.new_call if request.method == b"POST" else services.new_exchange
        sampling = services.sampling
        if sampling is not None and not sampling.leaves_out(request.fields):
            make = services.new_traced
        exchange = make(services, stream, request)
        if not end and request.fields.upgrade is None:
            stream.expect(exchange)
            self._read[id] = stream
            return
        stream.exchange = exchange
        try:
            exchange.start(True)
        except Exception as error:
            exchange.fail_inside(error)

    def _refuse(self, stream: ServerStream, refusal: Refused, content_type: bytes) -> None:
        """Answer a head that never became a request. `content_type`: see `RequestFields.grpc`."""
        self._note(refusal)
        fault, services = refusal.fault, self.services
        services.counters.service(UNROUTED).answered(b"OTHER", fault.status, 0.0)
        id_line = self.listener.ids.new()
        request_id = self.listener.ids.value(id_line)
        if is_grpc(content_type):
            answer = trailers_only(fault, refusal.detail, content_type)
        else:
            answer = problem(fault, refusal.detail, request_id.decode("ascii"))
        size = stream.reply(answer, id_line, True)
        if services.on_refused is not None:
            services.on_refused(fault, self.facts, size, request_id)
        self.limits.end_stream()
        if stream.out.said_end:
            self.close_stream(stream)

    def _on_trailers(self, stream: ServerStream, block: bytes, end: bool) -> None:
        try:
            trailers = self._heads.trailers(block, end, self._named)
        except Malformed as error:
            self._violate(stream, STREAM_CLOSED if stream.ended else PROTOCOL_ERROR, str(error))
        except Refused as error:
            stream.refuse_body(error.fault, error.detail)
        else:
            if stream.ended:
                self._violate(stream, STREAM_CLOSED, "a head behind the end of its stream")
            else:
                stream.on_end(trailers)

    def on_data(self, stream: int, piece: bytes, counted: int, end: bool) -> None:
        """See `FrameReader`."""
        if not self._received.take(counted):
            raise GoAway(FLOW_CONTROL_ERROR, "more DATA than the window of the connection")
        self.spend(1)
        # Given back as it comes: what is kept of it, the windows of the streams bound.
        more = self._received.give(counted)
        if more:
            self.write(frames.window_update(0, more))
        if piece:
            self.limits.note_received()
        elif not end:
            self.limits.note_control(self.services.now())
        open_ = self._streams.get(stream)
        if open_ is None:
            self._on_closed(stream)
        elif open_.ended:
            self._violate(open_, STREAM_CLOSED, "DATA behind the end of their stream")
        elif not open_.on_data(piece, counted, end):
            self._violate(open_, FLOW_CONTROL_ERROR, "more DATA than the window of the stream")

    def _on_closed(self, stream: int) -> None:
        """A frame on a stream that is not open."""
        if stream > self.last:
            raise GoAway(PROTOCOL_ERROR, "a frame on a stream that nobody opened")  # §5.1
        if self.phase is not LEFT and stream not in self._reset:
            raise GoAway(STREAM_CLOSED, "a frame on a stream that is closed")
        self.limits.note_control(self.services.now())

    def on_reset(self, stream: int, code: int) -> None:
        """See `FrameReader`."""
        now = self.services.now()
        open_ = self._streams.get(stream)
        if open_ is not None:
            self.spend(_END)
            self._forget(open_)
            open_.lose()
            self._rest_if_quiet()
            self.limits.lose_stream(now)
        elif stream > self.last:
            raise GoAway(PROTOCOL_ERROR, "RST_STREAM of a stream that nobody opened")
        else:
            self.limits.note_control(now)

    # -- bodies

    def pass_on_soon(self, stream: ServerStream) -> None:
        """See `StreamSession`."""
        if stream.id not in self._read:
            self._read[stream.id] = stream
            self.spend(2)
        if not self._reading:
            self._arrange()

    def _arrange(self) -> None:
        if not self._soon:
            self._soon = True
            self.services.loop.call_soon(self._pass_on)

    def _pass_on(self) -> None:
        self._soon = False
        self._on_read()

    def _on_read(self) -> None:
        """See `SessionConnection`. What came for a stream is one piece of work, in however many
        frames."""
        if not self._read:
            return
        for id in list(self._read)[:_PASSED]:  # ≤ _PASSED
            stream = self._read.pop(id, None)
            if stream is not None:
                stream.pass_on()
        if self._read:
            self._arrange()

    # -- the connection

    def on_goaway(self, last: int, code: int, debug: bytes) -> None:
        """See `FrameReader`. It is about streams of ours, of which there are none."""
        self.limits.note_control(self.services.now())

    def on_bad_frame(self, stream: int, code: int, detail: str) -> None:
        """See `FrameReader`."""
        open_ = self._streams.get(stream)
        if open_ is not None:
            self._violate(open_, code, detail)
        elif stream > self.last:
            raise GoAway(code, detail)
        else:
            self.limits.note_violation(self.services.now())

    def _on_eof(self) -> None:
        """See `SessionConnection`."""
        for stream in list(self._streams.values()):  # ≤ requests
            if not stream.ended:
                stream.refuse_body(BAD_REQUEST, "the request ended before its body did")
