"""Histograms of how long instances take to answer, and quantiles of them. Pure.

Log-linear, as in HdrHistogram: each power of two has eight places of one width, so that a quantile
is off by a sixteenth at most, and one instance needs some hundred integers. The first sixteen
places are one unit wide. Where there is a compiler `_latency.c` counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

UNITS: Final = 16384.0
"""Units in a second: one has 61 µs, less than a proxy in Python adds."""

MOST: Final = 64.0
"""Seconds: the default limit of a first byte is 60."""

LAST: Final = 144
"""Place of all that took that long or longer."""

QUANTILES: Final[tuple[float, ...]] = (0.5, 0.95, 0.99)


def place_of(units: int) -> int:
    """The place of a latency of so many units."""
    if units < 16:
        return units
    octave = units.bit_length() - 4
    return min(8 * octave + (units >> octave), LAST)


class PlainHistogram:
    """Owns how many answers took how long. The reference for `_latency.c`."""

    __slots__ = ("_counts", "_seconds")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}  # ≤ 16 KiB
        self._seconds = 0.0

    def count(self, seconds: float) -> None:
        """An answer took so long."""
        place = LAST
        if seconds < MOST:
            place = place_of(int(seconds * UNITS)) if seconds > 0.0 else 0
        self._counts[place] = self._counts.get(place, 0) + 1
        self._seconds += seconds

    def told(self) -> tuple[dict[int, int], float]:
        """Place → answers, and the sum of what all of them took."""
        return dict(self._counts), self._seconds


def _histogram() -> Callable[[], Any]:
    try:
        from proxy._latency import Histogram
    except ImportError:
        return PlainHistogram
    return Histogram


new_histogram: Final = _histogram()
"""Makes a histogram, native where there is one."""


def seconds_of(place: int) -> float:
    """The middle of a place."""
    if place < 16:
        return (place + 0.5) / UNITS
    octave, rest = divmod(place - 8, 8)
    return (8.5 + rest) * (1 << octave) / UNITS


MIDDLES: Final = [seconds_of(place) for place in range(LAST + 1)]
"""Seconds, by place."""


def no_answers() -> list[int]:
    """Counts by place, all of them 0."""
    return [0] * (LAST + 1)


def add_between(counts: list[int], before: dict[int, int], now: dict[int, int]) -> int:
    """Add the answers that came between two moments to those by place; how many had come by the
    second. `before`, `now`: how many had come by then, place → answers."""
    total = 0
    for place, count in now.items():  # ≤ LAST + 1
        counts[place] += count
        total += count
    for place, count in before.items():  # ≤ LAST + 1
        counts[place] -= count
    return total


def quantiles(counts: list[int]) -> list[float | None]:
    """Seconds within which these shares of the answers came; None without any. `counts`: answers
    by place."""
    total = sum(counts)
    if not total:
        return [None] * len(QUANTILES)
    found: list[float | None] = []
    so_far, place = 0, -1
    for share in QUANTILES:  # ≤ 3
        wanted = share * total
        while so_far < wanted:  # ≤ LAST + 1
            place += 1
            so_far += counts[place]
        found.append(MIDDLES[place])
    return found
