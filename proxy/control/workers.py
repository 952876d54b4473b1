"""All workers: how they start and stop, and how they change together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import structlog

from proxy.control.listeners import Listeners
from proxy.control.sockets import BindError, Listening
from proxy.control.statistics import Applies
from proxy.control.worker_process import KILL_AFTER_GRACE, Sockets, WorkerProcess
from proxy.control.worker_slot import SUCCESSOR_LIMIT, Until, WorkerSlot
from proxy.messages import CertificateMessage, WorkerConfig
from proxy.waiting import ended

log = structlog.get_logger()

CONFIGURE_LIMIT = 10.0
"""Seconds in which a worker must have taken another configuration."""

LAUNCH_LIMIT = 0.25
"""Seconds by which starting the worker processes may hold up the rest of the start. It takes
some five milliseconds each; one that takes longer is started meanwhile."""

Own = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
"""Runs work in a task of that name; the process stops if it fails."""

STOPPING = "the proxy is stopping"

InForce = tuple[WorkerConfig, Sequence[CertificateMessage]]
"""A configuration for workers, and the certificates for it."""


class Workers:
    """Owns the places of workers, the tasks that keep them running, and which worker accepts from
    which socket."""

    def __init__(
        self,
        make: Callable[[int], WorkerSlot],
        count: int,
        listeners: Listeners,
        own: Own,
        until: Until,
    ) -> None:
        """`make`: the place of one more worker, by its index."""
        self.slots = [make(index) for index in range(count)]
        self.listeners = listeners
        self._make = make
        self._own = own
        self._until = until
        self._stopping = False
        self._sharing = count
        """Workers among which the sockets are divided."""
        self._applies: dict[int, Applies] = {}
        """Of workers that left, by index: one that comes in their place counts on."""
        self._keepers: dict[WorkerSlot, asyncio.Task[None]] = {}
        """Tasks of places, of those that come or leave as well."""

    @property
    def places(self) -> list[WorkerSlot]:
        """Places of workers, behind them those that come or leave."""
        return [*self.slots, *(slot for slot in self._keepers if slot not in self.slots)]

    def processes(self) -> Iterator[WorkerProcess]:
        """Processes that live, predecessors that finish included."""
        return (process for slot in self.places for process in slot.processes)

    def sockets(self, index: int) -> Sockets:
        """Sockets that a worker accepts from."""
        return self.listeners.of(index, self._sharing)

    def current(self) -> Iterator[WorkerProcess]:
        """The process of each place, where there is one."""
        return (slot.current for slot in self.slots if slot.current is not None)

    # ------------------------------------------------------------------ start and stop

    async def start(self) -> None:
        """Start the processes."""
        for slot in self.slots:
            self._keep(slot)
        tried = [asyncio.create_task(slot.tried.wait()) for slot in self.slots]
        await asyncio.wait(tried, timeout=LAUNCH_LIMIT)
        for task in tried:
            task.cancel()

    def _keep(self, slot: WorkerSlot) -> None:
        self._keepers[slot] = task = self._own(slot.keep(), f"worker {slot.index}")
        task.add_done_callback(lambda _: self._keepers.pop(slot))

    async def drain(self, grace: float, delay: float, shared: bool = False) -> bool:
        """Let all accept for `delay` seconds more and finish; kill those that do not within
        `grace` and a little; wait until they are gone. `shared`: see `Drain`. True if none had to
        be killed."""
        self._stopping = True
        # The workers close theirs when they have accepted the last. A socket that stayed open
        # here would go on taking connections that nobody accepts.
        self.listeners.close()
        for slot in self.places:
            slot.drain(grace, delay, shared)
        await self._ended(delay + grace + KILL_AFTER_GRACE)
        late = [slot.index for slot in self.places if slot.processes]
        if late:
            log.warning("workers_killed_after_grace", workers=late, grace=grace)
        await self.kill()
        return not late

    async def kill(self) -> None:
        """End all at once and wait until they are gone."""
        self._stopping = True
        for slot in self.places:
            slot.kill()
        # A killed process is gone at once; the limit is for one stuck inside the kernel.
        await self._ended(KILL_AFTER_GRACE)

    async def _ended(self, limit: float) -> None:
        if self._keepers:
            await asyncio.wait(self._keepers.values(), timeout=limit)

    async def close(self) -> None:
        """End the tasks. The processes must be gone."""
        tasks = list(self._keepers.values())
        await ended(*tasks)

    # ------------------------------------------------------------------ changes

    async def restart(self, grace: float, limit: float = SUCCESSOR_LIMIT) -> str:
        """Replace one process after the other by a successor beside it, which must accept within
        `limit` seconds; each has `grace` seconds to finish.
        Returns the reason why the rest serves on as it is; "" = all are new."""
        for slot in self.slots:
            error = STOPPING if self._stopping else await slot.replace(grace, limit, self._wait)
            if error:
                log.error("worker_not_replaced", worker=slot.index, error=error)
                return f"worker {slot.index}: {error}"
        return ""

    async def change(
        self, now: InForce, listening: Sequence[Listening], count: int, grace: float
    ) -> str:
        """Put in force what `now` says, and these sockets, in so many workers. Returns the reason
        why that cannot be: then it is to be called again, with what was before. `grace`: seconds
        for connections of listeners and workers that are there no more."""
        before, self.listeners.current = self.listeners.current, listening
        # Until the end they are shared as the fewer workers have them: nobody's is unattended.
        self._sharing = min(len(self.slots), count)
        try:
            error = await self._configure(now)
            if not error:
                self.listeners.begin(before)
                error = await self._open() or await self._grow(count)
        except BindError as failure:
            error = str(failure)
        if self._stopping:
            # The workers finish as they are.
            self.listeners.drop(before)
            return STOPPING
        if error:
            return error
        self._sharing = count
        gone = self.listeners.drop(before)
        told = self._current()
        for slot, process in told:
            process.release(gone, True, grace)
            process.release(process.held - self.sockets(slot.index).keys(), False, grace)
        for slot in self.slots[count:]:
            self._applies[slot.index] = slot.applies
            slot.drain(grace, 0.0, shared=True)
        del self.slots[count:]
        # Of those that leave as well: as long as they have it, an address cannot be had again.
        if not await self._all(told, lambda _, process: process.open <= process.held):
            log.warning("sockets_not_released", limit=CONFIGURE_LIMIT)
        return ""

    def _current(self) -> list[tuple[WorkerSlot, WorkerProcess]]:
        return [(slot, slot.current) for slot in self.slots if slot.current is not None]

    async def _configure(self, now: InForce) -> str:
        """Give the configuration to all; the first reason why one cannot take it."""
        config, further = now
        asked = self._current()
        for slot, process in asked:
            process.configure(config, self.sockets(slot.index), further)
        generation = config.generation
        # One that has died has taken nothing; its successor begins with the new one.
        if not await self._all(asked, lambda _, process: process.has_answered(generation)):
            return f"a worker has not answered within {CONFIGURE_LIMIT:g} s"
        errors = (one.configured.error for _, one in asked if one.has_answered(generation))
        return next(filter(None, errors), "")

    async def _open(self) -> str:
        """Let all that accept do so from all their sockets."""
        asked = [(slot, process) for slot, process in self._current() if process.accepting]
        for _, process in asked:
            process.open_sockets()
        if await self._all(
            asked, lambda slot, process: process.open >= self.sockets(slot.index).keys()
        ):
            return ""
        return f"a worker does not accept from all sockets within {CONFIGURE_LIMIT:g} s"

    async def _all(
        self,
        asked: Sequence[tuple[WorkerSlot, WorkerProcess]],
        done: Callable[[WorkerSlot, WorkerProcess], bool],
    ) -> bool:
        """Wait until this holds for all of these that live; False if it does not in time."""

        def all_done() -> bool:
            return all(done(slot, one) for slot, one in asked if slot.current is one)

        return await self._wait(all_done, CONFIGURE_LIMIT)

    async def _wait(self, condition: Callable[[], bool], limit: float) -> bool:
        """Wait until the condition holds, or nothing matters any more."""
        return await self._until(lambda: self._stopping or condition(), limit)

    async def _grow(self, count: int) -> str:
        """Start workers that there are too few of; they count once they accept."""
        new = [self._make(index) for index in range(len(self.slots), count)]
        for slot in new:
            slot.applies = self._applies.pop(slot.index, slot.applies)
            self._keep(slot)
        if any(process.accepting for process in self.current()) and not await self._wait(
            lambda: all(one.current is not None and one.current.accepting for one in new),
            SUCCESSOR_LIMIT,
        ):
            for slot in new:
                slot.kill()
            return f"a new worker has not accepted within {SUCCESSOR_LIMIT:g} s"
        self.slots += new
        return ""
