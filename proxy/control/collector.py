"""Counts of all workers, together with those of dead ones."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable

from proxy.control.pools import PoolRegistry
from proxy.control.statistics import Retired, Totals
from proxy.control.worker_process import WorkerProcess
from proxy.membership import Instance

COLLECT_LIMIT = 0.5
"""Seconds a scrape waits for workers. They push each second anyway, so one that is late is
shown with figures of at most that age."""


class Collector:
    """Owns what dead workers had counted, and the questions to the live ones."""

    def __init__(
        self, processes: Callable[[], Iterable[WorkerProcess]], pools: PoolRegistry
    ) -> None:
        """`processes`: those that live; who finishes counts on."""
        self._processes = processes
        self._pools = pools
        self.retired = Retired()
        """Counts of dead workers."""
        self._numbers = itertools.count(1)
        self._worker_changed = asyncio.Event()

    def on_change(self) -> None:
        """A worker said something, or is gone."""
        self._worker_changed.set()

    def retire(self, process: WorkerProcess) -> None:
        """A worker process is gone; what it counted stays."""
        self.retired = self.retired.plus(process.stats, self._pools.identities())
        self.on_change()

    def forget(self) -> None:
        """Drop what live workers counted for those that left. Call every now and then."""
        known = self._pools.identities()
        for process in self._processes():
            process.stats.forget(known, self._pools.by_service)

    def totals(self) -> Totals:
        """The workers' counters as they were last reported, with those of dead workers."""
        return Totals(
            self.retired,
            [process.stats for process in self._processes()],
        )

    def answers(self, instance: Instance) -> int:
        """Requests that the instance has answered, as far as the workers have told."""
        total = self.totals().node(instance.service, instance.key)
        return 0 if total is None else total.outcomes.get("ok", 0)

    async def collect(self, limit: float = COLLECT_LIMIT) -> Totals:
        """Fresh counters of all workers; of those that do not answer within `limit` seconds
        what they reported last."""
        number = next(self._numbers)
        asked = [process for process in self._processes() if process.collect(number)]

        def answered() -> bool:
            return all(process.answered >= number or process.gone for process in asked)

        await self.until(answered, limit)
        return self.totals()

    async def until(self, condition: Callable[[], bool], limit: float) -> bool:
        """Wait for news of workers until the condition holds, or the time is up: False."""
        deadline = time.monotonic() + limit
        while not condition():
            self._worker_changed.clear()
            try:
                await asyncio.wait_for(self._worker_changed.wait(), deadline - time.monotonic())
            except TimeoutError:
                return False
        return True
