"""Budgets of a connection, in stepped time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.http2.errors import ENHANCE_YOUR_CALM, GoAway
from proxy.http2.limits import (
    ACKS,
    CONTROL,
    CONTROL_A_SECOND,
    RESETS,
    RESETS_A_SECOND,
    UPDATES,
    UPDATES_EARNED,
    ConnectionLimits,
)


def times(act: Callable[[], object]) -> int:
    """How often it may be done; and that the connection ends then."""
    done = 0

    def act_on() -> None:
        nonlocal done
        while done < 100_000:
            act()
            done += 1

    with pytest.raises(GoAway) as error:
        act_on()
    assert error.value.code == ENHANCE_YOUR_CALM
    assert error.value.reason not in ("", "enhance_your_calm")
    return done


FLOODS: dict[str, tuple[Callable[[ConnectionLimits], object], int]] = {
    "rapid_reset": (lambda limits: limits.lose_stream(0.0), RESETS),
    "violations": (lambda limits: limits.note_violation(0.0), RESETS // 10),
    "control_flood": (lambda limits: limits.note_control(0.0), CONTROL),
    "window_flood": (lambda limits: limits.note_update(), UPDATES),
    "ack_flood": (lambda limits: limits.queue_ack(), ACKS),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_the_connection(flood: str) -> None:
    act, most = FLOODS[flood]
    limits = ConnectionLimits(0.0)
    assert times(lambda: act(limits)) == most


def test_time_forgives_slowly() -> None:
    limits = ConnectionLimits(0.0)
    times(lambda: limits.lose_stream(0.0))
    assert times(lambda: limits.lose_stream(2.0)) == 2 * RESETS_A_SECOND - 1
    times(lambda: limits.note_control(2.0))
    assert times(lambda: limits.note_control(3.0)) == CONTROL_A_SECOND - 1
    assert times(lambda: limits.note_control(10_000.0)) == CONTROL


def test_a_stream_that_is_answered_makes_up_for_one_that_is_not() -> None:
    limits = ConnectionLimits(0.0)
    for _ in range(10 * RESETS):
        limits.begin_stream()
        limits.lose_stream(0.0)
        limits.begin_stream()
        limits.end_stream()
    for _ in range(10 * RESETS):
        limits.end_stream()
    assert times(lambda: limits.lose_stream(0.0)) == RESETS


@pytest.mark.parametrize("work", ["note_received", "note_sent", "begin_stream"])
def test_work_makes_up_for_control_frames(work: str) -> None:
    limits = ConnectionLimits(0.0)
    for _ in range(10 * CONTROL):
        limits.note_control(0.0)
        getattr(limits, work)()
    assert times(lambda: limits.note_control(0.0)) == CONTROL


def test_updates_are_for_what_is_sent() -> None:
    limits = ConnectionLimits(0.0)
    for _ in range(UPDATES):
        limits.note_update()
    limits.note_sent()
    limits.begin_stream()
    assert times(limits.note_update) == 2 * UPDATES_EARNED
    for _ in range(100_000):
        limits.note_sent()
    assert times(limits.note_update) == 10_000


def test_acknowledgements_that_are_sent_do_not_count() -> None:
    limits = ConnectionLimits(0.0)
    for _ in range(ACKS):
        limits.queue_ack()
    limits.flush_acks()
    assert times(limits.queue_ack) == ACKS
