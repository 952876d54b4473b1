"""Laws of `Standing`: what any sequence of results may and may not do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.health.thresholds import Standing

thresholds = st.integers(1, 5)


@given(thresholds, thresholds, st.booleans(), st.lists(st.booleans()))
def test_a_standing_changes_exactly_when_enough_results_in_a_row_contradict(
    fall: int, rise: int, healthy: bool, results: list[bool]
) -> None:
    standing = Standing(fall, rise, healthy=healthy)
    since_change: list[bool] = []
    for ok in results:
        before = standing.healthy
        since_change.append(ok)
        need = fall if before else rise
        expected = len(since_change) >= need and all(r != before for r in since_change[-need:])
        assert standing.observe(ok) == expected
        assert standing.healthy == (before != expected)
        if expected:
            since_change.clear()
        assert standing.in_transition == bool(since_change and since_change[-1] != standing.healthy)


@given(st.booleans(), st.lists(st.booleans(), min_size=1))
def test_thresholds_of_one_follow_each_result(healthy: bool, results: list[bool]) -> None:
    standing = Standing(1, 1, healthy=healthy)
    for ok in results:
        standing.observe(ok)
        assert standing.healthy == ok
        assert not standing.in_transition


@pytest.mark.parametrize(("fall", "rise"), [(0, 1), (1, 0), (-1, 2)])
def test_a_threshold_below_one_is_refused(fall: int, rise: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Standing(fall, rise)
