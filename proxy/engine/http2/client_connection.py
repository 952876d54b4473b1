"""The connection of a session with an instance: how it begins, whether it lives, how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from proxy.engine.deadlines import NEVER, Alarm
from proxy.engine.flow import as_protocol
from proxy.engine.http1.keepalive import EXCESS, Upstreams
from proxy.engine.http2.client_stream import InstanceStream, InstanceStreams, StreamClock
from proxy.engine.node import Node
from proxy.errors import BAD_ANSWER, CLOSED_EARLY, CONNECT_TIMEOUT, Fault
from proxy.http2 import frames
from proxy.http2.errors import (
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    SETTINGS_TIMEOUT,
    GoAway,
)
from proxy.settings.service import ServiceSettings

_log = structlog.get_logger()

SETTINGS_LIMIT: Final = 10.0
"""Seconds for the first SETTINGS, where connections may take any time."""
ACK_LIMIT: Final = 10.0
"""Seconds for the acknowledgement of a PING."""
_ENDED: Final = 32
"""Requests that end in one turn of the loop with their session, or by a GOAWAY, and are perhaps
made again: others want one, too."""
_PASSED: Final = 32
"""Answers of which more is passed on in one turn."""
PING_AGAIN: Final = 310.0
"""Seconds between two PINGs to an instance that says nothing but their acknowledgements: servers of
gRPC end sessions that ask more often than every five minutes (`too_many_pings`)."""


class Lines:
    """The waiting requests of a worker, as its sessions see them."""

    def on_room(self, node: Node) -> None:
        """A session has room for a stream, or may have, or will have no more."""
        raise NotImplementedError

    def on_no_session(self, node: Node, fault: Fault, detail: str) -> None:
        """A session has ended before the instance took more than one stream."""
        raise NotImplementedError


class SessionLife(InstanceStreams):
    """Owns one connection to an instance, and for how long it is kept."""

    __slots__ = ("_alarm", "_blamed", "_due_read", "_heard", "_lines", "_next_ping",
                 "_open", "_pinged", "_read", "_reading", "_retired", "_streams", "_upstreams",
                 "_uses", "closed")  # fmt: skip

    def __init__(
        self, node: Node, settings: ServiceSettings, upstreams: Upstreams, lines: Lines
    ) -> None:
        super().__init__(node, settings, upstreams)
        self._upstreams = upstreams
        self._lines = lines
        self._streams: dict[int, InstanceStream] = {}  # ≤ 64 KiB + 512 B per request
        self._read: dict[int, InstanceStream] = {}  # ≤ 64 KiB + 512 B per request
        """Streams of which there is something to pass on."""
        self._due_read = False
        """The turn of the loop to do that is arranged."""
        self._reading = False
        """Frames of the instance are being read, and passed on in the end."""
        self.clock = StreamClock(self.deadlines, self._streams)
        self._open = 0
        """Streams that were given out and are not over."""
        self._uses = 0
        self._alarm = Alarm(self._on_alarm)
        """The limit of the first SETTINGS, of idleness, or of silence."""
        self._heard = 0.0
        self._pinged = False
        """A PING was sent, and nothing has come since."""
        self._next_ping = 0.0
        """Not to be sent before, unless something of an answer comes."""
        self._blamed = False
        """A failure of the session was counted against the instance."""
        self._retired = False
        self.settled = False
        self.closed = False

    def __repr__(self) -> str:
        state = "closed" if self.closed else "retired" if self._retired else "open"
        return f"<InstanceSession {self.node.key} {state} streams={self._open} uses={self._uses}>"

    def _greeting(self) -> bytes:
        """The first bytes that the instance gets."""
        raise NotImplementedError

    def begin(self, transport: asyncio.Transport, said: bytes) -> None:
        """Speak over a new connection, on which the instance has `said` this already."""
        self.transport = transport
        self._upstreams.open += 1
        self._upstreams.sessions += 1
        self.node.shared.append(self)
        transport.set_protocol(as_protocol(self))
        self.write(self._greeting())
        limit = self.settings.timeouts.connect or SETTINGS_LIMIT
        self.deadlines.arm(self._alarm, self.now() + limit)
        if said:
            self.data_received(said)
        if not (self.behind or transport.is_closing() or transport.is_reading()):
            transport.resume_reading()

    @property
    def idle(self) -> bool:
        """See `SharedSession`."""
        return self._open == 0

    # -- callbacks of the event loop

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        self._heard = self.now()
        if self._pinged:
            self._pinged = False
            self._watch()
        if not self.settled and data.startswith(b"HTTP/"):
            detail = "speaks HTTP/1: set `protocol: h1` for it"
            self._give_up(PROTOCOL_ERROR, BAD_ANSWER, detail)
            return
        pace = self._upstreams.pace
        if data and (self.behind or (pace.left < 0 and pace.is_over())):
            if not self.behind:
                self.transport.pause_reading()
                pace.put_off(self._read_on)
            self.keep(data)
            return
        try:
            self._reading = True
            self.feed(data)
            pace.left -= self.worked
            if self.behind:
                self.transport.pause_reading()
                pace.put_off(self._read_on)
        except GoAway as error:
            self._give_up(error.code, BAD_ANSWER, str(error))
        except Exception as error:
            self._fail_inside(error)
        self._reading = False
        self._pass_on()

    def _read_on(self) -> None:
        """The rest of what was read."""
        if not self.closed and not self.transport.is_closing():
            self.data_received(b"")
            if not self.behind and not self.transport.is_closing():
                self.transport.resume_reading()

    def pass_on_soon(self, stream: InstanceStream) -> None:
        """See `InstanceStreams`."""
        if stream.out is not None:
            if stream.out.id not in self._read:
                self._read[stream.out.id] = stream
                self.spend(2)
            if not self._reading:
                self._arrange()

    def _arrange(self) -> None:
        if not self._due_read:
            self._due_read = True
            self._upstreams.pace.put_off(self._pass_on_later)

    def _pass_on_later(self) -> None:
        self._due_read = False
        self._pass_on()

    def _pass_on(self) -> None:
        """Pass on what was read: of a stream in one go, in however many frames it came."""
        if not self._read:
            return
        if self._next_ping and not self.closed:
            self._next_ping = 0.0
            self._watch()
        now = list(self._read)[:_PASSED]
        self._upstreams.pace.left -= len(now)
        for id in now:  # ≤ _PASSED
            stream = self._read.pop(id, None)
            if stream is not None:
                stream.pass_on()
        if self._read:
            self._arrange()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self.limits.flush_acks()
        self._on_room()
        self._lines.on_room(self.node)

    def _on_turn(self) -> None:
        """See `FrameSender`."""
        if not self.closed:
            self._send()
            self._on_room()

    def eof_received(self) -> bool:
        """An instance that sends no more has nothing more to say."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed:
            self._lose(CLOSED_EARLY, f"{'closed' if error is None else 'reset'} the connection")

    # -- the connection

    @property
    def _ping_due(self) -> float:
        ping = self.settings.keepalive.ping
        return max(self._heard + ping, self._next_ping) if ping else NEVER

    def _watch(self) -> None:
        """There are streams: see to it that the instance is heard of."""
        self.deadlines.arm(self._alarm, self._ping_due)

    def _be_idle(self) -> None:
        """There are no streams."""
        node, keepalive = self.node, self.settings.keepalive
        if self._retired or not (node.admitted and node.http2 and keepalive.max_idle):
            self._close()
            return
        idle = sum(1 for session in node.shared if session.idle)
        limit = min(keepalive.idle, EXCESS) if idle > keepalive.max_idle else keepalive.idle
        self._pinged = False
        if self.settled:
            self.deadlines.arm(self._alarm, self.now() + limit)

    def _on_alarm(self, now: float) -> None:
        if not self.settled:
            self._give_up(SETTINGS_TIMEOUT, CONNECT_TIMEOUT, "said no SETTINGS in time")
        elif not self._open:
            self._close()
        elif self._pinged:
            detail = f"did not acknowledge a PING within {ACK_LIMIT:g} s"
            self._give_up(NO_ERROR, CLOSED_EARLY, detail)
        elif now < self._ping_due:
            self._watch()
        else:
            self._pinged = True
            self._next_ping = now + PING_AGAIN
            self.write(frames.ping(bytes(8)))
            self.deadlines.arm(self._alarm, now + ACK_LIMIT)

    def retire(self) -> None:
        """See `SharedSession`."""
        if not self._retired:
            self._retired = True
            if self in self.node.shared:
                self.node.shared.remove(self)
            if not self._open:
                self._close()

    def _blame(self) -> bool:
        """Whether a failure counts: a session that is lost is one, whatever number of streams it
        had, or every restart of an instance would eject it."""
        blamed, self._blamed = self._blamed, True
        return not blamed

    def _close(self) -> None:
        """Close in good order: nothing is under way."""
        if not self.closed:
            self._end_with(NO_ERROR)
            self._forget()
            if not self.settled:
                self._lines.on_room(self.node)

    def _end_with(self, code: int) -> None:
        """Say why, and close."""
        if self.transport.is_closing():
            return
        self.write(frames.goaway(0, code))
        self._send()
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # `close` would wait for an instance that may never read it.
        else:
            self.transport.close()

    def _give_up(self, code: int, fault: Fault, detail: str) -> None:
        """End the session: the instance breaks the protocol, or is not heard of."""
        if not self.closed:
            _log.warning("instance_session_ended", instance=self.node.id, detail=detail,
                         streams=self._open)  # fmt: skip
            self._end_with(code)
            self._lose(fault, detail)

    def _lose(self, fault: Fault, detail: str) -> None:
        """The session is lost, and what is under way on it but for answers that are here whole."""
        unsettled = not self.settled
        detail = f"{self.node.id} {detail}"
        self._forget()
        for out in self._outflows():  # ≤ requests
            out.said_end = True  # What would be written has nowhere to go.
        self._end_streams(list(self._streams.values()), partial(self._lose_stream, fault, detail))
        if unsettled:
            self._lines.on_no_session(self.node, fault, detail)

    def _lose_stream(self, fault: Fault, detail: str, stream: InstanceStream) -> None:
        stream.on_lost(fault, detail, self._uses > 1, self._blame())

    def _end_streams(
        self, streams: list[InstanceStream], end: Callable[[InstanceStream], None]
    ) -> None:
        """End streams, but for answers that are here whole: some in each turn of the loop."""
        for stream in streams[:_ENDED]:  # ≤ _ENDED
            if not (stream.over or stream.ended):
                end(stream)
        if len(streams) > _ENDED:
            self._call_soon(self._end_streams, streams[_ENDED:], end)

    def _forget(self) -> None:
        self.closed = True
        self._retired = True
        self._upstreams.open -= 1
        self._upstreams.sessions -= 1
        self._out = []
        self._waiting.clear()
        self.deadlines.forget(self._alarm)
        self.deadlines.forget(self.clock)
        if self in self.node.shared:
            self.node.shared.remove(self)

    def _fail_inside(self, error: Exception) -> None:
        """End the session for an error that was raised in a callback about it."""
        _log.error("instance_session_failed_inside", instance=self.node.id, exc_info=error)
        if not self.closed:
            self._end_with(INTERNAL_ERROR)
            self._lose(CLOSED_EARLY, "and the proxy could not go on")
