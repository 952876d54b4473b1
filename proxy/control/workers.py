"""All workers: how they start and stop, and how they change together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import structlog

from proxy.control.certificates import Certificates
from proxy.control.worker_process import KILL_AFTER_GRACE, WorkerProcess
from proxy.control.worker_slot import SUCCESSOR_LIMIT, Until, WorkerSlot
from proxy.messages import WorkerConfig

log = structlog.get_logger()

CONFIGURE_LIMIT = 10.0
"""Seconds in which a worker must have taken another configuration."""

LAUNCH_LIMIT = 0.25
"""Seconds by which starting the worker processes may hold up the rest of the start. It takes
some five milliseconds each; one that takes longer is started meanwhile."""

Own = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
"""Runs work in a task of that name; the process stops if it fails."""


class Workers:
    """Owns the tasks that keep the workers running."""

    def __init__(self, slots: Sequence[WorkerSlot], own: Own, until: Until) -> None:
        self.slots = slots
        self._own = own
        self._until = until
        self._keepers: list[asyncio.Task[None]] = []

    def processes(self) -> Iterator[WorkerProcess]:
        """Processes that live, predecessors that finish included."""
        return (process for slot in self.slots for process in slot.processes)

    def current(self) -> Iterator[WorkerProcess]:
        """The process of each place, where there is one."""
        return (slot.current for slot in self.slots if slot.current is not None)

    # ------------------------------------------------------------------ start and stop

    async def start(self) -> None:
        """Start the processes."""
        self._keepers = [self._own(slot.keep(), f"worker {slot.index}") for slot in self.slots]
        tried = [asyncio.create_task(slot.tried.wait()) for slot in self.slots]
        await asyncio.wait(tried, timeout=LAUNCH_LIMIT)
        for task in tried:
            task.cancel()

    async def drain(self, grace: float, delay: float, shared: bool = False) -> bool:
        """Let all accept for `delay` seconds more and finish; kill those that do not within
        `grace` and a little; wait until they are gone. `shared`: see `Drain`. True if none had to
        be killed."""
        for slot in self.slots:
            slot.drain(grace, delay, shared)
        await asyncio.wait(self._keepers, timeout=delay + grace + KILL_AFTER_GRACE)
        late = [slot.index for slot in self.slots if slot.processes]
        if late:
            log.warning("workers_killed_after_grace", workers=late, grace=grace)
        await self.kill()
        return not late

    async def kill(self) -> None:
        """End all at once and wait until they are gone."""
        for slot in self.slots:
            slot.kill()
        # A killed process is gone at once; the limit is for one stuck inside the kernel.
        if self._keepers:
            await asyncio.wait(self._keepers, timeout=KILL_AFTER_GRACE)

    async def close(self) -> None:
        """End the tasks. The processes must be gone."""
        for task in self._keepers:
            task.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    # ------------------------------------------------------------------ changes

    async def restart(self, grace: float, limit: float = SUCCESSOR_LIMIT) -> str:
        """Replace one process after the other by a successor beside it, which must accept within
        `limit` seconds; each has `grace` seconds to finish.
        Returns the reason why the rest serves on as it is; "" = all are new."""
        for slot in self.slots:
            error = await slot.replace(grace, limit, self._until)
            if error:
                log.error("worker_not_replaced", worker=slot.index, error=error)
                return f"worker {slot.index}: {error}"
        return ""

    async def configure(self, config: WorkerConfig, certificates: Certificates) -> str:
        """Give the configuration to all that accept; the first reason why one cannot take it."""
        asked = list(self.current())
        for process in asked:
            process.configure(config, certificates.messages)

        def answered() -> bool:
            # One that has died has taken nothing; its successor begins with the new one.
            waiting = {*self.current()} & {*asked}
            return all(process.has_answered(config.generation) for process in waiting)

        if not await self._until(answered, CONFIGURE_LIMIT):
            return f"a worker has not answered within {CONFIGURE_LIMIT:g} s"
        errors = (
            one.configured.error
            for one in asked
            if one.configured.error and one.has_answered(config.generation)
        )
        return next(errors, "")
