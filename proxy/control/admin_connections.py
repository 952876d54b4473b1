"""The admin server's connections: how many there may be, and for how long one may wait for its
peer. Whoever may connect without a token could otherwise hold all of them, or all descriptors of
the process that follows the registry.

    accepted ─▶ waits for a head ─▶ has a request ─▶ waits for a head ─▶ …
                   HEAD seconds       REQUEST           IDLE, and HEAD from the first byte on

Under TLS a handshake of HEAD seconds comes first (`admin_tls.py`).

When there is no more room, somebody goes: `first_to_go`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from proxy.control import status as documents
from proxy.control.registrations import Refusal

log = structlog.get_logger()

MOST = 128
"""Connections: a scraper, probes, dashboards and terminals of a team, several times over."""

DESCRIPTORS = 4
"""At most one part in so many of the process's descriptors is for connections. The rest follows the
registry, checks instances and talks to the workers."""

HEAD = 10.0
"""Seconds for the head of a request, as the listeners have."""

REQUEST = 30.0
"""Seconds from a head to the last byte of the answer that the peer took. A scrape of 20,000
instances takes a quarter of one."""

BODY = 10.0
"""Seconds for the body of a request, which is a few kilobytes."""

IDLE = 75.0
"""Seconds between an answer and the next head, as the listeners have. Prometheus asks each 15 to
60 seconds."""

LINGER = 2.0
"""Seconds for the peer to take an answer after which the connection is closed."""

PATIENCE = 2.0
"""Seconds after which a request that is still not answered may go when there is no more room."""

HEAD_BYTES = 64 * 1024
"""Bytes that a peer may send before its request begins."""

REASONS = ("no_room", "made_room", "slow_head", "slow_request", "large_head", "no_handshake")
"""Why a connection is closed before its peer means to."""

PAUSE = 10.0
"""Seconds between two lines of the log about connections that were closed."""


@dataclass(slots=True, eq=False)
class Guest:
    """A connection as the door knows it."""

    peer: str
    """Address of the peer; "" on a unix socket."""
    since: float
    """When it began to wait, or its request began: monotonic seconds."""
    busy: bool = False
    """The connection has a request that is being answered."""
    streaming: bool = False
    """The answer to it goes on for as long as the peer likes."""


def first_to_go(guests: Iterable[Guest], now: float) -> Guest | None:
    """The connection that makes room for a new one; None = none does.

    Of those that have no request the one that waits longest, and of those of the peer that has most
    of all: so that a peer that opens one after the other closes its own. If all have one, of those
    that do not take the answer, then of those that listen to events.
    """
    all_ = list(guests)
    of_peer = Counter(guest.peer for guest in all_)
    waiting = [guest for guest in all_ if not guest.busy]
    stuck = [
        guest
        for guest in all_
        if guest.busy and not guest.streaming and now - guest.since > PATIENCE
    ]
    listening = [guest for guest in all_ if guest.streaming]
    return max(
        waiting or stuck or listening,
        key=lambda guest: (of_peer[guest.peer], now - guest.since),
        default=None,
    )


def room(descriptors: int) -> int:
    """Connections for a process that may have so many descriptors."""
    return min(MOST, descriptors // DESCRIPTORS)


class Door(web.Server):
    """Owns the connections that are open, and what became of those that were closed early."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        most: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        closed: Counter[str] | None = None,
    ) -> None:
        """`most`: connections; `closed`: counts to go on with."""
        # Its own limit for idle connections is there too, but does not tell a slow head from none.
        super().__init__(
            handler,
            access_log=None,
            keepalive_timeout=2 * IDLE,
            lingering_time=LINGER,
            auto_decompress=False,
        )
        self.most = most
        self.clock = clock
        self.guests: dict[Guest, Connection] = {}
        self.closed = Counter(dict.fromkeys(REASONS, 0)) if closed is None else closed
        """Reason → connections."""
        self.answering: set[asyncio.Task[Any]] = set()  # ≤ most
        self._told_at = -PAUSE

    def __call__(self) -> Connection:
        return Connection(self, **self._kwargs)

    async def shutdown(self, timeout: float | None = None) -> None:
        """Close the connections: those with a request once it is answered, or after `timeout`
        seconds. aiohttp fails when an answer ends at the moment at which it gives up to wait for
        it, so none is left to it."""
        self.pre_shutdown()
        for _ in range(2):  # The second time those that are given up end.
            if self.answering:
                await asyncio.wait(self.answering, timeout=timeout)
            for task in self.answering:
                task.cancel()
        await super().shutdown(timeout)

    def enter(self, guest: Guest, connection: Connection) -> bool:
        """Whether there is room, which somebody else may have to make."""
        if len(self.guests) >= self.most:
            leaves = first_to_go(self.guests, self.clock())
            if leaves is None:
                self.count("no_room", guest)
                return False
            self.guests.pop(leaves).end()
            self.count("made_room", leaves)
        self.guests[guest] = connection
        return True

    def count(self, why: str, guest: Guest) -> None:
        """A connection is closed for this reason."""
        self.closed[why] += 1
        now = self.clock()
        if now - self._told_at >= PAUSE:
            self._told_at = now
            log.warning(
                "admin_connection_closed", reason=why, peer=guest.peer, so_far=dict(self.closed)
            )


class Connection(web.RequestHandler):
    """One connection, with a limit to whatever it waits for."""

    def __init__(self, door: Door, **settings: Any) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(door, loop=loop, **settings)
        self._call_later = loop.call_later
        self._door = door
        self._guest = Guest("", door.clock())
        self._wire: asyncio.Transport | None = None
        self._unread = 0
        """Bytes that came since the last request began."""
        self._idle = False
        """The last request has been answered, and nothing came since."""
        self._timer: asyncio.TimerHandle | None = None
        self._entered = False
        self._give_up: Callable[[], object] | None = None
        """Ends the handshake that comes first."""

    def arrive(self, peer: object, give_up: Callable[[], object] | None = None) -> bool:
        """The connection is there, and as long as its handshake is not done, `give_up` ends it.
        False = there is no room for it."""
        self._guest.peer = str(peer[0]) if isinstance(peer, tuple) else ""
        self._give_up = give_up
        self._entered = self._door.enter(self._guest, self)
        return self._entered

    def not_secured(self, *, told: bool) -> None:
        """There was no handshake; `told`: that is not what the peer meant."""
        if self._door.guests.pop(self._guest, None) is not None and told:
            self._door.count("no_handshake", self._guest)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)
        if not self._entered and not self.arrive(transport.get_extra_info("peername")):
            self._wire.abort()
            return
        super().connection_made(transport)
        self._limit(HEAD)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._limit(None)
        self._wire = None
        self._door.guests.pop(self._guest, None)
        if self._entered:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._idle and data:  # aiohttp gives nothing to go on with what it holds already.
            self._idle = False
            self._limit(HEAD)
        self._unread += len(data)
        super().data_received(data)
        # A request that is here is handled in the next turn of the loop.
        if self._unread > HEAD_BYTES and not (self._guest.busy or self._messages):
            self._refuse(431, f"a head has at most {HEAD_BYTES} bytes", "large_head")

    @contextmanager
    def serving(self, request: web.BaseRequest) -> Iterator[None]:
        """A request, from its head to the end of its answer."""
        self._guest.busy, self._guest.since = True, self._door.clock()
        self._unread, self._idle = 0, False
        self._limit(REQUEST)
        task = asyncio.current_task()
        assert task is not None
        self._door.answering.add(task)
        task.add_done_callback(self._door.answering.discard)
        if self._wire is not None and request.content.is_eof():
            # What comes behind it waits in the kernel.
            self._wire.pause_reading()
        try:
            yield
        finally:
            self._guest.busy, self._guest.since = False, self._door.clock()
            self._guest.streaming = False
            # Or what waits behind it would grow with each answer.
            if not self._messages and self._wire is not None and not self._wire.is_closing():
                self._wire.resume_reading()
            self._idle = True
            self._limit(IDLE)

    def stream(self) -> None:
        """The answer is one without an end: whoever writes it sets the limits."""
        self._guest.streaming = True
        self._limit(None)
        if self._wire is not None:
            self._wire.resume_reading()  # Or nobody would notice that the peer leaves.

    def end(self) -> None:
        """Close at once, whatever is not sent yet."""
        if self._wire is not None:
            self._wire.abort()
        elif self._give_up is not None:
            self._give_up()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no request."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        if isinstance(exc, LineTooLong):
            status = 431
        response = web.Response(
            body=_problem(status, message or ""),
            status=status,
            content_type="application/problem+json",
        )
        response.force_close()
        return response

    # --------------------------------------------------------------------------- private

    def _limit(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None and self._wire is not None:
            self._timer = self._call_later(seconds, self._late)

    def _late(self) -> None:
        self._timer = None
        if self._guest.busy:
            self._door.count("slow_request", self._guest)
            self.end()
        elif self._unread:
            self._refuse(408, f"the head was not here within {HEAD:g} seconds", "slow_head")
        else:
            self.end()

    def _refuse(self, status: int, detail: str, why: str) -> None:
        if self._wire is None or self._wire.is_closing():
            self.end()
            return
        self._door.count(why, self._guest)
        body = _problem(status, detail)
        self._wire.write(
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            "Content-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        self.force_close()
        self._limit(LINGER)


async def read_body(request: web.BaseRequest, most: int) -> bytes:
    """The whole body of a request, of so many bytes at most. Refusal."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refusal(415, "a body is taken as it is, without Content-Encoding")
    too_large = Refusal(413, f"a body has at most {most} bytes")
    if (request.content_length or 0) > most:
        raise too_large
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # The answer has not begun.
    body = bytearray()
    try:
        async with asyncio.timeout(BODY):
            while piece := await request.content.readany():
                body += piece
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise Refusal(408, f"the body was not here within {BODY:g} seconds") from None
    except web.RequestPayloadError as error:
        raise Refusal(400, f"the body is not as its framing says: {error}") from None
    return bytes(body)


def _problem(status: int, detail: str) -> bytes:
    title = HTTPStatus(status).phrase
    return json.dumps(documents.problem(status, title, detail)).encode()
