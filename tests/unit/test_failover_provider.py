"""Which registry is used when one falls silent, is slow, or comes and goes, on stepped time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import pytest

from proxy.membership import Membership
from proxy.registry.base import Provider
from proxy.registry.decorators.failover import RETURN_AFTER, ProbeSchedule
from proxy.registry.decorators.failover_provider import FailoverProvider
from proxy.settings.registry import Registry
from proxy.statuses import RegistryStatus
from tests.support.loop_and_network import START, SteppedLoop
from tests.support.manual_provider import ManualOptions, instance

INTERVAL, LIMIT = 10.0, 5.0
HANGS = float("inf")


class Store:
    """A registry whose answers take as long as the test says."""

    def __init__(self, name: str, loop: SteppedLoop) -> None:
        self.name = name
        self.loop = loop
        self.up: Callable[[float], bool] = lambda now: True
        self.takes = 0.0
        self.lists_in = 0.0
        self.asked: list[float] = []
        self._thawed = loop.create_future()

    def thaw(self) -> None:
        """Answer what hangs, and at once from now on."""
        self.takes = 0.0
        self._thawed.set_result(None)
        self._thawed = self.loop.create_future()

    async def answer(self, takes: float) -> bool:
        if takes == HANGS:
            await asyncio.shield(self._thawed)
            return True
        await asyncio.sleep(takes)
        return self.up(self.loop.time() - START)


class StoreProvider(Provider):
    name = "stepped"

    def __init__(self, store: Store) -> None:
        self.store = store

    async def watch(self) -> AsyncIterator[Membership]:
        if not await self.store.answer(max(self.store.takes, self.store.lists_in)):
            await self.store.loop.create_future()
        yield Membership(services={"users": (instance(self.store.name),)})
        await self.store.loop.create_future()

    def status(self) -> RegistryStatus:
        # As seen by one that has not noticed: only the checks can find a silent registry out.
        return RegistryStatus(provider=self.name, connected=True, age=0.0)

    async def alive(self) -> bool:
        self.store.asked.append(self.store.loop.time() - START)
        return await self.store.answer(self.store.takes)

    async def close(self) -> None:
        pass


class Stepped:
    """A failover provider over two stores, watched."""

    def __init__(self, interval: float = INTERVAL, timeout: float = LIMIT) -> None:
        self.loop = SteppedLoop()
        self.primary, self.backup = Store("a", self.loop), Store("b", self.loop)
        stores = {f"http://{store.name}:1": store for store in (self.primary, self.backup)}
        self.switched: list[tuple[float, int]] = []
        """(when, to which)"""
        self.provider = FailoverProvider(
            [ManualOptions(endpoints=(url,)) for url in stores],
            lambda settings: StoreProvider(stores[settings.endpoints[0]]),
            Registry(check_interval=interval, check_timeout=timeout),
            on_event=lambda kind, **fields: self.switched.append((self.now, fields["source"])),
            clock=self.loop.time,
        )
        self.task = self.loop.create_task(self._read())

    @property
    def now(self) -> float:
        return self.loop.time() - START

    async def _read(self) -> None:
        async for _ in self.provider.watch():
            pass

    def advance(self, seconds: float) -> None:
        self.loop.advance(seconds)

    def in_use(self) -> list[bool]:
        return [source.active for source in self.provider.status().sources]

    def close(self) -> None:
        self.task.cancel()
        self.advance(1.0)
        assert self.loop.failures == []


@pytest.fixture
def make() -> Iterator[Callable[..., Stepped]]:
    made: list[Stepped] = []

    def one(interval: float = INTERVAL, timeout: float = LIMIT) -> Stepped:
        made.append(Stepped(interval, timeout))
        return made[-1]

    yield one
    for stepped in made:
        stepped.close()


@contextmanager
def left_within(stepped: Stepped, limit: float) -> Iterator[None]:
    """What happens inside makes it leave the primary in time."""
    assert stepped.in_use() == [True, False]
    began = stepped.now
    yield
    stepped.advance(3 * limit)
    assert [to for _, to in stepped.switched] == [1]
    assert stepped.switched[0][0] - began <= limit


@pytest.mark.parametrize(
    ("interval", "timeout"), [(10.0, 5.0), (10.0, 1.0), (10.0, 30.0), (2.0, 1.0), (60.0, 5.0)]
)
@pytest.mark.parametrize("after", [n / 23 for n in range(23)])
def test_a_registry_that_hangs_is_left_within_the_interval(
    make: Callable[..., Stepped], interval: float, timeout: float, after: float
) -> None:
    stepped = make(interval, timeout)
    stepped.backup.lists_in = 0.05 * interval
    stepped.advance((3 + after) * interval)
    with left_within(stepped, interval):
        stepped.primary.takes = HANGS


@pytest.mark.parametrize("after", [n / 7 for n in range(7)])
def test_a_backup_that_hangs_holds_up_nothing(make: Callable[..., Stepped], after: float) -> None:
    stepped = make()
    stepped.backup.takes = HANGS
    stepped.advance((3 + after) * INTERVAL)
    assert [one.alive for one in stepped.provider.status().sources] == [True, False]
    stepped.primary.asked.clear()
    stepped.advance(10 * INTERVAL)
    schedule = ProbeSchedule.within(INTERVAL, LIMIT)
    assert len(stepped.primary.asked) == pytest.approx(10 * INTERVAL / schedule.every, abs=1)
    # A hang that begins in both leaves everything as it is: there is nothing better.
    stepped.primary.takes = HANGS
    stepped.advance(10 * INTERVAL)
    assert stepped.in_use() == [True, False]
    assert stepped.switched == []


def test_a_registry_that_answers_just_in_time_is_not_left(make: Callable[..., Stepped]) -> None:
    stepped = make()
    stepped.advance(INTERVAL)
    stepped.primary.takes = LIMIT - 0.01
    stepped.advance(20 * INTERVAL)
    assert stepped.switched == []
    with left_within(stepped, INTERVAL):
        stepped.primary.takes = LIMIT + 0.01


def test_a_registry_that_comes_and_goes_is_left_once(make: Callable[..., Stepped]) -> None:
    """Down for every second check, as it stays for many hours."""
    stepped = make()
    stepped.advance(INTERVAL)
    stepped.primary.up = lambda now: len(stepped.primary.asked) % 2 == 0
    stepped.advance(100 * INTERVAL)
    assert [to for _, to in stepped.switched] == [1]


def test_the_preferred_registry_is_used_again_after_good_checks_in_a_row(
    make: Callable[..., Stepped],
) -> None:
    stepped = make()
    stepped.advance(INTERVAL)
    stepped.primary.takes = HANGS
    stepped.advance(2 * INTERVAL)
    assert stepped.in_use() == [False, True]
    stepped.primary.takes = 0.0
    began = stepped.now
    stepped.advance(5 * INTERVAL)
    assert stepped.in_use() == [True, False]
    schedule = ProbeSchedule.within(INTERVAL, LIMIT)
    # A check that hung when it came back is a failed one.
    took = stepped.switched[1][0] - began
    assert (
        (RETURN_AFTER - 1) * schedule.every
        <= took
        <= schedule.limit + RETURN_AFTER * schedule.every
    )


@pytest.mark.parametrize("after", [n / 11 for n in range(11)])
def test_a_registry_that_is_there_for_moments_is_not_used(
    make: Callable[..., Stepped], after: float
) -> None:
    """A check that hung, and is answered when it comes back, and the next are two: the time between
    them is what proves it."""
    stepped = make()
    stepped.advance(INTERVAL)
    stepped.primary.takes = HANGS
    stepped.advance((2 + after) * INTERVAL)
    schedule = ProbeSchedule.within(INTERVAL, LIMIT)
    for _ in range(10):
        stepped.primary.thaw()
        stepped.advance(0.9 * schedule.every)
        stepped.primary.takes = HANGS
        stepped.advance(INTERVAL)
    assert [to for _, to in stepped.switched] == [1]


def test_a_preferred_registry_that_is_slow_at_the_start_is_waited_for(
    make: Callable[..., Stepped],
) -> None:
    stepped = make()
    stepped.primary.takes = LIMIT - 1
    stepped.advance(INTERVAL)
    assert stepped.in_use() == [True, False]
    assert stepped.switched == []


def test_a_start_while_the_preferred_registry_hangs_uses_the_backup(
    make: Callable[..., Stepped],
) -> None:
    stepped = make()
    stepped.primary.takes = HANGS
    stepped.advance(LIMIT + 0.01)
    assert stepped.in_use() == [False, True]
    assert stepped.switched == []  # Nothing was in use before.


def test_the_schedule_leaves_time_between_checks() -> None:
    for interval in (0.1, 1.0, 10.0, 60.0):
        for timeout in (0.01, 1.0, 5.0, 100.0):
            schedule = ProbeSchedule.within(interval, timeout)
            assert schedule.limit <= timeout
            assert schedule.every >= 0.4 * interval - 1e-9
            assert schedule.every + schedule.limit <= 0.9 * interval + 1e-9
