"""The wheel on stepped time."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import Random

import pytest

from proxy.engine.deadlines import HORIZON, LOOKS, TICK, Alarm, Deadlines
from tests.support.loop_and_network import START, SteppedLoop


class Item:
    """Writes down when its deadline passed, then does what the test wants."""

    def __init__(self, loop: SteppedLoop, then: Callable[[Item, float], object] | None = None):
        self.loop = loop
        self.calls: list[float] = []
        self.then = then
        self.alarm = Alarm(self.on_deadline)

    def on_deadline(self, now: float) -> None:
        assert self.alarm.deadline == inf
        self.calls.append(self.loop.time())
        if self.then is not None:
            self.then(self, now)


@pytest.fixture
def loop() -> SteppedLoop:
    return SteppedLoop()


@pytest.fixture
def wheel(loop: SteppedLoop) -> Deadlines:
    return Deadlines(loop, loop.time)


@pytest.mark.parametrize("after", [0.0, 0.001, TICK, 0.1, 0.999, 1.0, 59.99, 3600.0])
def test_an_item_is_called_once_within_a_tick(
    loop: SteppedLoop, wheel: Deadlines, after: float
) -> None:
    item = Item(loop)
    wheel.arm(item.alarm, START + after)
    loop.advance(after + 10)
    (when,) = item.calls
    assert START + after <= when <= START + after + TICK + 1e-9
    assert len(wheel) == 0


def test_a_deadline_moves_later_by_a_mere_store(loop: SteppedLoop, wheel: Deadlines) -> None:
    item = Item(loop)
    wheel.arm(item.alarm, START + 1)
    for _ in range(10):
        loop.advance(0.5)
        item.alarm.deadline = loop.time() + 1
    assert item.calls == []
    loop.advance(2)
    assert len(item.calls) == 1


def test_a_deadline_moves_earlier(loop: SteppedLoop, wheel: Deadlines) -> None:
    item = Item(loop)
    wheel.arm(item.alarm, START + 100)
    wheel.arm(item.alarm, START + 1)
    assert len(wheel) == 1
    loop.advance(1.1)
    assert len(item.calls) == 1
    loop.advance(200)
    assert len(item.calls) == 1


def test_a_cleared_deadline_is_not_called_and_leaves_the_wheel(
    loop: SteppedLoop, wheel: Deadlines
) -> None:
    item = Item(loop)
    wheel.arm(item.alarm, START + 1)
    wheel.arm(item.alarm, inf)
    loop.advance(2)
    assert item.calls == []
    assert len(wheel) == 0


def test_a_forgotten_alarm_is_not_kept(loop: SteppedLoop, wheel: Deadlines) -> None:
    item = Item(loop)
    wheel.forget(item.alarm)
    wheel.arm(item.alarm, START + 1)
    wheel.forget(item.alarm)
    assert len(wheel) == 0
    loop.advance(2)
    assert item.calls == []
    wheel.arm(item.alarm, loop.time() + 1)
    loop.advance(2)
    assert len(item.calls) == 1


def test_items_of_one_tick_may_forget_and_arm_each_other(
    loop: SteppedLoop, wheel: Deadlines
) -> None:
    items = [Item(loop) for _ in range(10)]

    def meddle(_: Item, now: float) -> None:
        for item in items[:5]:
            wheel.forget(item.alarm)
        for item in items[5:]:
            wheel.arm(item.alarm, now + 1)

    # Whichever of the tick comes first, nobody is called twice for one deadline.
    meddlers = [Item(loop, meddle) for _ in range(3)]
    for item in (*items, *meddlers):
        wheel.arm(item.alarm, START + 1)
    loop.advance(1.1)
    for item in items[:5]:
        assert len(item.calls) <= 1
    loop.advance(1.1)
    for item in items[5:]:
        assert item.calls[-1] >= START + 2
    assert len(wheel) == 0


def test_an_item_may_arm_itself_again(loop: SteppedLoop, wheel: Deadlines) -> None:
    def again(item: Item, now: float) -> None:
        if len(item.calls) < 5:
            wheel.arm(item.alarm, now + 1)

    item = Item(loop, again)
    wheel.arm(item.alarm, START + 1)
    loop.advance(20)
    assert len(item.calls) == 5


def test_a_failing_alarm_does_not_take_others_along(loop: SteppedLoop, wheel: Deadlines) -> None:
    def fail(item: Item, now: float) -> None:
        raise ValueError("a fault of ours")

    failing = [Item(loop, fail) for _ in range(5)]
    others = [Item(loop) for _ in range(50)]
    for item in (*failing, *others):
        wheel.arm(item.alarm, START + 1)
    loop.advance(2)
    assert all(len(item.calls) == 1 for item in (*failing, *others))
    assert len(loop.failures) == 5
    loop.failures.clear()


def test_limits_of_hours_that_are_set_and_forgotten_leave_nothing(
    loop: SteppedLoop, wheel: Deadlines
) -> None:
    idle = Item(loop)
    wheel.arm(idle.alarm, START + 7200)
    for step in range(20_000):
        alarms = [Alarm(idle.on_deadline) for _ in range(5)]
        for alarm in alarms:
            wheel.arm(alarm, loop.time() + 36_000)
            alarm.deadline = loop.time() + 36_000 + step % 7
        for alarm in alarms:
            wheel.forget(alarm)
        loop.advance(TICK)
        assert len(wheel) == 1
        assert len(wheel._slots) == len(wheel._order) <= HORIZON / TICK + 1
    assert sum(slot is not None for slot in wheel._slots.values()) == 1
    assert idle.calls == []
    loop.advance(7200)
    assert len(idle.calls) == 1


def test_alarms_due_together_are_looked_at_over_several_turns(
    loop: SteppedLoop, wheel: Deadlines
) -> None:
    at_once = LOOKS // 8  # One that has passed costs eight times a look.
    items = [Item(loop) for _ in range(3 * at_once + 1)]
    for item in items:
        wheel.arm(item.alarm, START + 1)
    loop.stand_still(2)
    for turn in range(1, 3):
        wheel.expire(loop.time())
        assert sum(len(item.calls) for item in items) == turn * at_once
    loop.advance(0)
    assert all(len(item.calls) == 1 for item in items)
    assert loop.timers_set == 2  # At first, and behind the turn of the loop that left one.


def test_thousands_of_items(loop: SteppedLoop, wheel: Deadlines) -> None:
    rng = Random(7)
    items = [Item(loop) for _ in range(5000)]
    due: dict[Item, float] = {}
    for step in range(20):
        for item in rng.sample(items, 1000):
            choice = rng.random()
            if choice < 0.2:
                wheel.forget(item.alarm)
                due.pop(item, None)
            else:
                due[item] = loop.time() + rng.uniform(0, 3)
                wheel.arm(item.alarm, due[item])
        before = {item: len(item.calls) for item in items}
        loop.advance(0.25)
        now = loop.time()
        for item in items:
            called = len(item.calls) - before[item]
            if called:
                assert called == 1
                when = due.pop(item)
                assert when <= item.calls[-1] <= when + TICK + 1e-9, step
            elif item in due:
                assert due[item] > now - TICK - 1e-9, step
    loop.advance(4)
    assert len(wheel) == 0
