"""Requests of clients of HTTP/2, a stream for each: its body in, its answer out."""

from __future__ import annotations

from typing import Final

from proxy.engine.deadlines import NEVER
from proxy.engine.http1.heads import VIA_CLIENT, says_hsts
from proxy.engine.http2.connection import SessionConnection
from proxy.engine.http2.sender import DRAINED, FULL, Outflow
from proxy.engine.streams import ClientStream, StreamEvents
from proxy.errors import BAD_REQUEST, BODY_TIMEOUT, BODY_TOO_LARGE, Fault
from proxy.http.messages import OwnAnswer, ResponseHead
from proxy.http2.blocks import answer_block, fields_block, own_block
from proxy.http2.errors import CANCEL, INTERNAL_ERROR, NO_ERROR, PROTOCOL_ERROR
from proxy.http2.flow import FIRST_WINDOW, ReceiveWindow, add_piece

_LARGEST: Final = 512 * 1024
"""Bytes of a body that are on their way at most: 40 Mbit/s at a round trip of 100 ms."""
_ANSWERED: Final = 9
"""Frames that an answer of our own costs as much as: see `FrameReader.spend`."""
_NO_CONTENT: Final = (204, 304)
_CLOSED: Final = ReceiveWindow(FIRST_WINDOW)
"""Of streams that have ended, on which nothing may come."""


class StreamSession(SessionConnection):
    """Owns what its subclass does; here is what a stream asks of it."""

    __slots__ = ()

    def pass_on_soon(self, stream: ServerStream) -> None:
        """Have `pass_on` called: in this turn of the loop if it reads, else in the next one."""
        raise NotImplementedError

    def grant(self, stream: ServerStream, count: int) -> None:
        """Let the client send so many bytes more."""
        raise NotImplementedError

    def lend(self, count: int) -> bool:
        """Whether there are so many bytes for a larger window."""
        raise NotImplementedError

    def close_stream(self, stream: ServerStream) -> None:
        """The answer is written whole and the exchange is over."""
        raise NotImplementedError

    def reset_stream(self, stream: ServerStream, code: int) -> None:
        """End a stream with a RST_STREAM."""
        raise NotImplementedError

    def cut_stream(self, stream: ServerStream, code: int) -> None:
        """End a stream so whose answer is under way, whoever is to blame."""
        raise NotImplementedError


class ServerStream(ClientStream):
    """Owns how much of a request's body is here, and what of its answer waits for a window."""

    __slots__ = ("_bare", "_held", "_invited", "_length", "_owed", "_patience", "_pieces",
                 "_received", "_session", "_started", "_whole", "_window", "code", "ended",
                 "exchange", "id", "out")  # fmt: skip

    def __init__(self, session: StreamSession, id: int, window: int, ended: bool) -> None:
        """`window`: bytes of the answer that the client takes; `ended`: there is no body."""
        super().__init__()
        self._session = session
        self.id = id
        self.counts = session.listener.counts
        self.ids = session.listener.ids
        self.facts = session.facts
        self.edge = session.edge
        self.exchange: StreamEvents | None = None
        """Hears of the request; None = it was refused, or the exchange is over."""
        self.ended = ended
        """The client has said its last frame."""
        self._whole = ended
        """The exchange has all of the body."""
        self._started = ended
        self._length: int | None = None
        self._received = 0
        self._pieces: list[bytes] = []  # ≤ _LARGEST
        """Content that is here and not passed on: within the window, however slow the instance."""
        self._held = False
        self._invited = True
        """The client is to send the body: it did not ask for a 100 first, or has got it."""
        self._patience = 0.0 if ended else session.listener.timeouts.body
        """Seconds between two pieces of the body."""
        self._window = _CLOSED if ended else ReceiveWindow(FIRST_WINDOW)
        self._owed = 0
        """Bytes that were passed on, and that the instance has not taken yet."""
        self.out = Outflow(id, window)
        """The answer, as far as it waits for the client."""
        self._bare = False
        """The answer has no content."""
        self.code = NO_ERROR
        """The code with which the stream ends, where the client has not said its last frame."""

    def __repr__(self) -> str:
        return f"<ServerStream {self.id} {self.exchange!r}>"

    @property
    def number(self) -> int:
        """See `ClientStream`."""
        return self.id

    # -- the request's body

    def expect(self, exchange: StreamEvents) -> None:
        """A request with a body is here."""
        self.exchange = exchange
        fields = exchange.request.fields
        self._length = fields.length
        self._invited = fields.expect is None

    def on_data(self, piece: bytes, counted: int, end: bool) -> bool:
        """More of the body: see `FrameReader.on_data`. False: more than the window lets."""
        if not self._window.take(counted):
            return False
        size = len(piece)
        if size and self.exchange is not None:
            self._received += size
            limit = self._session.listener.max_body
            if self._length is not None and self._received > self._length:
                self._refuse_length()
                return True
            if limit and self._received > limit:
                self.refuse_body(BODY_TOO_LARGE, f"the body is longer than {limit} bytes")
                return True
            add_piece(self._pieces, piece)
            self._invited = True
        self._owed += counted - size
        if end:
            self.on_end(b"")
        elif size:
            self._session.pass_on_soon(self)
        else:
            self._return_window()  # Padding alone: behind it there may be nothing to pass on.
        return True

    def on_end(self, trailers: bytes) -> None:
        """The client has said its last frame, perhaps with trailers."""
        self.ended = True
        if self._length is not None and self._received != self._length:
            self._refuse_length()
            return
        self.trailers = trailers
        self._session.pass_on_soon(self)

    def _refuse_length(self) -> None:
        self.code = PROTOCOL_ERROR  # RFC 9113 §8.1.1
        self._session.limits.note_violation(self._session.services.now())
        detail = f"content-length is {self._length}, and the body is another"
        self.refuse_body(BAD_REQUEST, detail)

    def refuse_body(self, fault: Fault, detail: str) -> None:
        """The body is not what it should be: the instance must not see it whole."""
        self._pieces = []
        exchange = self.exchange
        if exchange is not None:
            try:
                exchange.on_bad_body(fault, detail)
            except Exception as error:
                exchange.fail_inside(error)

    def pass_on(self) -> None:
        """Pass on what is here of the body, if somebody takes it. The last of it goes on with the
        end: until then, it may be followed by more than its length."""
        exchange = self.exchange
        if exchange is None or self._whole or (self._held and self._started):
            return
        pieces, done = self._pieces, self.ended
        self._pieces = []
        if not done and pieces and self._received == self._length:
            self._pieces.append(pieces.pop())
        starts = not self._started
        self._started = True
        self._whole = done
        self.set_clock()
        try:
            if pieces or done:
                self._owed += sum(len(piece) for piece in pieces)
                exchange.on_request_body(pieces, done)
            if starts and self.exchange is exchange:
                exchange.start(done)
        except Exception as error:
            exchange.fail_inside(error)
        self._return_window()

    def _return_window(self) -> None:
        """Let the client send more, once what it has sent is taken."""
        if self._owed and not self._held and not self.ended and self.exchange is not None:
            window = self._window
            count = window.give(self._owed)
            self._owed = 0
            if count:
                # All of it was taken at once: perhaps the window is what it waits for.
                size = window.size
                if size < _LARGEST and self._session.lend(size):
                    count += window.enlarge(2 * size)
                self._session.grant(self, count)

    @property
    def borrowed(self) -> int:
        """Bytes by which the window for the body was enlarged."""
        return self._window.size - FIRST_WINDOW

    def hold_body(self) -> None:
        """See `ClientStream`."""
        if not self._whole:
            self._held = True
            self.set_clock()

    def release_body(self) -> None:
        """See `ClientStream`."""
        if self._held:
            self._held = False
            if self._pieces or self.ended:
                self._session.pass_on_soon(self)
            self._return_window()
            self.set_clock()

    def expect_body(self) -> None:
        """See `ClientStream`."""
        self._invited = True
        self.set_clock()

    def be_patient(self, limit: float) -> None:
        """See `ClientStream`."""
        self._patience = limit
        self.set_clock()

    @property
    def owes_body(self) -> bool:
        """See `ClientStream`."""
        return not self.ended and self._invited and not self._held

    @property
    def owes(self) -> bool:
        """See `ClientStream`."""
        return self.full or self.owes_body

    # -- the answer

    def inform(self, response: ResponseHead) -> None:
        """See `ClientStream`."""
        if not self.out.said_end:
            self._session.write_head(self.out, answer_block(response, b"", b""), False)

    def answer(
        self,
        response: ResponseHead,
        id_line: bytes,
        pieces: list[bytes],
        done: bool,
        trailers: bytes,
    ) -> None:
        """See `ClientStream`."""
        exchange = self.exchange
        assert exchange is not None
        self._bare = exchange.request.method == b"HEAD" or response.status in _NO_CONTENT
        hsts = self._session.listener.hsts
        if hsts and not says_hsts(response):
            id_line += hsts
        self._begin(answer_block(response, id_line, VIA_CLIENT), pieces, done, trailers)

    def send(self, pieces: list[bytes], done: bool, trailers: bytes) -> None:
        """See `ClientStream`."""
        was_full = self.full
        self._put(pieces, done, trailers)
        if self.full and not was_full and self.exchange is not None:
            self.exchange.on_client_full()

    def reply(self, answer: OwnAnswer, id_line: bytes, closes: bool) -> int:
        """See `ClientStream`. It is never the last one: no client loses count of its streams."""
        self._session.spend(_ANSWERED)
        exchange = self.exchange
        self._bare = exchange is not None and exchange.request.method == b"HEAD"
        block = own_block(answer, id_line + self._session.listener.hsts, VIA_CLIENT)
        self._begin(block, [answer.content], True, b"")
        return 0 if self._bare else len(answer.content)

    def _begin(self, block: bytes, pieces: list[bytes], done: bool, trailers: bytes) -> None:
        out, session = self.out, self._session
        if out.said_end:
            return
        if self._bare:
            pieces, trailers = [], b""
        small = done and not trailers and len(pieces) <= 1
        if not small or not session.write_whole(out, block, pieces[0] if pieces else b""):
            session.write_head(out, block, False)
            self._put(pieces, done, trailers)

    def _put(self, pieces: list[bytes], done: bool, trailers: bytes) -> None:
        if self.out.said_end:
            return
        if self._bare:
            pieces, trailers = [], b""
        self.out.put(pieces)
        if done:
            self.out.done = True
            self.out.trailers = fields_block(trailers) if trailers else b""
        self._session.pump(self.out)
        if self.out.size > FULL:
            self.full = True
        self.set_clock()

    def on_written(self) -> None:
        """Content that waited is written, or a part of it."""
        if self.full and self.out.size <= DRAINED:
            self.full = False
            exchange = self.exchange
            if exchange is not None:
                try:
                    exchange.on_client_drained()
                except Exception as error:
                    exchange.fail_inside(error)
        self.set_clock()
        if self.out.said_end and self.exchange is None:
            self._session.close_stream(self)

    def finish(self, events: StreamEvents, now: float) -> None:
        """See `ClientStream`."""
        if self.exchange is events:
            self.exchange = None
            self._pieces = []
            self._session.limits.end_stream()
            if self.out.said_end:
                self._session.close_stream(self)
            else:
                self.set_clock()

    # -- the end

    def cut(self) -> None:
        """See `ClientStream`. Others of its connection live on."""
        self.exchange = None
        self._session.cut_stream(self, INTERNAL_ERROR)

    def lose(self) -> None:
        """The stream is gone: nobody waits for its answer."""
        self._pieces = []
        self.out.clear()
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            try:
                exchange.on_client_gone()
            except Exception as error:
                exchange.fail_inside(error)

    def set_clock(self) -> None:
        """The client's turn, to send or to read; or nobody waits for it."""
        if self.exchange is not None and self.owes_body:
            limit = self._patience
        elif self.out.size:
            limit = self._session.listener.idle
        else:
            self.deadline = NEVER
            return
        deadlines = self._session.services.deadlines
        deadlines.arm(self, deadlines.now() + limit if limit else NEVER)

    def on_deadline(self, now: float) -> None:
        """See `Timed`."""
        if self.exchange is not None and self.owes_body:
            detail = f"nothing of the request body for {self._patience:g} s"
            self.refuse_body(BODY_TIMEOUT, detail)
        else:
            self._session.cut_stream(self, CANCEL)
            self.lose()
