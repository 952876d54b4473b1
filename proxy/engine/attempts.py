"""How a request gets to an instance: the pick, the connection, the queue, and what is sent."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from balancers.base import NO_KEY
from proxy.engine.admission import Admission
from proxy.engine.deadlines import NEVER, Alarm
from proxy.engine.http2.shared import shared_stream
from proxy.engine.listener_config import ends_of
from proxy.engine.next_attempt import next_attempt
from proxy.engine.node import Node
from proxy.engine.recorder import Recorder
from proxy.engine.replay import ReplayBuffer
from proxy.engine.request_state import RequestState
from proxy.engine.selection import first_choice
from proxy.engine.services import Services
from proxy.engine.streams import ClientStream, Loss, UpstreamStream
from proxy.engine.tap import Tap
from proxy.engine.upstream.connector import Dial
from proxy.errors import (
    NO_INSTANCE,
    NO_UPGRADE,
    QUEUE_FULL,
    QUEUE_TIMEOUT,
    Fault,
    Refused,
    Side,
)
from proxy.http.messages import RequestHead
from proxy.proxy_header import Ends

_IDEMPOTENT: Final = frozenset(
    (b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE")
)  # RFC 9110 §9.2.2
_NOTHING: Final[list[bytes]] = []  # ≤ 64 B


class Attempts(RequestState):
    """Owns the attempts of one request, one after the other; `Exchange` says what comes of them."""

    recorder: Recorder | None = None
    upstream: UpstreamStream | None = None
    """The stream of the attempt that is under way."""
    dial: Dial | None = None
    """Connection to `last` that is waited for."""
    tap: Tap | None = None
    """A copy of the request, which hears of its body."""
    body: ReplayBuffer | None = None
    whole = True
    """Whether all of the body that came is here."""
    replayable = True
    """Whether that is so, and a second attempt would do no harm whatever became of the first."""
    replying = False
    """The answer is known, though a filter may hold it, and no attempt is of any use."""
    waiting: Alarm | None = None
    """The patience of one that waits in the queue."""

    def __init__(self, services: Services, client: ClientStream, request: RequestHead) -> None:
        self.client = client
        self.request = request  # ≤ 256 KiB
        self.services = services
        self.began = services.now()
        self.recorder = None if services.new_recorder is None else services.new_recorder()
        # Class-level defaults that every request reads: on the instance they are found sooner.
        self.upgrade = self.prefix = self.set_host = None
        self.body = self.tunnel = None
        self.has_extras = self.finished = False
        self.attempts = 0
        self.key = NO_KEY
        self.outcome = "ok"

    # -- what the exchange decides

    def _on_attempt_failed(self, loss: Loss) -> None:
        """There is no answer."""
        raise NotImplementedError

    def _answer_fault(
        self, fault: Fault, detail: str, retry_after: float = 1.0, closes: bool = True
    ) -> None:
        """The proxy answers itself. `retry_after`: seconds, where the status has such a field;
        `closes`: as the fault has it, unless it is known that nothing is in doubt."""
        raise NotImplementedError

    def head_beside(self, node: Node, now: float) -> RequestHead:
        """The head of the request as a second attempt beside this one sends it to `node`."""
        return self.request

    def on_end_beside(self, node: Node, outcome: str) -> None:
        """The second attempt beside this one has ended, at `node`."""

    def ends(self) -> Ends | None:
        """See `Dialler`."""
        facts = self.client.facts
        transport = cast(asyncio.BaseTransport | None, facts.transport)
        return None if transport is None else ends_of(transport, facts.announced)

    # -- to an instance

    def _attempt(self, now: float) -> None:
        """Pick an instance and get a connection to it."""
        pool = self.pool
        if pool.reads_load:
            self.services.pools.others.refresh(now)
        node = pool.pick(self.key, ())
        if node is None:
            self._answer_fault(NO_INSTANCE, f"{pool.service} has no usable instance")
            return
        if pool.limited or node.impaired:
            if self.waiting is None and pool.limited and pool.policies.queue:
                node = None
            else:
                node = first_choice(pool, node, self.key, now)
            if node is None:
                self._enqueue()
                return
            if node.on_probation and pool.begin_probe(node, now):
                self._probe(node)
        self.node = self.last = node
        self.attempts += 1
        pool.requests += 1
        pool.take(node)
        if (
            node.idle
            and self.body_done
            and self.upgrade is None
            and self.request.method in _IDEMPOTENT
        ):
            # The one used last: it is the least likely to have been given up by the other
            # side, and the rest can age out.
            self._send(node.idle.pop(), now)
        else:
            self._send_once(node)

    def _begin_tap(self) -> None:
        """Begin a copy, if there is to be one: what instances get of the request is known."""
        services = self.services
        if self.pool.settings.mirror is not None and services.new_mirror is not None:
            pieces = [] if self.body is None else self.body.pieces
            self.tap = services.new_mirror(self, services, pieces)
            self.has_extras = self.has_extras or self.tap is not None

    def _probe(self, node: Node) -> None:
        """The instance is on probation, and this request finds out."""
        if self.admission is None:
            self.admission = Admission(self.pool)
            self.has_extras = True
        self.admission.probe = node

    def _send_once(self, node: Node) -> None:
        """A request that may have no second attempt gets a connection that is open as far as the
        kernel knows; what the loop knows may be a moment old. Or a stream of HTTP/2, whose
        instances say what they have not begun."""
        if node.http2:
            refusal = self._mismatch(node)
            if refusal is not None:
                self._answer_fault(refusal.fault, refusal.detail)
                return
            stream = None if node.awaited else shared_stream(node.shared)
            if stream is not None:
                self._send(stream, self.services.now())
                return
        while node.idle:  # ≤ connections
            upstream = node.idle.pop()
            if upstream.is_quiet():
                self._send(upstream, self.services.now())
                return
            upstream.close()
        self._dial(node)

    def _mismatch(self, node: Node) -> Refused | None:
        """The refusal of a request that cannot be made in the instance's version of HTTP."""
        if node.http2 and self.upgrade is not None:
            return Refused(NO_UPGRADE, f"{node.id} speaks HTTP/2, which knows no Upgrade")
        return None

    def _dial(self, node: Node) -> None:
        if not self.body_done:
            self.client.hold_body()
        dial = self.services.connector.dial(node, self.terms.settings, self)
        if dial is not None:
            self.dial = dial

    def on_connected(self, node: Node, upstream: UpstreamStream) -> None:
        """See `Dialler`."""
        dial, self.dial = self.dial, None
        try:
            if dial is None or dial.task is not None:  # Else it was there before.
                self.services.unreachable.reached(self.pool, node)
            if self.finished or self.replying or node is not self.last:
                upstream.park(self.services.now())
                return
            self.client.release_body()
            self._send(upstream, self.services.now())
        except Exception as error:
            upstream.abort()
            self.fail_inside(error)

    def on_connect_failed(self, node: Node, fault: Fault, detail: str) -> None:
        """See `Dialler`."""
        self.dial = None
        try:
            if fault.side is Side.UPSTREAM:  # Not if it was us who had no descriptor, or no port.
                self.services.unreachable.add(self.pool, node, detail)
            if not self.finished and node is self.last:
                self._on_attempt_failed(Loss(fault, detail, unsent=True))
        except Exception as error:
            self.fail_inside(error)

    def on_dial_raised(self, node: Node, error: Exception) -> None:
        """See `Dialler`."""
        self.dial = None
        if node is not self.last:
            raise error  # A hedge was quicker, and the request has no part in this any more.
        self.fail_inside(error)

    def _send(self, upstream: UpstreamStream, now: float) -> None:
        self.upstream = upstream
        body = self.body
        upstream.begin(
            self,
            self.terms.settings,
            _NOTHING if body is None else body.pieces,
            self.body_done,
            self.client.trailers,
            now,
        )
        if not self.body_done:
            self._set_clock(upstream)
        if (
            self.request.method not in _IDEMPOTENT
            or (body is not None and body.too_large)
            or self.upgrade is not None
        ):
            self.replayable = False
            node = self.node
            if node is None or not node.http2 or (body is not None and body.too_large):
                self.whole = False
                self.body = None

    def _retry(self, reason: str, stale: bool = False, answered: bool = False) -> bool:
        """Once more on another instance, if `next_attempt` knows one. `stale`: see
        `Loss`; `answered`: there is an answer already."""
        pool = self.pool
        failed = self.last
        assert failed is not None
        if stale:
            self.stale_node = failed
        tried = (*self.tried, failed)
        node = next_attempt(
            pool,
            self.key,
            tried,
            self.attempts,
            self.services.now(),
            stale_node=self.stale_node,
            stale=stale,
            answered=answered,
            limit=self.terms.max_retries,
        )
        if node is None or (answered and self._mismatch(node) is not None):
            return False
        self.tried = tried
        if answered:
            self._release(reason)  # Before anything may raise that is about the next one.
        pool.counters.retried(reason)
        self.node = self.last = node
        self.attempts += 1
        pool.take(node)
        if stale and not node.http2:
            self._dial(node)
        else:
            self.client.release_body()  # Held while the attempt before was dialling.
            self._send_once(node)
        return True

    def _release(self, outcome: str, against: bool = True) -> None:
        node = self.node
        if node is not None:
            self.node = None
            self.pool.release(node, outcome, against)

    def _drop_upstream(self) -> None:
        """Give up the connection that is under way, made or not."""
        if self.dial is not None:
            self.services.connector.leave(self.dial)
            self.dial = None
        if self.upstream is not None:
            self.upstream.abort()
            self.upstream = None

    # -- the queue

    def _enqueue(self) -> None:
        """Every usable instance has as many requests as it may have."""
        pool, deadlines = self.pool, self.services.deadlines
        policies = pool.policies
        if self.waiting is not None:
            policies.queue.requeue(self)  # It was called, but another worker was quicker.
        elif pool.turns.enqueue(self):
            self.waiting = Alarm(self.on_queue_timeout)
            self.has_extras = True
            limit = self.terms.queue_limit
            deadlines.arm(self.waiting, self.services.now() + limit if limit else NEVER)
        else:
            pool.counters.rejected("max_inflight")
            detail = f"every instance of {pool.service} is busy, and so is the queue"
            self._answer_fault(QUEUE_FULL, detail)
            return
        if not self.body_done:
            self.client.hold_body()

    def on_turn(self) -> None:
        """See `Waiter`."""
        try:
            if not self.body_done:
                self.client.release_body()
            self._attempt(self.services.now())
            if self.attempts:
                self._end_waiting()
        except Exception as error:
            self.fail_inside(error)

    def on_queue_timeout(self, now: float) -> None:
        """`timeouts.queue` has passed."""
        try:
            self.pool.counters.rejected("timeouts.queue")
            detail = f"every instance of {self.pool.service} stayed busy"
            self._answer_fault(QUEUE_TIMEOUT, detail)
        except Exception as error:
            self.fail_inside(error)

    def _end_waiting(self) -> None:
        if self.waiting is not None:
            self.services.deadlines.forget(self.waiting)
            self.waiting = None

    # -- the request's body

    def on_request_body(self, pieces: list[bytes], done: bool) -> None:
        """See `StreamEvents`."""
        if self.recorder is not None:
            self.recorder.on_request_body(pieces)
        if done:
            self.body_done = True
        if self.has_extras and self.tap is not None:
            self.tap.feed(pieces, done)
        upstream = self.upstream
        if self.whole:
            body = self.body
            if body is None:
                body = self.body = ReplayBuffer(pieces)
            else:
                body.keep(pieces)
            if upstream is not None and body.too_large:
                self._keep_no_body()
        if upstream is not None:
            upstream.send(pieces, done, self.client.trailers)
            self._set_clock(upstream)

    def _keep_no_body(self) -> None:
        self.whole = self.replayable = False
        self.body = None

    def _set_clock(self, upstream: UpstreamStream) -> None:
        """The time for the answer is the instance's: it does not run while the client has yet to
        send what the instance waits for."""
        if self.client.owes_body:
            upstream.expect_nothing()
        else:
            upstream.expect_answer()

    def on_upstream_full(self) -> None:
        """See `StreamEvents`."""
        self.client.hold_body()
        if self.upstream is not None and not self.body_done:
            self._set_clock(self.upstream)

    def on_upstream_drained(self) -> None:
        """See `StreamEvents`."""
        self.client.release_body()
        if self.upstream is not None and not self.body_done:
            self._set_clock(self.upstream)
