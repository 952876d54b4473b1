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
from proxy.http.trace_context import parent_of, with_parent
from proxy.messages import Span, Spans
from proxy.settings.process import TracingSettings

WAITING: Final = 2048
"""Traces that wait to be told of; more are dropped, and counted. Some 4 MiB."""
PIECE: Final = 50
"""Traces in one message: a millisecond."""
_ATTEMPTS: Final = 16
"""Spans of attempts of one request; more retries than that are a mistake."""
_SERVER: Final = 2
_CLIENT: Final = 3
_PATH: Final = 1024
"""Characters of a path that a span has."""


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
        "attempts", "current", "ended", "outcome", "parent", "rng", "span_id", "state", "trace_id",
    )  # fmt: skip

    def __init__(self, trace_id: bytes, parent: bytes, rng: Random) -> None:
        self.trace_id = trace_id
        self.parent = parent
        self.rng = rng
        self.span_id = b"%016x" % rng.getrandbits(64)
        self.attempts: list[Attempt] = []  # ≤ 8 KiB
        self.current: Attempt | None = None
        """The attempt that is under way."""
        self.state: RequestState | None = None
        """The request, once it is over."""
        self.outcome = ""
        self.ended = 0.0

    def begin(self, node: Node, now: float) -> Attempt:
        """An attempt goes to `node`."""
        attempt = Attempt(node, b"%016x" % self.rng.getrandbits(64), now)
        if len(self.attempts) < _ATTEMPTS:
            self.attempts.append(attempt)
        self.current = attempt
        return attempt

    def end(self, node: Node, outcome: str, status: int, now: float) -> None:
        """The attempt is over, which may not have got as far as a connection."""
        attempt = self.current or self.begin(node, now)
        attempt.ended, attempt.outcome, attempt.status = now, outcome, status
        self.current = None


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
        self._send = send
        self._soon = soon
        self._sample = 0.0
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
        self._sample = 0.0 if settings is None else settings.sample

    def begin(self, request: RequestHead) -> Trace | None:
        """The trace of a request: the parent decides whether there is one, or else chance."""
        parent = parent_of(request.fields.get(b"traceparent"))
        if parent is not None:
            if not parent.sampled:
                return None
            return Trace(parent.trace_id, parent.span_id, self._rng)
        if self._rng.random() >= self._sample:
            return None
        return Trace(b"%032x" % self._rng.getrandbits(128), b"", self._rng)

    def exchange(
        self, services: Services, client: ClientStream, request: RequestHead
    ) -> StreamEvents:
        """Make the exchange of a request that is no call."""
        trace = self.begin(request)
        if trace is None:
            return self._untraced(services, client, request)
        return TracedExchange(services, client, request).traced(trace, self)

    def call(self, services: Services, client: ClientStream, request: RequestHead) -> StreamEvents:
        """Make the exchange of a request that may be a call."""
        content_type = request.fields.grpc if request.method == b"POST" else b""
        if not (is_grpc(content_type) or is_web(content_type)):
            return self.exchange(services, client, request)
        trace = self.begin(request)
        if trace is None:
            return new_call(services, client, request)
        call = TracedCall(services, client, request).traced(trace, self)
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
        method = request.method.decode("latin-1")
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
        if state.grpc_status >= 0:
            about |= {"rpc.system": "grpc", "rpc.grpc.status_code": state.grpc_status}
        failed = trace.outcome != "ok" or state.status >= 500
        error = (trace.outcome if trace.outcome != "ok" else str(state.status)) if failed else ""
        times = state.began, trace.ended
        found = [
            self._span(trace, trace.span_id, trace.parent, method, _SERVER, times, about, error)
        ]
        for number, attempt in enumerate(trace.attempts):  # ≤ _ATTEMPTS
            node = attempt.node
            about = {
                "http.request.method": method,
                "server.address": node.address,
                "server.port": node.port,
                "fairlead.instance": node.id,
            }
            if attempt.status:
                about["http.response.status_code"] = attempt.status
            if number:
                about["http.request.resend_count"] = number
            error = "" if attempt.outcome == "ok" else attempt.outcome
            times = attempt.began, attempt.ended or trace.ended
            found.append(
                self._span(
                    trace, attempt.span_id, trace.span_id, method, _CLIENT, times, about, error
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
    tracer: Tracer

    def traced(self, trace: Trace, tracer: Tracer) -> TracedExchange:
        """The exchange, with its trace."""
        self.trace, self.tracer = trace, tracer
        self.trace_id = trace.trace_id
        return self

    def _send(self, upstream: UpstreamStream, now: float) -> None:
        """See `Attempts`."""
        whole, node = self.request, self.node
        if node is not None:
            attempt = self.trace.begin(node, now)
            self.request = with_parent(whole, self.trace.trace_id, attempt.span_id)
        try:
            super()._send(upstream, now)
        finally:
            self.request = whole

    def _release(self, outcome: str, against: bool = True) -> None:
        """See `Attempts`."""
        if self.node is not None:
            self.trace.end(self.node, outcome, self.status, self.services.now())
        super()._release(outcome, against)

    def _finish(self, outcome: str, now: float) -> None:
        """See `Exchange`."""
        super()._finish(outcome, now)
        self.tracer.finish(self.trace, self, outcome, now)


class TracedCall(GrpcExchange):
    """Owns a sampled call of gRPC; see `GrpcExchange`."""

    trace: Trace
    tracer: Tracer

    def traced(self, trace: Trace, tracer: Tracer) -> TracedCall:
        """The exchange, with its trace."""
        self.trace, self.tracer = trace, tracer
        self.trace_id = trace.trace_id
        return self

    def _send(self, upstream: UpstreamStream, now: float) -> None:
        """See `Attempts`."""
        whole, node = self.request, self.node
        if node is not None:
            attempt = self.trace.begin(node, now)
            self.request = with_parent(whole, self.trace.trace_id, attempt.span_id)
        try:
            super()._send(upstream, now)
        finally:
            self.request = whole

    def _release(self, outcome: str, against: bool = True) -> None:
        """See `Attempts`."""
        if self.node is not None:
            self.trace.end(self.node, outcome, self.status, self.services.now())
        super()._release(outcome, against)

    def _finish(self, outcome: str, now: float) -> None:
        """See `Exchange`."""
        super()._finish(outcome, now)
        self.tracer.finish(self.trace, self, outcome, now)
