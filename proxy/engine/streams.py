"""Interfaces of an exchange and the two sides it stands between, in any version of HTTP.

    client ⇄ ClientStream ⇄ Exchange (StreamEvents) ⇄ UpstreamStream ⇄ instance

A stream carries one request and its answer: heads as values, pieces of content, trailers, the end,
and how far the other side keeps up. Framing, keep-alive and how a head is written are the stream's
own affair. Of HTTP/1 a connection is itself the stream, one at a time; of HTTP/2 it owns many.

These are base classes, since what is compiled calls one at the price of a method (4 ns), and a
`typing.Protocol` at eight times that (decision 0020).
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from proxy.engine.deadlines import Timed
from proxy.engine.edge import Edge
from proxy.engine.listener_counts import ListenerCounts
from proxy.engine.resilience.queue import Waiter
from proxy.errors import Fault
from proxy.http.forwarding import ClientFacts
from proxy.http.messages import OwnAnswer, RequestHead, ResponseHead
from proxy.http.request_id import IdField
from proxy.settings.service import ServiceSettings


class Loss(NamedTuple):
    """Why an attempt brings no answer, or no more of one."""

    fault: Fault
    detail: str
    stale: bool = False
    """The connection was used before, and was closed, as far as we know, with no regard to this
    request."""
    unsent: bool = False
    """There was no connection, or the instance says that it has done nothing about the request."""
    against: bool = True
    """The loss speaks against the instance, and nobody was told so yet."""


class StreamEvents(Waiter):
    """A request on its way, and what streams tell of it. An exchange hears it."""

    client: ClientStream
    request: RequestHead
    """Head of the request as the client sent it."""
    target = b""  # ≤ 64 KiB
    """Path and query that any instance gets."""
    set_host: str | None = None
    """Host that the instance gets, if it is another than the client's."""
    id_line = b""  # ≤ 512 B
    """Field line that names the request, which the client gets, too; empty where there is no such
    field, or not yet."""
    upgrade: bytes | None = None  # ≤ 64 KiB
    """Protocols that the client offers."""
    prefix: bytes | None = None  # ≤ 64 KiB
    """Prefix of the instance's paths for the client."""

    # -- from the client's side

    def start(self, body_done: bool) -> None:
        """The head is read. `body_done`: there is no body, or all of it is here already."""
        raise NotImplementedError

    def on_request_body(self, pieces: list[bytes], done: bool) -> None:
        """More of the body from the client; `done` with the last of it."""
        raise NotImplementedError

    def on_bad_body(self, fault: Fault, detail: str) -> None:
        """The client's body cannot be read, is too large, or does not come."""
        raise NotImplementedError

    def on_client_full(self) -> None:
        """The client does not keep up with the answer."""
        raise NotImplementedError

    def on_client_drained(self) -> None:
        """The client keeps up with the answer again."""
        raise NotImplementedError

    def on_client_gone(self) -> None:
        """The client's stream is lost: nobody waits for the answer any more."""
        raise NotImplementedError

    # -- from the instance's side

    def on_interim(self, response: ResponseHead) -> None:
        """A 1xx answer; more answers follow, but for 101."""
        raise NotImplementedError

    def on_answer(
        self, response: ResponseHead, pieces: list[bytes], done: bool, trailers: bytes
    ) -> None:
        """The head of the final answer, with as much of the content as came along. `done`: that
        is all, but for `trailers`, which are field lines."""
        raise NotImplementedError

    def on_body(self, pieces: list[bytes], done: bool, trailers: bytes) -> None:
        """More of the answer's content; `done` with the last of it."""
        raise NotImplementedError

    def on_upstream_full(self) -> None:
        """The instance does not keep up with the request's body."""
        raise NotImplementedError

    def on_upstream_drained(self) -> None:
        """The instance keeps up with the request's body again."""
        raise NotImplementedError

    def on_upstream_failed(self, upstream: UpstreamStream, loss: Loss) -> None:
        """The stream is gone; before, in, or after the head of the answer."""
        raise NotImplementedError

    # -- from either

    def fail_inside(self, error: Exception) -> None:
        """End the request for an error that was raised in a callback about it."""
        raise NotImplementedError


class ClientStream(Timed):
    """The client's side of one request at a time."""

    __slots__ = ("counts", "edge", "facts", "full", "ids", "key_line", "trailers")

    def __init__(self) -> None:
        super().__init__()
        self.counts: ListenerCounts
        """The listener's, which also say whether it is left."""
        self.facts: ClientFacts
        self.ids: IdField
        """How requests are named."""
        self.edge: Edge | None = None
        """Demands on requests before they are routed."""
        self.full = False
        """The client does not read as fast as we write."""
        self.key_line = b""  # ≤ 256 B
        """Field line that an upgrade to WebSocket has in HTTP/1, and this client cannot say."""
        self.trailers = b""  # ≤ 32 KiB
        """Trailer fields of the request's body, as field lines, once it is here whole."""

    @property
    def number(self) -> int:
        """Of the stream, in HTTP/2; below 0 = the connection is the stream."""
        return -1

    @property
    def owes_body(self) -> bool:
        """Whether it is the client's turn to send more of the body."""
        raise NotImplementedError

    @property
    def owes(self) -> bool:
        """Whether it is the client's turn: to send more of the body, or to read the answer."""
        raise NotImplementedError

    def inform(self, response: ResponseHead) -> None:
        """Pass on a 1xx other than 101, if the client can take it (RFC 9110 §15.2)."""
        raise NotImplementedError

    def answer(
        self,
        response: ResponseHead,
        id_line: bytes,
        pieces: list[bytes],
        done: bool,
        trailers: bytes,
    ) -> None:
        """The head of the answer, and what there is of its content; `done`: that is all, but for
        `trailers`, which are field lines."""
        raise NotImplementedError

    def send(self, pieces: list[bytes], done: bool, trailers: bytes) -> None:
        """More of the answer's content: see `answer`."""
        raise NotImplementedError

    def reply(self, answer: OwnAnswer, id_line: bytes, closes: bool) -> int:
        """A whole answer of our own; `closes`: the client may have lost count of its requests, so
        that this is the last one. Returns the bytes of content that were sent."""
        raise NotImplementedError

    def cut(self) -> None:
        """The answer cannot be completed, and the client must see that it is not."""
        raise NotImplementedError

    def finish(self, events: StreamEvents, now: float) -> None:
        """The answer to the request of `events` is written whole."""
        raise NotImplementedError

    def hold_body(self) -> None:
        """The instance cannot take more of the body, or there is none to take it yet."""
        raise NotImplementedError

    def release_body(self) -> None:
        """The instance can take more of the body."""
        raise NotImplementedError

    def expect_body(self) -> None:
        """The instance has asked for the body with a 100."""
        raise NotImplementedError

    def be_patient(self, limit: float) -> None:
        """The body may pause for `limit` seconds, 0 = for ever; where the stream has no other
        limit, which those of HTTP/1 have."""

    def may_switch(self, response: ResponseHead) -> bool:
        """Whether a 101 answers what `key_line` asks."""
        return True

    def switch(self, response: ResponseHead, id_line: bytes) -> asyncio.Transport:
        """Say with a 101 that the connection is a tunnel from here on; its transport."""
        raise NotImplementedError

    def hand_over(self) -> bytes:
        """The tunnel owns the transport; what the client has sent for it already."""
        raise NotImplementedError

    def drain(self) -> None:
        """The worker stops: no further requests than those that are under way."""
        raise NotImplementedError

    def abort(self) -> None:
        """End now, whatever is under way."""
        raise NotImplementedError


class UpstreamStream(Timed):
    """The instance's side of one attempt at a time."""

    __slots__ = ("asked",)

    asked: float
    """When the request was sent that is under way, or was the last one."""

    def is_quiet(self) -> bool:
        """As far as the kernel knows the connection is open, and nothing has come over it that
        the loop has not told us of yet. For requests that cannot be sent a second time."""
        raise NotImplementedError

    def begin(
        self,
        events: StreamEvents,
        settings: ServiceSettings,
        pieces: list[bytes],
        done: bool,
        trailers: bytes,
        now: float,
    ) -> None:
        """Send a request and what there is of its body; `events` hears of the answer. `settings`:
        of the service as it is now; `done`, `trailers`: as in `ClientStream.answer`."""
        raise NotImplementedError

    def send(self, pieces: list[bytes], done: bool, trailers: bytes) -> None:
        """More of the request's body."""
        raise NotImplementedError

    def expect_answer(self) -> None:
        """The instance's turn: to read, or to answer. The clock for that starts anew."""
        raise NotImplementedError

    def expect_nothing(self) -> None:
        """The client's turn: to send more of the body."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """The client does not keep up."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """The client has caught up."""
        raise NotImplementedError

    def release(self, now: float) -> None:
        """The exchange is over and complete on both sides: the connection may be kept."""
        raise NotImplementedError

    def park(self, now: float, limit: float | None = None) -> None:
        """Wait for the next exchange for `limit` seconds. None: there was no exchange yet, and the
        service's idle limit counts."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection: nothing is under way, and the rest of what the instance says is
        of no interest."""
        raise NotImplementedError

    def abort(self) -> None:
        """End now: the request must not be completed behind our back."""
        raise NotImplementedError

    def hand_over(self) -> tuple[asyncio.Transport, bytes]:
        """A tunnel owns the transport from here on; what came behind the head of the 101."""
        raise NotImplementedError
