"""The life of a lease on stepped time."""

from __future__ import annotations

import pytest

from proxy.register.backend import Lease
from proxy.register.lease import CHURN, LeaseLife, Step

TTL = 9.0


def held(now: float = 100.0) -> LeaseLife:
    life = LeaseLife(TTL)
    life.granted(Lease(7, TTL), now)
    return life


def test_a_life_begins_by_granting() -> None:
    life = LeaseLife(TTL)
    assert life.next(5.0, unsettled=True) == (Step.GRANT, 5.0)
    assert not life.alive(5.0)


def test_unsettled_entries_are_written_under_the_new_lease() -> None:
    life = held()
    assert life.next(100.0, unsettled=True) == (Step.SETTLE, 100.0)
    assert life.next(100.0, unsettled=False) == (Step.WAIT, 103.0)


def test_a_lease_is_kept_alive_every_third_of_the_ttl_and_checked_after_each() -> None:
    life = held()
    for at in (103.0, 106.0, 109.0):
        assert life.next(at - 0.1, unsettled=False)[0] is Step.WAIT
        assert life.next(at, unsettled=True) == (Step.KEEP_ALIVE, at)
        life.kept(TTL, at)
        assert life.next(at, unsettled=True)[0] is Step.SETTLE
        assert life.next(at, unsettled=False)[0] is Step.CHECK
        life.checked()
        assert life.next(at, unsettled=False) == (Step.WAIT, at + 3.0)


def test_a_ttl_that_etcd_made_longer_counts() -> None:
    life = LeaseLife(1.0)
    life.granted(Lease(7, 3.0), 100.0)
    assert life.next(100.0, unsettled=False) == (Step.WAIT, 101.0)
    assert life.alive(102.9)


def test_a_time_out_is_not_a_loss() -> None:
    life = held()
    life.failed(103.0, delay=0.5)
    assert life.next(103.0, unsettled=True) == (Step.WAIT, 103.5)
    assert life.next(103.5, unsettled=True)[0] is Step.KEEP_ALIVE
    # Not even when the TTL has passed: etcd may have had no leader to end it.
    assert not life.alive(109.1)
    assert life.next(150.0, unsettled=True)[0] is Step.KEEP_ALIVE
    life.kept(TTL, 150.0)
    assert life.alive(158.9)


def test_a_delay_is_cut_to_a_third_of_the_ttl() -> None:
    life = held()
    life.failed(103.0, delay=60.0)
    assert life.next(103.0, unsettled=False) == (Step.WAIT, 106.0)


def test_a_success_ends_a_delay() -> None:
    life = held()
    life.failed(103.0, delay=1.0)
    life.kept(TTL, 103.5)
    assert life.next(103.5, unsettled=True)[0] is Step.SETTLE


def test_a_lost_lease_is_granted_anew_at_once() -> None:
    life = held()
    life.lost(103.0)
    assert life.lease is None
    assert not life.alive(103.0)
    assert life.next(103.0, unsettled=True) == (Step.GRANT, 103.0)
    assert life.was_ours(7)
    life.granted(Lease(8, TTL), 103.0)
    assert life.was_ours(7)
    assert life.was_ours(8)
    assert not life.was_ours(9)


def test_a_lease_that_is_ended_as_soon_as_it_is_granted_waits() -> None:
    life = held()
    life.lost(100.1)
    assert life.next(100.1, unsettled=True) == (Step.WAIT, 100.1 + CHURN)
    life.lost(100.2)  # heard twice
    assert life.next(101.2, unsettled=True)[0] is Step.GRANT


@pytest.mark.parametrize("step", [Step.CHECK, Step.SETTLE])
def test_a_keep_alive_goes_before_everything(step: Step) -> None:
    life = held()
    life.kept(TTL, 100.0)
    assert life.next(100.0, unsettled=step is Step.SETTLE)[0] is step
    assert life.next(103.0, unsettled=step is Step.SETTLE)[0] is Step.KEEP_ALIVE
