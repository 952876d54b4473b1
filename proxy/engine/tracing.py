"""Traces of requests: a span for each, and one for each of its attempts.

Only a request that is sampled has a trace, and an exchange that knows of it; where tracing is off
there is nothing that would have to be asked. Traces are told of once a second, some at a time; the
control process makes spans of them (`proxy/spans.py`), and sends these.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Final

from proxy.engine.exchange import new_exchange
from proxy.engine.filtered_exchange import FilteredExchange
from proxy.engine.grpc import SERVER_ERRORS, is_grpc, status_name
from proxy.engine.grpc_exchange import GrpcExchange, new_call
from proxy.engine.grpc_web import is_web
from proxy.engine.node import Node
from proxy.engine.request_state import RequestState
from proxy.engine.sampling import Sampling
from proxy.engine.services import NewExchange, Services
from proxy.engine.streams import ClientStream, StreamEvents, UpstreamStream
from proxy.http.messages import RequestHead
from proxy.http.trace_context import Propagation
from proxy.messages import NO_ERRORS, Spans
from proxy.settings.process import TracingSettings
from proxy.settings.route import RouteSpec
from proxy.spans import Attempted, Traced

WAITING: Final = 2048
"""Traces that wait to be told of; more are dropped, and counted. Some 4 MiB."""
PIECE: Final = 50
"""Traces in one message: a millisecond."""
_ATTEMPTS: Final = 16
"""Spans of attempts of one request; more retries than that are a mistake."""
_PATH: Final = 1024
"""Characters of a path that a span has."""
_HOST: Final = 255
"""Characters of a host that a span has: more than DNS has (RFC 1035 §2.3.4). A client may send as
many as a head has room for."""
_DIGITS: Final = 256
"""Of ids that are drawn at once: sixteen cost hardly more than one."""
_ID: Final = 16


class Attempt:
    """The facts of one attempt that become a span."""

    __slots__ = ("began", "ended", "node", "outcome", "span_id", "status")

    def __init__(self, node: Node, span_id: bytes, began: float) -> None:
        self.node = node
        self.span_id = span_id
        self.began = began
        self.ended = 0.0
        self.outcome = ""
        self.status = 0


class Trace:
    """Owns what a sampled request leaves behind for its spans."""

    __slots__ = ("attempts", "parent", "random", "span_id", "trace_id", "tracer")

    def __init__(self, trace_id: bytes, parent: bytes, random: bool, tracer: Tracer) -> None:
        self.trace_id = trace_id
        self.parent = parent
        self.random = random
        self.tracer = tracer
        self.span_id = tracer.new_id()
        self.attempts: list[Attempt] = []  # ≤ 8 KiB

    def begin(self, node: Node, now: float) -> Attempt:
        """An attempt goes to `node`."""
        attempt = Attempt(node, self.tracer.new_id(), now)
        if len(self.attempts) < _ATTEMPTS:
            self.attempts.append(attempt)
        return attempt

    def enter(self, request: RequestHead, node: Node | None, now: float) -> RequestHead:
        """The head of the request as an attempt at `node`, which begins, sends it."""
        if node is None:
            return request
        span_id = self.begin(node, now).span_id
        return self.tracer.propagation.with_parent(request, self.trace_id, span_id, self.random)

    def leave(self, node: Node | None, outcome: str, status: int, now: float) -> None:
        """The attempt at `node` is over, which may not have got as far as a connection, or to a
        node."""
        if node is not None:
            attempt = self._open(node) or self.begin(node, now)
            attempt.ended, attempt.outcome, attempt.status = now, outcome, status

    def _open(self, node: Node) -> Attempt | None:
        for attempt in reversed(self.attempts):  # ≤ _ATTEMPTS
            if attempt.node is node and not attempt.ended:
                return attempt
        return None


class Tracer:
    """Owns the traces that are finished, until they are told of."""

    def __init__(
        self,
        rng: Random,
        send: Callable[[Spans], None],
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        """`send` takes the spans; `soon` calls something in the next turn of the loop."""
        self._rng = rng
        self._draw: Callable[[], float] = rng.random
        self._digits = b""  # ≤ 1 KiB
        self._drawn = 0
        """Of these, how many are used."""
        self._send = send
        self._soon = soon
        self.propagation = Propagation(("w3c",))
        self._sampling: Sampling | None = None
        self._untraced: NewExchange = new_exchange
        self._waiting: deque[Traced] = deque()  # ≤ WAITING * 2 KiB
        self.dropped = 0
        """Traces that were dropped since the last message."""
        self._offset = 0.0
        """From the loop's clock to Unix time."""

    def use(
        self, settings: TracingSettings | None, services: Services, untraced: NewExchange
    ) -> None:
        """Trace requests from now on as the settings say. `untraced` makes the exchange of one that
        has no trace."""
        self._untraced = untraced
        services.new_exchange, services.new_traced = untraced, self.exchange
        if settings is None:
            services.sampling = None
        else:
            self.propagation = Propagation(settings.propagation)
            sampling = Sampling(settings.sample, self.propagation, self._draw)
            services.sampling = self._sampling = sampling

    def new_id(self) -> bytes:
        """Of a span."""
        at = self._drawn
        if at == len(self._digits):
            self._digits = b"%0*x" % (_DIGITS, self._rng.getrandbits(4 * _DIGITS))
            at = 0
        self._drawn = at + _ID
        return self._digits[at : at + _ID]

    def begin(self, request: RequestHead) -> Trace | None:
        """The trace of a request: the parent decides whether there is one, or else chance."""
        fields = request.fields
        orphan = fields.orphan is self.propagation
        parent = None if orphan else self.propagation.parent(fields)
        sampled = None if parent is None else parent.sampled
        if sampled is None:
            sampled = self._sampling is not None and self._sampling.takes()
        if not sampled:
            return None
        if parent is None or not parent.trace_id:
            return Trace(self.new_id() + self.new_id(), b"", True, self)
        return Trace(parent.trace_id, parent.span_id, parent.random, self)

    def exchange(
        self, services: Services, client: ClientStream, request: RequestHead
    ) -> StreamEvents:
        """Make the exchange of a request that may have a trace, and may be a call."""
        trace = self.begin(request)
        content_type = request.fields.grpc if request.method == b"POST" else b""
        is_call = is_grpc(content_type)
        if not (is_call or is_web(content_type)):
            if trace is None:
                return self._untraced(services, client, request)
            return TracedExchange(services, client, request).traced(trace)
        if trace is None:
            return new_call(services, client, request)
        call = TracedCall(services, client, request).traced(trace)
        call.is_call = is_call
        return call

    def finish(self, trace: Trace, state: RequestState, outcome: str, now: float) -> None:
        """A request is over. Facts of it wait, and not the request, of which a head alone may have
        a megabyte."""
        if len(self._waiting) >= WAITING:
            self.dropped += 1
        else:
            self._waiting.append(_facts(trace, state, outcome, now))

    def tell(self, now: float) -> None:
        """Tell of what is finished, a piece in each turn of the loop."""
        self._offset = time.time() - now
        if self._waiting or self.dropped:
            self._tell()

    def _tell(self) -> None:
        some = min(PIECE, len(self._waiting))
        traced = [self._waiting.popleft() for _ in range(some)]  # ≤ PIECE
        dropped, self.dropped = self.dropped, 0
        self._send(Spans(traced, dropped, self._offset))
        if self._waiting:
            self._soon(self._tell)


def _facts(trace: Trace, state: RequestState, outcome: str, ended: float) -> Traced:
    """The facts of a trace that is finished, as the control process is told."""
    request, facts = state.request, state.client.facts
    path = request.target.partition(b"?")[0]
    attempts: list[Attempted] = []
    for one in trace.attempts:  # ≤ _ATTEMPTS
        node, error = one.node, one.outcome
        attempts.append(
            Attempted(
                one.span_id,
                node.id,
                node.address,
                node.port,
                node.server_name is not None,
                one.began,
                one.ended or ended,
                one.status,
                "" if error in NO_ERRORS else error,
            )
        )
    return Traced(
        trace.trace_id,
        trace.span_id,
        trace.parent,
        state.began,
        ended,
        request.method,
        path[:_PATH],
        state.status,
        facts.scheme,
        request.fields.host_name[:_HOST],
        facts.address,
        request.minor,
        state.request_id,
        state.pool.service if state.routed else "",
        "" if state.match is None else _route(state.match.spec, path.decode("latin-1")[:_PATH]),
        status_name(state.grpc_status),
        state.grpc_status in SERVER_ERRORS,
        "" if outcome == "ok" else outcome,
        state.target.partition(b"?")[0][:_PATH],
        attempts,
    )


def _route(spec: RouteSpec, path: str) -> str:
    """The pattern by which a route took a path; "" = it takes any."""
    prefix = spec.path_prefix
    if prefix and not (spec.path_prefixes or spec.path or spec.paths or spec.path_regex):
        return prefix
    if path in spec.all_paths:
        return path
    if spec.path_regex is not None:
        return spec.path_regex
    fitting = (one for one in spec.all_prefixes if one and path.startswith(one.partition("{")[0]))
    return max(fitting, key=len, default="")


class TracedExchange(FilteredExchange):
    """Owns a sampled request; see `FilteredExchange`."""

    trace: Trace

    def traced(self, trace: Trace) -> TracedExchange:
        """The exchange, with its trace."""
        self.trace, self.trace_id = trace, trace.trace_id
        return self

    def _send(self, upstream: UpstreamStream, now: float) -> None:
        """See `Attempts`."""
        whole = self.request
        self.request = self.trace.enter(whole, self.node, now)
        try:
            super()._send(upstream, now)
        finally:
            self.request = whole

    def head_beside(self, node: Node, now: float) -> RequestHead:
        """See `Attempts`."""
        return self.trace.enter(self.request, node, now)

    def on_end_beside(self, node: Node, outcome: str) -> None:
        """See `Attempts`."""
        self.trace.leave(node, outcome, 0, self.services.now())

    def _release(self, outcome: str, against: bool = True) -> None:
        """See `Attempts`."""
        self.trace.leave(self.node, outcome, self.status, self.services.now())
        super()._release(outcome, against)

    def _finish(self, outcome: str, now: float) -> None:
        """See `Exchange`."""
        super()._finish(outcome, now)
        self.trace.tracer.finish(self.trace, self, outcome, now)


class TracedCall(GrpcExchange):
    """Owns a sampled call of gRPC; see `GrpcExchange`. What all of them share stands in
    `Trace`: a class that is compiled has one base."""

    trace: Trace

    def traced(self, trace: Trace) -> TracedCall:
        """The exchange, with its trace."""
        self.trace, self.trace_id = trace, trace.trace_id
        return self

    def _send(self, upstream: UpstreamStream, now: float) -> None:
        """See `Attempts`."""
        whole = self.request
        self.request = self.trace.enter(whole, self.node, now)
        try:
            super()._send(upstream, now)
        finally:
            self.request = whole

    def _release(self, outcome: str, against: bool = True) -> None:
        """See `Attempts`."""
        self.trace.leave(self.node, outcome, self.status, self.services.now())
        super()._release(outcome, against)

    def _finish(self, outcome: str, now: float) -> None:
        """See `Exchange`."""
        super()._finish(outcome, now)
        self.trace.tracer.finish(self.trace, self, outcome, now)
