"""HTTP/1.1 with one client: requests in, one exchange at a time, answers in order."""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.engine.deadlines import NEVER
from proxy.engine.endings import cut, end_by_reset
from proxy.engine.flow import AHEAD
from proxy.engine.http1.body import in_chunks
from proxy.engine.http1.heads import (
    BY_CHUNKS,
    BY_CLOSE,
    BY_LENGTH,
    NO_BODY,
    interim_head,
    own_answer,
    response_framing,
    response_head,
    says_hsts,
    switching_head,
)
from proxy.engine.http1.parser import HEAD_END
from proxy.engine.http1.requests import RequestReader
from proxy.engine.http1.server_connection import READ_AHEAD, Phase
from proxy.engine.http2.session import ClientSession
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.services import Services
from proxy.engine.streams import StreamEvents
from proxy.errors import BAD_REQUEST, BODY_TIMEOUT, HEAD_TIMEOUT
from proxy.http.messages import OwnAnswer, ResponseHead
from proxy.http2.frames import PREFACE

_UNASKED: Final = -1
"""In place of a framing, as long as there was no request."""
_JOIN: Final = 16 * 1024
"""Up to here copying a body behind its head is cheaper than handing over two buffers."""

# Looked up once: a member of an enumeration is found anew each time it is named.
_IDLE: Final = Phase.IDLE


class ClientConnection(RequestReader):
    """Owns how the present answer is framed, and when the next request is served."""

    __slots__ = ("_framing",)

    def __init__(
        self,
        services: Services,
        listener: ListenerConfig,
        announced: tuple[str, int] | None = None,
    ) -> None:
        super().__init__(services, listener, announced)
        self._framing = _UNASKED

    # -- answers

    def inform(self, response: ResponseHead) -> None:
        """See `ClientStream`."""
        if self.exchange is not None and self.exchange.request.minor:
            self.transport.write(interim_head(response))

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
        request = exchange.request
        takes_trailers = request.fields.te_trailers
        framing = response_framing(response, request.method, request.minor)
        self._framing = framing
        self._keep_alive = (
            framing != BY_CLOSE
            and self._whole
            and not self.counts.leaving
            and not self._last
            and request.fields.keeps_alive[request.minor]
        )
        if self._listener.hsts and not says_hsts(response):
            id_line += self._listener.hsts
        head = response_head(
            response, id_line, framing, request.minor, self._keep_alive, takes_trailers
        )
        if framing > BY_LENGTH:
            if framing == BY_CHUNKS:
                pieces = in_chunks(pieces, done, trailers if takes_trailers else b"")
            elif not done:
                end_by_reset(self.transport, True)
        if not pieces:
            self.transport.write(head)
        elif len(pieces) == 1 and len(pieces[0]) <= _JOIN:
            self.transport.write(head + pieces[0])
        else:
            self.transport.writelines([head, *pieces])

    def send(self, pieces: list[bytes], done: bool, trailers: bytes) -> None:
        """See `ClientStream`."""
        framing = self._framing
        if framing > BY_LENGTH:
            if framing == BY_CHUNKS:
                exchange = self.exchange
                if not done or exchange is None or not exchange.request.fields.te_trailers:
                    trailers = b""
                pieces = in_chunks(pieces, done, trailers)
            elif done:
                # Only the end of the connection says that the answer is complete, and it is now.
                end_by_reset(self.transport, False)
        if framing != NO_BODY and pieces:
            self.transport.writelines(pieces)

    def reply(self, answer: OwnAnswer, id_line: bytes, closes: bool) -> int:
        """See `ClientStream`."""
        exchange = self.exchange
        assert exchange is not None
        request = exchange.request
        head_only = request.method == b"HEAD"
        self._keep_alive = (
            not closes
            and self._whole
            and not self.counts.leaving
            and not self._last
            and request.fields.keeps_alive[request.minor]
        )
        self.transport.write(
            own_answer(
                answer,
                id_line + self._listener.hsts,
                head_only,
                request.minor,
                self._keep_alive,
            )
        )
        return 0 if head_only else len(answer.content)

    def switch(self, response: ResponseHead, id_line: bytes) -> asyncio.Transport:
        """See `ClientStream`."""
        self.transport.write(switching_head(response, id_line))
        return self.transport

    def hand_over(self) -> bytes:
        """See `ClientStream`."""
        self._gate.leave()
        self._listener.counts.open -= 1
        self._forget_limits()
        self.services.connections.on_client_lost(self)
        data, self._buffer = self._buffer, b""
        return data

    def _speak_http2(self, data: bytes) -> bool:
        """See `RequestReader`. Over TLS that is for ALPN to say (§3.2)."""
        listener = self._listener
        if (
            self._framing != _UNASKED
            or not listener.settings.http2
            or listener.certificates is not None
            or not PREFACE.startswith(data[: len(PREFACE)])
        ):
            return False
        self._gate.leave()
        self._forget_limits()
        session = ClientSession(self.services, listener, self._announced)
        session.take_over(self.transport, data, self)
        return True

    # -- the next request

    def finish(self, events: StreamEvents, now: float) -> None:
        """See `ClientStream`. Go on with the next request, or close."""
        if self.exchange is not events:
            return
        self.exchange = None
        self._framing = NO_BODY
        keep_alive, self._keep_alive = self._keep_alive, False
        if not keep_alive:
            request = events.request
            # A client that did not know that this was the last answer may have sent more.
            unaware = request.fields.keeps_alive[request.minor]
            self._close(linger=unaware or not self._whole or self._buffer != b"")
            return
        if self._ending and not self._buffer:
            self._close(linger=True)
            return
        if self.full:
            # Answers that nobody reads must not pile up: no next one before these are gone.
            self._wait(Phase.STALLED, self._listener.idle)
            return
        self._phase = _IDLE
        limit = self._listener.idle
        self.deadline = now + limit if limit else NEVER
        if self.deadline < self.filed:
            self.services.deadlines.file(self, self.deadline)
        if not self._buffer:
            return
        # Through the loop, so that a long pipeline does not become a deep stack, and other
        # connections get their turn.
        self.services.loop.call_soon(self._next)

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

    # -- what happens to the connection

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

    def _on_limit(self) -> None:
        phase = self._phase
        timeouts = self._listener.timeouts
        if phase is Phase.HEAD:
            self.refuse(HEAD_TIMEOUT, f"no complete request head within {timeouts.head:g} s")
        elif phase is Phase.BODY and self.exchange is not None:
            self._body = None
            detail = f"nothing of the request body for {timeouts.body:g} s"
            self.exchange.on_bad_body(BODY_TIMEOUT, detail)
        elif phase is Phase.LINGER or phase is Phase.STALLED:
            cut(self.transport)
        elif HEAD_END in self._buffer:
            self._next()  # It came in time, and was put off.
        else:
            self._close(linger=False)

    def _on_full(self) -> None:
        if self.exchange is not None:
            self.exchange.on_client_full()
            if not self.owes_body:
                self._wait(Phase.STALLED, self._listener.idle)
        elif self._phase is Phase.IDLE:
            self._wait(Phase.STALLED, self._listener.idle)

    def _on_drained(self) -> None:
        if self.exchange is not None:
            if self._phase is Phase.STALLED:
                # Not the client's turn, nor is there a body that it might owe: see `_await_body`.
                self._phase = Phase.ANSWER if self._body is None else Phase.BODY
                self.deadline = NEVER
            self.exchange.on_client_drained()
        elif self._phase is Phase.STALLED:
            self._wait(Phase.IDLE, self._listener.idle)
            self._next()
        elif self._phase is Phase.HEAD:
            self._next()
