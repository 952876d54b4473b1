"""Calls of gRPC: requests whose outcome stands in `grpc-status`, and not in the status of HTTP.

What differs from other requests is here, and costs those one look at their content type. A request
of gRPC-Web becomes a call once it is known whose it is, if its service wants that; else it stays
like any other.
"""

from __future__ import annotations

from proxy.engine.deadlines import Alarm
from proxy.engine.filtered_exchange import FilteredExchange
from proxy.engine.grpc import (
    DEADLINE_EXCEEDED,
    answer_in_head,
    is_grpc,
    pushes_back,
    status_for,
    status_in,
    status_lines,
    status_of,
    timeout_of,
    trailers_only,
)
from proxy.engine.grpc_web import WebCoding, is_web
from proxy.engine.node import Node
from proxy.engine.replay import ReplayBuffer
from proxy.engine.services import Services
from proxy.engine.streams import ClientStream, Loss, StreamEvents, UpstreamStream
from proxy.errors import FAULTS, NO_GRPC, Fault, Refused
from proxy.filters.message import Response
from proxy.http.messages import OwnAnswer, RequestHead, ResponseHead


class GrpcExchange(FilteredExchange):
    """Owns one call."""

    is_call = True
    """Not so of gRPC-Web, before it is translated."""
    web: WebCoding | None = None
    """Translates to gRPC, and back."""
    translates = False
    """The answer is one of gRPC, and its client speaks gRPC-Web."""
    fault_status = 0
    """Status of HTTP for the fault with which the proxy answered: what logs and metrics have, and
    clients do not, to whom it is 200."""
    ends_open = False
    """The answer is under way and does not say its length, so that it may end anywhere, as long as
    the client is told what became of the call: in trailers, which HTTP/2 always has, or in
    content."""

    # -- from the request to an instance

    def _attempt(self, now: float) -> None:
        """See `Attempts`."""
        if not self.is_call and self.pool.settings.grpc.web and not self.attempts:
            try:
                self._translate()
            except Refused as refusal:
                self._answer_fault(refusal.fault, refusal.detail)
                return
        if self.is_call and not self.attempts:
            self._set_limits()
        super()._attempt(now)

    def _on_edited(self) -> None:
        """See `EditedExchange`."""
        if self.is_call:
            self._set_limits()

    def _set_limits(self) -> None:
        settings = self.pool.settings
        self.client.be_patient(settings.grpc.stream_idle)
        asked = timeout_of(self.request.fields.get(b"grpc-timeout"))
        limits = (self.terms.total, settings.grpc.max_timeout, asked)
        if any(limits):
            if self.total is None:
                self.total = Alarm(self.on_total_timeout)
                self.has_extras = True
            shortest = min(limit for limit in limits if limit)
            self.services.deadlines.arm(self.total, self.began + shortest)

    def _translate(self) -> None:
        """Make a call of a request of gRPC-Web. Raises `Refused`."""
        self.web = WebCoding(self.request.fields.grpc)
        self.is_call = True
        self.request = self.web.request(self.request)
        if self.body is not None:
            self.body = ReplayBuffer(self.web.body(self.body.pieces, self.body_done))

    def on_request_body(self, pieces: list[bytes], done: bool) -> None:
        """See `StreamEvents`."""
        if self.web is not None:
            try:
                pieces = self.web.body(pieces, done)
            except Refused as refusal:
                self.on_bad_body(refusal.fault, refusal.detail)
                return
        super().on_request_body(pieces, done)

    def _send(self, upstream: UpstreamStream, now: float) -> None:
        """See `Attempts`."""
        if not self.is_call:
            super()._send(upstream, now)
            return
        self.upstream = upstream
        body = self.body
        pieces = [] if body is None else body.pieces
        trailers = self.client.trailers
        upstream.begin(self, self.terms.grpc_settings, pieces, self.body_done, trailers, now)
        if not self.body_done:
            self._set_clock(upstream)
        if body is not None and body.too_large:
            self._keep_no_body()  # Else it is there for an instance that has begun nothing of it.

    def _send_once(self, node: Node) -> None:
        """See `Attempts`."""
        refusal = None if node.http2 else self._mismatch(node)
        if refusal is not None:
            self._answer_fault(refusal.fault, refusal.detail)
        else:
            super()._send_once(node)

    def _mismatch(self, node: Node) -> Refused | None:
        """See `Attempts`."""
        if self.is_call and not node.http2 and self.request.fields.te_trailers:
            return Refused(NO_GRPC, f"{node.id} speaks HTTP/1.1; set `protocol: grpc` for it")
        return super()._mismatch(node)

    def _on_attempt_failed(self, loss: Loss) -> None:
        """See `Attempts`. A body that is kept for another call than one that an instance has
        answered is none: what was done of this one, nobody knows."""
        if self.is_call and not loss.unsent:
            self.replayable = False
        super()._on_attempt_failed(loss)

    # -- the answer

    def on_answer(
        self, response: ResponseHead, pieces: list[bytes], done: bool, trailers: bytes
    ) -> None:
        """See `StreamEvents`."""
        if not self.is_call:
            super().on_answer(response, pieces, done, trailers)
            return
        said = response.fields.plain
        self.grpc_status = status_in(said)  # Of trailers alone.
        if done:
            reason = self.terms.retry_calls.get(self.grpc_status)
            if (
                reason is not None
                and self.replayable
                and not pieces
                and not pushes_back(said)  # It is for the client to wait.
                and self._ask_another(reason, response, pieces, done, trailers)
            ):
                return
            self._note(trailers)
        self.replayable = False  # Whatever `retry.methods` says of a POST.
        head = None if self.web is None else self.web.answer(response)
        self.translates = head is not None
        if head is not None:
            response = head
            pieces, trailers = self._content(pieces, trailers), b""
        in_http2 = self.request.minor == 2
        self.ends_open = response.fields.length is None and (in_http2 or self.translates)
        super().on_answer(response, pieces, done, trailers)

    def on_body(self, pieces: list[bytes], done: bool, trailers: bytes) -> None:
        """See `StreamEvents`."""
        if done:
            self._note(trailers)
        if self.translates:
            pieces, trailers = self._content(pieces, trailers), b""
        super().on_body(pieces, done, trailers)

    def _content(self, pieces: list[bytes], trailers: bytes) -> list[bytes]:
        assert self.web is not None
        return self.web.content(pieces, trailers)

    def _note(self, trailers: bytes) -> None:
        told = status_in(trailers)
        if told >= 0:
            self.grpc_status = told

    # -- the end

    @property
    def is_grpc(self) -> bool:
        """See `FilteredExchange`."""
        return self.is_call

    def _own_form(self, response: Response) -> OwnAnswer:
        """See `FilteredExchange`."""
        if not self.is_call:
            return super()._own_form(response)
        self.fault_status = response.status
        content_type = self.request.fields.grpc if self.web is None else self.web.content_type
        return answer_in_head(status_for(response.status), "", content_type)

    def _own_answer(self, fault: Fault, detail: str, retry_after: float) -> OwnAnswer:
        """See `Exchange`."""
        if not self.is_call and not (self.routed and self.pool.settings.grpc.web):
            return super()._own_answer(fault, detail, retry_after)
        self.is_call = True
        self.fault_status = fault.status
        content_type = self.request.fields.grpc if self.web is None else self.web.content_type
        return trailers_only(fault, detail, content_type, retry_after)

    def _cut(self, fault: Fault, detail: str) -> None:
        """See `Exchange`. A client whose own deadline passes at the same moment must not hear of
        something else than that, or it calls again."""
        if self.ends_open and status_of(fault) == DEADLINE_EXCEEDED:
            trailers = status_lines(fault, detail)
            if self.translates:
                self.client.send(self._content([], trailers), True, b"")
            else:
                self.client.send([], True, trailers)
            self.client.finish(self, self.services.now())
        else:
            self.client.cut()

    def _finish(self, outcome: str, now: float) -> None:
        """See `Exchange`."""
        if self.is_call:
            self.status = self.fault_status or self.status
            fault = FAULTS.get(outcome)
            if fault is not None:
                self.grpc_status = status_of(fault)
            elif self.grpc_status < 0:
                self.grpc_status = status_for(self.status)  # As its client will read it.
            self._counters().called(self.grpc_status)
        super()._finish(outcome, now)


def new_call(services: Services, client: ClientStream, request: RequestHead) -> StreamEvents:
    """The exchange of a request that may be a call."""
    content_type = request.fields.grpc if request.method == b"POST" else b""
    if content_type:
        if is_grpc(content_type):
            return GrpcExchange(services, client, request)
        if is_web(content_type):
            exchange = GrpcExchange(services, client, request)
            exchange.is_call = False
            return exchange
    return services.new_exchange(services, client, request)
