"""`rate_limit`: a token bucket for each key, as services have it, for a route or a listener."""

from __future__ import annotations

from hashlib import blake2b
from typing import ClassVar

from proxy.engine.resilience.limits import BucketTable
from proxy.errors import RATE_LIMITED, RATE_TABLE_FULL, Refused
from proxy.filters.base import Context, Filter, FilterOptions
from proxy.filters.message import Request
from proxy.http.properties import source_of
from proxy.settings.service import RateLimitSettings


class Options(RateLimitSettings, FilterOptions, frozen=True, kw_only=True):
    """The keys of `rate_limit`, which are those of services."""


class RateLimit(Filter):
    """Refusal of requests beyond a rate, for each key."""

    options: ClassVar[type[FilterOptions] | None] = Options
    meaning: ClassVar[str] = "A limit on requests for each key; beyond it 429."

    def __init__(self, options: Options) -> None:
        self._key = options.key
        self._source = source_of(options.key)
        self._interval = options.per / options.requests
        self._burst = float(options.burst or options.requests)
        self._of_fleet = options.scope == "fleet"
        self._context: Context

    def open(self, context: Context) -> None:
        """See `Filter`."""
        self._context = context
        self._salt = blake2b(b"filter " + self.name.encode(), digest_size=16).digest()

    def on_request(self, request: Request) -> None:
        """See `Filter`. Requests without the key share a bucket."""
        buckets: BucketTable = self._context.buckets
        key = buckets.key_of(self._salt, request.value(self._source) or b"")
        take = buckets.take_share if self._of_fleet else buckets.take
        wait = take(key, self._interval, self._burst, self._context.now())
        if wait < 0:
            detail = f"more {self._key} are limited at the same time than there is room for"
            raise Refused(RATE_TABLE_FULL, detail, -wait)
        if wait:
            raise Refused(RATE_LIMITED, f"more requests per {self._key} than allowed", wait)
