"""The choice of a registry's endpoint to try next, and when. Pure: chance is an argument."""

from __future__ import annotations

import random


class Rotation:
    """Owns which endpoint is next, and how long to wait before it is tried."""

    def __init__(self, size: int, rng: random.Random, first: float, limit: float) -> None:
        self._order = list(range(size))
        rng.shuffle(self._order)
        self._rng = rng
        self._first = first
        self._limit = limit
        self._failures = 0

    @property
    def current(self) -> int:
        return self._order[0]

    def advance(self) -> None:
        self._order.append(self._order.pop(0))

    def delay(self) -> float:
        """Seconds to wait before the next attempt: full jitter, doubling until `progress`."""
        ceiling = min(self._limit, self._first * 2 ** min(self._failures, 30))
        self._failures += 1
        return self._rng.uniform(0.0, ceiling)

    def progress(self) -> None:
        """An endpoint has proved itself, by a linearizable read or by events that were new. A
        mere connection is no proof."""
        self._failures = 0
