"""Traces of requests: a span for each, and one for each of its attempts.

Only a request that is sampled has a trace, and an exchange that knows of it; where tracing is off
there is nothing that would have to be asked. Spans are made once a second, some at a time, and sent
by the control process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Final

from proxy.engine.exchange import Exchange
from proxy.engine.filtered_exchange import FilteredExchange
from proxy.engine.grpc import is_grpc
from proxy.engine.grpc_exchange import GrpcExchange, new_call
from proxy.engine.grpc_web import is_web
from proxy.engine.node import Node
from proxy.engine.request_state import RequestState
from proxy.engine.services import Services
from proxy.engine.streams import ClientStream, StreamEvents, UpstreamStream
from proxy.http.messages import VERSIONS, RequestHead
from proxy.http.trace_context import Propagation
from proxy.messages import NO_ERRORS, Span, Spans
from proxy.settings.process import TracingSettings

WAITING: Final = 2048
"""Traces that wait to be told of; more are dropped, and counted. Some 4 MiB."""
PIECE: Final = 50
"""Traces in one message: a millisecond."""
_ATTEMPTS: Final = 16
"""Spans of attempts of one request; more retries than that are a mistake."""
_OUR_FAULT: Final = (2, 4, 12, 13, 14, 15)
"""Statuses of gRPC that are a server's errors, as the conventions for RPC have it."""
_SERVER: Final = 2
_CLIENT: Final = 3
_PATH: Final = 1024
"""Characters of a path that a span has."""


def rpc_of(name: str) -> dict[str, str | int]:
    """A call as the conventions for RPC name it. `name`: `package.Service/Method`."""
    service, _, method = name.rpartition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}


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

    __slots__ = (
        "attempts", "ended", "outcome", "parent", "span_id", "state", "trace_id", "tracer",
    )  # fmt: skip

    def __init__(self, trace_id: bytes, parent: bytes, tracer: Tracer) -> None:
        self.trace_id = trace_id
        self.parent = parent
        self.tracer = tracer
        self.span_id = tracer.new_id()
        self.attempts: list[Attempt] = []  # ≤ 8 KiB
        self.state: RequestState | None = None
        """The request, once it is over."""
        self.outcome = ""
        self.ended = 0.0

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
        return self.tracer.propagation.with_parent(request, self.trace_id, span_id)

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
        self._random = rng.random
        self._send = send
        self._soon = soon
        self._sample = 0.0
        self.propagation = Propagation(("w3c",))
        self._untraced: type[Exchange] = Exchange
        self._waiting: deque[Trace] = deque()  # ≤ WAITING * 2 KiB
        self.dropped = 0
        """Traces that were dropped since the last message."""
        self._offset = 0.0
        """From the loop's clock to Unix time."""

    def use(
        self, settings: TracingSettings | None, services: Services, untraced: type[Exchange]
    ) -> None:
        """Trace requests from now on as the settings say. `untraced`: the exchange of one that has
        no trace."""
        self._untraced = untraced
        services.new_exchange = untraced if settings is None else self.exchange
        services.new_call = new_call if settings is None else self.call
        if settings is not None:
            self._sample = settings.sample
            self.propagation = Propagation(settings.propagation)

    def new_id(self) -> bytes:
        """Of a span."""
        return b"%016x" % self._rng.getrandbits(64)

    def begin(self, request: RequestHead) -> Trace | None:
        """The trace of a request: the parent decides whether there is one, or else chance."""
        parent = self.propagation.parent(request.fields)
        sampled = None if parent is None else parent.sampled
        if sampled is None:
            sampled = self._random() < self._sample
        if not sampled:
            return None
        if parent is None or not parent.trace_id:
            return self._new_trace()
        return Trace(parent.trace_id, parent.span_id, self)

    def _new_trace(self) -> Trace:
        return Trace(b"%032x" % self._rng.getrandbits(128), b"", self)

    def exchange(
        self, services: Services, client: ClientStream, request: RequestHead
    ) -> StreamEvents:
        """Make the exchange of a request that is no call."""
        trace: Trace | None
        if request.fields.orphan is self.propagation:
            # Most have a block that was seen before, and no trace: they pay for this alone.
            if self._random() >= self._sample:
                return self._untraced(services, client, request)
            trace = self._new_trace()
        else:
            trace = self.begin(request)
            if trace is None:
                return self._untraced(services, client, request)
        return TracedExchange(services, client, request).traced(trace)

    def call(self, services: Services, client: ClientStream, request: RequestHead) -> StreamEvents:
        """Make the exchange of a request that may be a call."""
        content_type = request.fields.grpc if request.method == b"POST" else b""
        if not (is_grpc(content_type) or is_web(content_type)):
            return self.exchange(services, client, request)
        trace = self.begin(request)
        if trace is None:
            return new_call(services, client, request)
        call = TracedCall(services, client, request).traced(trace)
        call.is_call = is_grpc(content_type)
        return call

    def finish(self, trace: Trace, state: RequestState, outcome: str, now: float) -> None:
        """A request is over."""
        if len(self._waiting) >= WAITING:
            self.dropped += 1
            return
        trace.state, trace.outcome, trace.ended = state, outcome, now
        self._waiting.append(trace)

    def tell(self, now: float) -> None:
        """Make spans of what is finished, a piece in each turn of the loop."""
        self._offset = time.time() - now
        if self._waiting or self.dropped:
            self._tell()

    def _tell(self) -> None:
        spans: list[Span] = []
        for _ in range(min(PIECE, len(self._waiting))):  # ≤ PIECE
            spans += self._spans(self._waiting.popleft())
        dropped, self.dropped = self.dropped, 0
        self._send(Spans(spans, dropped))
        if self._waiting:
            self._soon(self._tell)

    def _spans(self, trace: Trace) -> list[Span]:
        state = trace.state
        assert state is not None
        request = state.request
        name = method = request.method.decode("latin-1")
        path = request.target.partition(b"?")[0].decode("latin-1")[:_PATH]
        about: dict[str, str | int] = {
            "http.request.method": method,
            "http.response.status_code": state.status,
            "url.path": path,
            "server.address": request.fields.host_name,
            "client.address": state.client.facts.address.decode("latin-1"),
            "network.protocol.version": VERSIONS[request.minor].decode(),
            "fairlead.request_id": state.request_id.decode("latin-1"),
        }
        if state.routed:
            about["fairlead.service"] = state.pool.service
        rpc: dict[str, str | int] = {}
        if state.grpc_status >= 0:
            name = path[1:]
            rpc = rpc_of(name)
            about |= rpc
            about["rpc.grpc.status_code"] = state.grpc_status
        error = "" if trace.outcome == "ok" else trace.outcome
        if not error and state.grpc_status in _OUR_FAULT:
            error = str(state.grpc_status)
        elif not error and state.status >= 500:
            error = str(state.status)
        times = state.began, trace.ended
        found = [self._span(trace, trace.span_id, trace.parent, name, _SERVER, times, about, error)]
        for number, attempt in enumerate(trace.attempts):  # ≤ _ATTEMPTS
            node = attempt.node
            about = {
                "http.request.method": method,
                "server.address": node.address,
                "server.port": node.port,
                "fairlead.instance": node.id,
                **rpc,
            }
            if attempt.status:
                about["http.response.status_code"] = attempt.status
            if number:
                about["http.request.resend_count"] = number
            error = "" if attempt.outcome in NO_ERRORS else attempt.outcome
            times = attempt.began, attempt.ended or trace.ended
            found.append(
                self._span(
                    trace, attempt.span_id, trace.span_id, name, _CLIENT, times, about, error
                )
            )
        return found

    def _span(
        self,
        trace: Trace,
        span_id: bytes,
        parent: bytes,
        name: str,
        kind: int,
        times: tuple[float, float],
        attributes: dict[str, str | int],
        error: str,
    ) -> Span:
        return Span(
            trace.trace_id.decode(),
            span_id.decode(),
            parent.decode(),
            name,
            kind,
            int((times[0] + self._offset) * 1e9),
            int((times[1] + self._offset) * 1e9),
            attributes,
            error,
        )


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
