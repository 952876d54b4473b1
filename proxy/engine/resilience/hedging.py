"""When a request is slow enough for a second attempt beside the first, and how many may have one.

A hedge (Dean and Barroso: The Tail at Scale, 2013) buys a shorter tail with requests that were not
needed, so it must not become a second load: it is made late, when most of the others were answered
long ago, and a share bounds it whatever happens. When everything is slow, as under too much load,
that share is all there is.
"""

from __future__ import annotations

from math import inf
from typing import Final

from proxy.engine.resilience.retry import RetryBudget
from proxy.latency import LAST, UNITS, place_of, seconds_of

WINDOW: Final = 10
"""Seconds of answers that are looked at, and up to as many before: a service that has become slow
as a whole is not hedged for longer than that."""
FEWEST: Final = 20
"""Answers without which there is no quantile to speak of."""


class Hedging:
    """Owns the delay of hedges of one service in one worker, and how many there may still be.

    Law: hedges ≤ `retry.FLOOR` + `max_share` × requests."""

    __slots__ = ("_age", "_before", "_budget", "_counts", "_quantile", "delay")

    def __init__(self, quantile: float, delay: float, max_share: float) -> None:
        """`quantile`: of the time to an answer's head, after which there is a hedge; 0 = after
        `delay` seconds."""
        self._quantile = quantile
        self.delay = inf if quantile else delay
        """Seconds from a request sent to its hedge; infinite = not known."""
        self._budget = RetryBudget(max_share)
        self._counts: dict[int, int] = {}  # ≤ 16 KiB
        """Place of `proxy/latency.py` → answers."""
        self._before: dict[int, int] = {}  # ≤ 16 KiB
        self._age = 0

    def note(self, seconds: float) -> None:
        """An answer has begun, or an attempt was given up, after so many seconds."""
        if self._quantile:
            place = place_of(int(seconds * UNITS))
            self._counts[place] = self._counts.get(place, 0) + 1

    def tick(self, requests: int) -> None:
        """A second has passed; `requests` there have been since the beginning."""
        self._budget.tick(requests)
        if not self._quantile:
            return
        self.delay = self._delay()
        self._age += 1
        if self._age == WINDOW:
            self._age = 0
            self._before, self._counts = self._counts, {}

    def _delay(self) -> float:
        """The middle of the place behind that of the quantile: answers that all take about as long
        are not slow."""
        counts, before = self._counts, self._before
        total = sum(counts.values()) + sum(before.values())
        if total < FEWEST:
            return inf
        left = self._quantile * total
        for place in sorted({*counts, *before}):  # ≤ LAST + 1
            left -= counts.get(place, 0) + before.get(place, 0)
            if left <= 0.0:
                break
        return seconds_of(min(place + 1, LAST))

    def spend(self, requests: int) -> bool:
        """Take one hedge out, if there is one; `requests` as for `tick`."""
        return self._budget.spend(requests)
