"""Hooks that hold the loop, with looks that come when a test says so."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

from proxy.errors import FILTER_TIMEOUT, Refused
from proxy.filters import Filter
from proxy.filters.guarded import GuardedHooks
from proxy.filters.watch import INSISTS, LOOKS, Held, Watch, interrupt, spare


class Stepped:
    """Looks of a test, which counts how often they were begun."""

    lock = None

    def __init__(self) -> None:
        self.period = 0.0
        self.begun = 0
        self.now = 0.0
        self._look: Callable[[], bool] | None = None

    def begin(self, period: float, look: Callable[[], bool]) -> None:
        self.period, self._look = period, look
        self.begun += 1

    def rest(self) -> bool:
        self._look = None
        return True

    def stop(self) -> None:
        self._look = None

    def spare(self) -> None:
        pass

    def cpu(self) -> float:
        return self.now

    def look(self, computes: float = 0.0) -> None:
        """A period has passed, of which this part was computed."""
        self.now += self.period * computes
        if self._look is not None and self._look():
            raise Held


class Own(Filter):
    block_limit = 2.0


class Later:
    """Owns what is to happen once the loop has turned for a while."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, delay: float, call: Callable[[], None]) -> Any:
        self.timers.append(timer := (delay, call))
        later = self

        class Timer:
            def cancel(self) -> None:
                later.timers.remove(timer)

        return Timer()


@pytest.fixture
def looks() -> Stepped:
    return Stepped()


@pytest.fixture
def later() -> Later:
    return Later()


@pytest.fixture
def hooks(looks: Stepped, later: Later) -> GuardedHooks:
    one = Own()
    one.name = "own"
    return GuardedHooks(one, Watch(looks), later)


def looks_until_interrupted(hooks: GuardedHooks, looks: Stepped, computes: float) -> int:
    """After how many looks a hook is interrupted that never returns."""
    count = 0

    def hook() -> None:
        nonlocal count
        while True:
            count += 1
            looks.look(computes)

    with pytest.raises(Refused) as refused:
        hooks.call("on_request", True, hook)
    assert refused.value.fault is FILTER_TIMEOUT
    return count


def test_a_hook_is_interrupted_within_a_quarter_more_than_its_limit(
    hooks: GuardedHooks, looks: Stepped
) -> None:
    assert looks_until_interrupted(hooks, looks, 1.0) == LOOKS + 1
    assert looks.period == pytest.approx(2.0 / 16 / LOOKS)
    assert looks_until_interrupted(hooks, looks, 1.0) == LOOKS + 1


def test_a_filter_that_computed_too_long_is_on_a_short_leash_for_a_while(
    hooks: GuardedHooks, looks: Stepped, later: Later
) -> None:
    for _ in range(2):
        looks_until_interrupted(hooks, looks, 1.0)
    [(delay, forgive)] = later.timers  # The second has put off the end of it.
    assert (delay, hooks.leash) == (60.0, 2.0 / 16)
    forgive()
    assert hooks.leash == 2.0
    looks_until_interrupted(hooks, looks, 1.0)
    assert looks.period == pytest.approx(2.0 / 16 / LOOKS)
    hooks.call("on_request", True, looks.look)


def test_hooks_that_end_are_never_hit(hooks: GuardedHooks, looks: Stepped) -> None:
    for _ in range(100):
        hooks.call("on_request", True, looks.look)
        looks.look()


def test_looks_rest_while_nothing_runs(hooks: GuardedHooks, looks: Stepped) -> None:
    assert looks.begun == 0
    hooks.call("on_request", True, looks.look)
    assert looks.begun == 1
    looks.look()
    assert looks._look is None
    hooks.call("on_request", True, looks.look)
    assert looks.begun == 2
    hooks.close()
    assert looks._look is None


def swallows(work: Callable[[], None]) -> None:
    while True:
        try:
            work()
        except:  # noqa: E722
            pass


def continues(work: Callable[[], None]) -> None:
    while True:
        try:
            work()
        except BaseException as error:
            str(error)
            continue


def finally_continues(work: Callable[[], None]) -> None:
    while True:
        try:
            work()
        finally:
            continue  # noqa: B012


def suppresses(work: Callable[[], None]) -> None:
    while True:
        with suppress(BaseException):
            work()


def nested(work: Callable[[], None]) -> None:
    swallows(lambda: continues(lambda: suppresses(work)))


@pytest.mark.skipif(not INSISTS, reason="CPython 3.12 interrupts no hook twice")
@pytest.mark.parametrize("loop", [swallows, continues, finally_continues, suppresses, nested])
def test_a_hook_that_swallows_all_is_interrupted_again_and_again(
    hooks: GuardedHooks, looks: Stepped, loop: Callable[[Callable[[], None]], None]
) -> None:
    count = 0

    def work() -> None:
        nonlocal count
        count += 1
        looks.look()

    for _ in range(3):
        count = 0
        with pytest.raises(Refused) as refused:
            hooks.call("on_request", True, loop, work)
        assert refused.value.fault is FILTER_TIMEOUT
        assert count == 2 * LOOKS + 1
    hooks.call("on_request", True, looks.look)


def test_a_hook_may_tidy_up_when_it_is_interrupted(hooks: GuardedHooks, looks: Stepped) -> None:
    tidied = []

    def hook() -> None:
        try:
            while True:
                looks.look()
        finally:
            for _ in range(LOOKS - 1):
                tidied.append(looks.look())

    with pytest.raises(Refused):
        hooks.call("on_request", True, hook)
    assert len(tidied) == LOOKS - 1


@pytest.mark.parametrize(
    ("computes", "waited"), [(0.0, True), (0.05, True), (0.2, False), (1, False)]
)
def test_a_hook_that_waited_is_told_from_one_that_computed(
    hooks: GuardedHooks, looks: Stepped, computes: float, waited: bool
) -> None:
    looks_until_interrupted(hooks, looks, computes)
    assert hooks.waited == waited
    assert hooks.leash == (2.0 if waited else 2.0 / 16)


def test_an_interruption_leaves_nothing_behind() -> None:
    other = threading.Thread(target=interrupt, args=(threading.get_ident(),))
    try:
        other.start()
        other.join()
        spare()
    except Held:
        pass
    spare()
    calls = []

    def trace(frame: FrameType, event: str, _: Any) -> None:
        calls.append(event)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        [0].sort(key=lambda number: number)  # Never ends where Python still looks for one.
    finally:
        sys.settrace(before)
    assert calls == ["call"]
