"""The choice of a registry's endpoint to try next, and when. Pure: chance is an argument."""

from __future__ import annotations

import random
from typing import Final

ROUND: Final = 0.7
"""Limit, in seconds, of the delays in one round of all endpoints while none of them answers. Who
comes back is found within a second, with 0.3 s left for a session to begin. Nor is that a burden:
of a thousand proxies each asks a member three times a second, until one answers."""


class Rotation:
    """Owns which endpoint is next, and how long to wait before it is tried."""

    def __init__(self, size: int, rng: random.Random, first: float, limit: float) -> None:
        self._order = list(range(size))
        rng.shuffle(self._order)
        self._rng = rng
        self._first = first
        self._limit = limit
        self._failures = [0, 0]
        """While nobody answered, and of endpoints that did."""

    @property
    def current(self) -> int:
        return self._order[0]

    def advance(self) -> None:
        self._order.append(self._order.pop(0))

    def delay(self, *, answered: bool) -> float:
        """Seconds to wait before the next attempt: full jitter, doubling until `progress`. The
        limit is for those that answered and failed, which attempts may harm; `ROUND` for others.
        Each is counted by itself: what answers after hours of silence finds a short delay."""
        limit = self._limit if answered else min(self._limit, ROUND / len(self._order))
        ceiling = min(limit, self._first * 2 ** min(self._failures[answered], 30))
        self._failures[answered] += 1
        return self._rng.uniform(0.0, ceiling)

    def progress(self) -> None:
        """An endpoint has proved itself, by linearizable reads one after the other or by events
        that were new. A mere connection is no proof."""
        self._failures = [0, 0]
