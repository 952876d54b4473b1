"""HTTP/1.1 from a client: bytes in, requests and their bodies out."""

from __future__ import annotations

from typing import Final

from proxy.engine.deadlines import NEVER
from proxy.engine.flow import AHEAD, BEHIND, PEER_FULL
from proxy.engine.http1.beginnings import (
    first_refusal,
    reject_early,
    too_large,
    without_empty_lines,
)
from proxy.engine.http1.body import BodyReader, ChunkedBody, LengthBody
from proxy.engine.http1.parser import (
    LONGEST_BLOCK,
    find_end,
    read_request_fields,
    request_of,
)
from proxy.engine.http1.server_connection import READ_AHEAD, Phase, ServerConnection
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.services import Services
from proxy.engine.streams import StreamEvents
from proxy.errors import (
    BAD_REQUEST,
    BODY_TOO_LARGE,
    HEAD_TOO_LARGE,
    INTERNAL,
    TARGET_TOO_LONG,
    Refused,
)
from proxy.http.fields import REQUEST_KINDS
from proxy.http.messages import CRLF, RequestFields, RequestHead
from proxy.http.scanner import TooManyFields

# Looked up once: a member of an enumeration is found anew each time it is named.
_ANSWER: Final = Phase.ANSWER
_IDLE: Final = Phase.IDLE
_LINGER: Final = Phase.LINGER


class RequestReader(ServerConnection):
    """Owns the request that is read or served, and how much of its body is here."""

    __slots__ = ("_behind", "_block", "_body", "_due", "_empty", "_fields", "_invited",
                 "_keep_alive", "_kinds", "_line", "_received", "_request", "_whole")  # fmt: skip

    def __init__(
        self,
        services: Services,
        listener: ListenerConfig,
        announced: tuple[str, int] | None = None,
    ) -> None:
        super().__init__(services, listener, announced)
        self._block = b""  # ≤ LONGEST_BLOCK
        """The latest field block, and what was read of it by kinds that had changed so often."""
        self._fields: RequestFields | None = None  # ≤ LONGEST_BLOCK * 16
        self._kinds = 0
        self._line = b""  # ≤ LONGEST_BLOCK
        self._request: RequestHead | None = None  # ≤ LONGEST_BLOCK * 4
        """The request of this line and this block; None = of none that is kept."""
        self._empty = 0
        """Bytes of empty lines since the last request."""
        self._whole = True
        """Whether all of the request is here. Where it never is, there is no further one."""
        self._keep_alive = False
        """A further request may follow; known with the head of the answer."""
        self._body: BodyReader | None = None
        self._received = 0
        self._behind = False
        """More of the body was read than one turn of the loop passes on."""
        self._due = False
        """The next turn of the loop to pass on more is arranged."""
        self._invited = True
        """The client is to send the body: it did not ask for a 100 first, or has got it."""

    # -- heads

    def data_received(self, data: bytes) -> None:
        if self._phase is _LINGER:
            return
        try:
            if self._body is not None:
                self._on_body(data)
            elif self.exchange is not None or self.full:
                # Also while the client does not read: what it asks for has nowhere to go.
                self._read_ahead(self._buffer + data)
            else:
                pace = self.services.pace
                left = pace.left = pace.left - 1
                if left < 0 and self._phase is _IDLE and pace.is_over():
                    if len(self._buffer) < 2:  # Nothing, or half an empty line: else it was.
                        pace.put_off(self._next)
                    self._read_ahead(self._buffer + data)
                    return
                self._on_head(self._buffer + data if self._buffer else data)
        except Exception as error:
            self._fail_inside(error)

    def _on_head(self, data: bytes) -> None:
        """Look for a whole head at the beginning of `data` and serve it."""
        request, rest = self._request, b""
        if request is None or not self._is_latest(data):
            request, rest = self._read_head(data)
            if request is None:
                return
        self._buffer = b""
        self._phase = _ANSWER
        self.deadline = NEVER
        if self._left:
            self._left -= 1
            self._last = self._last or self._left == 0
        services = self.services
        make = services.new_call if request.method == b"POST" else services.new_exchange
        sampling = services.sampling
        if sampling is not None and not sampling.leaves_out(request.fields):
            make = services.new_traced
        self.exchange = exchange = make(services, self, request)
        fields = request.fields
        if fields.length or fields.chunked:
            self._take_body(exchange, fields, rest)
        else:
            if rest:
                self._read_ahead(rest)
            exchange.start(True)

    def _is_latest(self, data: bytes) -> bool:
        """Whether that is the latest head again, to the byte, and nothing else."""
        line, block = self._line, self._block
        at = len(line)
        return (
            len(data) == at + 2 + len(block)
            and data.endswith(block)
            and data.startswith(line)
            and data[at] == 0x0D
            and data[at + 1] == 0x0A
            and self._kinds == REQUEST_KINDS.changes
        )

    def _read_head(self, data: bytes) -> tuple[RequestHead | None, bytes]:
        """The head at the beginning of `data`, and what is behind it; None: nothing is to be
        served yet, or any more."""
        listener = self._listener
        # Half a head that was looked at before is in the buffer still, and `data` begins with it.
        seen = len(self._buffer) if self._phase is Phase.HEAD else 0
        if data[:2] == CRLF:
            seen, size = 0, len(data)
            data = without_empty_lines(data)
            if self._is_endless(size - len(data), data):
                return None, b""
        line = block = b""
        short = len(data) <= LONGEST_BLOCK
        if short:
            line, _, block = data.partition(CRLF)
        fields = self._fields
        if short and fields is not None and block == self._block:
            end = len(data)  # It ends where it ended before: no need to look for that.
        else:
            end = find_end(data, max(0, seen - 3)) + 4
            if not short or end != len(data):
                line, _, block = data[:end].partition(CRLF)
        if end < 4 or end > listener.max_head:
            self._on_part(data, seen)
            return None, b""
        like = self._request if line == self._line else None
        self._buffer = b""
        self._request = None
        try:
            if fields is None or block != self._block or self._kinds != REQUEST_KINDS.changes:
                fields = self._read_fields(block)
            request = request_of(line, block, fields, listener.max_fields, self.ids, like)
            most = listener.max_target
            if len(request.target) > most:
                raise Refused(TARGET_TOO_LONG, f"the target is longer than {most} bytes")
            most = listener.max_body
            if most and (request.fields.length or 0) > most:
                raise Refused(BODY_TOO_LARGE, f"the body is longer than {most} bytes")
        except Exception as error:
            if not self._speak_http2(data):
                self._refuse_head(data[:end], error)
            return None, b""
        if len(line) + len(block) <= LONGEST_BLOCK:
            self._line, self._request = line, request
        return request, data[end:]

    def _read_fields(self, block: bytes) -> RequestFields:
        self._fields = None
        fields = read_request_fields(block, self.ids, self._listener.max_fields)
        if len(block) <= LONGEST_BLOCK:
            self._block = block
            self._fields = fields
            self._kinds = REQUEST_KINDS.changes
        return fields

    def _is_endless(self, size: int, rest: bytes) -> bool:
        """Whether `size` more bytes of empty lines, before `rest`, are too many: more than a head
        may be long, which is refused. As long as they go on no limit of a head could end it."""
        limit = self._listener.limits.head
        empty = self._empty + size
        self._empty = empty if len(rest) < 2 else 0
        if empty > limit:
            self.refuse(BAD_REQUEST, f"more than {limit} bytes of empty lines")
        return empty > limit

    def _on_part(self, data: bytes, seen: int) -> None:
        """The beginning of a head, or one that is too large. So many bytes of it were looked at."""
        limits = self._listener.limits
        try:
            # What is beyond the limit does not count: it may have come with this piece or not.
            reject_early(data[: limits.head + 1], seen, limits.target)
            if len(data) > limits.head:
                raise too_large(data, limits)
        except Refused as refusal:
            if not self._speak_http2(data):
                self.refuse(refusal.fault, refusal.detail)
            return
        self._buffer = data
        # Half an empty line is no beginning of a request yet.
        if data and data != b"\r" and self._phase is not Phase.HEAD:
            self._wait(Phase.HEAD, self._listener.timeouts.head)

    def _next(self) -> None:
        """Serve the request in the buffer, unless that is out of date."""
        raise NotImplementedError

    def _speak_http2(self, data: bytes) -> bool:
        """Go on as HTTP/2 if `data`, which cannot be a request, is how that begins (RFC 9113 §3.3).
        Returns whether it was."""
        raise NotImplementedError

    def _refuse_head(self, head: bytes, error: Exception) -> None:
        """Reading the head has raised this."""
        limits = self._listener.limits
        if isinstance(error, TooManyFields):
            error = Refused(HEAD_TOO_LARGE, f"more than {limits.fields} fields")
        if isinstance(error, Refused):
            refusal = first_refusal(head, error, limits.target)
            self.refuse(refusal.fault, refusal.detail)
        else:
            self.refuse(INTERNAL, "an error inside the proxy", error)

    def _read_ahead(self, rest: bytes) -> None:
        """The beginning of the next requests, behind the present one."""
        self._buffer = rest
        if len(rest) > READ_AHEAD:
            self._gate.hold(AHEAD, self._on_hangup)

    # -- bodies

    def _take_body(self, exchange: StreamEvents, fields: RequestFields, rest: bytes) -> None:
        """The request has a body, of which `rest` is here."""
        if fields.chunked:
            self._body = ChunkedBody(BAD_REQUEST, self.ids.beside(fields.connection))
        else:
            self._body = LengthBody(fields.length or 0)
        self._whole = False
        self._received = 0
        self._invited = fields.expect is None
        self._await_body()
        if rest:
            self._on_body(rest, start=True)
        else:
            exchange.start(False)

    def _on_body(self, data: bytes, start: bool = False) -> None:
        """Pass on a part of the request's body; `start`: it came with the head, before the exchange
        ran."""
        body, exchange = self._body, self.exchange
        assert body is not None
        assert exchange is not None
        try:
            pieces, rest = body.feed(data)
            limit = self._listener.max_body
            if limit:
                self._received += sum(len(piece) for piece in pieces)
                if self._received > limit:
                    raise Refused(BODY_TOO_LARGE, f"the body is longer than {limit} bytes")
        except Refused as refusal:
            self._body = None
            exchange.on_bad_body(refusal.fault, refusal.detail)
            return
        done = body.done
        if done:
            if self._behind:
                self._fall_behind(False)
            self.trailers = body.trailers
            self._body = None
            self._whole = True
            if rest:
                self._read_ahead(rest)
            self._phase = _ANSWER
            self.deadline = NEVER
            if self.full:
                self._wait(Phase.STALLED, self._listener.idle)
        else:
            if body.behind is not self._behind:
                self._fall_behind(body.behind)
            self._invited = True
            self._await_body()
        exchange.on_request_body(pieces, done)
        if start and self.exchange is exchange:
            exchange.start(done)

    def _fall_behind(self, behind: bool) -> None:
        """More of the body was read than one turn of the loop passes on; or that is over."""
        self._behind = behind
        if behind:
            self._gate.hold(BEHIND, self._on_hangup)
            self._arrange_turn()
        else:
            self._gate.release(BEHIND)

    def _arrange_turn(self) -> None:
        if not self._due and not self._gate.holds(PEER_FULL):
            self._due = True
            self.services.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """The next piece of the body that was read already."""
        self._due = False
        if self._body is None or self.exchange is None or self._gate.holds(PEER_FULL):
            return  # It ended otherwise; or `release_body` arranges the next turn.
        try:
            if self._behind:
                self._on_body(b"")
                if self._behind:
                    self._arrange_turn()
        except Exception as error:
            self._fail_inside(error)

    def hold_body(self) -> None:
        """See `ClientStream`."""
        if self._body is None:
            # All of it is here. What would be held back is the next request, and nobody would
            # release it: the instance may answer before it has taken all.
            return
        self._gate.hold(PEER_FULL, self._on_hangup)
        self._await_body()

    def release_body(self) -> None:
        """See `ClientStream`."""
        self._gate.release(PEER_FULL)
        if self._body is not None:
            if self._behind:
                self._arrange_turn()
            self._await_body()

    def expect_body(self) -> None:
        """See `ClientStream`."""
        self._invited = True
        if self._body is not None:
            self._await_body()

    def _await_body(self) -> None:
        """The client's turn to send, unless it waits for a 100 or we do not read."""
        if self.owes_body:
            self._wait(Phase.BODY, self._listener.timeouts.body)
        elif self.full:
            # It does not read, and we do not read it: what either waits for, the other does, if
            # the instance sends back what it gets. The client is to end that.
            self._wait(Phase.STALLED, self._listener.idle)
        else:
            self._phase = Phase.BODY
            self.deadline = NEVER  # Not the client's silence.

    @property
    def owes_body(self) -> bool:
        """See `ClientStream`."""
        return self._body is not None and self._invited and self._gate.open

    @property
    def owes(self) -> bool:
        """See `ClientStream`."""
        return self.full or self.owes_body

    def _close(self, *, linger: bool) -> None:
        self._body = None
        super()._close(linger=linger)
