"""Answers to a client of HTTP/2: its streams, whose turn it is, and how they end."""

from __future__ import annotations

from typing import Final

from proxy.engine.http2.connection import Phase
from proxy.engine.http2.sender import Outflow
from proxy.engine.http2.server_stream import ServerStream, StreamSession
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.services import Services
from proxy.errors import BAD_REQUEST, Refused
from proxy.http2 import frames
from proxy.http2.errors import NO_ERROR, PROTOCOL_ERROR, GoAway
from proxy.messages import UNROUTED

_LENT: Final = 4 * 1024 * 1024
"""Bytes by which the windows of all its streams may be larger than they are at first."""
_RESETS_KNOWN: Final = 256
"""Streams of which is known that it was us who ended them, so that what the client sent before it
knew is no mistake of its."""
_ENDED: Final = 48
"""Requests that end in one turn of the loop with their connection: others want one, too."""


class AnsweringSession(StreamSession):
    """Owns the streams of one client, and how much of their answers it takes."""

    __slots__ = ("_lent", "_lost", "_read", "_reset", "_streams")

    def __init__(
        self,
        services: Services,
        listener: ListenerConfig,
        announced: tuple[str, int] | None = None,
    ) -> None:
        super().__init__(services, listener, announced)
        self._streams: dict[int, ServerStream] = {}  # ≤ 64 KiB + 512 B per request
        self._read: dict[int, ServerStream] = {}  # ≤ 64 KiB
        """Streams of which there is something to pass on."""
        self._reset: dict[int, None] = {}  # ≤ _RESETS_KNOWN * 100 B
        self._lent = 0
        self._lost: list[ServerStream] = []  # ≤ 64 KiB
        """Streams of a connection that is gone, whose requests have yet to end."""

    @property
    def busy(self) -> bool:
        """See `SessionConnection`."""
        return len(self._streams) > 0

    # -- what is sent

    def _writes_at_once(self) -> bool:
        """See `FrameSender`."""
        return len(self._streams) == 1 and not self._reading

    def _outflow(self, stream: int) -> Outflow | None:
        """See `FrameSender`."""
        open_ = self._streams.get(stream)
        if open_ is None and stream > self.last:
            raise GoAway(PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that nobody opened")
        return None if open_ is None else open_.out

    def _outflows(self) -> list[Outflow]:
        """See `FrameSender`."""
        return [stream.out for stream in self._streams.values()]

    def _on_written(self, stream: int) -> None:
        """See `FrameSender`."""
        self._streams[stream].on_written()

    def grant(self, stream: ServerStream, count: int) -> None:
        """See `StreamSession`."""
        self.write(frames.window_update(stream.id, count))

    def lend(self, count: int) -> bool:
        """See `StreamSession`."""
        if self._lent + count > _LENT:
            return False
        self._lent += count
        return True

    def on_settings(self, settings: list[tuple[int, int]]) -> None:
        """See `FrameReader`."""
        if self.phase is Phase.START:
            self.phase = Phase.OPEN
            self.rest()
        else:
            self.limits.note_control(self.services.now())
        super().on_settings(settings)

    # -- the end of streams

    def _end_without_answer(self, stream: int, code: int) -> None:
        self.write(frames.reset(stream, code))
        if len(self._reset) >= _RESETS_KNOWN:
            del self._reset[next(iter(self._reset))]
        self._reset[stream] = None

    def close_stream(self, stream: ServerStream) -> None:
        """See `StreamSession`."""
        if self._streams.get(stream.id) is stream:
            if not stream.ended or stream.code != NO_ERROR:
                self._end_without_answer(stream.id, stream.code)  # §8.1: the rest may stay away.
            self._forget(stream)
            self._rest_if_quiet()

    def reset_stream(self, stream: ServerStream, code: int) -> None:
        """See `StreamSession`."""
        if self._streams.get(stream.id) is stream:
            self._end_without_answer(stream.id, code)
            self._forget(stream)
            self._rest_if_quiet()

    def cut_stream(self, stream: ServerStream, code: int) -> None:
        """See `StreamSession`."""
        self.reset_stream(stream, code)
        try:
            self.limits.lose_stream(self.services.now())
        except GoAway as error:
            self.services.loop.call_soon(self.end, error)  # Who cuts is in the middle of it.

    def _forget(self, stream: ServerStream) -> None:
        self._end_output(stream.out)
        del self._streams[stream.id]
        self.services.counters.http2_streams -= 1
        if self._read:
            self._read.pop(stream.id, None)
        self._lent -= stream.borrowed
        self.services.deadlines.forget(stream)

    def _rest_if_quiet(self) -> None:
        if not self._streams:
            self.rest()

    def _lose_streams(self) -> None:
        """See `SessionConnection`."""
        if self._streams:
            self._lost = list(self._streams.values())
            self.services.counters.http2_streams -= len(self._lost)
            self._streams = {}
            self._waiting = {}
            self._read = {}
            for stream in self._lost:  # ≤ requests
                stream.out.said_end = True  # What it would write has nowhere to go.
            self._lose_some()

    def _lose_some(self) -> None:
        """Of the streams whose connection is gone some in each turn of the loop."""
        for stream in self._lost[:_ENDED]:  # ≤ _ENDED
            self.services.deadlines.forget(stream)
            stream.lose()
        self._lost = self._lost[_ENDED:]
        if self._lost:
            self.services.loop.call_soon(self._lose_some)

    def _note(self, refusal: Refused) -> None:
        services = self.services
        services.counters.service(UNROUTED).failed(refusal.fault.code)
        address = self.facts.address.decode("ascii")
        services.faults.refusal(refusal.fault, refusal.detail, address)

    def _violate(self, stream: ServerStream, code: int, detail: str) -> None:
        """The client breaks the protocol on a stream."""
        self._note(Refused(BAD_REQUEST, detail))
        self.reset_stream(stream, code)
        stream.lose()
        self.limits.note_violation(self.services.now())
