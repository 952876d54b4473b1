"""The life of one request. Read this file first; `docs/request.md` tells the same on one page.

    start ─▶ _route ─▶ _attempt ─▶ on_connected ─▶ _send ─▶ on_answer ─▶ on_body … ─▶ _complete
                          ▲  │ no connection, or a reused one that was closed
                          └──┘ _retry (another instance)

An exchange is driven by callbacks of its client connection and of its upstream connection; it
has no task and no timer of its own. Whatever happens, it ends exactly once: in `_complete` (the
answer was relayed), `_answer_fault` (the proxy answered), `_break_off` (the answer was cut), or
`on_client_gone`; each goes through `_finish`, where everything that was counted is given back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from balancers.base import NO_KEY, hash_key
from proxy.engine.deadlines import NEVER, Alarm
from proxy.engine.http1.body import chunk, last_chunk
from proxy.engine.http1.messages import RequestHead, ResponseHead
from proxy.engine.http1.properties import Source, field, property_of
from proxy.engine.http1.replies import options_answer, problem, trace_answer
from proxy.engine.http1.rewrite import (
    BY_CHUNKS,
    BY_CLOSE,
    BY_LENGTH,
    NO_BODY,
    accepts_offer,
    extra_lines,
    forwarded_prefix,
    interim_head,
    offered_upgrade,
    request_head,
    response_framing,
    response_head,
    switching_head,
)
from proxy.engine.http1.target import as_it_came, resolve
from proxy.engine.node import Node
from proxy.engine.pool import Pool
from proxy.engine.resilience.policies import BAD_STATUSES, LIMIT_OF
from proxy.engine.resilience.queue import Waiter
from proxy.engine.second_look import Asked, look_again
from proxy.engine.selection import first_choice, next_choice
from proxy.engine.tunnel import Tunnel
from proxy.errors import (
    BAD_ANSWER,
    CLIENT_GONE,
    CLOSED_EARLY,
    EXPECTATION_FAILED,
    INTERNAL,
    LOOP,
    NO_INSTANCE,
    QUEUE_FULL,
    QUEUE_TIMEOUT,
    TOTAL_TIMEOUT,
    Fault,
    Refused,
    Side,
)
from proxy.messages import UNROUTED

if TYPE_CHECKING:
    import asyncio

    from proxy.engine.listener import ClientConnection
    from proxy.engine.resilience.breaker import Breaker
    from proxy.engine.routing import Match
    from proxy.engine.telemetry import ServiceCounters
    from proxy.engine.upstream.connection import UpstreamConnection

REPLAY_LIMIT: Final = 64 * 1024
"""Bytes of a request body kept for a second attempt. Larger bodies are sent once: keeping them
would make every upload cost its size in memory."""

_LOOSE: Final = 64
"""Pieces of it that are kept as they came: each has a header of 33 bytes, so a body that comes
byte by byte would take forty times its size."""

_INSIDE: Final = "an error inside the proxy ended this request"
"""All that a client learns; the log has the traceback."""

_JOIN: Final = 16 * 1024
"""Up to here copying a body behind its head is cheaper than handing over two buffers."""

_IDEMPOTENT: Final = frozenset(
    (b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE")
)  # RFC 9110 §9.2.2


_METHODS: Final = {
    name.encode(): name
    for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")
}


class Exchange(Waiter):
    """Owns one request from its head to the last byte of its answer."""

    # Defaults stand on the class: what a plain GET does not need costs it nothing.
    match: Match | None = None
    pool: Pool | None = None
    node: Node | None = None
    last: Node | None = None
    """The node of the latest attempt, also after it has ended."""
    probe: Node | None = None
    """One that is on_probation, to which this goes to find out."""
    stale_node: Node | None = None
    """One whose kept connection turned out to be closed, which says nothing against it."""
    connection: UpstreamConnection | None = None
    upgrade: bytes | None = None  # ≤ 64 KiB
    extra = b""  # ≤ 64 KiB
    """Field lines for the instance that belong to this request alone."""
    framing = NO_BODY
    status = 0
    """Status the client got; 0 = none yet."""
    keep_alive = False
    attempts = 0
    interims = 0
    """1xx that instances answered."""
    tried: tuple[Node, ...] = ()
    key = NO_KEY
    id_line = b""  # ≤ 512 B
    """The field line that names it, to the instance and to the client; empty where there is no
    such field, or not yet."""
    head = b""  # ≤ 64 KiB
    body_done = True
    """The client has sent all of the request."""
    dial: asyncio.Task[None] | None = None
    """It waits for a connection to `last` that is being made."""
    finished = False
    outcome = "ok"
    """What the answer says of its instance."""
    unsettled = False
    """Some of what follows is to be given back at the end."""
    breaker: Breaker | None = None
    """It waits to hear what comes of this. Not always that of the pool: its settings may change."""
    turn = 0
    """The breaker's, in which this was admitted."""
    held: _HeldAnswer | None = None
    trailers = b""  # ≤ 32 KiB
    """Of an answer that was held and came whole."""
    waiting: Alarm | None = None
    """The patience of one that waits in line."""
    total: Alarm | None = None
    """The deadline over all attempts."""
    tunnel: Tunnel | None = None
    failure: Exception | None = None
    """What was raised inside, and ended it."""

    _id = b""  # ≤ 512 B

    def __init__(self, client: ClientConnection, request: RequestHead) -> None:
        self.client = client
        self.worker = client.worker
        self.request = request  # ≤ 256 KiB
        self.began = self.worker.now()
        self._kept: list[bytes] = []  # ≤ REPLAY_LIMIT + 256 KiB + 8 KiB
        """Pieces of the body that no instance has, or that a second attempt would need."""
        self._kept_size = 0
        self._replayable = True

    def __repr__(self) -> str:
        return f"<Exchange {self.request!r} node={self.node!r} status={self.status}>"

    # -- from the request to an instance

    def start(self, body_done: bool) -> None:
        """The head is read. `body_done`: there is no body, or all of it is here already."""
        self.body_done = body_done
        fields = self.request.fields
        if fields.unusual:
            if fields.underscored:
                self.worker.on_underscored(fields.underscored)
            if self._is_for_us():
                return
        try:
            self._route()
        except Refused as refusal:
            self._answer_fault(
                refusal.fault, refusal.detail, refusal.retry_after, closes=refusal.closes
            )
            return
        self._attempt(self.began)

    def _is_for_us(self) -> bool:
        """OPTIONS and TRACE that go no further answer who they have reached (RFC 9110 §7.6.2)."""
        request = self.request
        if request.method not in (b"OPTIONS", b"TRACE") or request.fields.max_forwards != b"0":
            return False
        self.keep_alive = (
            self.body_done
            and not self.worker.draining
            and request.fields.keeps_alive[request.minor]
        )
        make = options_answer if request.method == b"OPTIONS" else trace_answer
        self._name()
        answer = make(request, self.id_line, self.keep_alive)
        self.status = 200
        self._write_own(answer)
        now = self.worker.now()
        self._finish("ok", now)
        self.client.on_exchange_done(self, now)
        return True

    def _name(self) -> None:
        """Give it its id, if it has none yet."""
        if not self.id_line:
            given = self.request.fields.request_id
            ids = self.client.ids
            self.id_line = ids.new() if given is None else ids.line(given)

    @property
    def request_id(self) -> bytes:
        """The id that answer, log and access log have."""
        if not self._id:
            self._id = self.client.ids.value(self.id_line)
        return self._id

    def _route(self) -> None:
        """Find the pool and prepare the head the instance will get. Raises `Refused`."""
        request = self.request
        fields = request.fields
        worker = self.worker
        method = request.method
        path, query, as_received, readings = resolve(request)
        if readings is not None and self.client.facts.merge_slashes:
            path, query, as_received, readings = resolve(request, True)
        match = worker.routes.match(
            fields.host_name, path, _METHODS.get(method) or method.decode("ascii"), self.field
        )
        self.match = match
        if match is None or readings:
            self.match = match = self._look_again(path, readings or ())
        pool = worker.pools.get(match.service)
        if pool is None:
            self.match = match = self._look_again(path, ())
            pool = worker.pools.get(match.service)
            if pool is None:
                raise Refused(NO_INSTANCE, f"{match.service} has no instance")
        self.pool = pool
        spec = match.spec
        if fields.unusual:
            self._look_closer()
        if pool.policies.guarded:
            self._ask_policies(pool, path, query)
        if pool.uses_key:
            self.key = self._key(pool, path, query)
        if as_received and not match.changes_path:
            target = request.target
        else:
            target = self._other_target(match, path) + query
        given = fields.request_id
        ids = self.client.ids
        self.id_line = ids.new() if given is None else ids.line(given)
        self.head = request_head(
            request, target, spec.set_host, self.id_line, self.extra, self.client.facts
        )
        if pool.settings.timeouts.total:
            self.total = Alarm(self.on_total_timeout)
            self.unsettled = True
            worker.deadlines.arm(self.total, self.began + pool.settings.timeouts.total)

    def _look_again(self, path: str, readings: tuple[str, ...]) -> Match:
        """See `second_look.py`. Raises `Refused`."""
        request, worker = self.request, self.worker
        method = request.method.decode("ascii")
        asked = Asked(request.fields.host_name, path, method, self.field, readings)
        slashes = self.client.facts.encoded_slashes
        return look_again(worker.routes, worker.pools.names, asked, self.match, slashes)

    def _other_target(self, match: Match, path: str) -> bytes:
        """The path for the instance, where that is not simply the target. Raises `Refused`."""
        if match.spec.forward_path == "received":
            return as_it_came(self.request, path)
        if match.changes_path:
            self._tell_prefix(match.stripped(path))
        return match.rewrite(path).encode("ascii")

    def _look_closer(self) -> None:
        """What few requests have. Raises `Refused`."""
        fields = self.request.fields
        if fields.via and any(self.worker.via_token in via for via in fields.via):
            raise Refused(LOOP, "the request carries this proxy's own Via mark")
        if fields.expect is not None and fields.expect.lower() != b"100-continue":
            raise Refused(EXPECTATION_FAILED, "the only expectation understood is 100-continue")
        if fields.upgrade is not None:
            self.upgrade = offered_upgrade(self.request)
        if self.upgrade is not None or b"x-forwarded-prefix" in fields.claims:
            self._tell_prefix("")

    def _tell_prefix(self, stripped: str) -> None:
        """Tell the instance of the prefix that its paths have for the client."""
        told = None
        if self.client.facts.trusted:
            told = self.request.fields.claims.get(b"x-forwarded-prefix")
        self.extra = extra_lines(self.upgrade, forwarded_prefix(told, stripped.encode("ascii")))

    def _ask_policies(self, pool: Pool, path: str, query: bytes) -> None:
        """The rate limit and the breaker of the service. Raises `Refused`."""
        policies = pool.policies
        value = b""
        if policies.rate_key is not None:
            value = self._property(pool.rate_source, path, query) or b""
        refusal = policies.admit(value, self.began)
        pool.look_at_breaker()
        if refusal is not None:
            pool.counters.held_back(LIMIT_OF[refusal.fault])
            raise refusal
        breaker = policies.breaker
        if breaker is not None:
            self.breaker = breaker
            self.turn = breaker.opened
            self.unsettled = True

    def _excuse(self) -> None:
        """The breaker learns nothing from this."""
        breaker, self.breaker = self.breaker, None
        if breaker is not None:
            breaker.on_abandoned(self.turn)

    def _tell_breaker(self, failed: bool) -> None:
        """As soon as it is known: an answer may last for hours after its head."""
        breaker, self.breaker = self.breaker, None
        if breaker is not None:
            assert self.pool is not None
            breaker.on_result(failed, self.worker.now(), self.turn)
            self.pool.look_at_breaker()

    def _pass_probe(self) -> None:
        """As soon as it is known, too."""
        if self.probe is not None:
            assert self.pool is not None
            self.pool.end_probation(self.probe)
            self._end_probe()

    def _end_probe(self) -> None:
        if self.probe is not None:
            assert self.pool is not None
            self.pool.end_probe(self.probe)
            self.probe = None

    def _attempt(self, now: float) -> None:
        """Pick an instance and get a connection to it."""
        pool = self.pool
        assert pool is not None
        if pool.reads_load:
            self.worker.pools.others.refresh(now)
        node = pool.pick(self.key, ())
        if node is None:
            self._answer_fault(NO_INSTANCE, f"{pool.service} has no usable instance")
            return
        if pool.limited or node.impaired:
            if self.waiting is None and pool.limited and pool.has_queue():
                node = None
            else:
                node = first_choice(pool, node, self.key, now)
            if node is None:
                self._enqueue(pool)
                return
            if node.on_probation and pool.begin_probe(node, now):
                self.probe = node
                self.unsettled = True
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

    def _send_once(self, node: Node) -> None:
        """A request that may have no second attempt gets a connection that is open as far as the
        kernel knows; what the loop knows may be a moment old."""
        while node.idle:  # ≤ connections
            connection = node.idle.pop()
            if connection.is_quiet():
                self._send(connection, self.worker.now())
                return
            connection.close()
        self._dial(node)

    def _enqueue(self, pool: Pool) -> None:
        """Every usable instance has as many requests as it may have."""
        policies = pool.policies
        if self.waiting is not None:
            policies.queue.requeue(self)  # It was called, but another worker was quicker.
        elif pool.enqueue(self):
            self.waiting = Alarm(self.on_queue_timeout)
            self.unsettled = True
            limit = policies.queue_limit
            self.worker.deadlines.arm(self.waiting, self.worker.now() + limit if limit else NEVER)
        else:
            pool.counters.held_back("max_inflight")
            detail = f"every instance of {pool.service} is busy, and so is the queue"
            self._answer_fault(QUEUE_FULL, detail)
            return
        if not self.body_done:
            self.client.hold_body()

    def on_turn(self) -> None:
        """It is our turn, and we are not in line any more: some instance has room."""
        try:
            if not self.body_done:
                self.client.release_body()
            self._attempt(self.worker.now())
            if self.attempts:
                self._end_waiting()
        except Exception as error:
            self.fail_inside(error)

    def on_queue_timeout(self, now: float) -> None:
        """`timeouts.queue` has passed."""
        pool = self.pool
        assert pool is not None
        try:
            pool.counters.held_back("timeouts.queue")
            self._answer_fault(QUEUE_TIMEOUT, f"every instance of {pool.service} stayed busy")
        except Exception as error:
            self.fail_inside(error)

    def _leave_queue(self) -> None:
        if self.waiting is not None:
            assert self.pool is not None
            self.pool.policies.queue.leave(self)
            self._end_waiting()

    def _end_waiting(self) -> None:
        if self.waiting is not None:
            self.worker.deadlines.forget(self.waiting)
            self.waiting = None

    def _give_back(self, outcome: str, against: bool = True) -> None:
        node = self.node
        if node is not None:
            assert self.pool is not None
            self.node = None
            self.pool.give_back(node, outcome, against)

    def _dial(self, node: Node) -> None:
        assert self.pool is not None
        if not self.body_done:
            self.client.hold_body()
        self.dial = self.worker.connector.dial(node, self.pool.settings, self)

    def on_connected(self, connection: UpstreamConnection) -> None:
        """See `Dialler`."""
        self.dial = None
        try:
            assert self.pool is not None
            self.worker.unreachable.reached(self.pool, connection.node)
            if self.finished:
                connection.park(self.worker.now())
                return
            self.client.release_body()
            self._send(connection, self.worker.now())
        except Exception as error:
            connection.abort()
            self.fail_inside(error)

    def on_connect_failed(self, node: Node, fault: Fault, detail: str) -> None:
        """See `Dialler`."""
        self.dial = None
        try:
            if fault.side is Side.UPSTREAM:  # Not if it was us who had no descriptor, or no port.
                assert self.pool is not None
                self.worker.unreachable.add(self.pool, node, detail)
            if not self.finished:
                self._on_attempt_failed(fault, detail, unsent=True)
        except Exception as error:
            self.fail_inside(error)

    def on_dial_raised(self, node: Node, error: Exception) -> None:
        """See `Dialler`."""
        self.dial = None
        self.fail_inside(error)

    def _send(self, connection: UpstreamConnection, now: float) -> None:
        self.connection = connection
        body = self._kept
        if self.body_done:
            connection.begin(self, self.head, self._framed(body), now)
        else:
            connection.begin(self, self.head, self._framed(body) if body else body, now)
            self._set_clock(connection)
        if (
            self.request.method not in _IDEMPOTENT
            or self._kept_size > REPLAY_LIMIT
            or self.upgrade is not None
        ):
            self._replayable = False
            self._kept = []

    # -- the request's body

    def on_request_body(self, pieces: list[bytes], done: bool) -> None:
        """More of the body from the client; `done` with the last of it."""
        if done:
            self.body_done = True
        elif len(self._kept) > _LOOSE:
            self._kept = [b"".join(self._kept)]
        connection = self.connection
        if self._replayable:
            self._kept_size += sum(map(len, pieces))
            self._kept += pieces
            if connection is not None and self._kept_size > REPLAY_LIMIT:
                self._replayable = False
                self._kept = []
        if connection is not None:
            framed = self._framed(pieces)
            if framed:
                connection.send(framed)
            self._set_clock(connection)

    def _framed(self, pieces: list[bytes]) -> list[bytes]:
        """Payload as the instance gets it: in chunks if the client sent chunks."""
        if not self.request.fields.chunked:
            return pieces
        framed = chunk(pieces)
        return [*framed, last_chunk(self.client.trailers)] if self.body_done else framed

    def _set_clock(self, connection: UpstreamConnection) -> None:
        """The time for the answer is the instance's: it does not run while the client has yet to
        send what the instance waits for."""
        if self.client.owes_body:
            connection.expect_nothing()
        else:
            connection.expect_answer()

    def on_upstream_full(self) -> None:
        """The instance does not keep up with the body."""
        self.client.hold_body()
        if self.connection is not None and not self.body_done:
            self._set_clock(self.connection)

    def on_upstream_drained(self) -> None:
        """It does again."""
        self.client.release_body()
        if self.connection is not None and not self.body_done:
            self._set_clock(self.connection)

    # -- the answer

    def on_interim(self, response: ResponseHead) -> None:
        """A 1xx. Only a client that speaks 1.1 can take it (RFC 9110 §15.2)."""
        # The instance has begun to act on the request: no other one gets it.
        self._replayable = False
        self._kept = []
        if response.status == 101:
            self._switch(response)
        elif self.request.minor:
            self.client.write(interim_head(response))
        if response.status == 100:
            self.client.expect_body()
            if self.connection is not None:
                self._set_clock(self.connection)

    def on_answer(self, response: ResponseHead, pieces: list[bytes], done: bool) -> None:
        """The head of the final answer, with as much of the body as came along."""
        if response.status in BAD_STATUSES:
            if self._set_aside(response, pieces, done):
                return
            self.outcome = str(response.status)
        if self.unsettled:
            self._drop_held()
            self._tell_breaker(response.status in BAD_STATUSES)
            if response.status not in BAD_STATUSES:
                self._pass_probe()
        request = self.request
        client = self.client
        self._replayable = False
        self._kept = []
        framing = response_framing(response, request.method, request.minor)
        self.framing = framing
        self.keep_alive = (
            framing != BY_CLOSE
            and self.body_done
            and not self.worker.draining
            and request.fields.keeps_alive[request.minor]
        )
        head = response_head(
            response,
            self.id_line,
            framing,
            request.minor,
            self.keep_alive,
            request.fields.te_trailers,
        )
        if framing > BY_LENGTH:
            if framing == BY_CHUNKS:
                pieces = self._rechunk(pieces, done)
            elif not done:
                client.end_by_reset(True)
        self.status = response.status
        if not pieces:
            client.transport.write(head)
        elif len(pieces) == 1 and len(pieces[0]) <= _JOIN:
            client.transport.write(head + pieces[0])
        else:
            client.write_pieces([head, *pieces])
        if done:
            self._complete()
        elif client.full:
            self.on_client_full()

    def _set_aside(self, response: ResponseHead, pieces: list[bytes], done: bool) -> bool:
        """An answer that speaks against its instance: if the service wants that, ask another
        one, and keep this answer in case no better one comes. False: relay it."""
        pool, node, connection = self.pool, self.node, self.connection
        assert pool is not None
        policies = pool.policies
        if response.status not in policies.retry_statuses or node is None:
            return False  # Nothing to hope for, or it was set aside before.
        assert connection is not None
        if not policies.may_repeat_answer(self.request.method, self._replayable):
            return False
        if not self.body_done:
            return False  # The connection still expects the rest, which only one can get.
        reason = str(response.status)
        self.connection = None
        if not self._retry(reason, in_hand=True):
            self.connection = connection
            return False
        pool.give_back(node, reason)
        self._end_probe()
        self._drop_held()
        self.unsettled = True
        if done:
            self.held = _HeldAnswer(None, response, pieces, True, connection.trailers)
            connection.release(self.worker.now())
        else:
            connection.pause_reading()
            self.held = _HeldAnswer(connection, response, pieces, False, b"")
        return True

    def _relay_held(self) -> None:
        """No better answer came: the last real one is what the client gets."""
        held = self.held
        assert held is not None
        self.held = None
        self.connection = held.connection
        self.trailers = held.trailers
        self.on_answer(held.response, held.pieces, held.done)
        if self.connection is not None and not self.client.full:
            self.connection.resume_reading()

    def _drop_held(self) -> None:
        held, self.held = self.held, None
        if held is not None and held.connection is not None:
            held.connection.abort()

    def on_body(self, pieces: list[bytes], done: bool) -> None:
        """More of the answer's body; `done` with the last of it."""
        if self.framing > BY_LENGTH:
            if self.framing == BY_CHUNKS:
                pieces = self._rechunk(pieces, done)
            elif done:
                self.client.end_by_reset(False)
        if self.framing != NO_BODY and pieces:
            self.client.write_pieces(pieces)
        if done:
            self._complete()

    def _rechunk(self, pieces: list[bytes], done: bool) -> list[bytes]:
        """Payload as the client gets it, in chunks; trailers for one that says it takes them."""
        framed = chunk(pieces)
        if not done:
            return framed
        if not self.request.fields.te_trailers:
            return [*framed, last_chunk(b"")]
        connection = self.connection
        return [*framed, last_chunk(self.trailers if connection is None else connection.trailers)]

    def on_client_full(self) -> None:
        """The client does not keep up with the answer."""
        if self.connection is not None:
            self.connection.pause_reading()

    def on_client_drained(self) -> None:
        """It does again."""
        if self.connection is not None:
            self.connection.resume_reading()

    def _switch(self, response: ResponseHead) -> None:
        """101: from here on the two connections are a tunnel."""
        connection = self.connection
        assert connection is not None
        if self.upgrade is None or not accepts_offer(self.upgrade, response.fields.upgrade):
            connection.abort()
            self.on_upstream_failed(connection, BAD_ANSWER, "a 101 that nobody asked for")
            return
        self.status = 101
        early = connection.hand_over()
        self.connection = None
        if self.total is not None:
            self.worker.deadlines.forget(self.total)  # It is over requests, not over tunnels.
        self._tell_breaker(failed=False)
        self._pass_probe()
        self.client.write(switching_head(response, self.id_line))
        assert self.pool is not None
        self.tunnel = Tunnel(
            self.client.transport,
            connection.transport,
            self.worker.deadlines,
            self.worker.hangups,
            self.pool.settings.timeouts.tunnel_idle,
            self._on_tunnel_closed,
        )
        self._counters().answered(self.request.method, 101, self.worker.now() - self.began)
        # In this order: between the two the worker must not look quiet.
        assert self.node is not None
        self.worker.on_tunnel_opened(self.tunnel, self.pool, self.node)
        self.client.hand_over()
        self.tunnel.start(from_client=self.client.take_buffered(), from_instance=early)

    def _on_tunnel_closed(self) -> None:
        assert self.tunnel is not None
        self.worker.on_tunnel_closed(self.tunnel)
        try:
            self._finish("ok", self.worker.now())
        except Exception as error:
            self.fail_inside(error)

    # -- failures

    def on_upstream_failed(self, connection: UpstreamConnection, fault: Fault, detail: str) -> None:
        """The connection is gone; before, in, or after the head of the answer."""
        if self.held is not None and connection is self.held.connection:
            self.held = None  # Only the answer in reserve; another attempt is under way.
            return
        self.connection = None
        self._on_attempt_failed(fault, detail, connection.reused and fault is CLOSED_EARLY)

    def _on_attempt_failed(
        self, fault: Fault, detail: str, stale: bool = False, unsent: bool = False
    ) -> None:
        """Decide: once more, an error, or (too late for either) a cut. `stale`: the connection
        had been idle, and was closed then, as far as we know; `unsent`: there was none."""
        self._give_back(fault.code, against=not stale)
        self._end_probe()
        if self.status:
            self._break_off(fault, detail)
            return
        pool = self.pool
        assert pool is not None
        if not (
            pool.policies.may_repeat(fault, self.request.method, stale, unsent, self._replayable)
            and self._retry(fault.code, stale)
        ):
            if self.held is not None:
                self._relay_held()
            else:
                self._answer_fault(fault, detail)

    def _retry(self, reason: str, stale: bool = False, in_hand: bool = False) -> bool:
        """Once more on another instance, if the number of attempts and the budget allow it and
        there is one. A connection that was closed while it was idle added nothing to what the
        instances have to do, so the first of these is not counted and the budget not asked; and it
        says nothing against its instance, so that one is dialled afresh when there is no other
        one that can be reached. `in_hand`: there is an answer, which is not made to wait for
        instances that could not be connected to."""
        pool = self.pool
        assert pool is not None
        policies = pool.policies
        failed = self.last
        assert failed is not None
        if stale:
            self.stale_node = failed
        limit = policies.max_retries
        if not limit or self.attempts > limit + (self.stale_node is not None):
            return False
        self.tried = (*self.tried, failed)
        node = next_choice(
            pool,
            self.key,
            self.tried,
            self.worker.now(),
            stale=self.stale_node if stale or self.stale_node is not failed else None,
            answered=in_hand,
        )
        if node is None:
            return False
        if not (stale or policies.budget.spend(pool.requests)):
            pool.counters.held_back("retry.budget")
            return False
        pool.counters.retried(reason)
        self.node = self.last = node
        self.attempts += 1
        pool.take(node)
        if stale:
            self._dial(node)
        else:
            self.client.release_body()  # Held while the attempt before was dialling.
            self._send_once(node)
        return True

    def _answer_fault(
        self, fault: Fault, detail: str, retry_after: float = 1.0, closes: bool = True
    ) -> None:
        """The proxy answers itself. `retry_after`: seconds, where the status has such a field;
        `closes`: as the fault has it, unless it is known that nothing is in doubt."""
        client = self.client
        request = self.request
        self.keep_alive = (
            self.body_done
            and not (closes and fault.closes)
            and not self.worker.draining
            and request.fields.keeps_alive[request.minor]
        )
        self._counters().failed(fault.code)
        if self.attempts and fault.side is Side.UPSTREAM:
            self._tell_breaker(failed=True)
        self._drop_connection()
        self._name()
        self.worker.log_fault(fault, detail, self)
        answer = problem(
            fault,
            detail,
            request_id=self.request_id.decode("ascii"),
            id_line=self.id_line,
            head_only=request.method == b"HEAD",
            client_minor=request.minor,
            keep_alive=self.keep_alive,
            retry_after=retry_after,
        )
        self.status = fault.status
        self._write_own(answer)
        now = self.worker.now()
        self._finish(fault.code, now)
        client.on_exchange_done(self, now)

    def _write_own(self, answer: bytes) -> None:
        """A whole answer that no instance gave."""
        self.client.write(answer)

    def _break_off(self, fault: Fault, detail: str) -> None:
        """The answer was under way: all that is left is to make the client see that it is not
        complete, by an end without the last chunk or short of the length (RFC 9112 §8)."""
        self._counters().failed(fault.code)
        self.worker.log_fault(fault, detail, self)
        self._drop_connection()
        self.client.abort_answer()
        self._finish(fault.code, self.worker.now())

    def fail_inside(self, error: Exception) -> None:
        """Something of ours, or of a plug-in's, raised in a callback that was about this request.
        It ends here, whatever it was in, and no other one with it."""
        self.failure = error
        now = self.worker.now()
        try:
            if self.finished:
                self._counters().failed(INTERNAL.code)
                self.worker.log_fault(INTERNAL, _INSIDE, self)
            elif self.status:
                self._break_off(INTERNAL, _INSIDE)
            else:
                self._answer_fault(INTERNAL, _INSIDE)
        except Exception:
            pass  # The same once more, mostly; what was raised first is in the log.
        try:
            if not self.finished:
                self.client.abort_answer()
                self._drop_connection()
                self._finish(INTERNAL.code, now)
            elif self.tunnel is None:
                # Unless it has heard that already: all is said, and only what follows failed.
                self.client.on_exchange_done(self, now)
        except Exception:
            self.client.abort_answer()

    def on_bad_body(self, fault: Fault, detail: str) -> None:
        """The client's body cannot be read, is too large, or does not come."""
        self.body_done = False
        if self.status:
            self._break_off(fault, detail)
        else:
            self._answer_fault(fault, detail)

    def on_total_timeout(self, now: float) -> None:
        """`timeouts.total` has passed."""
        try:
            self._end_for_total()
        except Exception as error:
            self.fail_inside(error)

    def _end_for_total(self) -> None:
        detail = "the request took longer than its total limit"
        if self.client.owes:
            # It is not the instance that we wait for.
            self._give_back(CLIENT_GONE.code)
            self._excuse()
        if self.status:
            self._break_off(TOTAL_TIMEOUT, detail)
        elif self.held is not None and self.held.done:
            self._give_back(TOTAL_TIMEOUT.code)
            self._drop_connection()
            self._relay_held()
        else:
            self._answer_fault(TOTAL_TIMEOUT, detail)

    def on_client_gone(self) -> None:
        """The client's connection is lost: nobody waits for this any more."""
        if self.finished or self.tunnel is not None:
            return
        if self.dial is not None and self.last is not None:
            self.worker.connector.leave(self.last, self.dial)
            self.dial = None
        if not self.status:
            self.status = CLIENT_GONE.status
        self._drop_connection()
        self._finish(CLIENT_GONE.code, self.worker.now())

    # -- the end

    def _complete(self) -> None:
        """The answer is relayed whole."""
        now = self.worker.now()
        connection = self.connection
        if connection is not None:
            self.connection = None
            if self.body_done:
                connection.release(now)
            else:
                connection.abort()  # It still expects the rest of a body that is not coming.
        self._finish(self.outcome, now)
        self.client.on_exchange_done(self, now)

    def _drop_connection(self) -> None:
        if self.connection is not None:
            self.connection.abort()
            self.connection = None

    def _finish(self, outcome: str, now: float) -> None:
        """Give back everything that was counted. Runs exactly once."""
        assert not self.finished, self
        self.finished = True
        self._give_back(outcome)
        if self.unsettled:
            self._settle()
        if self.tunnel is None:
            # How long a tunnel stays open is not how long its request took.
            counters = self._counters() if self.pool is None else self.pool.counters
            counters.answered(self.request.method, self.status, now - self.began)

    def _settle(self) -> None:
        """Give back what only some requests take."""
        self._end_probe()
        self._drop_held()
        self._leave_queue()
        if self.total is not None:
            self.worker.deadlines.forget(self.total)
        self._excuse()  # The client left or is at fault, or no instance was asked.

    def _counters(self) -> ServiceCounters:
        pool = self.pool
        return self.worker.counters.service(UNROUTED) if pool is None else pool.counters

    # -- what others ask

    def field(self, name: str) -> str | None:
        """A request field by lower-case name, for routes that match on one."""
        trusted = self.client.facts.trusted
        value = field(self.request.fields, name.encode("latin-1"), trusted)
        return None if value is None else value.decode("latin-1")

    def _key(self, pool: Pool, path: str, query: bytes) -> int:
        """The hash key of the request, as the service's balancer asks for it."""
        value = self._property(pool.key_source, path, query)
        return hash_key(value) if value else NO_KEY

    def _property(self, source: Source, path: str, query: bytes) -> bytes | None:
        facts = self.client.facts
        if source[0] == "client_ip":
            return facts.client(self.request.fields)
        return property_of(source, self.request.fields, path, query, facts.trusted)


class _HeldAnswer(NamedTuple):
    """A bad answer kept while a better one is sought. Nothing more of it is read."""

    connection: UpstreamConnection | None
    """None when the answer is here whole."""
    response: ResponseHead
    pieces: list[bytes]
    done: bool
    trailers: bytes
    """Of one that is here whole."""
