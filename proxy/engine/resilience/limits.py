"""Rate limits: a token bucket for each key, shared by all workers.

The bucket is kept as one number, the theoretical arrival time of the generic cell rate algorithm
(ITU-T I.371): the moment at which the bucket will be full again. A request moves it on by the
time one token takes; when it is further ahead than the burst allows, the request is refused. So
a bucket that nobody uses needs no upkeep, and full buckets need no memory at all.

Workers share a table in memory without locks: two of them that move the same bucket within the
same microsecond may count one request instead of two. That errs by a request in millions, on
the lenient side.
"""

from __future__ import annotations

from typing import Final

BUCKETS: Final = 1 << 15
"""Keys that can be limited at the same time, over all services. A key is only in the table while
its bucket is not full, which is `burst / rate` seconds at most."""
_PROBES: Final = 4
"""Places a key may be in. If all are taken the one that is fullest again soonest gives way."""
_CELL: Final = 16
SIZE: Final = BUCKETS * _CELL
"""Bytes of the table."""


class BucketTable:
    """Owns this worker's view of the shared table: per bucket a tag (which key it belongs to) and
    the time at which it will be full."""

    def __init__(self, memory: memoryview[int]) -> None:
        """`memory`: `SIZE` writable bytes, zero at first, the same in all workers."""
        self._tags = memory.cast("Q")
        self._times = memory.cast("d")

    def take(self, key: int, interval: float, burst: float, now: float) -> float:
        """Take one token of `key` (64 bits). `interval`: seconds per token; `burst`: tokens of a
        full bucket. Returns 0 if there was one, else the seconds until there is."""
        tags, times = self._tags, self._times
        best = -1
        tag = key or 1
        soonest = 0.0
        for probe in range(_PROBES):
            cell = 2 * ((key + probe) % BUCKETS)
            if tags[cell] == tag:
                best = cell
                break
            full_at = times[cell + 1]
            if best < 0 or full_at < soonest:
                best, soonest = cell, full_at
        if tags[best] != tag:
            tags[best] = tag
            times[best + 1] = 0.0
        full_at = max(times[best + 1], now) + interval
        wait = full_at - now - burst * interval
        # A hair of tolerance: the sum of many intervals must not cost the last token.
        if wait > interval * 1e-6:
            return wait
        times[best + 1] = full_at
        return 0.0
