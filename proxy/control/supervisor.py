"""The supervisor: keeps the workers running and hands them every change of the pools.

    registry ─▶ Provider.watch ─▶ PoolBook.apply ─▶ Worker.update ─▶ channel

It survives the loss of anything below it: a worker that dies is replaced, a provider that
fails is built anew, and the pools stay as they were.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from proxy.control.pools import Changes, PoolBook
from proxy.control.statistics import Totals, total
from proxy.control.workers import Incarnation, Launch, Worker
from proxy.engine.load import Board
from proxy.model import Membership, RegistryStatus, Settings, WorkerConfig
from proxy.registry.base import Provider

log = structlog.get_logger()

ACCEPT_ANYWAY = 5.0
"""Seconds a start waits for the first full set. After that workers accept without it, so that
clients get an answer (503) and do not hang in an accept queue."""

PROVIDER_PAUSE = 1.0
"""Seconds between the failure of a provider and the next one. Providers handle outages
themselves; this is for their bugs."""

COLLECT_LIMIT = 0.5
"""Seconds a scrape waits for workers. They push each second anyway, so one that is late is
shown with figures of at most that age."""

KILL_AFTER_GRACE = 2.0
"""Seconds a worker has beyond its grace to cut what is left and exit."""


class Supervisor:
    """Owns the workers, the provider and what dead workers had counted.

    It reads and writes the `PoolBook`, but membership is decided there.
    """

    def __init__(
        self,
        settings: Settings,
        config: WorkerConfig,
        book: PoolBook,
        board: Board,
        launch: Launch,
        provider: Callable[[], Provider],
    ) -> None:
        """`provider` builds a provider; called at the start and after a provider failed."""
        self.settings = settings
        self.config = config
        self.book = book
        self.board = board
        self.stopping = False
        self.started_at = time.monotonic()
        self.workers = [
            Worker(
                index,
                launch,
                book,
                config=lambda: self.config,
                accept_anyway=lambda: self._waited and not book.complete,
                on_change=self._on_worker_change,
                on_exit=self._on_worker_exit,
            )
            for index in range(settings.workers)
        ]
        self._new_provider = provider
        self._provider = provider()
        self._retired = Totals()
        self._waited = False
        self._numbers = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._failed: asyncio.Event = asyncio.Event()
        self._worker_changed: asyncio.Event = asyncio.Event()
        self._announced = False

    # ------------------------------------------------------------------ start and stop

    def start(self) -> None:
        """Start the workers and the watch. Call inside the running loop."""
        self._keepers = [
            self._own(worker.keep(), f"worker {worker.index}") for worker in self.workers
        ]
        self._tasks = [
            self._own(self._watch(), "registry watch"),
            self._own(self._tick(), "tick"),
            self._own(self._accept_in_time(), "first set"),
        ]

    def _own(self, work: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        log.critical("internal_failure", task=task.get_name(), exc_info=task.exception())
        self._failed.set()

    async def failed(self) -> None:
        """Return if something failed that must not; the process should stop then."""
        await self._failed.wait()

    async def drain(self, grace: float) -> bool:
        """Let all workers finish, kill those that do not within `grace` and a little; wait
        until they are gone. True if none had to be killed."""
        self.stopping = True
        for worker in self.workers:
            worker.drain(grace)
        await asyncio.wait(self._keepers, timeout=grace + KILL_AFTER_GRACE)
        late = [worker.index for worker in self.workers if worker.current is not None]
        if late:
            log.warning("workers_killed_after_grace", workers=late, grace=grace)
        await self.kill()
        return not late

    async def kill(self) -> None:
        """End all workers at once and wait until they are gone."""
        self.stopping = True
        for worker in self.workers:
            worker.kill()
        # A killed process is gone at once; the limit is for one stuck inside the kernel.
        if self._keepers:
            await asyncio.wait(self._keepers, timeout=KILL_AFTER_GRACE)

    async def close(self) -> None:
        """Stop watching and release the provider. The workers must be gone."""
        tasks = [*self._tasks, *self._keepers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._provider.close()

    # --------------------------------------------------------------------- the registry

    @property
    def registry(self) -> RegistryStatus:
        """What the provider says of its registry."""
        return self._provider.status()

    async def _watch(self) -> None:
        while True:
            try:
                async for membership in self._provider.watch():
                    self._apply(membership)
                # A provider whose membership is final has said it.
                return
            except Exception:
                log.exception("provider_failed", provider=self._provider.name)
            await self._provider.close()
            await asyncio.sleep(PROVIDER_PAUSE)
            self._provider = self._new_provider()

    def _apply(self, membership: Membership) -> None:
        first = not self.book.complete
        changes = self.book.apply(membership, time.monotonic())
        if first:
            log.info(
                "first_full_set",
                services=len(membership.services),
                instances=sum(map(len, membership.services.values())),
                revision=membership.revision,
            )
        elif changes:
            log.info(
                "pools_changed",
                services=len(changes.pools),
                registered=changes.registered,
                deregistered=changes.deregistered,
                updated=changes.updated,
                revision=membership.revision,
            )
        self._tell(changes)

    def _tell(self, changes: Changes) -> None:
        for service in changes.panic_began:
            log.warning("panic_began", service=service)
        for service in changes.panic_ended:
            log.info("panic_ended", service=service)
        for service in changes.gone:
            log.info("service_forgotten", service=service)
        for worker in self.workers:
            if worker.current is not None:
                worker.current.update((*changes.pools, *changes.gone))

    async def _accept_in_time(self) -> None:
        await asyncio.sleep(ACCEPT_ANYWAY)
        if self.book.complete:
            return
        status = self.registry
        log.warning(
            "registry_not_reached",
            provider=status.provider,
            endpoints=list(self.settings.registry.endpoints),
            error=status.last_error,
            effect="requests are answered 503 until the registry answers; still trying",
        )
        self._waited = True
        for worker in self.workers:
            if worker.current is not None:
                worker.current.accept()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for worker in self.workers:
                worker.tick()
            self._tell(self.book.expire(time.monotonic()))

    # --------------------------------------------------------------------- the workers

    def missing(self) -> list[str]:
        """What is not there yet of a ready proxy; empty = ready."""
        reasons = []
        if self.stopping:
            reasons.append("stopping")
        if not self.book.complete:
            reasons.append("no full set of instances is known yet")
        for worker in self.workers:
            life = worker.current
            if life is None:
                reasons.append(f"worker {worker.index} is not running")
            elif not life.accepting:
                reasons.append(f"worker {worker.index} does not accept connections yet")
            elif self.book.complete and not life.knows_all:
                reasons.append(f"worker {worker.index} does not know the full set yet")
        return reasons

    def _on_worker_change(self) -> None:
        self._worker_changed.set()
        if not self._announced and not self.missing():
            self._announced = True
            seconds = round(time.monotonic() - self.started_at, 3)
            log.info("ready", workers=len(self.workers), seconds=seconds)

    def _on_worker_exit(self, life: Incarnation) -> None:
        if life.stats is not None:
            self._retired.add(life.stats)
            self._retired.keep(
                {
                    (service, member.instance.key)
                    for service, pool in self.book.pools.items()
                    for member in pool.members
                }
            )
        self.board.clear_row(life.index)
        self._worker_changed.set()

    def totals(self) -> Totals:
        """The workers' counters as they were last reported, with those of dead workers."""
        return total(
            self._retired,
            (
                worker.current.stats
                for worker in self.workers
                if worker.current is not None and worker.current.stats is not None
            ),
        )

    async def collect(self, limit: float = COLLECT_LIMIT) -> Totals:
        """Fresh counters of all workers; of those that do not answer within `limit` seconds
        what they reported last."""
        number = next(self._numbers)
        asked = [
            worker.current
            for worker in self.workers
            if worker.current is not None and worker.current.collect(number)
        ]

        def answered() -> bool:
            return all(
                life.answered >= number or life.process.returncode is not None for life in asked
            )

        await self._until(answered, limit)
        return self.totals()

    async def _until(self, condition: Callable[[], bool], limit: float) -> None:
        """Wait for news of workers until the condition holds or the time is up."""
        deadline = time.monotonic() + limit
        while not condition():
            self._worker_changed.clear()
            waiting: Awaitable[Any] = self._worker_changed.wait()
            try:
                await asyncio.wait_for(waiting, deadline - time.monotonic())
            except TimeoutError:
                return
