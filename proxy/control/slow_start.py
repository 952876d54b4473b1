"""Slow start: a new instance gets its share of the requests little by little. Pure.

The share of full weight grows linearly with the time an instance has been ready, from 10 % to
all of it after `window` seconds, and counts *relative to the oldest instance that is ready*:
a pool that is new as a whole is balanced as if nobody were new, without a jump at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

FLOOR = 0.1
"""Envoy's: less than a tenth would leave a light instance without the requests that warm it."""

SCALE = 20
"""Steps in which a weight grows. Weights are integers, so while somebody is new those of the pool
are multiplied by this, unless its balancer hashes and is told of shares."""


class SlowStart:
    """Owns since when the newcomers of one pool are ready. Who is in no record is full."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._since)

    def observe(self, ready: Collection[str], newcomers: Collection[str], now: float) -> None:
        """`ready`: keys that are ready; `newcomers`: those of them that are so for the first time,
        or again: after an ejection, too, since what overloaded an instance once would do it again
        (Envoy and HAProxy do likewise)."""
        self._since = {key: at for key, at in self._since.items() if key in ready}
        for key in newcomers:
            self._since[key] = now

    def shares(self, ready: Collection[str], window: float, now: float) -> Mapping[str, float]:
        """Share of full weight, FLOOR … 1, of each newcomer. Empty when nobody is new, or
        nobody newer than others; newcomers that are through are forgotten."""
        self._since = {key: at for key, at in self._since.items() if now - at < window}
        if not self._since:
            return {}
        ages = {key: max(FLOOR, (now - at) / window) for key, at in self._since.items()}
        oldest = max((ages.get(key, 1.0) for key in ready), default=1.0)
        shares = {key: min(1.0, age / oldest) for key, age in ages.items()}
        return shares if any(share < 1.0 for share in shares.values()) else {}


def scaled(weight: int, share: float) -> int:
    """A weight while somebody in the pool is new; at least 1, but 0 stays 0 (drained)."""
    return max(1, round(weight * share * SCALE)) if weight else 0
