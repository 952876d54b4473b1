"""Histograms of how long instances take to answer, and quantiles of them. Pure.

Log-linear, as in HdrHistogram: each power of two has eight places of one width, so that a quantile
is off by a sixteenth at most, and one instance needs some hundred integers. The first sixteen
places are one unit wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

UNITS: Final = 16384.0
"""Units in a second: one has 61 µs, less than a proxy in Python adds."""

LAST: Final = 144
"""Place of all that took 64 s or more: the default limit of a first byte is 60 s."""

QUANTILES: Final = (0.5, 0.95, 0.99)


def place_of(units: int) -> int:
    """The place of a latency of so many units."""
    if units < 16:
        return units
    octave = units.bit_length() - 4
    return min(8 * octave + (units >> octave), LAST)


PLACES: Final = bytes(place_of(units) for units in range(int(UNITS)))
"""Places of what took less than a second, by units: 16 KiB, since to look is cheaper than to
reckon."""


def seconds_of(place: int) -> float:
    """The middle of a place."""
    if place < 16:
        return (place + 0.5) / UNITS
    octave, rest = divmod(place - 8, 8)
    return (8.5 + rest) * (1 << octave) / UNITS


MIDDLES: Final = [seconds_of(place) for place in range(LAST + 1)]
"""Seconds, by place."""


def quantiles(counts: Mapping[int, int], of: Sequence[float] = QUANTILES) -> list[float | None]:
    """Seconds within which the share `of` the answers came, for each of them; None without any.
    `counts`: place → answers."""
    total = sum(counts.values())
    if not total:
        return [None] * len(of)
    found: list[float | None] = []
    so_far, places = 0, iter(sorted(counts))
    place = 0
    for share in of:  # ≤ 3
        wanted = share * total
        while so_far < wanted:  # ≤ LAST + 1
            place = next(places)
            so_far += counts[place]
        found.append(MIDDLES[place])
    return found
