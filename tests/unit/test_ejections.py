"""Ejections on stepped time: who goes, for how long, how many, and when they are back."""

from __future__ import annotations

from random import Random

import pytest

from proxy.control.ejections import JITTER, Ejected, Ejections, PoolCounts, Refusal, allowed
from proxy.settings.service import EjectionSettings

RULES = EjectionSettings()
FOUR = PoolCounts(total=4, ready=4, is_ready=True)


def out(found: Ejected | Refusal) -> Ejected:
    assert isinstance(found, Ejected)
    return found


@pytest.fixture
def ejections() -> Ejections:
    return Ejections(Random(1))


def test_the_first_ejection_lasts_for_the_base_time(ejections: Ejections) -> None:
    ejected = out(ejections.suspect("s", "a", FOUR, RULES, 100.0))
    assert ejected.count == 1
    assert 110.0 - 10.0 * JITTER <= ejected.until <= 110.0
    assert ejections.is_out("s", "a")
    assert ejections.next_at == ejected.until
    assert ejections.step(ejected.until - 0.001) == []
    assert ejections.step(ejected.until) == [("s", "a")]
    assert not ejections.is_out("s", "a")
    assert ejections.next_at is None


def test_each_further_ejection_lasts_longer_up_to_the_limit(ejections: Ejections) -> None:
    now = 0.0
    for n in range(1, 40):
        ejected = out(ejections.suspect("s", "a", FOUR, RULES, now))
        wanted = min(10.0 * n, 300.0)
        assert ejected.count == n
        assert wanted * (1 - JITTER) <= ejected.until - now <= wanted
        now = ejected.until
        ejections.step(now)


def test_health_makes_the_count_fall(ejections: Ejections) -> None:
    now = 0.0
    for _ in range(3):
        now = out(ejections.suspect("s", "a", FOUR, RULES, now)).until
        ejections.step(now)
    later = out(ejections.suspect("s", "a", FOUR, RULES, now + 2 * RULES.base))
    assert later.count == 2
    ejections.step(later.until)
    assert out(ejections.suspect("s", "a", FOUR, RULES, later.until + 1000.0)).count == 1


def test_a_passed_check_ends_it(ejections: Ejections) -> None:
    out(ejections.suspect("s", "a", FOUR, RULES, 0.0))
    assert ejections.passed("s", "a", 1.0)
    assert not ejections.is_out("s", "a")
    assert not ejections.passed("s", "a", 2.0)
    assert not ejections.passed("s", "never", 2.0)
    assert out(ejections.suspect("s", "a", FOUR, RULES, 3.0)).count == 2


@pytest.mark.parametrize(
    ("total", "share", "most"),
    [
        (1, 0.5, 1),
        (2, 0.5, 1),
        (3, 0.5, 1),
        (4, 0.5, 2),
        (5, 0.5, 2),
        (10, 0.1, 1),
        (2, 0.1, 1),
        (10, 0.3, 3),
        (4, 0.0, 0),
        (4, 1.0, 4),
    ],
)
def test_the_share_is_rounded_down_but_one_may_always_go(
    total: int, share: float, most: int
) -> None:
    assert allowed(total, share) == most


def test_no_more_than_the_share_is_out(ejections: Ejections) -> None:
    ready = 4
    for key in "ab":
        out(ejections.suspect("s", key, PoolCounts(4, ready, True), RULES, 0.0))
        ready -= 1
    assert ejections.suspect("s", "c", PoolCounts(4, ready, True), RULES, 0.0) is Refusal.SHARE
    assert isinstance(ejections.suspect("other", "c", FOUR, RULES, 0.0), Ejected)


def test_the_last_instance_that_is_ready_is_never_ejected(ejections: Ejections) -> None:
    everybody = EjectionSettings(max_share=1.0)
    assert ejections.suspect("s", "a", PoolCounts(1, 1, True), everybody, 0.0) is Refusal.LAST
    assert ejections.suspect("s", "a", PoolCounts(9, 1, True), everybody, 0.0) is Refusal.LAST


def test_refusals_are_counted_by_the_rule_that_kept_somebody(ejections: Ejections) -> None:
    none, off = EjectionSettings(max_share=0.0), EjectionSettings(enabled=False)
    out(ejections.suspect("s", "a", PoolCounts(2, 2, True), RULES, 0.0))
    ejections.suspect("s", "b", PoolCounts(2, 1, True), RULES, 0.0)
    ejections.suspect("s", "b", PoolCounts(2, 1, True), RULES, 1.0)
    ejections.suspect("s", "b", PoolCounts(3, 2, True), RULES, 1.0)
    ejections.suspect("t", "a", FOUR, none, 1.0)
    assert ejections.refused == {
        ("s", "last_ready"): 2,
        ("s", "max_share"): 1,
        ("t", "max_share"): 1,
    }
    # Who is out anyway, or may not be ejected at all, was not kept by a rule.
    ejections.suspect("s", "a", PoolCounts(2, 1, False), RULES, 1.0)
    ejections.suspect("u", "a", FOUR, off, 1.0)
    assert sum(ejections.refused.values()) == 4


def test_an_instance_that_is_out_or_not_ready_is_not_ejected_again(ejections: Ejections) -> None:
    out(ejections.suspect("s", "a", FOUR, RULES, 0.0))
    assert ejections.suspect("s", "a", FOUR, RULES, 1.0) is Refusal.NOT_READY
    assert ejections.suspect("s", "b", PoolCounts(4, 3, False), RULES, 1.0) is Refusal.NOT_READY
    assert ejections.totals == {("s", "a"): 1}


def test_off(ejections: Ejections) -> None:
    off = EjectionSettings(enabled=False)
    assert ejections.suspect("s", "a", FOUR, off, 0.0) is Refusal.OFF


def test_instances_that_fell_together_come_back_apart(ejections: Ejections) -> None:
    wide = EjectionSettings(max_share=1.0)
    times = {
        out(ejections.suspect("s", str(n), PoolCounts(100, 100 - n, True), wide, 0.0)).until
        for n in range(50)
    }
    assert len(times) == 50
    assert max(times) - min(times) > 10.0 * JITTER / 2
