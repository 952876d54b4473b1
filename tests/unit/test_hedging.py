"""When requests are hedged, and how often, on stepped time."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.resilience.hedging import FEWEST, WINDOW, Hedging
from proxy.engine.resilience.limits import SECRET, BucketTable
from proxy.engine.resilience.policies import Policies
from proxy.engine.resilience.retry import FLOOR
from proxy.settings.hedge import HedgeSettings
from proxy.settings.service import RetrySettings, ServiceSettings


def a_table() -> BucketTable:
    return BucketTable(memoryview(bytearray(SECRET + 16)))


def learnt(*seconds: float, quantile: float = 0.95) -> float:
    hedging = Hedging(quantile, 0.0, 1.0)
    for each in seconds:
        hedging.note(each)
    hedging.tick(0)
    return hedging.delay


def test_a_delay_of_its_own_is_the_delay() -> None:
    hedging = Hedging(0.0, 0.25, 1.0)
    assert hedging.delay == 0.25
    for _ in range(100):
        hedging.note(9.0)
    hedging.tick(100)
    assert hedging.delay == 0.25


def test_a_quantile_of_too_few_answers_is_not_known() -> None:
    assert learnt(*[0.1] * (FEWEST - 1)) == inf
    assert learnt(*[0.1] * FEWEST) < inf


def test_a_quantile_is_found_among_answers() -> None:
    assert learnt(*[0.01] * 94, *[1.0] * 6) == pytest.approx(1.0, rel=0.2)
    assert learnt(*[0.01] * 96, *[1.0] * 4) == pytest.approx(0.01, rel=0.2)
    assert learnt(*[0.01] * 60, *[1.0] * 40, quantile=0.5) == pytest.approx(0.01, rel=0.2)


@given(st.floats(0.0001, 60.0))
def test_answers_that_all_take_as_long_are_not_slow(seconds: float) -> None:
    assert learnt(*[seconds] * 50) >= seconds


def test_old_answers_are_forgotten() -> None:
    hedging = Hedging(0.95, 0.0, 1.0)
    for _ in range(50):
        hedging.note(2.0)
    for _ in range(WINDOW):
        hedging.tick(0)
    for _ in range(50):
        hedging.note(0.01)
    hedging.tick(0)
    assert hedging.delay > 1.0
    for _ in range(WINDOW):
        hedging.tick(0)
    assert hedging.delay == pytest.approx(0.01, rel=0.2)
    for _ in range(WINDOW):
        hedging.tick(0)
    assert hedging.delay == inf


@given(
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.lists(st.sampled_from(["request", "hedge", "tick"]), max_size=300),
)
def test_hedges_never_exceed_their_share(share: float, steps: list[str]) -> None:
    hedging = Hedging(0.95, 0.0, share)
    requests = hedges = 0
    for step in steps:
        if step == "request":
            requests += 1
        elif step == "tick":
            hedging.tick(requests)
        elif hedging.spend(requests):
            hedges += 1
        assert hedges <= FLOOR + share * requests + 1e-9


def test_a_delay_outlives_a_reload_that_changes_other_things() -> None:
    hedge = HedgeSettings()
    first = Policies(1, ServiceSettings(hedge=hedge), a_table())
    second = Policies(
        1, ServiceSettings(hedge=hedge, retry=RetrySettings(budget=0.5)), a_table(), first
    )
    assert second.hedging is first.hedging
    other = ServiceSettings(hedge=HedgeSettings(after="p99"))
    assert Policies(1, other, a_table(), second).hedging is not first.hedging
    assert Policies(1, ServiceSettings(), a_table(), second).hedging is None


@pytest.mark.parametrize(
    ("after", "quantile", "delay"), [("p95", 0.95, 0.0), ("p50", 0.5, 0.0), ("50ms", 0.0, 0.05)]
)
def test_the_word_says_a_quantile_or_a_time(after: str, quantile: float, delay: float) -> None:
    settings = HedgeSettings(after=after)
    assert (settings.quantile, settings.delay) == (quantile, delay)
