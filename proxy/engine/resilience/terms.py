"""Limits of time and further attempts, as one request has them."""

from __future__ import annotations

from msgspec.structs import replace

from proxy.errors import CLOSED_EARLY, Fault
from proxy.settings.route_terms import RouteRetry, RouteTimeouts, on_route
from proxy.settings.service import GRPC_REASONS, ServiceSettings


class Terms:
    """Limits and further attempts of requests: those of a service, or of a route to it. Frozen."""

    __slots__ = (
        "_methods", "_on", "grpc_settings", "has_extras", "max_retries", "queue_limit",
        "retry_calls", "retry_statuses", "settings", "total",
    )  # fmt: skip

    def __init__(self, settings: ServiceSettings) -> None:
        retry = settings.retry
        self.settings = settings
        self.total = settings.timeouts.total
        extras = (settings.mirror, settings.hedge)
        self.has_extras = self.total > 0 or extras != (None, None)
        """Whether a request has more to begin with than an attempt."""
        self.queue_limit = settings.timeouts.queue
        self.max_retries = retry.max_retries
        self._methods = frozenset(method.encode("ascii") for method in retry.methods)
        self._on = frozenset(retry.on)
        self.retry_statuses = frozenset(int(on) for on in retry.on if on.isdigit())
        self.retry_calls = {
            status: on for on, status in GRPC_REASONS.items() if on in retry.on
        }  # ≤ 1 KiB
        """Status of gRPC for which a call is made again, and the word for that."""
        if not retry.max_retries:
            self.retry_statuses = frozenset()
            self.retry_calls = {}
        idle = settings.grpc.stream_idle
        self.grpc_settings: ServiceSettings = replace(
            settings, timeouts=replace(settings.timeouts, first_byte=idle, idle=idle)
        )
        """The settings for calls of gRPC, which may be silent for longer than other answers."""

    def may_repeat(
        self, fault: Fault, method: bytes, stale: bool, unsent: bool, replayable: bool
    ) -> bool:
        """Whether an attempt that failed with `fault` may be made again elsewhere. `stale`: on a
        connection that had been idle; `unsent`: there was no connection; `replayable`: all that
        was sent of the body is still here. The budget is asked separately, last, because asking
        takes from it."""
        if not fault.repeat:
            return False
        if unsent:
            return "connect" in self._on  # Not a byte of the request reached an instance.
        if not replayable:
            return False  # Some of the body is gone, or acting twice might do harm.
        if stale and fault is CLOSED_EARLY:
            return True  # It says nothing of the instance, and costs it nothing.
        return method in self._methods and fault.repeat in self._on

    def may_repeat_answer(self, method: bytes, replayable: bool) -> bool:
        """Whether a request whose answer has one of `retry_statuses` may be made again."""
        return replayable and method in self._methods


class RouteTerms:
    """Owns the terms of routes to one service that have some of their own."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._known: dict[tuple[RouteTimeouts, RouteRetry], Terms] = {}  # ≤ 8 KiB per route

    def of(self, timeouts: RouteTimeouts, retry: RouteRetry) -> Terms:
        """The terms of requests by a route with these."""
        terms = self._known.get((timeouts, retry))
        if terms is None:
            settings: ServiceSettings = on_route(self._settings, timeouts, retry)
            terms = self._known[timeouts, retry] = Terms(settings)
        return terms
