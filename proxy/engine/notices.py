"""Single events that a worker tells beside its counters: a log line each, mostly a message."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import structlog

from proxy.engine.telemetry import WorkerCounters
from proxy.errors import NO_DESCRIPTOR
from proxy.log import Novelties
from proxy.messages import (
    FIELDS_NAMED,
    LONGEST_FIELD_NAMED,
    UNROUTED,
    BreakerTurned,
    FieldDropped,
    Suspect,
)

_log = structlog.get_logger()


class Notices:
    """Owns what was said already and need not be said again."""

    def __init__(
        self,
        counters: WorkerCounters,
        send: Callable[[Suspect | BreakerTurned | FieldDropped], None],
    ) -> None:
        """`send` takes messages to the control process."""
        self._counters = counters
        self._send = send
        self._exhausted = False
        """There was no descriptor left a moment ago."""
        self._fields_named = Novelties(FIELDS_NAMED, LONGEST_FIELD_NAMED)
        """Of those that were left out."""

    def suspect(self, suspect: Suspect) -> None:
        """An instance fails."""
        _log.info(
            "instance_suspect",
            service=suspect.service,
            instance=suspect.key,
            reason=suspect.reason,
            failures=suspect.failures,
        )
        self._send(suspect)

    def breaker_turned(self, service: str, state: str) -> None:
        """The circuit breaker of a service is in another state."""
        write = _log.warning if state == "open" else _log.info
        write("breaker_turned", service=service, state=state)
        self._send(BreakerTurned(service=service, state=state))

    def fields_dropped(self, names: tuple[bytes, ...]) -> None:
        """Fields of a request were left out: CGI-like programs would take them for others."""
        self._counters.underscored += len(names)
        for raw in names:  # ≤ 256
            if self._fields_named.full:
                break
            name = self._fields_named.take(raw.decode("latin-1").lower())
            if name:
                self._send(FieldDropped(name=name))

    def look_for_descriptors(self) -> None:
        """Say so when none is left, which is not ours to count: the system is out of them, or
        something takes them that is not a connection. Connections that come then are closed by
        the event loop without a word."""
        try:
            os.close(os.dup(sys.stderr.fileno()))
        except OSError as error:
            self._counters.service(UNROUTED).failed(NO_DESCRIPTOR.code)
            if not self._exhausted:
                _log.warning("descriptors_exhausted", error=error.strerror)
            self._exhausted = True
        else:
            if self._exhausted:
                _log.info("descriptors_free_again")
            self._exhausted = False
