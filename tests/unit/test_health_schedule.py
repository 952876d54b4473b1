"""When instances are checked, on stepped time, and what the results make of them."""

from __future__ import annotations

from random import Random

import pytest

from proxy.health.base import Endpoint
from proxy.health.schedule import FASTER, JITTER, Candidate, Rules, Schedule, Target

RULES = Rules(interval=5.0, fall=3, rise=2)


def candidates(*keys: str, healthy: bool = True) -> list[Candidate]:
    return [Candidate(key, Endpoint("10.0.0.1", 80), healthy) for key in keys]


@pytest.fixture
def schedule() -> Schedule:
    return Schedule(Random(1))


def only(schedule: Schedule, now: float) -> Target:
    [target] = schedule.due(now, 10)
    return target


def test_the_first_checks_are_spread_over_an_interval(schedule: Schedule) -> None:
    schedule.update("s", RULES, candidates(*map(str, range(1000))), 100.0)
    assert len(schedule) == 1000
    counts = [len(schedule.due(100.0 + second, 10_000)) for second in range(1, 6)]
    assert sum(counts) == 1000
    assert all(150 < count < 250 for count in counts)


def test_no_more_are_due_than_asked_for(schedule: Schedule) -> None:
    schedule.update("s", RULES, candidates(*map(str, range(100))), 0.0)
    assert len(schedule.due(10.0, 30)) == 30
    assert len(schedule.due(10.0, 1000)) == 70


def test_an_interval_counts_from_the_beginning_of_a_check(schedule: Schedule) -> None:
    schedule.update("s", RULES, candidates("a"), 0.0)
    waits = []
    now = 5.0
    for _ in range(200):
        target = only(schedule, now)
        schedule.done(target, True, "", began=now, now=now + 0.5)
        at = schedule.next_at
        assert at is not None
        waits.append(at - now)
        now = at
    assert all(5.0 * (1 - JITTER) <= wait <= 5.0 * (1 + JITTER) for wait in waits)
    assert max(waits) - min(waits) > 5.0 * JITTER
    assert sum(waits) / len(waits) == pytest.approx(5.0, rel=0.02)


def test_a_check_that_took_longer_than_the_interval_is_followed_at_once(schedule: Schedule) -> None:
    schedule.update("s", RULES, candidates("a"), 0.0)
    schedule.done(only(schedule, 5.0), True, "", began=5.0, now=25.0)
    assert schedule.next_at == 25.0


def test_fall_and_rise_with_faster_checks_in_between(schedule: Schedule) -> None:
    schedule.update("s", RULES, candidates("a"), 0.0)
    now, changes, waits = 5.0, [], []
    for ok in (False, False, False, True, False, True, True):
        target = only(schedule, now)
        changes.append(schedule.done(target, ok, "", began=now, now=now))
        at = schedule.next_at
        assert at is not None
        waits.append(at - now)
        now = at
    assert changes == [False, False, True, False, False, False, True]
    faster = [wait <= FASTER * (1 + JITTER) for wait in waits]
    assert faster == [True, True, False, True, False, True, False]


def test_a_standing_starts_where_the_registry_says(schedule: Schedule) -> None:
    schedule.update("s", RULES, candidates("a", healthy=False), 0.0)
    target = only(schedule, 5.0)
    assert not target.standing.healthy
    assert not schedule.done(target, True, "", 5.0, 5.0)
    assert schedule.done(only(schedule, 7.0), True, "", 7.0, 7.0)


def test_standings_survive_updates_and_other_rules(schedule: Schedule) -> None:
    schedule.update("s", RULES, candidates("a", "b"), 0.0)
    for target in schedule.due(5.0, 10):
        schedule.done(target, False, "", 5.0, 5.0)
    slower = Rules(interval=60.0, fall=2, rise=1)
    assert schedule.update("s", slower, candidates("a", "c"), 6.0) == ["b"]
    due = {target.key: target for target in schedule.due(7.0, 10)}
    assert schedule.done(due["a"], False, "", 7.0, 7.0), "the second failure of two"
    assert schedule.has("s", "c")
    assert not schedule.has("s", "b")


def test_an_instance_that_is_gone_is_not_checked_and_its_last_result_changes_nothing(
    schedule: Schedule,
) -> None:
    schedule.update("s", Rules(5.0, 1, 1), candidates("a"), 0.0)
    target = only(schedule, 5.0)
    assert schedule.update("s", None, (), 6.0) == ["a"]
    assert not schedule.done(target, False, "", 5.0, 7.0)
    assert schedule.due(1000.0, 10) == []
    assert len(schedule) == 0


def test_an_instance_that_comes_back_is_checked_once_an_interval(schedule: Schedule) -> None:
    schedule.update("s", RULES, candidates("a"), 0.0)
    schedule.update("s", None, (), 1.0)
    schedule.update("s", RULES, candidates("a"), 2.0)
    assert len(schedule.due(10.0, 10)) == 1
