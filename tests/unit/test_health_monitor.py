"""The monitor: how many checks at a time, what it tells, and when it stops."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from proxy.health.base import Check, Endpoint
from proxy.health.monitor import MAX_PROBES, Finding, Monitor, Plan
from proxy.health.schedule import Candidate, Rules


class Gate(Check):
    """A check that takes until it is told the result."""

    name = "gate"

    def __init__(self) -> None:
        super().__init__(timeout=60.0)
        self.waiting: dict[int, asyncio.Future[bool]] = {}
        self.most = 0
        self.arrived = asyncio.Event()

    async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
        future = asyncio.get_running_loop().create_future()
        self.waiting[endpoint.port] = future
        self.most = max(self.most, len(self.waiting))
        self.arrived.set()
        try:
            return await future, "said so"
        finally:
            del self.waiting[endpoint.port]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.waiting) < count:
                self.arrived.clear()
                await self.arrived.wait()

    def answer(self, ok: bool) -> None:
        for future in list(self.waiting.values()):
            if not future.done():
                future.set_result(ok)

    def fail(self, error: Exception) -> None:
        for future in list(self.waiting.values()):
            if not future.done():
                future.set_exception(error)


class Stage:
    def __init__(self, rules: Rules, most: int) -> None:
        self.check = Gate()
        self.plan: Plan | None = Plan(self.check, rules)
        self.findings: list[Finding] = []
        self.passed: list[tuple[str, str]] = []
        self.told = asyncio.Event()
        self.heard = asyncio.Event()
        self.monitor = Monitor(
            lambda service: self.plan,
            self.found,
            self.hear,
            most=most,
            rng=Random(1),
        )

    def hear(self, service: str, key: str, began: float) -> None:
        self.passed.append((service, key))
        self.heard.set()

    def found(self, findings: list[Finding]) -> None:
        self.findings += findings
        self.told.set()

    def update(self, count: int) -> list[str]:
        return self.monitor.update(
            "s", [Candidate(str(n), Endpoint("10.0.0.1", n), True) for n in range(count)]
        )


@asynccontextmanager
async def stage(
    fall: int = 1, interval: float = 0.001, most: int = MAX_PROBES
) -> AsyncIterator[Stage]:
    on = Stage(Rules(interval, fall, 1), most)
    task = asyncio.create_task(on.monitor.run())
    try:
        yield on
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await on.monitor.close()
        assert on.check.waiting == {}


@pytest.mark.parametrize(("most", "at_a_time"), [(1 << 20, MAX_PROBES), (8, 8)])
async def test_checks_run_so_many_at_a_time_and_no_more(most: int, at_a_time: int) -> None:
    async with stage(most=most) as on:
        on.update(at_a_time * 3)
        await on.check.until(at_a_time)
        for _ in range(100):
            await asyncio.sleep(0)
        assert on.check.most == at_a_time
        on.check.answer(True)
        async with asyncio.timeout(5):
            while len(on.passed) < at_a_time:
                on.heard.clear()
                await on.heard.wait()
        await on.check.until(at_a_time)
        assert on.check.most == at_a_time
        assert on.monitor.counts["s"]["passed"] >= at_a_time


async def test_changes_of_standing_are_told_together() -> None:
    async with stage() as on:
        on.update(50)
        await on.check.until(50)
        on.check.answer(False)
        async with asyncio.timeout(5):
            await on.told.wait()
        assert len(on.findings) == 50
        assert on.findings[0] == Finding("s", on.findings[0].key, False, "said so")
        assert on.passed == []


async def test_a_check_that_could_not_be_made_says_nothing() -> None:
    async with stage() as on:
        on.update(1)
        for _ in range(5):
            await on.check.until(1)
            on.check.fail(OSError(errno.EMFILE, "Too many open files"))
            for _ in range(10):
                await asyncio.sleep(0)
        await on.check.until(1)
        assert on.monitor.counts["s"] == {"skipped": 5}
        assert on.findings == []
        assert on.passed == []
        on.check.answer(False)
        async with asyncio.timeout(5):
            await on.told.wait()
        assert [finding.healthy for finding in on.findings] == [False]


async def test_without_a_plan_nobody_is_checked_any_more() -> None:
    async with stage() as on:
        on.update(5)
        assert len(on.monitor) == 5
        assert on.monitor.checks("s", "3")
        await on.check.until(5)
        on.plan = None
        assert sorted(on.update(5)) == ["0", "1", "2", "3", "4"]
        on.check.answer(False)
        assert len(on.monitor) == 0
        for _ in range(100):
            await asyncio.sleep(0)
        assert on.findings == []
        assert on.check.waiting == {}


async def test_instances_that_leave_are_named() -> None:
    async with stage() as on:
        on.update(3)
        assert on.update(1) == ["1", "2"]
        assert on.update(0) == ["0"]


async def test_a_result_is_not_told_of_an_instance_that_left_before() -> None:
    """It may be back by then, with a standing of its own, and nobody would ever take it back."""
    async with stage() as on:
        on.update(2)
        await on.check.until(2)
        on.check.answer(False)
        for _ in range(10):
            await asyncio.sleep(0)
        assert on.monitor.counts == {"s": {"failed": 2}}
        on.update(1)
        on.update(2)
        async with asyncio.timeout(5):
            await on.told.wait()
        assert [finding.key for finding in on.findings] == ["0"]


async def test_a_result_that_comes_after_the_service_left_is_not_counted() -> None:
    async with stage() as on:
        on.update(1)
        await on.check.until(1)
        on.update(0)
        on.check.answer(True)
        for _ in range(10):
            await asyncio.sleep(0)
        assert on.check.waiting == {}
        assert on.monitor.counts == {}
        assert on.passed == []


async def test_checks_that_hold_the_loop_begin_one_at_a_time() -> None:
    """Starting a process takes milliseconds, and ejections pass through the same loop."""
    async with stage() as on:
        on.check.holds_the_loop = True  # type: ignore[misc]
        on.update(50)
        steps = []
        while len(on.check.waiting) < 50:
            before = len(on.check.waiting)
            await asyncio.sleep(0)
            steps.append(len(on.check.waiting) - before)
        assert max(steps) == 1
