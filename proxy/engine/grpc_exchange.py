"""Calls of gRPC: requests whose outcome stands in `grpc-status`, and not in the status of HTTP.

What differs from other requests is here, and costs those one look at their content type.
"""

from __future__ import annotations

from proxy.engine.exchange import Exchange
from proxy.engine.grpc import is_grpc, status_for, status_in, status_of, trailers_only
from proxy.engine.services import Services
from proxy.engine.streams import ClientStream, StreamEvents
from proxy.errors import FAULTS, Fault
from proxy.http.messages import OwnAnswer, RequestHead, ResponseHead


class GrpcExchange(Exchange):
    """Owns one call."""

    fault_status = 0
    """Status of HTTP for the fault with which the proxy answered: what logs and metrics have, and
    clients do not, to whom it is 200."""

    def _own_answer(self, fault: Fault, detail: str, retry_after: float) -> OwnAnswer:
        """See `Exchange`."""
        self.fault_status = fault.status
        return trailers_only(fault, detail, self.request.fields.grpc, retry_after)

    def on_answer(
        self, response: ResponseHead, pieces: list[bytes], done: bool, trailers: bytes
    ) -> None:
        """See `StreamEvents`."""
        self.grpc_status = status_in(response.fields.plain)  # Of trailers alone.
        if done:
            self._note(trailers)
        super().on_answer(response, pieces, done, trailers)

    def on_body(self, pieces: list[bytes], done: bool, trailers: bytes) -> None:
        """See `StreamEvents`."""
        if done:
            self._note(trailers)
        super().on_body(pieces, done, trailers)

    def _note(self, trailers: bytes) -> None:
        told = status_in(trailers)
        if told >= 0:
            self.grpc_status = told

    def _finish(self, outcome: str, now: float) -> None:
        """See `Exchange`."""
        self.status = self.fault_status or self.status
        fault = FAULTS.get(outcome)
        if fault is not None:
            self.grpc_status = status_of(fault)
        elif self.grpc_status < 0:
            self.grpc_status = status_for(self.status)  # As its client will read it.
        self._counters().called(self.grpc_status)
        super()._finish(outcome, now)


def new_exchange(services: Services, client: ClientStream, request: RequestHead) -> StreamEvents:
    """The exchange of a request."""
    content_type = request.fields.grpc
    if content_type and is_grpc(content_type):
        return GrpcExchange(services, client, request)
    return Exchange(services, client, request)
