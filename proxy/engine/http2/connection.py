"""The connection of a client of HTTP/2: what is written, which limit runs, and how it ends."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Final, cast

from proxy.engine.deadlines import NEVER, Alarm
from proxy.engine.endings import cut
from proxy.engine.flow import BEHIND, PEER_FULL, ReadGate, as_protocol
from proxy.engine.hangups import RESET
from proxy.engine.http2.sender import FrameSender
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.services import Services
from proxy.engine.streams import ClientStream
from proxy.errors import BAD_REQUEST
from proxy.http2 import frames
from proxy.http2.errors import (
    INADEQUATE_SECURITY,
    INTERNAL_ERROR,
    NO_ERROR,
    SETTINGS_TIMEOUT,
    GoAway,
)
from proxy.messages import UNROUTED
from proxy.tls.contexts import weak_suite

UNREAD: Final = 1024 * 1024
"""Bytes of a client that does not read, beyond which it is not read either. Content waits in its
stream, so these are heads and acknowledgements alone: it asks, and takes no answer."""
_SHORT: Final = 16 * 1024
"""Bytes that any client that reads at all has read within the linger time, as in HTTP/1."""
_ANY: Final = 0x7FFFFFFF
"""The last stream of a first GOAWAY: those that are on their way are served, too (§6.8)."""


class Phase(Enum):
    """The state of a connection, and so which limit runs."""

    START = "start"
    """Preface and SETTINGS of the client are to come."""
    OPEN = "open"
    LEAVING = "leaving"
    """The client is told to go, and what it asked before it knew is served."""
    LEFT = "left"
    """The client is told which streams are the last, and these finish."""
    CLOSING = "closing"
    """The proxy is done and waits for the client: to read what was written, and to close."""


# Looked up once: a member of an enumeration is found anew each time it is named.
START: Final = Phase.START
OPEN: Final = Phase.OPEN
LEFT: Final = Phase.LEFT
CLOSING: Final = Phase.CLOSING


class SessionControl(ClientStream):
    """A session to those who count connections and end them: stream 0, on which nobody asks."""

    __slots__ = ("_session",)

    def __init__(self, session: SessionConnection, listener: ListenerConfig) -> None:
        super().__init__()
        self._session = session
        self.counts = listener.counts
        self.ids = listener.ids

    def drain(self) -> None:
        """See `ClientStream`."""
        self._session.drain()

    def abort(self) -> None:
        """See `ClientStream`."""
        self._session.abort()

    def on_deadline(self, now: float) -> None:
        """See `Timed`."""
        self._session.on_limit()


class SessionOutput(FrameSender):
    """Owns how long is waited for a client that does not read what is written."""

    __slots__ = ("_gate", "_stall", "listener", "phase", "services")

    def __init__(self, services: Services, listener: ListenerConfig) -> None:
        super().__init__(True, listener.limits.head, services.loop.call_soon, services.now)
        self.services = services
        self.listener = listener
        self.phase = START
        self._stall: Alarm | None = None
        """The patience with a client that does not read."""
        self._gate: ReadGate

    def _on_hangup(self) -> None:
        """The client has hung up while it is not read."""
        raise NotImplementedError

    def _on_turn(self) -> None:
        """See `FrameSender`."""
        if self.phase is CLOSING:
            return
        self._send()
        if self.full and self.transport.get_write_buffer_size() > UNREAD:
            self._gate.hold(PEER_FULL, self._on_hangup)
        self._on_room()

    def pause_writing(self) -> None:
        self.full = True
        limit = self.listener.idle
        if limit and self.phase is not CLOSING:
            if self._stall is None:
                self._stall = Alarm(self._on_stall)
            self.services.deadlines.arm(self._stall, self.services.now() + limit)

    def resume_writing(self) -> None:
        self.full = False
        if self._stall is not None:
            self._stall.deadline = NEVER
        self.limits.flush_acks()
        self._gate.release(PEER_FULL)
        self._on_room()

    def _on_stall(self, now: float) -> None:
        cut(self.transport)


class SessionConnection(SessionOutput):
    """Owns whether a client is read, which limit runs, and how its connection ends."""

    __slots__ = ("_age", "_announced", "_eof", "_reading", "_slow", "_slow_stream", "control",
                 "edge", "facts", "last")  # fmt: skip

    def __init__(
        self,
        services: Services,
        listener: ListenerConfig,
        announced: tuple[str, int] | None = None,
    ) -> None:
        """`announced`: see `ListenerConfig.client`."""
        super().__init__(services, listener)
        self._announced = announced
        self.control = SessionControl(self, listener)
        self.last = 0
        """The latest stream of the client."""
        self._age: Alarm | None = None
        self._eof = False
        self._reading = False
        """Frames of the client are being read, and there may be more requests among them."""
        self._slow: Alarm | None = None
        """The time of a frame, or of a head, that is not whole."""
        self._slow_stream = 0
        """The stream of that head."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.phase.value} last={self.last}>"

    # -- what a side of streams makes of what happens

    @property
    def busy(self) -> bool:
        """There are streams."""
        raise NotImplementedError

    def settings(self) -> bytes:
        """The first frames that the client gets."""
        raise NotImplementedError

    def _on_read(self) -> None:
        """Pass on what this turn of the loop has read."""
        raise NotImplementedError

    def _on_eof(self) -> None:
        """The client sends no more, and may still read."""
        raise NotImplementedError

    def _lose_streams(self) -> None:
        """End all streams: their answers have nowhere to go."""
        raise NotImplementedError

    # -- callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.listener.counts.open += 1
        self._begin(cast(asyncio.Transport, transport))
        connections = self.services.connections
        if self.listener.counts.open > self.listener.room:
            detail = f"the listener has its {self.listener.limits.connections}"
            connections.shed(self.control, detail)
        connections.on_client_connected(self.control)
        tls = transport.get_extra_info("tls")
        weak = "" if tls is None else weak_suite(tls.ssl)
        if weak:
            self.end(GoAway(INADEQUATE_SECURITY, f"HTTP/2 over {weak}"))

    def take_over(self, transport: asyncio.Transport, data: bytes, before: ClientStream) -> None:
        """Go on with a connection on which `before` has read `data`, and nothing else."""
        self._begin(transport)
        self.services.connections.on_client_changed(before, self.control)
        transport.set_protocol(as_protocol(self))
        self.data_received(data)

    def _begin(self, transport: asyncio.Transport) -> None:
        self.services.counters.http2_sessions += 1
        self.transport = transport
        self._gate = ReadGate(transport, self.services.hangups)
        self.facts = self.control.facts = self.listener.client(transport, self._announced)
        self.edge = self.listener.edge(transport)
        self._wait(self.listener.head)
        limit = self.listener.max_age
        if limit:
            self._age = Alarm(self._on_age)
            age = self.listener.counts.age(limit)
            self.services.deadlines.arm(self._age, self.services.now() + age)
        self.write(self.settings())

    def data_received(self, data: bytes) -> None:
        if self.phase is CLOSING:
            return
        pace = self.services.pace
        if data and (self.behind or (pace.left < 0 and pace.is_over())):
            if not self.behind:
                self._read_later()
            self.keep(data)
            return
        self._reading = True
        try:
            self.feed(data)
            pace.left -= self.worked
            if self.behind:
                self._read_later()
            self._watch()
            self._on_read()
        except GoAway as error:
            self.end(error)
        except Exception as error:
            self.fail_inside(error)
        self._reading = False

    def _read_later(self) -> None:
        """Read on in a turn to come, and nothing more before."""
        self._gate.hold(BEHIND, self._on_hangup)
        self.services.pace.put_off(self._read_on)

    def _read_on(self) -> None:
        """The rest of what was read."""
        if self.phase is not CLOSING and not self.transport.is_closing():
            self.data_received(b"")
            if not self.behind:
                self._gate.release(BEHIND)

    def _watch(self) -> None:
        """A frame that is not whole, or a head, has as much time as a head of HTTP/1."""
        if not self.head_stream and (self.behind or not self._rest):
            if self._slow is not None:
                self._slow.deadline = NEVER
            return
        slow = self._slow
        if slow is None:
            slow = self._slow = Alarm(self._on_slow)
        stream = self.head_stream
        if slow.deadline == NEVER or (self.moved and (stream == 0 or stream != self._slow_stream)):
            self._slow_stream = stream
            limit = self.listener.timeouts.head
            self.services.deadlines.arm(slow, self.services.now() + limit if limit else NEVER)

    def _on_age(self, now: float) -> None:
        self.drain()

    def _on_slow(self, now: float) -> None:
        self.end(GoAway(SETTINGS_TIMEOUT, "a frame or a head takes too long", "slow_head"))

    def eof_received(self) -> bool:
        """The client sends no more. As in HTTP/1, whoever still waits for an answer has left then,
        unless the listener says that it may read on."""
        self._eof = True
        if self.phase is CLOSING:
            return False
        if not self.busy:
            self._close()
            return False
        if not self.listener.half_close:
            self.transport.abort()
            return False
        self.phase = LEFT
        self._gate.listen(self._on_hangup)
        self._on_eof()
        return not self.transport.is_closing()

    def connection_lost(self, error: Exception | None) -> None:
        self.phase = CLOSING
        services = self.services
        self.listener.counts.open -= 1
        services.counters.http2_sessions -= 1
        for alarm in (self._age, self._slow, self._stall):  # ≤ 3
            if alarm is not None:
                services.deadlines.forget(alarm)
        services.deadlines.forget(self.control)
        self._gate.leave()
        self._out = []
        self._lose_streams()
        services.connections.on_client_lost(self.control)

    def _on_hangup(self) -> None:
        """See `SessionOutput`; as in HTTP/1."""
        gate = self._gate
        if gate.open and not self._eof:
            return
        if gate.heard & RESET or not self.listener.half_close:
            self.transport.abort()

    # -- limits and the end

    def _wait(self, limit: float) -> None:
        deadlines = self.services.deadlines
        deadlines.arm(self.control, deadlines.now() + limit if limit else NEVER)

    def on_limit(self) -> None:
        """The time of the present phase is over."""
        if self.phase is START:
            self.end(GoAway(SETTINGS_TIMEOUT, "no preface and SETTINGS in time", "slow_head"))
        elif self.phase is CLOSING:
            cut(self.transport)
        else:
            self._leave()

    def rest(self) -> None:
        """There are no streams any more."""
        if self.phase is LEFT:
            self._close()
        elif self.phase is OPEN:
            self._wait(self.listener.idle)

    def drain(self) -> None:
        """See `ClientStream`. What the client has sent before it knew is served, too."""
        if self.phase is START or self.phase is OPEN:
            self.phase = Phase.LEAVING
            self.write(frames.goaway(_ANY, NO_ERROR))
            self._wait(self.services.connections.last_call)

    def _leave(self) -> None:
        """No stream beyond those that there are."""
        self.phase = LEFT
        self.write(frames.goaway(self.last, NO_ERROR))
        if not self.busy:
            self._close()

    def abort(self) -> None:
        """See `ClientStream`."""
        cut(self.transport)

    def end(self, error: GoAway) -> None:
        """Tell the client what is wrong with the connection, and close it."""
        if self.phase is not CLOSING:
            services = self.services
            services.counters.service(UNROUTED).failed(BAD_REQUEST.code)
            services.counters.close_http2(self.listener.settings.name, error.reason)
            detail = f"HTTP/2 connection closed, {error.reason}: {error}"
            services.faults.refusal(BAD_REQUEST, detail, self.facts.address.decode("ascii"))
            self._give_up(error.code, str(error))

    def fail_inside(self, error: Exception) -> None:
        """End the connection for an error that was raised in a callback about it."""
        self.services.faults.inside(error)
        if self.phase is not CLOSING:
            self._give_up(INTERNAL_ERROR, "")

    def _give_up(self, code: int, detail: str) -> None:
        self.write(frames.goaway(self.last, code, detail.encode("ascii", "replace")))
        self._close()

    def _close(self) -> None:
        """Close after what was written, as in HTTP/1: not at once, since unread input would
        destroy it (RFC 9113 §5.4.1)."""
        self.phase = CLOSING
        self._lose_streams()
        self._send()
        timeouts = self.listener.timeouts
        if self.transport.is_closing():
            return
        if self._eof or not self.transport.can_write_eof():
            self.transport.close()
            self._wait(timeouts.idle)
            return
        self.transport.write_eof()
        self._gate.release(PEER_FULL | BEHIND)
        long = self.transport.get_write_buffer_size() > _SHORT
        self._wait(timeouts.idle if long else timeouts.linger)
