"""One connection to an instance: answers in, one exchange at a time."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import select
from math import inf
from typing import TYPE_CHECKING, Final, cast

from proxy.engine.deadlines import NEVER, Deadlines, Timed
from proxy.engine.http1.body import BodyReader, ChunkedBody, LengthBody, UntilCloseBody
from proxy.engine.http1.lenient import harmless, harmless_end, lenient_end, strict
from proxy.engine.http1.messages import ResponseHead
from proxy.engine.http1.parser import HEAD_END, parse_response
from proxy.errors import (
    BAD_ANSWER,
    CLOSED_EARLY,
    CUT_SHORT,
    FIRST_BYTE_TIMEOUT,
    IDLE_TIMEOUT,
    Fault,
    Refused,
)

if TYPE_CHECKING:
    from proxy.engine.exchange import Exchange
    from proxy.engine.http1.request_id import IdField
    from proxy.engine.node import Node
    from proxy.engine.upstream.connector import Connector
    from proxy.settings.service import ServiceSettings

MAX_HEAD: Final = 64 * 1024
"""Twice what a client may send: instances set large cookies, and are trusted a little more."""
MAX_INTERIM: Final = 1000
"""1xx to one request. An instance that reports progress each five seconds (102) needs as many in
an hour and a half; one that sends more has lost its way, and each is work for us and the client."""


_BEGINNING: Final = b"HTTP/1."
_TIMEOUT: Final = re.compile(rb"(?:^|,)[ \t]*timeout=(\d{1,9})[ \t]*(?:,|$)", re.IGNORECASE)

_LAST: Final = 16
"""Descriptors that are left to those who cannot do without."""


EXCESS: Final = 1.0
"""Seconds that a connection beyond `keepalive.max_idle` stays for the next request. A thousand
clients served in one turn of the loop need a thousand connections in the next turn, too: closing
all but 64 of them in between would mean dialling at each request."""


class UpstreamConnection(Timed):
    """Owns the transport to one instance and where in the answer it stands."""

    __slots__ = (
        "_connector", "_deadlines", "_due", "_ear", "_ended_well", "_exchange", "_full", "_head",
        "_more", "_node", "_paused", "_pending", "_reader", "_settings", "_uses",
        "closed", "transport",
    )  # fmt: skip

    # -- for the life of the connection

    def __init__(
        self, node: Node, settings: ServiceSettings, deadlines: Deadlines, connector: Connector
    ) -> None:
        super().__init__()
        self._node = node
        self._settings = settings
        self._deadlines = deadlines
        self._connector = connector
        self._uses = 0
        self.closed = True
        """Not open any more, or not yet."""
        self._full = False
        """The instance does not read as fast as we write."""
        self.transport: asyncio.Transport
        # for one exchange
        self._exchange: Exchange | None = None
        self._pending = b""  # ≤ MAX_HEAD + 256 KiB
        self._head: ResponseHead | None = None
        self._reader: BodyReader | None = None
        self._paused = False
        """The client does not read as fast as the instance writes."""
        self._more = False
        """More was read than one turn of the loop passes on …"""
        self._due = False
        """… and the next turn is arranged."""
        self._ended_well = False
        """The connection is gone, by an end and not by an error."""
        self._ear = -1
        """A second descriptor of the socket while a body is sent in pieces; -1 = none. An
        instance may refuse an upload, close, and reset what we still send; uvloop closes the
        socket when a write fails, and with it goes the answer that the kernel has for us."""

    def __repr__(self) -> str:
        state = "closed" if self.closed else "idle" if self._exchange is None else "busy"
        return f"<UpstreamConnection {self._node.key} {state} uses={self._uses}>"

    @property
    def node(self) -> Node:
        """The instance at the other end."""
        return self._node

    @property
    def trailers(self) -> bytes:
        """The trailer fields of the answer, once it is complete."""
        return b"" if self._reader is None else self._reader.trailers

    @property
    def reused(self) -> bool:
        """The connection was idle before the present exchange, and may have been closed then."""
        return self._uses > 1

    def is_quiet(self) -> bool:
        """Nothing has come over this idle connection, its end included, that the loop has not
        told us of yet. One system call: for requests that cannot be sent a second time."""
        if self.transport.is_closing():
            return False  # It failed in this turn of the loop, and we are told in the next.
        sock = self.transport.get_extra_info("socket")
        if sock is None:
            return True
        poller = select.poll()
        poller.register(sock.fileno(), select.POLLIN)
        return not poller.poll(0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are not registered as such
        self._connector.open += 1
        self.closed = False

    def disown(self) -> None:
        """It was closed before anybody got it, perhaps before it was open."""
        if not self.closed:
            self.closed = True
            self._connector.open -= 1

    # -- one exchange

    def begin(self, exchange: Exchange, head: bytes, body: list[bytes], now: float) -> None:
        """Send a request head and what there is of its body; the answer goes to `exchange`."""
        pool = exchange.pool
        assert pool is not None
        self._settings = pool.settings  # A reload reaches connections at their next exchange.
        self._exchange = exchange
        self._uses += 1
        if body:
            self.transport.writelines([head, *body])
        else:
            self.transport.write(head)
        limit = self._settings.timeouts.first_byte
        self.deadline = now + limit if limit else NEVER
        if self.deadline < self.filed:
            self._deadlines.file(self, self.deadline)

    def send(self, pieces: list[bytes]) -> None:
        """More of the request body."""
        if self.closed:
            return
        if self._ear < 0 and self._head is None:
            self._ear = _second_descriptor(self.transport)
        self.transport.writelines(pieces)

    def expect_answer(self) -> None:
        """It is the instance's turn: to read, or to answer. The clock for that starts anew."""
        limit = self._settings.timeouts.first_byte
        if self._head is None and limit and not self.closed:
            self._deadlines.arm(self, self._deadlines.now() + limit)

    def expect_nothing(self) -> None:
        """It is not: the client has yet to send more of the body."""
        if self._head is None:
            self.deadline = NEVER

    def release(self, now: float) -> None:
        """The exchange is over and complete on both sides: keep the connection if that is
        safe and useful, close it otherwise."""
        if self._ear >= 0:
            self._stop_listening()
        head = self._head
        keepalive = self._settings.keepalive
        limit = keepalive.idle
        if head is not None and head.fields.keep_alive is not None:
            limit = min(limit, _promised(head.fields.keep_alive) - 1.0)
        ended = (
            head is None
            or self._pending
            or isinstance(self._reader, UntilCloseBody)
            or not head.fields.keeps_alive[head.minor]
            or self._uses >= keepalive.max_requests
            or self._full  # It answered without reading all of the request.
        )
        if self._paused:
            # The last piece filled the client's buffer. The next exchange has another client,
            # and an idle connection that is not read cannot tell that it was closed.
            self._paused = False
            if not self.closed:
                self.transport.resume_reading()
        self._exchange = None
        self._head = None
        self._reader = None
        if ended or limit <= 0:
            self.close()
        else:
            self.park(now, limit)

    def park(self, now: float, limit: float | None = None) -> None:
        """Wait for the next exchange for `limit` seconds. None: there was no exchange yet, and the
        service's idle limit counts."""
        node = self._node
        keepalive = self._settings.keepalive
        if self.closed or not node.admitted or not keepalive.max_idle:
            self.close()
            return
        if limit is None:
            limit = keepalive.idle
            self._uses = 1  # It will have been idle like one that was used: see `reused`.
        if len(node.idle) >= keepalive.max_idle:
            limit = min(limit, EXCESS)
        node.idle.append(self)
        self.deadline = now + limit
        if self.deadline < self.filed:
            self._deadlines.file(self, self.deadline)

    def close(self) -> None:
        """Nothing is under way; whatever the instance still says is of no interest."""
        self._exchange = None
        self._deadlines.forget(self)
        self._stop_listening()
        if not self.closed:
            self.closed = True
            if self.transport.get_write_buffer_size():
                # The rest of a request that was answered before it was read: `close` would
                # wait for an instance that may never read it.
                self.transport.abort()
            else:
                self.transport.close()

    def abort(self) -> None:
        """Close now: the request must not be completed behind our back."""
        self._exchange = None
        self._deadlines.forget(self)
        self._stop_listening()
        if not self.closed:
            self.closed = True
            self.transport.abort()

    def hand_over(self) -> bytes:
        """The connection becomes a tunnel: it belongs to the caller from here on. Returns what
        came behind the head."""
        self._exchange = None
        self._deadlines.forget(self)
        self._stop_listening()
        self._connector.open -= 1
        rest, self._pending = self._pending, b""
        return rest

    # -- back-pressure

    def pause_reading(self) -> None:
        """The client does not keep up."""
        if not self._paused and (self._more or not self.closed):
            self._paused = True
            if not self.closed:
                self.transport.pause_reading()
            self._deadlines.arm(self, NEVER)  # Not the instance's silence.

    def resume_reading(self) -> None:
        """The client has caught up."""
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
            self._connector.soon(self._read_on)

    def _read_on(self) -> None:
        """The next piece of what was read already."""
        self._due = False
        exchange = self._exchange
        if exchange is None or self._paused or not self._more:
            return  # It ended otherwise; or `resume_reading` arranges the next turn.
        self._more = False
        try:
            if not self.closed and not self.transport.is_closing():
                self.transport.resume_reading()  # It is paused again if there is yet more.
            reader = self._reader
            if self._pending if reader is None else reader.behind:
                self.data_received(b"")
            if self.closed and self._exchange is exchange and not self._more:
                self._on_end(exchange)
        except Exception as error:
            self._fail_inside(exchange, error)

    def pause_writing(self) -> None:
        self._full = True
        exchange = self._exchange
        if exchange is not None:
            try:
                exchange.on_upstream_full()
            except Exception as error:
                self._fail_inside(exchange, error)

    def resume_writing(self) -> None:
        self._full = False
        exchange = self._exchange
        if exchange is not None:
            try:
                exchange.on_upstream_drained()
            except Exception as error:
                self._fail_inside(exchange, error)

    # -- what the instance says

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            # Nothing was asked: an answer without a question must not meet the next one.
            self._drop_idle()
            return
        try:
            if self._reader is not None:
                self._on_body(exchange, data)
            elif self._pending:
                self._on_more_of_head(exchange, data)
            else:
                self._on_head(exchange, data, data.find(HEAD_END) + 4)
        except Refused as refusal:
            self._refuse(exchange, refusal)
        except Exception as error:
            self._fail_inside(exchange, error)

    def _on_more_of_head(self, exchange: Exchange, data: bytes) -> None:
        """`data` behind what is there of a head already; or nothing, behind a 1xx: then nobody has
        looked at what is there. A head that comes byte by byte is not searched whole for each."""
        pending, self._pending = self._pending, b""
        seen = max(0, len(pending) - 3) if data else 0
        data = pending + data
        self._on_head(exchange, data, data.find(HEAD_END, seen) + 4)

    def _on_head(self, exchange: Exchange, data: bytes, end: int) -> None:
        """`end`: where the head in `data` ends; less than 4 if it is not whole."""
        ids = exchange.client.ids
        if end < 4 or end > MAX_HEAD:
            found = self._leniently(data, ids)
            if found is None:
                if len(data) > MAX_HEAD:
                    raise Refused(BAD_ANSWER, f"the answer's head is longer than {MAX_HEAD} bytes")
                if not _BEGINNING.startswith(data[: len(_BEGINNING)]):
                    # Not when the time for an answer is over, which it never becomes.
                    tls = data[:1] in (b"\x15", b"\x16")
                    raise Refused(BAD_ANSWER, "TLS, not HTTP" if tls else "not HTTP/1.x")
                self._pending = data
                return
            end, head = found
        else:
            try:
                head = parse_response(data[:end], ids)
            except Refused:
                found = self._leniently(data, ids)
                if found is None:
                    raise
                end, head = found
        status = head.status
        if status < 200:
            self._on_interim(exchange, head, data[end:])
            return
        self._head = head
        length = head.fields.length
        if exchange.request.method == b"HEAD" or status == 204 or status == 304 or length == 0:
            self._pending = data[end:]
            exchange.on_answer(head, [], True)
        elif length == len(data) - end:
            # The usual small answer: head and body in one read, so one write to the client.
            exchange.on_answer(head, [data[end:]], True)
        else:
            reader: BodyReader
            if length is not None:
                reader = LengthBody(length)
            elif head.fields.chunked:
                reader = ChunkedBody(BAD_ANSWER, ids.beside(head.fields.connection))
            else:
                reader = UntilCloseBody()
            pieces, self._pending = reader.feed(data[end:]) if len(data) > end else ([], b"")
            self._reader = reader
            if not reader.done:
                self._expect_more(self._deadlines.now())
            exchange.on_answer(head, pieces, reader.done)
            if reader.behind and self._exchange is exchange:
                self._fall_behind()

    def _on_interim(self, exchange: Exchange, head: ResponseHead, rest: bytes) -> None:
        """A 1xx. What follows it has the loop's next turn: there may be thousands in one read."""
        exchange.interims += 1
        if exchange.interims > MAX_INTERIM:
            raise Refused(BAD_ANSWER, f"more than {MAX_INTERIM} interim answers to one request")
        self._pending = rest
        exchange.on_interim(head)
        if rest and self._exchange is exchange:
            self._fall_behind()

    def _leniently(self, data: bytes, ids: IdField) -> tuple[int, ResponseHead] | None:
        """Where a head ends that no strict reader finds or accepts, and the head, if the service
        allows that; None if it does not, or there is no whole one. Raises `Refused`."""
        allowed = self._settings.lenient_answers
        if allowed is False:
            return None
        end = lenient_end(data) if allowed else harmless_end(data)
        if not 0 < end <= MAX_HEAD:
            return None
        if allowed:
            return end, parse_response(strict(data[:end]), ids)
        head = parse_response(harmless(data[:end]), ids)
        if head.status < 200:
            raise Refused(BAD_ANSWER, "an interim answer that no strict reader accepts")
        return end, head

    def _on_body(self, exchange: Exchange, data: bytes) -> None:
        assert self._reader is not None
        pieces, self._pending = self._reader.feed(data)
        if self._reader.done:
            exchange.on_body(pieces, True)
        else:
            if not self._paused:
                self._expect_more(self._deadlines.now())
            exchange.on_body(pieces, False)
            if self._reader.behind and self._exchange is exchange:
                self._fall_behind()

    def _expect_more(self, now: float) -> None:
        timeouts = self._settings.timeouts
        limit = timeouts.first_byte if self._head is None else timeouts.idle
        self._deadlines.arm(self, now + limit if limit else NEVER)

    # -- the end

    def eof_received(self) -> bool:
        # An instance that half-closes says nothing more; what it has not said is missing.
        if self._exchange is None:
            self._drop_idle()  # At once: until `connection_lost` somebody might pick it.
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._connector.open -= 1
        self.closed = True
        self._deadlines.forget(self)
        exchange = self._exchange
        if exchange is None:
            self._drop_idle()
            return
        self._ended_well = error is None
        if not self._more:
            try:
                self._on_end(exchange)
            except Exception as failure:
                self._fail_inside(exchange, failure)

    def _on_end(self, exchange: Exchange) -> None:
        """The connection is gone, and what was read is passed on."""
        if self._ear >= 0 and self._read_the_rest():
            return
        self._deadlines.forget(self)
        if isinstance(self._reader, UntilCloseBody) and self._ended_well:
            exchange.on_body([], True)
        elif self._head is None and not self._pending:
            self._fail(CLOSED_EARLY, f"{self._node.id} closed the connection before it answered")
        else:
            self._fail(CUT_SHORT, f"{self._node.id} closed the connection in mid-answer")

    def _read_the_rest(self) -> bool:
        """Take in what the instance said before it reset the connection (RFC 9112 §9.6): what
        the kernel holds stays readable, and no more comes. A piece in each turn of the loop, while
        the client keeps up. False: that was all."""
        exchange = self._exchange
        try:
            data = os.read(self._ear, MAX_HEAD)
        except OSError:
            data = b""
        if not data:
            self._stop_listening()
            return False
        self.data_received(data)
        if self._exchange is exchange:
            self._fall_behind()
        return True

    def _stop_listening(self) -> None:
        if self._ear >= 0:
            # Before, or together with, the transport's: the last one to be closed ends the
            # connection.
            os.close(self._ear)
            self._ear = -1

    def on_deadline(self, now: float) -> None:
        """See `Timed`."""
        exchange = self._exchange
        if exchange is None:
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
            self._fail_inside(exchange, error)

    def _fail(self, fault: Fault, detail: str) -> None:
        exchange = self._exchange
        self.abort()
        if exchange is not None:
            exchange.on_upstream_failed(self, fault, detail)

    def _refuse(self, exchange: Exchange, refusal: Refused) -> None:
        """The answer is not acceptable."""
        try:
            self._fail(refusal.fault, refusal.detail)
        except Exception as error:
            self._fail_inside(exchange, error)

    def _fail_inside(self, exchange: Exchange, error: Exception) -> None:
        """Something raised in a callback that was about `exchange`."""
        exchange.fail_inside(error)
        if self._exchange is exchange:
            self.abort()

    def _drop_idle(self) -> None:
        try:
            self._node.idle.remove(self)
        except ValueError:
            pass  # It was not idle: handed over, or closed by us.
        self.close()


def _second_descriptor(transport: asyncio.Transport) -> int:
    """Another descriptor of a transport's socket; -1 if it has none, or none are left."""
    sock = transport.get_extra_info("socket")
    if sock is None or transport.is_closing():
        return -1
    try:
        ear = os.dup(sock.fileno())
    except OSError:
        return -1
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if ear >= soft - _LAST:
        # The lowest one that was free: the last ones are for connections.
        os.close(ear)
        return -1
    return ear


def _promised(keep_alive: bytes) -> float:
    """`Keep-Alive: timeout=N` in seconds; infinite when it says nothing readable. We stop a
    second earlier, so that the request and the instance's close do not cross."""
    match = _TIMEOUT.search(keep_alive)
    return inf if match is None else float(match[1])
