"""Log lines of a worker about requests that did not go well."""

from __future__ import annotations

import structlog

from proxy.engine.request_state import RequestState
from proxy.engine.telemetry import WorkerCounters
from proxy.errors import INTERNAL, Fault, Side
from proxy.messages import UNROUTED

_log = structlog.get_logger()

BURST = 50
"""Lines per second and worker. A broken instance under load would otherwise make the log the
slowest part of the proxy; what is left out is counted and said."""


class FaultLog:
    """Owns how many lines may still be written in this second."""

    def __init__(self, counters: WorkerCounters) -> None:
        self._counters = counters
        self._budget = BURST
        self._dropped = 0

    def tick(self) -> None:
        """A second has passed."""
        if self._dropped:
            _log.warning("faults_not_logged", count=self._dropped)
        self._budget = BURST
        self._dropped = 0

    def request(self, fault: Fault, detail: str, state: RequestState) -> None:
        """A request did not go well."""
        request = state.request
        self._write(
            fault,
            detail,
            state.failure,
            service=state.pool.service if state.routed else None,
            instance=None if state.last is None else state.last.id,
            method=request.method.decode("latin-1"),
            target=request.target[:200].decode("latin-1"),
            attempts=state.attempts,
            request_id=state.request_id.decode("latin-1"),
            client=state.client.facts.client(request.fields).decode("ascii"),
        )

    def refusal(
        self, fault: Fault, detail: str, client: str, failure: Exception | None = None
    ) -> None:
        """Bytes never became a request. `client`: the address they came from."""
        self._write(fault, detail, failure, client=client)

    def inside(self, error: Exception, service: str = UNROUTED) -> None:
        """Count and log an error that was raised where no request ends for it."""
        self._counters.service(service).failed(INTERNAL.code)
        self._write(INTERNAL, "an error inside the proxy", error, service=service or None)

    def _write(
        self, fault: Fault, detail: str, failure: Exception | None, **fields: object
    ) -> None:
        if self._budget <= 0:
            self._dropped += 1
            return
        self._budget -= 1
        # Clients' mistakes are their business; instances' and our own are the operator's.
        write = _log.info if fault.side is Side.CLIENT else _log.warning
        if failure is not None:
            write = _log.error
            fields["exc_info"] = failure
        write(
            "request_failed",
            fault=fault.code,
            error=fault.error,
            status=fault.status,
            detail=detail,
            **fields,
        )
