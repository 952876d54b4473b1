"""Windows, holds and intervals of decisions end when they say, give or take a tenth, or the spread
that is documented. The time limits of connections are in `tests/wire/test_time_limits.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from proxy.control.ejections import Ejected, Ejections, PoolCounts
from proxy.control.pools import FORGET_AFTER, PoolRegistry
from proxy.control.slots import Slots
from proxy.control.slow_start import SlowStart
from proxy.engine.resilience.breaker import TRIALS, Breaker, State
from proxy.engine.resilience.limits import SIZE, BucketTable
from proxy.engine.resilience.retry import FLOOR, HORIZON, RetryBudget
from proxy.health.base import Check, Endpoint, Verdict
from proxy.health.schedule import FASTER, Candidate, Rules, Schedule
from proxy.membership import Departure, Membership
from proxy.registry.decorators.failover import GRACE, GracefulSwitch
from proxy.registry.decorators.mass_loss import PROBE_INTERVAL, MassLossPolicy
from proxy.registry.decorators.snapshot_provider import (
    DEBOUNCE,
    LAST_WRITE,
    PATIENCE,
    REFRESH,
    SLOW,
    SnapshotProvider,
)
from proxy.settings.registry import MassLossSettings
from proxy.settings.service import EjectionSettings
from proxy.statuses import SnapshotStatus
from tests.support.loop_and_network import START, SteppedLoop
from tests.support.manual_provider import ManualProvider, instance, save_snapshot

SECONDS = [0.1, 0.3, 1.0, 10.0, 300.0]
BEGAN = 1234.567
"""A moment that is no multiple of anything."""
STEPS = 1000

Over = Callable[[float, float], bool]
"""Of `t` and a moment, counted from `BEGAN`: is a time of `t` seconds over by then?"""


def when(over: Over, t: float, until: float = 2.0) -> float:
    """The first moment at which it is over, as a multiple of `t`."""
    for step in range(round(until * STEPS) + 1):
        if over(t, step * t / STEPS):
            return step / STEPS
    return float("inf")


def breaker_open(t: float, at: float) -> bool:
    breaker = Breaker(ratio=0.5, min_requests=4, window=10 * t, open=t)
    for _ in range(4):
        breaker.admit(BEGAN)
        breaker.on_result(True, BEGAN, breaker.opened)
    assert breaker.state is State.OPEN
    return breaker.admit(BEGAN + at)


def breaker_open_again(t: float, at: float) -> bool:
    """After a trial that failed."""
    breaker = Breaker(ratio=0.5, min_requests=4, window=10 * t, open=t)
    for _ in range(4):
        breaker.admit(BEGAN - 2 * t)
        breaker.on_result(True, BEGAN - 2 * t, breaker.opened)
    assert breaker.admit(BEGAN)
    breaker.on_result(True, BEGAN, breaker.opened)
    return breaker.admit(BEGAN + at)


def rate_limit(t: float, at: float) -> bool:
    """The next token after the bucket was emptied."""
    table = BucketTable(memoryview(bytearray(SIZE)))
    for _ in range(5):
        assert table.take(7, t, 5, BEGAN) == 0
    wait = table.take(7, t, 5, BEGAN)
    assert wait == pytest.approx(t)
    return table.take(7, t, 5, BEGAN + at) == 0


def rate_limit_whole_bucket(t: float, at: float) -> bool:
    table = BucketTable(memoryview(bytearray(SIZE)))
    for _ in range(5):
        table.take(7, t / 5, 5, BEGAN)
    return all(table.take(7, t / 5, 5, BEGAN + at) == 0 for _ in range(5))


def slow_start(t: float, at: float) -> bool:
    ramp = SlowStart()
    ramp.observe({"old", "new"}, ["new"], BEGAN)
    return ramp.shares(["old", "new"], t, BEGAN + at) == {}


def mass_loss_hold(t: float, at: float) -> bool:
    policy = MassLossPolicy(MassLossSettings(share=0.5, window=1.0, hold=t))
    lose(policy, "ab", BEGAN)
    return bool(policy.step(BEGAN + at))


EXACT: tuple[Over, ...] = (
    breaker_open, breaker_open_again, rate_limit, rate_limit_whole_bucket, slow_start,
    mass_loss_hold,
)  # fmt: skip


@pytest.mark.parametrize("t", SECONDS)
@pytest.mark.parametrize("over", EXACT, ids=lambda over: over.__name__)
def test_each_period_is_over_in_time(over: Over, t: float) -> None:
    assert 0.999 <= when(over, t) <= 1.1


def lose(policy: MassLossPolicy, ids: str, now: float, *, of: str = "ab") -> list[Departure]:
    members = {id_: instance(id_) for id_ in of}
    policy.update(Membership(services={"users": tuple(members.values())}), BEGAN - 1e6)
    left = tuple(one for id_, one in members.items() if id_ not in ids)
    departures = tuple(Departure(service="users", id=id_, lease=7) for id_ in ids)
    return policy.update(Membership(services={"users": left}, departures=departures), now)


def forgotten_failures(t: float, at: float) -> bool:
    """Failures that are old do not add up with new ones."""
    breaker = Breaker(ratio=0.5, min_requests=4, window=t, open=1.0)
    for now in (BEGAN, BEGAN, BEGAN, BEGAN + at):
        breaker.admit(now)
        breaker.on_result(True, now, breaker.opened)
    return breaker.state is State.CLOSED


def forgotten_losses(t: float, at: float) -> bool:
    policy = MassLossPolicy(MassLossSettings(share=0.5, window=t, hold=600.0))
    members = {id_: instance(id_) for id_ in "abcd"}

    def say(now: float, ids: str, *gone: str) -> list[Departure]:
        departures = tuple(Departure(service="users", id=id_, lease=7) for id_ in gone)
        services = {"users": tuple(members[id_] for id_ in ids)}
        return policy.update(Membership(services=services, departures=departures), now)

    say(BEGAN - 1, "abcd")
    assert say(BEGAN, "bcd", "a") == []
    return say(BEGAN + at, "cd", "b") == []


@pytest.mark.parametrize("t", SECONDS)
@pytest.mark.parametrize("over", [forgotten_failures, forgotten_losses])
def test_a_window_is_as_long_as_it_says(over: Over, t: float) -> None:
    """In slices, where it has any: what happened is remembered for nine tenths of it at least."""
    for phase in range(10):
        begun = (lambda t, at, phase=phase: over(t, at + phase * t * 1e-6)) if phase else over
        assert 0.9 <= when(begun, t) <= 1.1


@pytest.mark.parametrize("t", SECONDS)
def test_ejections_last_n_times_the_base_less_a_tenth_at_most(t: float) -> None:
    times: list[float] = []
    for seed in range(50):
        ejections = Ejections(Random(seed))
        now = BEGAN
        for n in range(1, 8):
            settings = EjectionSettings(base=t, max=5 * t)
            found = ejections.suspect("s", "a", PoolCounts(4, 4, True), settings, now)
            assert isinstance(found, Ejected)
            assert ejections.next_at == found.until
            assert ejections.step(found.until - 1e-6 * t) == []
            assert ejections.step(found.until) == [("s", "a")]
            times.append((found.until - now) / (min(n, 5) * t))
            now = found.until
    assert 0.9 <= min(times) < 0.91
    assert 0.99 < max(times) <= 1.0


@pytest.mark.parametrize("t", SECONDS)
def test_an_ejection_is_forgiven_for_each_base_time_in_service(t: float) -> None:
    def over(t: float, at: float) -> bool:
        ejections = Ejections(Random(1))
        settings = EjectionSettings(base=t, max=100 * t)
        now = BEGAN - 100 * t
        for _ in range(3):
            found = ejections.suspect("s", "a", PoolCounts(4, 4, True), settings, now)
            assert isinstance(found, Ejected)
            now = found.until
            ejections.step(now)
        again = ejections.suspect("s", "a", PoolCounts(4, 4, True), settings, now + at)
        assert isinstance(again, Ejected)
        return again.count < 4

    assert 0.999 <= when(over, t) <= 1.1


@pytest.mark.parametrize("t", SECONDS)
@pytest.mark.parametrize("in_transition", [False, True])
def test_checks_come_each_interval_give_or_take_a_tenth(t: float, in_transition: bool) -> None:
    schedule = Schedule(Random(1))
    rules = Rules(interval=t, fall=10_000, rise=2)
    schedule.update("s", rules, [Candidate("a", Endpoint("10.0.0.1", 80), True)], BEGAN)
    assert schedule.next_at is not None
    assert BEGAN <= schedule.next_at <= BEGAN + t
    wanted = min(t, FASTER) if in_transition else t
    now, waits = schedule.next_at, []
    for _ in range(300):
        (target,) = schedule.due(now, 1)
        schedule.done(target, not in_transition, "", began=now, now=now + 0.3 * wanted)
        waits.append((schedule.next_at - now) / wanted)
        now = schedule.next_at
    assert 0.9 <= min(waits) < 0.91
    assert 1.09 < max(waits) <= 1.1 + 1e-9


# -- times that are fixed


def test_the_retained_are_asked_each_second() -> None:
    def over(t: float, at: float) -> bool:
        policy = MassLossPolicy(MassLossSettings())
        lose(policy, "ab", BEGAN)
        for one in policy.due(BEGAN):
            policy.probed(one, True)
        return bool(policy.due(BEGAN + at))

    assert 0.999 <= when(over, PROBE_INTERVAL) <= 1.1


def test_instances_are_retained_for_the_grace_after_a_switch() -> None:
    def over(t: float, at: float) -> bool:
        switch = GracefulSwitch()
        switch.update(Membership(services={"users": (instance("a"), instance("b"))}), BEGAN - 1)
        switch.begin(Membership(services={"users": (instance("a"),)}), BEGAN)
        return switch.step(BEGAN + at)

    assert 0.999 <= when(over, GRACE) <= 1.1


def test_retries_are_saved_up_from_the_last_seconds() -> None:
    budget = RetryBudget(0.2)
    budget.tick(0)
    budget.tick(1000)
    for second in range(1, HORIZON):
        budget.tick(1000)
        assert budget._balance > FLOOR, second
    budget.tick(1000)
    assert budget._balance == FLOOR


def test_trials_are_few() -> None:
    breaker = Breaker(ratio=0.5, min_requests=1, window=1.0, open=1.0)
    breaker.admit(BEGAN)
    breaker.on_result(True, BEGAN, breaker.opened)
    assert [breaker.admit(BEGAN + 1.0) for _ in range(TRIALS + 1)] == [True] * TRIALS + [False]


def test_a_service_without_instances_is_known_for_ten_minutes() -> None:
    def over(t: float, at: float) -> bool:
        book = PoolRegistry({}, Slots(8, lambda slot: True), BEGAN - 2)
        book.apply(Membership(services={"users": (instance("a"),)}), BEGAN - 1)
        book.apply(Membership(services={}), BEGAN)
        return book.expire(BEGAN + at).gone == ["users"]

    assert 0.999 <= when(over, FORGET_AFTER) <= 1.1


class Saving:
    """A provider that remembers in a file, on stepped time."""

    def __init__(self, path: Path) -> None:
        self.loop = SteppedLoop()
        self.inner = ManualProvider()
        self.hangs = False
        """The file system does not answer any more."""
        self.asked = 0
        """How often something was to be done with the file."""
        self.path = path
        self.events: list[float] = []
        self.provider = SnapshotProvider(
            self.inner,
            str(path),
            on_event=lambda kind, **_: self.events.append(self.now),
            aside=self._at_once,
        )
        self.task = self.loop.create_task(self._read())

    @property
    def now(self) -> float:
        return self.loop.time() - START

    def _at_once(self, work: Callable[[], Any], name: str) -> asyncio.Future[Any]:
        """Stepped time has no threads."""
        self.asked += 1
        future = self.loop.create_future()
        if not self.hangs:
            future.set_result(work())
        return future

    @property
    def snapshot(self) -> SnapshotStatus:
        status = self.provider.status().snapshot
        assert status is not None
        return status

    async def _read(self) -> None:
        async for _ in self.provider.watch():
            pass

    def writes(self, until: float) -> list[float]:
        """When the file is replaced, from now on."""
        found = []
        known = self._identity()
        for _ in range(round(until / 0.01)):
            self.loop.advance(0.01)
            if self._identity() != known:
                known = self._identity()
                found.append(self.now)
        return found

    def _identity(self) -> Any:
        return self.path.stat().st_ino if self.path.exists() else None

    def close(self) -> None:
        self.task.cancel()
        self.loop.run_ready()
        assert self.loop.failures == []


def test_a_snapshot_is_written_soon_after_a_change_and_each_minute(tmp_path: Path) -> None:
    saving = Saving(tmp_path / "pools.json")
    saving.loop.advance(0.1)
    began = saving.now
    saving.inner.tell(instance("a"))
    first, second, third = saving.writes(2.2 * REFRESH)
    assert DEBOUNCE <= first - began <= 1.1 * DEBOUNCE
    assert REFRESH <= second - first <= 1.1 * REFRESH
    assert REFRESH <= third - second <= 1.1 * REFRESH
    saving.close()


def test_a_snapshot_is_used_when_nobody_has_answered_in_time(tmp_path: Path) -> None:
    save_snapshot(tmp_path / "pools.json", Membership(services={"users": (instance("a"),)}), 0.0)
    saving = Saving(tmp_path / "pools.json")
    saving.loop.advance(10 * PATIENCE)
    (used,) = saving.events
    assert PATIENCE - 1e-6 <= used <= 1.1 * PATIENCE
    saving.close()


def test_a_file_system_that_never_answers_is_told_of_and_asked_once(tmp_path: Path) -> None:
    saving = Saving(tmp_path / "pools.json")
    saving.inner.tell(instance("a"))
    saving.loop.advance(2)
    saving.hangs = True
    saving.inner.tell(instance("b"))
    saving.loop.advance(DEBOUNCE + 0.9 * SLOW)
    assert (saving.snapshot.error, saving.snapshot.failures) == (None, 0)
    asked = saving.asked
    saving.loop.advance(0.2 * SLOW)
    assert f"{SLOW:g} s" in str(saving.snapshot.error)
    saving.inner.tell(instance("c"))
    saving.loop.advance(3 * REFRESH)
    assert (saving.snapshot.failures, saving.asked) == (1, asked)
    began = saving.now
    saving.task.cancel()
    while not saving.task.done():
        saving.loop.advance(0.01)
    assert saving.now - began <= 1.1 * LAST_WRITE
    assert saving.loop.failures == []


def test_asyncio_counts_its_own_limits_on_the_loops_time() -> None:
    """What the control plane leaves to `asyncio.timeout` and `sleep` is on the same clock."""
    loop = SteppedLoop()
    ends: list[float] = []

    async def wait() -> None:
        try:
            async with asyncio.timeout(0.1):
                await loop.create_future()
        except TimeoutError:
            ends.append(loop.time() - START)

    loop.create_task(wait())
    loop.advance(1.0)
    assert ends == [pytest.approx(0.1)]


@pytest.mark.parametrize(
    ("held_up", "asked"), [(0.0, True), (0.2, True), (0.3, False), (9.0, False)]
)
def test_a_limit_that_passes_while_the_process_is_stopped_says_nothing(
    held_up: float, asked: bool
) -> None:
    """After SIGSTOP and SIGCONT timers come first, then the answers that have long been there."""
    loop = SteppedLoop()
    found: list[Verdict] = []

    class Mute(Check):
        name = "mute"

        async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
            try:
                await loop.create_future()
            finally:
                await asyncio.sleep(0.5)  # To end what was begun is no delay of ours.
            raise AssertionError("nobody answers")

    async def probe() -> None:
        found.append(await Mute(timeout=1.0).probe(Endpoint("192.0.2.1", 80)))

    loop.create_task(probe())
    loop.advance(0.9)
    loop.stand_still(0.1 + held_up)
    loop.advance(1.0)
    (verdict,) = found
    assert (verdict.ok, verdict.asked) == (False, asked)
    assert "1 s" in verdict.message


@pytest.mark.parametrize("t", SECONDS)
def test_a_probe_that_is_never_answered_fails_at_its_limit(t: float) -> None:
    loop = SteppedLoop()
    found: list[tuple[float, Verdict]] = []

    class Mute(Check):
        name = "mute"

        async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
            await loop.create_future()
            raise AssertionError("nobody answers")

    async def probe() -> None:
        verdict = await Mute(timeout=t).probe(Endpoint("192.0.2.1", 80))
        found.append((loop.time() - START, verdict))

    loop.create_task(probe())
    loop.advance(0.99 * t)
    assert found == []
    loop.advance(0.11 * t)
    ((after, verdict),) = found
    assert t <= after + 1e-9
    assert after <= 1.1 * t + 1e-9
    assert not verdict.ok
    assert verdict.seconds == pytest.approx(after)
