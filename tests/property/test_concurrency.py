"""Laws of the limit by latency, on simulated services and stepped time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.resilience.concurrency import HIGHEST, LOWEST, PROBE, Concurrency

MEAN = 0.05
"""Seconds that a service works on a request, in the mean."""
Work = Callable[[Random], float]
WORKS: dict[str, Work] = {
    "steady": lambda rng: MEAN,
    "even": lambda rng: rng.uniform(0.5 * MEAN, 1.5 * MEAN),
    "skew": lambda rng: MEAN * rng.lognormvariate(-0.125, 0.5),
    "exponential": lambda rng: rng.expovariate(1 / MEAN),
}


class Service:
    """A service that works on `places` requests at once, in the order of their coming."""

    def __init__(self, places: int, work: Work, limit: Concurrency) -> None:
        self.free = [0.0] * places
        self.work = work
        self.limit = limit
        self.rng = Random(7)
        self.ends: list[tuple[float, float]] = []
        self.now = 0.0

    def load(self, rate: float, seconds: float) -> list[float]:
        """How long answers took under Poisson load of `rate` requests a second."""
        took, until = [], self.now + seconds
        while self.now < until:
            self.now += self.rng.expovariate(rate)
            while self.ends and self.ends[0][0] <= self.now:
                end, began = heapq.heappop(self.ends)
                self.limit.leave(began, end, True)
                took.append(end - began)
            if not self.limit.is_full:
                self.limit.inflight += 1
                start = max(self.now, heapq.heappop(self.free))
                end = start + self.work(self.rng)
                heapq.heappush(self.free, end)
                heapq.heappush(self.ends, (end, self.now))
        return took


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


@pytest.mark.parametrize("places", [2, 8, 32, 100])
@pytest.mark.parametrize("work", WORKS)
def test_thrice_the_capacity_is_served_at_capacity_and_without_a_crowd(
    work: str, places: int
) -> None:
    """p99 within twice that of the unloaded service, and nine tenths of what any fixed limit
    could get through."""
    rng = Random(1)
    unloaded = p99([WORKS[work](rng) for _ in range(5000)])
    service = Service(places, WORKS[work], Concurrency(0.9, 0.0))
    capacity = places / MEAN
    service.load(3 * capacity, 10.0)
    took = service.load(3 * capacity, 40.0)
    assert len(took) >= 0.9 * capacity * 40.0
    assert p99(took) <= 2 * unloaded


def test_a_load_below_capacity_is_let_in_but_for_measurements() -> None:
    service = Service(20, WORKS["even"], Concurrency(0.9, 0.0))
    service.load(200.0, 10.0)
    assert len(service.load(200.0, 60.0)) >= 0.97 * 200.0 * 60.0


def test_a_service_that_becomes_slow_for_good_is_measured_anew() -> None:
    service = Service(10, WORKS["even"], Concurrency(0.9, 0.0))
    service.load(600.0, 20.0)
    service.work = lambda rng: 5 * WORKS["even"](rng)
    service.load(600.0, 3 * PROBE)
    took = service.load(600.0, 2 * PROBE)
    assert len(took) >= 0.9 * 10 / (5 * MEAN) * 2 * PROBE
    assert p99(took) <= 2 * 5 * 1.5 * MEAN


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0.0, 1e6), st.booleans()), max_size=300),
    st.sampled_from([0.1, 0.9, 1.0]),
)
def test_the_limit_has_bounds_and_requests_are_counted(
    steps: list[tuple[bool, float, bool]], target: float
) -> None:
    limit, now = Concurrency(target, 0.0), 0.0
    waiting: list[float] = []
    for comes, seconds, answered in steps:
        now += seconds
        if comes and not limit.is_full:
            limit.inflight += 1
            waiting.append(now)
        elif waiting:
            limit.leave(waiting.pop(0), now, answered)
        assert limit.inflight == len(waiting)
        assert LOWEST <= limit.limit <= HIGHEST
