"""Which rounds count, and how sure a ratio of theirs is. Pure, but for the clock of `pace`."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from math import comb
from statistics import median
from time import thread_time

from bench.calibration import units

SLOWER = 1.15
"""A round is thrown out in which the machine was slower than this many times its pace in the
fastest third of all: what others do then meets the proxies of a round unequally."""
MOST = 2
"""Times the rounds that were asked for, after which there are no more, however many count."""
CONFIDENCE = 0.95
_UNITS = 300
"""Of calibrated work at a time: some milliseconds."""


def pace(cores: Collection[int]) -> float:
    """Seconds of processor time that a fixed piece of work takes on the first of these cores,
    where the proxies are."""
    before = os.sched_getaffinity(0)
    work = units(wide=True)
    os.sched_setaffinity(0, {min(cores)})
    try:
        work(_UNITS // 3)
        begun = thread_time()
        work(_UNITS)
        return thread_time() - begun
    finally:
        os.sched_setaffinity(0, before)


def counting(paces: Sequence[tuple[float, float]]) -> list[int]:
    """Numbers of the rounds that count; `paces`: of each, before and behind it."""
    if not paces:
        return []
    slowest = [max(pair) for pair in paces]
    best = median(sorted(slowest)[: max(1, len(slowest) // 3)])
    return [number for number, one in enumerate(slowest) if one <= best * SLOWER]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Bounds between which the median of what these are samples of lies, with `CONFIDENCE`. By the
    order of the values alone, so whatever their distribution; for less than six of them the
    extremes, which are surer by less."""
    ordered = sorted(values)
    count = len(ordered)
    outside, tail = 0, 1
    while tail <= (1 - CONFIDENCE) / 2 * 2**count:
        outside += 1
        tail += comb(count, outside)
    outside = max(0, outside - 1)
    return ordered[outside], ordered[count - 1 - outside]
