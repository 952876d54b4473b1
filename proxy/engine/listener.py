"""One client connection: requests in, one exchange at a time, answers in order."""

from __future__ import annotations

import asyncio
import re
from enum import Enum
from typing import TYPE_CHECKING, Final, cast

from proxy.engine.deadlines import NEVER, Timed
from proxy.engine.endings import cut, end_by_reset
from proxy.engine.flow import AHEAD, BEHIND, PEER_FULL, ReadGate
from proxy.engine.hangups import RESET
from proxy.engine.http1.beginnings import refuse_hopeless
from proxy.engine.http1.body import BodyReader, ChunkedBody, LengthBody
from proxy.engine.http1.messages import CRLF
from proxy.engine.http1.parser import (
    HEAD_END,
    LONGEST_BLOCK,
    TooManyFields,
    is_known,
    request_of,
)
from proxy.engine.http1.replies import problem
from proxy.engine.http1.rewrite import ClientFacts
from proxy.errors import (
    BAD_REQUEST,
    BODY_TIMEOUT,
    BODY_TOO_LARGE,
    HEAD_TIMEOUT,
    HEAD_TOO_LARGE,
    INTERNAL,
    TARGET_TOO_LONG,
    Fault,
    Refused,
)
from proxy.messages import UNROUTED

if TYPE_CHECKING:
    from proxy.engine.exchange import Exchange
    from proxy.engine.http1.messages import RequestFields
    from proxy.engine.listener_facts import ListenerFacts
    from proxy.engine.worker import Worker

READ_AHEAD: Final = 64 * 1024
"""Bytes of pipelined requests kept while one is served, beyond which the client is not read: what
the event loop had read by then, 250,000 bytes at most, is kept as well. The bound is on what a
client can make a worker hold, not on how many requests it may pipeline."""

LAST_CALL: Final = 1.0
"""Seconds that an idle connection stays open when the worker stops. A request that crosses our
close is lost to the client; so much later than the last answer that did not announce the close,
few do."""

_SHORT: Final = 16 * 1024
"""Bytes that any client that reads at all has read within the linger time. After a longer
answer it gets as long as a client that stalls."""

_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+")


def _without_empty_lines(data: bytes) -> bytes:
    """RFC 9112 §2.2: those in front of a request are ignored. Only whole ones, or it would matter
    how they were cut into reads. Mostly without a look at each: there may be 100,000 in a read."""
    whole = (len(data) - len(data.lstrip(CRLF))) // 2
    if data.startswith(CRLF * whole):
        return data[2 * whole :]
    return _EMPTY_LINES.sub(b"", data, 1)


class Phase(Enum):
    """What the connection waits for, and so which limit runs."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    STALLED = "stalled"
    """The client does not read its answer."""
    LINGER = "linger"
    """We are done and wait for the client: to read what was written, and to close."""


# Looked up once: a member of an enumeration is found anew each time it is named.
_IDLE: Final = Phase.IDLE
_ANSWER: Final = Phase.ANSWER
_LINGER: Final = Phase.LINGER


class ClientConnection(Timed):
    """Owns a client's transport, what it has sent beyond the request being served, and whether
    it is read."""

    __slots__ = (
        "_announced", "_behind", "_body", "_buffer", "_due", "_empty", "_ending", "_eof", "_gate",
        "_invited", "_listener", "_phase", "_received", "exchange", "facts", "full", "ids",
        "trailers", "transport", "worker",
    )  # fmt: skip

    # -- for the life of the connection

    def __init__(
        self,
        worker: Worker,
        listener: ListenerFacts,
        announced: tuple[str, int] | None = None,
    ) -> None:
        """`announced`: see `ListenerFacts.client`."""
        super().__init__()
        self.worker = worker
        self._announced = announced
        self._listener = listener
        self.ids = listener.ids
        """How its requests are named."""
        self._phase = Phase.IDLE
        self._buffer = b""  # ≤ READ_AHEAD + 256 KiB
        self._empty = 0
        """Bytes of empty lines since the last request."""
        self._eof = False
        self._ending = False
        """No request beyond those in the buffer: the client has said its last byte, or the
        worker drains."""
        self.full = False
        """The client does not read as fast as we write."""
        self.transport: asyncio.Transport
        self._gate: ReadGate
        self.facts: ClientFacts
        # for one request
        self.exchange: Exchange | None = None
        self._body: BodyReader | None = None
        self._received = 0
        self._behind = False
        """More of it was read than one turn of the loop passes on …"""
        self._due = False
        """… and the next turn is arranged."""
        self._invited = True
        """The client is to send the body: it did not ask for a 100 first, or has got it."""
        self.trailers = b""  # ≤ 32 KiB
        """Trailer fields of the request's body, once it is here whole."""

    def __repr__(self) -> str:
        return f"<ClientConnection {self._phase.value} {self.exchange!r}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are not registered as such
        self._gate = ReadGate(self.transport, self.worker.hangups)
        self._listener.open += 1
        try:
            self._begin()
        except Exception as error:
            self._fail_inside(error)

    def _begin(self) -> None:
        self.facts = self._listener.client(self.transport, self._announced)
        # A connection that never says anything is as slow as one that dribbles.
        self._wait(Phase.IDLE, self._listener.timeouts.head)
        if self._listener.open > self._listener.room:
            self.worker.shed(self, f"the listener has its {self._listener.limits.connections}")
        self.worker.on_client_connected(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._listener.open -= 1
        self.worker.deadlines.forget(self)
        self.worker.on_client_lost(self)
        self._gate.leave()
        exchange = self.exchange
        self.exchange = None
        self._buffer = b""
        if exchange is not None:
            try:
                exchange.on_client_gone()
            except Exception as failure:
                exchange.fail_inside(failure)

    def eof_received(self) -> bool:
        """The client sends no more. Whoever still waits for an answer has left then, unless the
        listener says that it may read on: a request it has sent whole is served."""
        try:
            return self._on_eof()
        except Exception as error:
            self._fail_inside(error)
            return False

    def _on_eof(self) -> bool:
        self._eof = self._ending = True
        if self._phase is Phase.LINGER:
            return False
        if not self._listener.half_close:
            if self.exchange is None:
                self._close(linger=False)  # What is written already is for it to read.
            else:
                self.transport.abort()
            return False
        if self.exchange is None:
            if self._buffer and self._phase is not Phase.HEAD:
                return True  # Pipelined requests that `_next` is about to serve.
            self._close(linger=False)  # Nothing asked, or half a head: nothing to answer.
            return False
        if self._body is not None:
            # RFC 9112 §8: an incomplete request. Nothing that we say can be mistaken for the
            # answer to a complete one.
            self._body = None
            self.exchange.on_bad_body(BAD_REQUEST, "the request ended before its body did")
            return False
        self._gate.listen(self._on_hangup)  # The loop reads no more, and would not hear a reset.
        return True

    def _on_hangup(self) -> None:
        """The client has hung up and may not be read: whoever reads it is told of it by the loop,
        behind what it has said before. Nobody waits for the answer to that."""
        gate = self._gate
        if gate.open and not self._eof:
            return
        if gate.heard & RESET or not self._listener.half_close:
            self.transport.abort()

    # -- what the client says

    def data_received(self, data: bytes) -> None:
        if self._phase is _LINGER:
            return
        try:
            if self._body is not None:
                self._on_body(data)
            elif self.exchange is not None or self.full:
                # Also while the client does not read: what it asks for has nowhere to go.
                self._buffer += data
                if len(self._buffer) > READ_AHEAD:
                    self._gate.hold(AHEAD, self._on_hangup)
            else:
                self._on_head(self._buffer + data if self._buffer else data)
        except Exception as error:
            self._fail_inside(error)

    def _on_head(self, data: bytes) -> None:
        """Look for a whole head at the beginning of `data` and serve it."""
        # Half a head that was looked at before is in the buffer still, and `data` begins with it.
        seen = len(self._buffer) if self._phase is Phase.HEAD else 0
        limits = self._listener.limits
        if data[:2] == b"\r\n":
            size = len(data)
            data = _without_empty_lines(data)
            seen = 0
            empty = self._empty + size - len(data)
            self._empty = empty if len(data) < 2 else 0
            if empty > limits.head:
                # As long as they go on there is no head whose limit could end it.
                self._refuse(BAD_REQUEST, f"more than {limits.head} bytes of empty lines")
                return
        end = 0
        line = block = b""
        if len(data) <= LONGEST_BLOCK:
            # A block that was read before ends where its head ended: no need to look for that.
            line, _, block = data.partition(CRLF)
            if is_known(block):
                end = len(data)
        if end == 0:
            end = data.find(HEAD_END, max(0, seen - 3)) + 4
            line, _, block = data[:end].partition(CRLF)
        if end < 4 or end > limits.head:
            try:
                # What is beyond the limit does not count: it may have come with this piece or not.
                refuse_hopeless(data[: limits.head + 1], seen, limits.target)
            except Refused as refusal:
                self._refuse(refusal.fault, refusal.detail)
                return
            if len(data) > limits.head:
                self._refuse_large_head(data)
                return
            self._buffer = data
            # Half an empty line is no beginning of a request yet.
            if data and data != b"\r" and self._phase is not Phase.HEAD:
                self._wait(Phase.HEAD, self._listener.timeouts.head)
            return
        self._buffer = b""
        try:
            request = request_of(line, block, limits.fields, self.ids)
            if len(request.target) > limits.target:
                raise Refused(TARGET_TOO_LONG, f"the target is longer than {limits.target} bytes")
            if limits.body and (request.fields.length or 0) > limits.body:
                raise Refused(BODY_TOO_LARGE, f"the body is longer than {limits.body} bytes")
        except Refused as refusal:
            self._refuse_head(data[:end], refusal.fault, refusal.detail)
            return
        except TooManyFields:
            self._refuse_head(data[:end], HEAD_TOO_LARGE, f"more than {limits.fields} fields")
            return
        except Exception as error:
            self._refuse(INTERNAL, "an error inside the proxy", error)
            return
        self._phase = _ANSWER
        self.deadline = NEVER
        self.exchange = exchange = self.worker.new_exchange(self, request)
        fields = request.fields
        if fields.length or fields.chunked:
            self._take_body(exchange, fields, data[end:])
        else:
            if len(data) > end:
                self._read_ahead(data[end:])
            exchange.start(True)

    def _read_ahead(self, rest: bytes) -> None:
        """The beginning of the next requests, behind the present one."""
        self._buffer = rest
        if len(rest) > READ_AHEAD:
            self._gate.hold(AHEAD, self._on_hangup)

    def _take_body(self, exchange: Exchange, fields: RequestFields, rest: bytes) -> None:
        """The request has a body, of which `rest` is here."""
        if fields.chunked:
            self._body = ChunkedBody(BAD_REQUEST, self.ids.beside(fields.connection))
        else:
            self._body = LengthBody(fields.length or 0)
        self._received = 0
        self._invited = fields.expect is None
        self._await_body()
        if rest:
            self._on_body(rest, start=True)
        else:
            exchange.start(False)

    def _on_body(self, data: bytes, start: bool = False) -> None:
        """Some of the request's body; `start`: it came with the head, before the exchange ran."""
        body, exchange = self._body, self.exchange
        assert body is not None
        assert exchange is not None
        try:
            pieces, rest = body.feed(data)
            limit = self._listener.limits.body
            if limit:
                self._received += sum(map(len, pieces))
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
            if rest:
                self._read_ahead(rest)
            self._phase = Phase.ANSWER
            self.deadline = NEVER
            if self.full:
                self._wait(Phase.STALLED, self._listener.timeouts.idle)
        else:
            if body.behind is not self._behind:
                self._fall_behind(body.behind)
            self._invited = True
            self._await_body()
        exchange.on_request_body(pieces, done)
        if start and not exchange.finished:
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
            self.worker.loop.call_soon(self._read_on)

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

    # -- what the exchange does with the connection

    def write(self, data: bytes) -> None:
        """Bytes of an answer."""
        self.transport.write(data)

    def write_pieces(self, pieces: list[bytes]) -> None:
        """Bytes of an answer, not joined first."""
        self.transport.writelines(pieces)

    def hold_body(self) -> None:
        """The instance cannot take more of the body, or there is none to take it yet."""
        if self._body is None:
            # All of it is here. What would be held back is the next request, and nobody would
            # release it: the instance may answer before it has taken all.
            return
        self._gate.hold(PEER_FULL, self._on_hangup)
        self._await_body()

    def release_body(self) -> None:
        """It can."""
        self._gate.release(PEER_FULL)
        if self._body is not None:
            if self._behind:
                self._arrange_turn()
            self._await_body()

    def expect_body(self) -> None:
        """The instance has asked for the body with a 100."""
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
            self._wait(Phase.STALLED, self._listener.timeouts.idle)
        else:
            self._phase = Phase.BODY
            self.deadline = NEVER  # Not the client's silence.

    @property
    def owes_body(self) -> bool:
        """It is the client's turn to send more of the body."""
        return self._body is not None and self._invited and self._gate.open

    @property
    def owes(self) -> bool:
        """It is the client's turn: to send more of the body, or to read the answer."""
        return self.full or self.owes_body

    def on_exchange_done(self, exchange: Exchange, now: float) -> None:
        """The answer is written whole: go on with the next request, or close."""
        if self.exchange is not exchange:
            return
        self.exchange = None
        if not exchange.keep_alive:
            request = exchange.request
            # A client that did not know that this was the last answer may have sent more.
            unaware = request.fields.keeps_alive[request.minor]
            self._close(linger=unaware or not exchange.body_done or self._buffer != b"")
            return
        if self._ending and not self._buffer:
            self._close(linger=True)
            return
        if self.full:
            # Answers that nobody reads must not pile up: no next one before these are gone.
            self._wait(Phase.STALLED, self._listener.timeouts.idle)
            return
        self._phase = _IDLE
        limit = self._listener.timeouts.idle
        self.deadline = now + limit if limit else NEVER
        if self.deadline < self.filed:
            self.worker.deadlines.file(self, self.deadline)
        if not self._buffer:
            return
        # Through the loop, so that a long pipeline does not become a deep stack, and other
        # connections get their turn.
        self.worker.loop.call_soon(self._next)

    def _next(self) -> None:
        if self.exchange is not None or self.full or not self._buffer:
            return
        if self.transport.is_closing():
            return
        data, self._buffer = self._buffer, b""
        try:
            self._on_head(data)
            if len(self._buffer) <= READ_AHEAD or self._phase is Phase.HEAD:
                # Not before: each request served would let one more read in.
                self._gate.release(AHEAD)
            if self._ending:
                self._close_when_served()
        except Exception as error:
            self._fail_inside(error)

    def _close_when_served(self) -> None:
        """The client has said its last byte, or the worker drains."""
        if self.exchange is not None or self._phase is Phase.LINGER:
            return
        if not self._buffer or (self._eof and HEAD_END not in self._buffer):
            self._close(linger=False)

    def abort_answer(self) -> None:
        """The answer cannot be completed, and the client must see that it is not."""
        self.exchange = None
        self.transport.abort()

    def end_by_reset(self, reset: bool) -> None:
        """Only the end of the connection says that the answer is complete, and it is not yet
        (`reset`), or is now."""
        end_by_reset(self.transport, reset)

    def hand_over(self) -> None:
        """The connection has become a tunnel, which owns the transport from here on."""
        self._gate.leave()
        self._listener.open -= 1
        self.worker.deadlines.forget(self)
        self.worker.on_client_lost(self)

    def take_buffered(self) -> bytes:
        """What the client sent behind its upgrade request."""
        data, self._buffer = self._buffer, b""
        return data

    # -- refusals and the end

    def _refuse_large_head(self, data: bytes) -> None:
        limits = self._listener.limits
        line_end = data.find(b"\r\n")
        if line_end < 0 or line_end > limits.target + 64:
            self._refuse(TARGET_TOO_LONG, f"the request line is longer than {limits.target} bytes")
        else:
            self._refuse(HEAD_TOO_LARGE, f"the request head is longer than {limits.head} bytes")

    def _refuse_head(self, head: bytes, fault: Fault, detail: str) -> None:
        """For what would be found first if the bytes had come one by one."""
        try:
            refuse_hopeless(head, 0, self._listener.limits.target)
        except Refused as first:
            fault, detail = first.fault, first.detail
        self._refuse(fault, detail)

    def _fail_inside(self, error: Exception) -> None:
        """Something raised in a callback of this connection."""
        if self.exchange is not None:
            self.exchange.fail_inside(error)
        else:
            # What was asked last may have been answered: an answer now could be taken for another.
            self.worker.failed_inside(error)
            self.transport.abort()

    def _refuse(self, fault: Fault, detail: str, failure: Exception | None = None) -> None:
        """Answer bytes that never became a request. `failure`: what was raised about them."""
        counters = self.worker.counters.service(UNROUTED)
        counters.failed(fault.code)
        counters.answered(b"OTHER", fault.status, 0.0)
        self.worker.log_refusal(fault, detail, self, failure)
        id_line = self.ids.new()
        request_id = self.ids.value(id_line)
        answer = problem(
            fault,
            detail,
            request_id=request_id.decode("ascii"),
            id_line=id_line,
            head_only=False,
            client_minor=1,
            keep_alive=False,
        )
        self.write(answer)
        self.worker.on_refused(fault, self, answer, request_id)
        self._close(linger=True)

    def _close(self, *, linger: bool) -> None:
        """Close after what was written. With unread input on the way, closing at once would
        reset the connection and could destroy the answer before it is read (RFC 9112 §9.6), so
        the write side is closed first and the input thrown away for a while."""
        self._body = None
        self._buffer = b""
        timeouts = self._listener.timeouts
        if not linger or self._eof or not self.transport.can_write_eof():
            # The transport closes when everything is written: with a client that does not
            # read, only the limit ends that.
            self.transport.close()
            self._wait(Phase.LINGER, timeouts.idle)
            return
        self.transport.write_eof()
        self._gate.release(PEER_FULL | AHEAD | BEHIND)
        long = self.transport.get_write_buffer_size() > _SHORT
        self._wait(Phase.LINGER, timeouts.idle if long else timeouts.linger)

    def drain(self) -> None:
        """The worker stops: a busy connection is closed after its answer, an idle one soon, but
        not at once: what it asks may be on its way already."""
        self._ending = True
        if self.exchange is None and self._phase is Phase.IDLE and not self._buffer:
            self._wait(Phase.IDLE, LAST_CALL)

    def abort(self) -> None:
        """The worker's patience is over."""
        cut(self.transport)

    # -- limits

    def _wait(self, phase: Phase, limit: float) -> None:
        self._phase = phase
        deadlines = self.worker.deadlines
        deadlines.arm(self, deadlines.now() + limit if limit else NEVER)

    def on_deadline(self, now: float) -> None:
        """See `Timed`."""
        try:
            self._end_waiting()
        except Exception as error:
            self._fail_inside(error)

    def _end_waiting(self) -> None:
        phase = self._phase
        timeouts = self._listener.timeouts
        if phase is Phase.HEAD:
            self._refuse(HEAD_TIMEOUT, f"no complete request head within {timeouts.head:g} s")
        elif phase is Phase.BODY and self.exchange is not None:
            self._body = None
            detail = f"nothing of the request body for {timeouts.body:g} s"
            self.exchange.on_bad_body(BODY_TIMEOUT, detail)
        elif phase is Phase.LINGER or phase is Phase.STALLED:
            cut(self.transport)
        else:
            self._close(linger=False)

    # -- back-pressure

    def pause_writing(self) -> None:
        try:
            self._on_full()
        except Exception as error:
            self._fail_inside(error)

    def _on_full(self) -> None:
        self.full = True
        if self.exchange is not None:
            self.exchange.on_client_full()
            if not self.owes_body:
                self._wait(Phase.STALLED, self._listener.timeouts.idle)
        elif self._phase is Phase.IDLE:
            self._wait(Phase.STALLED, self._listener.timeouts.idle)

    def resume_writing(self) -> None:
        try:
            self._on_drained()
        except Exception as error:
            self._fail_inside(error)

    def _on_drained(self) -> None:
        self.full = False
        if self.exchange is not None:
            if self._phase is Phase.STALLED:
                # Not the client's turn, nor is there a body that it might owe: see `_await_body`.
                self._phase = Phase.ANSWER if self._body is None else Phase.BODY
                self.deadline = NEVER
            self.exchange.on_client_drained()
        elif self._phase is Phase.STALLED:
            self._wait(Phase.IDLE, self._listener.timeouts.idle)
            self._next()
        elif self._phase is Phase.HEAD:
            self._next()
