"""Rate limits: a token bucket for each key, shared by all workers.

The bucket is kept as one number, the theoretical arrival time of the generic cell rate algorithm
(ITU-T I.371): the moment at which the bucket will be full again. A request moves it on by the
time one token takes; when it is further ahead than the burst allows, the request is refused. So
a bucket that nobody uses needs no upkeep, and full buckets need no memory at all.

The table is as large as it is, and clients choose the keys. So a bucket that is not full keeps its
place, whoever else wants it: no key ever gets more than its burst and its rate. A key for which
there is no place is refused, as nginx does when its zone is exhausted. Places are found by a hash
under a secret of this start of the proxy: nobody outside can tell which keys share theirs.

Workers share a table in memory without locks: two of them that move the same bucket within the
same microsecond may count one request instead of two. That errs by a request in millions, on
the lenient side.
"""

from __future__ import annotations

from hashlib import blake2b
from math import inf
from typing import Final

BUCKETS: Final = 1 << 18
"""Keys that can be limited at the same time, over all services. A key needs its place while its
bucket is not full, which is `burst / rate` seconds at most. 4 MiB, of which only touched pages
cost memory: with a limit of five an hour, filling it takes 360 new clients in each second."""
_PROBES: Final = 8
"""Places a key may be in, side by side. With a quarter of the table taken, one key in a hundred
thousand finds none."""
_CELL: Final = 16
SECRET: Final = 16
"""Bytes of the secret, in front of the table."""
SIZE: Final = SECRET + BUCKETS * _CELL
"""Bytes of both."""


class BucketTable:
    """Owns this worker's view of the shared table: per bucket a tag (which key it belongs to) and
    the time at which it will be full."""

    def __init__(self, memory: memoryview[int]) -> None:
        """`memory`: `SIZE` writable bytes, the same in all workers; the first are the secret, the
        others zero. Fewer bytes make a smaller table."""
        self._secret = bytes(memory[:SECRET])
        self._tags = memory[SECRET:].cast("Q")
        self._times = memory[SECRET:].cast("d")
        self._buckets = len(self._tags) // 2
        self.share = 1.0
        """The part of the limits of a whole fleet that is this proxy's."""

    def key_of(self, service: bytes, value: bytes) -> int:
        """The key (64 bits) of what a limit is keyed on. `service`: 16 bytes at most that keep the
        buckets of one service apart from another's."""
        digest = blake2b(value, digest_size=8, key=self._secret, salt=service).digest()
        return int.from_bytes(digest, "big")

    def take_share(self, key: int, interval: float, burst: float, now: float) -> float:
        """Take one token, as `take` does, of a limit that holds for the whole fleet: this proxy has
        its share of rate and burst, and never less than a token, or nobody would ever get one."""
        return self.take(key, interval / self.share, max(1.0, burst * self.share), now)

    def take(self, key: int, interval: float, burst: float, now: float) -> float:
        """Take one token of `key`. `interval`: seconds per token; `burst`: tokens of a full bucket.
        Returns 0 if there was one, else the seconds until there is; below 0 if there is no place
        for the key, and there may be one in so many seconds."""
        tags, times = self._tags, self._times
        tag = key or 1
        place = -1
        soonest = inf
        for probe in range(_PROBES):  # ≤ 32 * _PROBES
            cell = 2 * ((key + probe) % self._buckets)
            if tags[cell] == tag:
                place = cell
                break
            full_at = times[cell + 1]
            if full_at > now:
                soonest = min(soonest, full_at)
            elif place < 0:
                place = cell
        if place < 0:
            return now - soonest
        if tags[place] != tag:
            tags[place] = tag
            times[place + 1] = 0.0
        full_at = max(times[place + 1], now) + interval
        wait = full_at - now - burst * interval
        # A hair of tolerance: the sum of many intervals must not cost the last token.
        if wait > interval * 1e-6:
            return wait
        times[place + 1] = full_at
        return 0.0

    def left(self, key: int, interval: float, burst: float, now: float) -> float:
        """Tokens of `key` that could be taken now: see `take`."""
        tag = key or 1
        for probe in range(_PROBES):  # ≤ 32 * _PROBES
            cell = 2 * ((key + probe) % self._buckets)
            if self._tags[cell] == tag:
                return max(0.0, burst - max(0.0, self._times[cell + 1] - now) / interval)
        return burst
