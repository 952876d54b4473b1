"""The policies of one service in one worker, put together from its settings.

What is switched off is None and costs one comparison. Nothing here acts: the exchange asks, and
acts.
"""

from __future__ import annotations

from typing import Final

from proxy.engine.resilience.breaker import Breaker
from proxy.engine.resilience.concurrency import Concurrency
from proxy.engine.resilience.hedging import Hedging
from proxy.engine.resilience.limits import BucketTable
from proxy.engine.resilience.queue import Queue
from proxy.engine.resilience.retry import RetryBudget
from proxy.errors import (
    BREAKER_OPEN,
    QUEUE_FULL,
    RATE_LIMITED,
    RATE_TABLE_FULL,
    Refused,
)
from proxy.settings.service import ServiceSettings

BAD_STATUSES: Final = frozenset((502, 503, 504))
"""Answers that speak against the instance that gave them. Not every 5xx: a 500 is mostly the
request's doing, and would be the same elsewhere."""

LIMIT_OF: Final = {
    RATE_LIMITED: "rate_limit",
    RATE_TABLE_FULL: "rate_limit.table",
    BREAKER_OPEN: "circuit_breaker",
    QUEUE_FULL: "adaptive_concurrency",
}
"""Fault → what of the service's settings refused the request."""


class Policies:
    """Owns the state of every policy of one service in this worker."""

    __slots__ = (
        "_breaker_settings", "_burst", "_hedge_settings", "_interval", "_of_fleet", "_salt",
        "_target", "breaker", "buckets", "budget", "concurrency", "has_admission", "hedging",
        "max_inflight", "queue", "rate_key", "suspect_after",
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
        share = settings.retry.budget
        self.budget: RetryBudget = RetryBudget(share) if before is None else before.budget
        self.budget.share = share
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
        adaptive = settings.adaptive_concurrency
        self._target = 0.0 if adaptive is None else adaptive.target
        self.concurrency: Concurrency | None = None
        if before is not None and before._target == self._target:
            self.concurrency = before.concurrency
        elif adaptive is not None:
            self.concurrency = Concurrency(adaptive.target, 0.0)
        hedge = self._hedge_settings = settings.hedge
        self.hedging: Hedging | None = None
        if before is not None and before._hedge_settings == hedge:
            self.hedging = before.hedging
        elif hedge is not None:
            self.hedging = Hedging(hedge.quantile, hedge.delay, hedge.max_share)
        self.max_inflight = settings.max_inflight
        self.queue: Queue = (
            Queue(settings.queue.size) if before is None else before.queue
        )  # ≤ 1 KiB + 64 B per request
        self.queue.size = settings.queue.size
        self.buckets = buckets
        self._salt = service_key.to_bytes(8, "big")
        rate = settings.rate_limit
        self.rate_key = None if rate is None else rate.key
        """Property of the request that the rate limit is keyed on; None = no limit."""
        self._interval = 0.0 if rate is None else rate.per / rate.requests
        self._burst = 0.0 if rate is None else float(rate.burst or rate.requests)
        self._of_fleet = rate is not None and rate.scope == "fleet"
        self.has_admission = (
            self.breaker is not None or rate is not None or self.concurrency is not None
        )
        """Whether a breaker or a limit is asked before a request goes on."""

    def admit(self, rate_value: bytes, now: float) -> Refused | None:
        """The refusal of the request, or None. `rate_value`: what the limit is keyed on. The
        breaker, if there is one, waits to hear of each request that is admitted."""
        if self.rate_key is not None:
            key = self.buckets.key_of(self._salt, rate_value)
            if self._of_fleet:
                wait = self.buckets.take_share(key, self._interval, self._burst, now)
            else:
                wait = self.buckets.take(key, self._interval, self._burst, now)
            if wait < 0:
                detail = f"more {self.rate_key} are limited at the same time than there is room for"
                return Refused(RATE_TABLE_FULL, detail, -wait)
            if wait:
                detail = f"more requests per {self.rate_key} than allowed"
                return Refused(RATE_LIMITED, detail, wait)
        if self.concurrency is not None and self.concurrency.is_full:
            detail = f"{self.concurrency.inflight} requests wait already, and it would be slow"
            return Refused(QUEUE_FULL, detail)
        if self.breaker is not None and not self.breaker.admit(now):
            return Refused(BREAKER_OPEN, "the service fails too often and is left alone for now")
        return None
