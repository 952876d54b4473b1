"""Active checks of every instance, once per machine, in the control process.

The decisions are in `schedule.py`; here is what waits and what connects. Of any number of
instances at most `MAX_PROBES` are being checked at a time: when that is not enough, intervals
get longer, and nothing else suffers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random

import structlog

from proxy.health.base import Check, Verdict
from proxy.health.schedule import Candidate, Rules, Schedule, Target
from proxy.waiting import ended

log = structlog.get_logger()

MAX_PROBES = 256
"""Probes under way at a time. Enough for 256 instances a second that all hang for the default
second, and far below any limit on open files."""

BURST = 16
"""Probes started before others get their turn: starting one takes some 0.1 ms, and ejections
and pool changes pass through the same loop."""

GATHER = 0.01
"""Seconds in which changes of standing are gathered: a rack that loses power is one update of
each pool, not one for each instance."""

IDLE = 3600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How one service is checked."""

    check: Check
    rules: Rules


@dataclass(frozen=True, slots=True)
class Finding:
    """A change of standing."""

    service: str
    key: str
    healthy: bool
    message: str


Passed = Callable[[str, str, float], None]
"""(service, key, when the probe began): a check was passed, whatever the standing."""


class Monitor:
    """Owns the targets, the probes under way, and the counts of results."""

    def __init__(
        self,
        plan_of: Callable[[str], Plan | None],
        on_findings: Callable[[list[Finding]], None],
        on_passed: Passed,
        *,
        most: int = MAX_PROBES,
        rng: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`plan_of` is asked at each update of a service; `most` probes are under way at a time,
        and never more than `MAX_PROBES`."""
        self._plan_of = plan_of
        self._on_findings = on_findings
        self._on_passed = on_passed
        self._most = min(most, MAX_PROBES)
        self._clock = clock
        self._schedule = Schedule(rng or Random())
        self._plans: dict[str, Plan] = {}
        self._counts: dict[str, dict[str, int]] = {}
        self._findings: list[tuple[Target, Finding]] = []
        self._blind = False
        """The last check could not be made, for want of a descriptor."""
        self._wake = asyncio.Event()
        self._probes: set[asyncio.Task[None]] = set()

    @property
    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Service → `passed | failed | skipped` → checks."""
        return self._counts

    def __len__(self) -> int:
        """Instances that are checked."""
        return len(self._schedule)

    def checks(self, service: str, key: str) -> bool:
        """Is this instance checked?"""
        return self._schedule.has(service, key)

    def update(self, service: str, candidates: Iterable[Candidate]) -> list[str]:
        """The instances of a service now; none = it is gone. Returns the keys of those that
        are not checked any more."""
        plan = self._plan_of(service)
        candidates = tuple(candidates) if plan is not None else ()
        if plan is None or not candidates:
            self._plans.pop(service, None)
            self._counts.pop(service, None)
            return self._schedule.update(service, None, (), self._clock())
        self._plans[service] = plan
        self._wake.set()
        return self._schedule.update(service, plan.rules, candidates, self._clock())

    async def run(self) -> None:
        """Check until cancelled."""
        try:
            while True:
                self._wake.clear()
                now = self._clock()
                room = min(BURST, self._most - len(self._probes))
                for target in self._schedule.due(now, room):
                    probe = asyncio.create_task(self._probe(target), name=f"check {target.key}")
                    self._probes.add(probe)
                    probe.add_done_callback(self._ended)
                    if (plan := self._plans.get(target.service)) and plan.check.holds_the_loop:
                        await asyncio.sleep(0)
                await self._pause()
        finally:
            await ended(*self._probes)

    async def close(self) -> None:
        """Release what checks share. `run` must be over."""
        for plan in self._plans.values():
            await plan.check.close()

    async def _pause(self) -> None:
        at = self._schedule.next_at
        wait = IDLE if at is None else at - self._clock()
        if len(self._probes) >= self._most:
            wait = IDLE  # A probe that ends wakes us.
        if wait <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(min(wait, IDLE)):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _probe(self, target: Target) -> None:
        began = self._clock()
        plan = self._plans.get(target.service)
        if plan is None:
            return
        verdict: Verdict = await plan.check.probe(target.endpoint)
        if target.gone:
            return
        counts = self._counts.setdefault(target.service, {})
        result = "passed" if verdict.ok else "failed" if verdict.asked else "skipped"
        counts[result] = counts.get(result, 0) + 1
        if self._blind != (not verdict.asked):
            self._blind = not verdict.asked
            if self._blind:
                log.warning("checks_skipped", reason=verdict.message)
        if not verdict.asked:
            self._schedule.skipped(target, began, self._clock())
            return
        if self._schedule.done(target, verdict.ok, verdict.message, began, self._clock()):
            self._found(target, verdict)
        if verdict.ok:
            self._on_passed(target.service, target.key, began)

    def _ended(self, probe: asyncio.Task[None]) -> None:
        self._probes.discard(probe)
        self._wake.set()
        if not probe.cancelled():
            probe.result()  # A check never raises; if it does, the loop's handler says so.

    def _found(self, target: Target, verdict: Verdict) -> None:
        if not self._findings:
            asyncio.get_running_loop().call_later(GATHER, self._flush)
        finding = Finding(target.service, target.key, verdict.ok, verdict.message)
        self._findings.append((target, finding))

    def _flush(self) -> None:
        findings, self._findings = self._findings, []
        # Who left meanwhile starts anew when it is back: what was found would be held against it
        # for ever, since later checks only tell of changes.
        if still := [finding for target, finding in findings if not target.gone]:
            self._on_findings(still)
