"""The connection of a client of HTTP/1: which limit runs, and how it ends."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Final, cast

from proxy.engine.deadlines import NEVER, Alarm
from proxy.engine.endings import cut
from proxy.engine.flow import AHEAD, BEHIND, PEER_FULL, ReadGate
from proxy.engine.hangups import RESET
from proxy.engine.http1.heads import own_answer
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.own_answers import problem
from proxy.engine.services import Services
from proxy.engine.streams import ClientStream, StreamEvents
from proxy.errors import Fault
from proxy.messages import UNROUTED

READ_AHEAD: Final = 64 * 1024
"""Bytes of pipelined requests kept while one is served, beyond which the client is not read: what
the event loop had read by then, 250,000 bytes at most, is kept as well. The bound is on what a
client can make a worker hold, not on how many requests it may pipeline."""

_SHORT: Final = 16 * 1024
"""Bytes that any client that reads at all has read within the linger time. After a longer
answer it gets as long as a client that stalls."""


class Phase(Enum):
    """The state of a connection: what it waits for, and so which limit runs."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    STALLED = "stalled"
    """The client does not read its answer."""
    LINGER = "linger"
    """The proxy is done and waits for the client: to read what was written, and to close."""


class ServerConnection(ClientStream):
    """Owns a client's transport, whether it is read, and what was read ahead."""

    __slots__ = ("_age", "_announced", "_buffer", "_ending", "_eof", "_gate", "_last", "_left",
                 "_listener", "_phase", "exchange", "services", "transport")  # fmt: skip

    def __init__(
        self,
        services: Services,
        listener: ListenerConfig,
        announced: tuple[str, int] | None = None,
    ) -> None:
        """`announced`: see `ListenerConfig.client`."""
        super().__init__()
        self.services = services
        self._announced = announced
        self._listener = listener
        self.counts = listener.counts
        self.ids = listener.ids
        self._phase = Phase.IDLE
        self._buffer = b""  # ≤ READ_AHEAD + 256 KiB
        self._eof = False
        self._ending = False
        """No request beyond those in the buffer: the client has said its last byte, or the
        worker drains."""
        self._last = False
        """The next answer ends the connection: see `limits.requests`, `limits.connection_age`."""
        self._left = listener.max_requests
        """Requests until then; 0 = any number."""
        self._age: Alarm | None = None
        self.transport: asyncio.Transport
        self._gate: ReadGate
        self.exchange: StreamEvents | None = None
        """Hears of the request that is under way."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._phase.value} {self.exchange!r}>"

    # -- what a side of requests and answers makes of what happens

    def _on_eof(self) -> bool:
        """The client sends no more. True: it may go on reading."""
        raise NotImplementedError

    def _on_limit(self) -> None:
        """The time of the present phase is over."""
        raise NotImplementedError

    def _on_full(self) -> None:
        """The client does not read as fast as we write."""
        raise NotImplementedError

    def _on_drained(self) -> None:
        """The client has caught up."""
        raise NotImplementedError

    # -- callbacks of the event loop and of the wheel

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are not registered as such
        self._gate = ReadGate(self.transport, self.services.hangups)
        self._listener.counts.open += 1
        try:
            self._begin()
        except Exception as error:
            self._fail_inside(error)

    def _begin(self) -> None:
        self.facts = self._listener.client(self.transport, self._announced)
        self.edge = self._listener.edge(self.transport)
        # A connection that never says anything is as slow as one that dribbles.
        self._wait(Phase.IDLE, self._listener.head)
        limit = self._listener.max_age
        if limit:
            self._age = Alarm(self._on_age)
            now = self.services.now()
            self.services.deadlines.arm(self._age, now + self._listener.counts.age(limit))
        connections = self.services.connections
        if self._listener.counts.open > self._listener.room:
            connections.shed(self, f"the listener has its {self._listener.limits.connections}")
        connections.on_client_connected(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._listener.counts.open -= 1
        self._forget_limits()
        self.services.connections.on_client_lost(self)
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

    def on_deadline(self, now: float) -> None:
        """See `Timed`."""
        try:
            self._on_limit()
        except Exception as error:
            self._fail_inside(error)

    def pause_writing(self) -> None:
        self.full = True
        try:
            self._on_full()
        except Exception as error:
            self._fail_inside(error)

    def resume_writing(self) -> None:
        self.full = False
        try:
            self._on_drained()
        except Exception as error:
            self._fail_inside(error)

    def _on_hangup(self) -> None:
        """The client has hung up and may not be read: whoever reads it is told of it by the loop,
        behind what it has said before. Nobody waits for the answer to that."""
        gate = self._gate
        if gate.open and not self._eof:
            return
        if gate.heard & RESET or not self._listener.half_close:
            self.transport.abort()

    # -- limits

    def _wait(self, phase: Phase, limit: float) -> None:
        self._phase = phase
        deadlines = self.services.deadlines
        deadlines.arm(self, deadlines.now() + limit if limit else NEVER)

    def _on_age(self, now: float) -> None:
        self._last = True
        try:
            self.drain()
        except Exception as error:
            self._fail_inside(error)

    def _forget_limits(self) -> None:
        self.services.deadlines.forget(self)
        if self._age is not None:
            self.services.deadlines.forget(self._age)

    # -- the end

    def refuse(self, fault: Fault, detail: str, failure: Exception | None = None) -> None:
        """Answer bytes that never became a request. `failure`: what was raised about them."""
        services = self.services
        counters = services.counters.service(UNROUTED)
        counters.failed(fault.code)
        counters.answered(b"OTHER", fault.status, 0.0)
        services.faults.refusal(fault, detail, self.facts.address.decode("ascii"), failure)
        id_line = self.ids.new()
        request_id = self.ids.value(id_line)
        answer = problem(fault, detail, request_id.decode("ascii"))
        if self.facts.tls is not None:  # RFC 6797 §7.2: not in clear text on a port for TLS.
            id_line += self._listener.hsts
        self.transport.write(own_answer(answer, id_line, False, 1, False))
        if services.on_refused is not None:
            services.on_refused(fault, self.facts, len(answer.content), request_id)
        self._close(linger=True)

    def _fail_inside(self, error: Exception) -> None:
        """Fail the request that is under way for an error in a callback, or abort the
        connection."""
        if self.exchange is not None:
            self.exchange.fail_inside(error)
        else:
            # What was asked last may have been answered: an answer now could be taken for another.
            self.services.faults.inside(error)
            self.transport.abort()

    def _close(self, *, linger: bool) -> None:
        """Close after what was written. With unread input on the way, closing at once would
        reset the connection and could destroy the answer before it is read (RFC 9112 §9.6), so
        the write side is closed first and the input thrown away for a while."""
        self._buffer = b""
        if not linger or self._eof or not self.transport.can_write_eof():
            # The transport closes when everything is written: with a client that does not
            # read, only the limit ends that.
            self.transport.close()
            self._wait(Phase.LINGER, self._listener.idle)
            return
        self.transport.write_eof()
        self._gate.release(PEER_FULL | AHEAD | BEHIND)
        timeouts = self._listener.timeouts
        long = self.transport.get_write_buffer_size() > _SHORT
        self._wait(Phase.LINGER, timeouts.idle if long else timeouts.linger)

    def cut(self) -> None:
        """See `ClientStream`."""
        self.exchange = None
        self.transport.abort()

    def drain(self) -> None:
        """See `ClientStream`. A busy connection is closed after its answer, an idle one soon, but
        not at once: what it asks may be on its way already."""
        self._ending = True
        if self.exchange is None and self._phase is Phase.IDLE and not self._buffer:
            self._wait(Phase.IDLE, self.services.connections.last_call)

    def abort(self) -> None:
        """See `ClientStream`."""
        cut(self.transport)
