"""The policies of one service in one worker, put together from its settings.

What is switched off is None and costs one comparison. Nothing here acts: the exchange asks, and
acts.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from proxy.engine.resilience.breaker import Breaker
from proxy.engine.resilience.limits import BucketTable
from proxy.engine.resilience.queue import Queue
from proxy.engine.resilience.retry import RetryBudget
from proxy.errors import (
    BREAKER_OPEN,
    CLOSED_EARLY,
    RATE_LIMITED,
    RATE_TABLE_FULL,
    Fault,
    Refused,
)
from proxy.settings.service import GRPC_REASONS, ServiceSettings

BAD_STATUSES: Final = frozenset((502, 503, 504))
"""Answers that speak against the instance that gave them. Not every 5xx: a 500 is mostly the
request's doing, and would be the same elsewhere."""

LIMIT_OF: Final = {
    RATE_LIMITED: "rate_limit",
    RATE_TABLE_FULL: "rate_limit.table",
    BREAKER_OPEN: "circuit_breaker",
}
"""Fault → what of the service's settings refused the request."""


class Policies:
    """Owns the state of every policy of one service in this worker."""

    __slots__ = (
        "_breaker_settings", "_burst", "_interval", "_methods", "_on", "_salt", "breaker",
        "buckets", "budget", "grpc_settings", "has_admission", "max_inflight", "max_retries",
        "queue", "queue_limit", "rate_key", "retry_calls", "retry_statuses", "suspect_after",
    )  # fmt: skip

    def __init__(
        self,
        service_key: int,
        settings: ServiceSettings,
        buckets: BucketTable,
        before: Policies | None = None,
    ) -> None:
        """`service_key`: 64 bits that keep this service's buckets apart from another's. `before`:
        what these follow, with other settings. Who waits goes on waiting, what was saved stays
        saved, and a breaker that is to be as it was stays as it is."""
        retry = settings.retry
        self.max_retries = retry.max_retries
        self.budget: RetryBudget = RetryBudget(retry.budget) if before is None else before.budget
        self.budget.share = retry.budget
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
        ejection = settings.ejection
        self.suspect_after = ejection.consecutive_failures if ejection.enabled else 0
        """Failures in a row after which an instance is reported; 0 = never."""
        breaker = self._breaker_settings = settings.circuit_breaker
        self.breaker: Breaker | None = None
        if before is not None and before._breaker_settings == breaker:
            self.breaker = before.breaker
        elif breaker is not None:
            self.breaker = Breaker(
                breaker.failure_ratio, breaker.min_requests, breaker.window, breaker.open
            )
        self.max_inflight = settings.max_inflight
        self.queue: Queue = (
            Queue(settings.queue.size) if before is None else before.queue
        )  # ≤ 1 KiB + 64 B per request
        self.queue.size = settings.queue.size
        self.queue_limit = settings.timeouts.queue
        self.buckets = buckets
        self._salt = service_key.to_bytes(8, "big")
        rate = settings.rate_limit
        self.rate_key = None if rate is None else rate.key
        """Property of the request that the rate limit is keyed on; None = no limit."""
        self._interval = 0.0 if rate is None else rate.per / rate.requests
        self._burst = 0.0 if rate is None else float(rate.burst or rate.requests)
        self.has_admission = self.breaker is not None or rate is not None
        """Whether a breaker or a rate limit is asked before a request goes on."""

    def admit(self, rate_value: bytes, now: float) -> Refused | None:
        """The refusal of the request, or None. `rate_value`: what the limit is keyed on. The
        breaker, if there is one, waits to hear of each request that is admitted."""
        if self.rate_key is not None:
            key = self.buckets.key_of(self._salt, rate_value)
            wait = self.buckets.take(key, self._interval, self._burst, now)
            if wait < 0:
                detail = f"more {self.rate_key} are limited at the same time than there is room for"
                return Refused(RATE_TABLE_FULL, detail, -wait)
            if wait:
                detail = f"more requests per {self.rate_key} than allowed"
                return Refused(RATE_LIMITED, detail, wait)
        if self.breaker is not None and not self.breaker.admit(now):
            return Refused(BREAKER_OPEN, "the service fails too often and is left alone for now")
        return None

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
