"""HTTP/1.1 to one instance: a request out, its answer in, one exchange at a time."""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.engine.deadlines import NEVER
from proxy.engine.http1.answers import MAX_HEAD, lenient_head, refuse_part
from proxy.engine.http1.body import (
    BodyReader,
    ChunkedBody,
    LengthBody,
    UntilCloseBody,
    in_chunks,
)
from proxy.engine.http1.heads import extra_lines, request_head
from proxy.engine.http1.keepalive import KeptConnection, Upstreams, promised
from proxy.engine.http1.parser import (
    LONGEST_BLOCK,
    find_end,
    read_response_fields,
    response_of,
)
from proxy.engine.http1.second_descriptor import second_descriptor
from proxy.engine.node import Node
from proxy.engine.streams import Loss, StreamEvents
from proxy.errors import (
    BAD_ANSWER,
    CLOSED_EARLY,
    CUT_SHORT,
    FIRST_BYTE_TIMEOUT,
    IDLE_TIMEOUT,
    Fault,
    Refused,
)
from proxy.http.messages import CRLF, ResponseHead
from proxy.http.request_id import IdField
from proxy.settings.service import ServiceSettings

MAX_INTERIM: Final = 1000
"""1xx to one request. An instance that reports progress each five seconds (102) needs as many in
an hour and a half; one that sends more has lost its way, and each is work for us and the client."""


class UpstreamConnection(KeptConnection):
    """Owns where in the answer of its instance the connection stands."""

    __slots__ = ("_due", "_ended_well", "_full", "_head", "_ids", "_interims", "_known", "_latest",
                 "_more", "_paused", "_pending", "_reader")  # fmt: skip

    def __init__(self, node: Node, settings: ServiceSettings, upstreams: Upstreams) -> None:
        super().__init__(node, settings, upstreams)
        self._full = False
        """The instance does not read as fast as we write."""
        self._latest = b""  # ≤ LONGEST_BLOCK
        """The latest head, and what was read of it for listeners that name requests so."""
        self._known: ResponseHead | None = None  # ≤ LONGEST_BLOCK * 16
        self._ids: IdField | None = None
        # for one exchange
        self._interims = 0
        """1xx so far."""
        self._pending = b""  # ≤ MAX_HEAD + 256 KiB
        self._head: ResponseHead | None = None
        self._reader: BodyReader | None = None
        self._paused = False
        """The client does not read as fast as the instance writes."""
        self._more = False
        """More was read than one turn of the loop passes on."""
        self._due = False
        """The next turn of the loop to pass on more is arranged."""
        self._ended_well = False
        """The connection is gone, by an end and not by an error."""

    # -- one exchange

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
        request = events.request
        if settings is not self._settings:
            self._adopt(settings)  # A reload reaches connections at their next exchange.
        self._events = events
        self._uses += 1
        self._interims = 0
        extra = b""
        if events.upgrade is not None or events.prefix is not None:
            extra = extra_lines(events.upgrade, events.prefix) + events.client.key_line
        head = request_head(
            request, events.target, events.set_host, events.id_line, extra, events.client.facts
        )
        if request.fields.chunked:
            pieces = in_chunks(pieces, done, trailers)
        if pieces:
            self.transport.writelines([head, *pieces])
        else:
            self.transport.write(head)
        limit = self._first_byte
        self.asked = now
        self.deadline = now + limit if limit else NEVER
        if self.deadline < self.filed:
            self._deadlines.file(self, self.deadline)

    def send(self, pieces: list[bytes], done: bool, trailers: bytes) -> None:
        """See `UpstreamStream`."""
        events = self._events
        if events is not None and events.request.fields.chunked:
            pieces = in_chunks(pieces, done, trailers)
        if self.closed or not pieces:
            return
        if self._dup is None and self._head is None:
            self._dup = second_descriptor(self.transport)
        self.transport.writelines(pieces)

    def expect_answer(self) -> None:
        """See `UpstreamStream`."""
        limit = self._first_byte
        if self._head is None and limit and not self.closed:
            self._deadlines.arm(self, self._deadlines.now() + limit)

    def expect_nothing(self) -> None:
        """See `UpstreamStream`."""
        if self._head is None:
            self.deadline = NEVER

    def release(self, now: float) -> None:
        """See `UpstreamStream`. The connection is kept if that is safe and useful, and closed
        otherwise."""
        if self._dup is not None:
            self._drop_dup()
        head = self._head
        limit = self._idle
        if head is not None and head.fields.keep_alive is not None:
            limit = min(limit, promised(head.fields.keep_alive) - 1.0)
        ended = (
            head is None
            or self._pending
            or isinstance(self._reader, UntilCloseBody)
            or not head.fields.keeps_alive[head.minor]
            or self._uses >= self._max_uses
            or self._full  # It answered without reading all of the request.
        )
        if self._paused:
            # The last piece filled the client's buffer. The next exchange has another client,
            # and an idle connection that is not read cannot tell that it was closed.
            self._paused = False
            if not self.closed:
                self.transport.resume_reading()
        self._events = None
        self._head = None
        self._reader = None
        if ended or limit <= 0:
            self.close()
        else:
            self.park(now, limit)

    def hand_over(self) -> tuple[asyncio.Transport, bytes]:
        """See `UpstreamStream`."""
        self._let_go()
        self._discount()
        rest, self._pending = self._pending, b""
        return self.transport, rest

    # -- back-pressure

    def pause_reading(self) -> None:
        """See `UpstreamStream`."""
        # Also one that is gone, as long as there is something left of what it said.
        if not self._paused and (self._more or self._dup is not None or not self.closed):
            self._paused = True
            if not self.closed:
                self.transport.pause_reading()
            self._deadlines.arm(self, NEVER)  # Not the instance's silence.

    def resume_reading(self) -> None:
        """See `UpstreamStream`."""
        if not self._paused:
            return
        self._paused = False
        if self._more:
            self._arrange_turn()
        elif not self.closed:
            self.transport.resume_reading()
            self._expect_more(self._deadlines.now())

    def _fall_behind(self) -> None:
        """More was read than one turn of the loop passes on; until it is, no more is read."""
        self._more = True
        if not self.closed and not self.transport.is_closing():
            self.transport.pause_reading()
        if not self._paused:
            self._arrange_turn()

    def _arrange_turn(self) -> None:
        if not self._due:
            self._due = True
            self._upstreams.soon(self._read_on)

    def _read_on(self) -> None:
        """The next piece of what was read already."""
        self._due = False
        events = self._events
        if events is None or self._paused or not self._more:
            return  # It ended otherwise; or `resume_reading` arranges the next turn.
        self._more = False
        try:
            if not self.closed and not self.transport.is_closing():
                self.transport.resume_reading()  # It is paused again if there is yet more.
            reader = self._reader
            if self._pending if reader is None else reader.behind:
                self.data_received(b"")
            if self.closed and self._events is events and not self._more:
                self._on_end(events)
        except Exception as error:
            self._fail_inside(events, error)

    def pause_writing(self) -> None:
        self._full = True
        events = self._events
        if events is not None:
            try:
                events.on_upstream_full()
            except Exception as error:
                self._fail_inside(events, error)

    def resume_writing(self) -> None:
        self._full = False
        events = self._events
        if events is not None:
            try:
                events.on_upstream_drained()
            except Exception as error:
                self._fail_inside(events, error)

    # -- what the instance says

    def data_received(self, data: bytes) -> None:
        events = self._events
        if events is None:
            # Nothing was asked: an answer without a question must not meet the next one.
            self._drop_idle()
            return
        try:
            if self._reader is not None:
                self._on_body(events, data)
                return
            pace = self._upstreams.pace
            left = pace.left = pace.left - 1
            if data and (self._more or (left < 0 and pace.is_over())):
                self._put_off(data)
            elif self._pending:
                # Behind what is there of a head already; or nothing, behind a 1xx: then nobody has
                # looked at what is there. A head that comes byte by byte is not searched whole
                # for each.
                pending, self._pending = self._pending, b""
                self._on_head(events, pending + data, max(0, len(pending) - 3) if data else 0)
            else:
                self._on_head(events, data, 0)
        except Refused as refusal:
            self._refuse(events, refusal)
        except Exception as error:
            self._fail_inside(events, error)

    def _put_off(self, data: bytes) -> None:
        """Pass the answer on in a later turn of the loop: this one was long."""
        self._pending += data
        if self._more:
            self.transport.pause_reading()  # Until then, so that there is not ever more of it.
        self._more = True
        if not self._due:
            self._due = True
            self._upstreams.pace.put_off(self._read_on)

    def _on_head(self, events: StreamEvents, data: bytes, seen: int) -> None:
        """`seen`: the head does not end among so many bytes."""
        ids = events.client.ids
        end, head = len(self._latest), self._known
        if head is None or ids is not self._ids or not data.startswith(self._latest):
            # Else it begins with the same head, to the byte, which ends where it ended before.
            end, head = self._read_head(data, seen, ids)
            if head is None:
                refuse_part(data)
                self._pending = data
                return
        status = head.status
        if status < 200:
            self._on_interim(events, head, data[end:])
            return
        self._head = head
        length = -1 if head.fields.length is None else head.fields.length
        if events.request.method == b"HEAD" or status == 204 or status == 304 or length == 0:
            self._pending = data[end:]
            events.on_answer(head, [], True, b"")
        elif length == len(data) - end:
            # The usual small answer: head and body in one read, so one write to the client.
            events.on_answer(head, [data[end:]], True, b"")
        else:
            self._begin_body(events, head, data[end:])

    def _read_head(self, data: bytes, seen: int, ids: IdField) -> tuple[int, ResponseHead | None]:
        """Where the head ends, and what it says; None: more of it is to come. `seen`: see
        `_on_head`."""
        end = find_end(data, seen) + 4
        refusal: Refused | None = None
        if 4 <= end <= MAX_HEAD:
            try:
                whole = data[:end]
                line, _, block = whole.partition(CRLF)
                head = response_of(line, read_response_fields(block, ids))
            except Refused as error:
                refusal = error
            else:
                if end <= LONGEST_BLOCK:
                    self._latest, self._known, self._ids = whole, head, ids
                return end, head
        return lenient_head(data, self._settings.lenient_answers, ids, refusal)

    def _on_interim(self, events: StreamEvents, head: ResponseHead, rest: bytes) -> None:
        """A 1xx. What follows it has the loop's next turn: there may be thousands in one read."""
        self._interims += 1
        if self._interims > MAX_INTERIM:
            raise Refused(BAD_ANSWER, f"more than {MAX_INTERIM} interim answers to one request")
        self._pending = rest
        events.on_interim(head)
        if rest and self._events is events:
            self._fall_behind()

    def _begin_body(self, events: StreamEvents, head: ResponseHead, data: bytes) -> None:
        """The content of the answer, of which `data` is here (RFC 9112 §6.3)."""
        reader: BodyReader
        if head.fields.length is not None:
            reader = LengthBody(head.fields.length)
        elif head.fields.chunked:
            reader = ChunkedBody(BAD_ANSWER, events.client.ids.beside(head.fields.connection))
        else:
            reader = UntilCloseBody()
        pieces, self._pending = reader.feed(data) if data else ([], b"")
        self._reader = reader
        if not reader.done:
            self._expect_more(self._deadlines.now())
        events.on_answer(head, pieces, reader.done, reader.trailers)
        if reader.behind and self._events is events:
            self._fall_behind()

    def _on_body(self, events: StreamEvents, data: bytes) -> None:
        assert self._reader is not None
        pieces, self._pending = self._reader.feed(data)
        if self._reader.done:
            events.on_body(pieces, True, self._reader.trailers)
        else:
            if not self._paused:
                self._expect_more(self._deadlines.now())
            events.on_body(pieces, False, b"")
            if self._reader.behind and self._events is events:
                self._fall_behind()

    def _expect_more(self, now: float) -> None:
        timeouts = self._settings.timeouts
        limit = timeouts.first_byte if self._head is None else timeouts.idle
        self._deadlines.arm(self, now + limit if limit else NEVER)

    # -- the end

    def eof_received(self) -> bool:
        # An instance that half-closes says nothing more; what it has not said is missing.
        if self._events is None:
            self._drop_idle()  # At once: until `connection_lost` somebody might pick it.
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._discount()
        self.closed = True
        self._deadlines.forget(self)
        events = self._events
        if events is None:
            self._drop_idle()
            return
        self._ended_well = error is None
        if not self._more:
            try:
                self._on_end(events)
            except Exception as failure:
                self._fail_inside(events, failure)

    def _on_end(self, events: StreamEvents) -> None:
        """The connection is gone, and what was read is passed on."""
        if self._dup is not None:
            if self._paused:
                self._more = True  # What the kernel holds waits until the client keeps up.
                return
            if self._read_the_rest(events):
                return
        self._deadlines.forget(self)
        if isinstance(self._reader, UntilCloseBody) and self._ended_well:
            events.on_body([], True, b"")
        elif self._head is None and not self._pending:
            self._fail(CLOSED_EARLY, f"{self._node.id} closed the connection before it answered")
        else:
            self._fail(CUT_SHORT, f"{self._node.id} closed the connection in mid-answer")

    def _read_the_rest(self, events: StreamEvents) -> bool:
        """Take in what the instance said before it reset the connection (RFC 9112 §9.6): what
        the kernel holds stays readable, and no more comes. A piece in each turn of the loop, while
        the client keeps up. False: that was all."""
        assert self._dup is not None
        data = self._dup.read(MAX_HEAD)
        if not data:
            self._drop_dup()
            return False
        self.data_received(data)
        if self._events is events:
            self._fall_behind()
        return True

    def on_deadline(self, now: float) -> None:
        """See `Timed`."""
        events = self._events
        if events is None:
            self._drop_idle()
            return
        try:
            if self._head is None:
                limit = self._settings.timeouts.first_byte
                self._fail(FIRST_BYTE_TIMEOUT, f"{self._node.id} did not answer within {limit:g} s")
            else:
                limit = self._settings.timeouts.idle
                self._fail(IDLE_TIMEOUT, f"{self._node.id} was silent for {limit:g} s")
        except Exception as error:
            self._fail_inside(events, error)

    def _fail(self, fault: Fault, detail: str) -> None:
        events = self._events
        self.abort()
        if events is not None:
            stale = fault is CLOSED_EARLY and self._uses > 1
            events.on_upstream_failed(self, Loss(fault, detail, stale, against=not stale))

    def _refuse(self, events: StreamEvents, refusal: Refused) -> None:
        """The answer is not acceptable."""
        try:
            self._fail(refusal.fault, refusal.detail)
        except Exception as error:
            self._fail_inside(events, error)

    def _fail_inside(self, events: StreamEvents, error: Exception) -> None:
        """Fail `events`, whose callback raised, and abort if its exchange is still under way."""
        events.fail_inside(error)
        if self._events is events:
            self.abort()
