"""The supervisor: keeps the workers running and hands them every change of the pools.

    registry ─▶ RegistryWatch ─▶ PoolRegistry.apply ─┐
    checks ─▶ Checks ─▶ PoolRegistry.check ─┤
    workers ─▶ Suspect ─▶ Outliers ─▶ PoolRegistry.eject ─┼─▶ WorkerProcess.update ─▶ channel
    operator ─▶ PoolRegistry.drain ─┤
    time ─▶ PoolRegistry.step ─┘
    files ─▶ Certificates ─▶ WorkerProcess.certify ─▶ channel
    time ─▶ AcmeOrders ─▶ Acme ─▶ files

The loss of anything below it is survived: a worker that dies is replaced, a provider that
fails is built anew, and the pools stay as they were.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from proxy.control.acme import Acme
from proxy.control.acme_orders import AcmeOrders
from proxy.control.brought_routes import RoutesOfInstances
from proxy.control.by_hand import ByHand
from proxy.control.certificates import Certificates
from proxy.control.checks import Checks
from proxy.control.collector import Collector
from proxy.control.events import Events
from proxy.control.fleet_share import FleetShare
from proxy.control.launch import Launch
from proxy.control.listeners import Listeners
from proxy.control.outliers import Outliers
from proxy.control.pool import Changes
from proxy.control.pools import PoolRegistry
from proxy.control.reactions import Reactions
from proxy.control.registry_watch import Build, RegistryWatch
from proxy.control.shared_config import SharedConfig
from proxy.control.slots import Rows as BoardRows
from proxy.control.sockets import Listening
from proxy.control.worker_process import Further, Notice, WorkerProcess
from proxy.control.worker_slot import WorkerSlot
from proxy.control.workers import Workers
from proxy.destinations import Destinations
from proxy.engine.load import Board
from proxy.log import Novelties
from proxy.membership import Membership
from proxy.messages import (
    FIELDS_NAMED,
    LONGEST_FIELD_NAMED,
    CertificatesApplied,
    FieldDropped,
    Rows,
    Spans,
    Suspect,
    WorkerConfig,
)
from proxy.messages import FleetShare as FleetShareMessage
from proxy.settings.file import Settings
from proxy.statuses import RegistryStatus
from proxy.waiting import ended

if TYPE_CHECKING:
    from proxy.control.tracing import Exporter

log = structlog.get_logger()

ACCEPT_ANYWAY = 5.0
"""Seconds a start waits for the first full set. After that workers accept without it, so that
clients get an answer (503) and do not hang in an accept queue."""

FORGET_TICKS = 60
"""Seconds between two looks at whether those that were ejected are still there."""


class Supervisor:
    """Owns the workers, the tasks, and the order in which they start and stop.

    What it learns goes into the `PoolRegistry`, where membership is decided.
    """

    def __init__(
        self,
        settings: Settings,
        config: WorkerConfig,
        pools: PoolRegistry,
        board: Board,
        launch: Launch,
        listeners: Listeners,
        build: Build,
        *,
        events: Events | None = None,
        rng: Random | None = None,
        destinations: Destinations | None = None,
        certificates: Certificates | None = None,
        acme: Acme | None = None,
        shared: SharedConfig | None = None,
    ) -> None:
        """`build` builds a provider; called by `start`, after a provider failed and for another
        registry. `destinations`: where the registry's instances may not lead, in all of this
        process. `certificates`, `acme` and `shared`: started already."""
        rng = rng or Random()
        self.settings = settings
        self.config = config
        self.pools = pools
        self.board = board
        self.certificates = certificates or Certificates(settings)
        self._destinations = destinations or Destinations()
        self.shared = shared or SharedConfig()
        self.events = events or Events()
        self._reactions = Reactions(self.events)
        self._pace_changed = asyncio.Event()
        self.brought = RoutesOfInstances(settings.routes_from_instances, pools, self._tell)
        self.share = FleetShare(lambda share: self._tell(FleetShareMessage(share)), rng)
        self.by_hand = ByHand(pools, self._reactions, self.apply)
        self.outliers = Outliers(pools, self._reactions, self.apply, self._pace_changed.set, rng)
        self.checks = Checks(
            pools,
            self._reactions,
            self.apply,
            self.outliers.passed,
            self._destinations,
            lambda: self.certificates.upstream.contents,
            rng,
        )
        self.orders = AcmeOrders(acme, self.own, self._tell, self._challenged, self._reactions.tell)
        self.stopping = False
        self.started_at = time.monotonic()
        rows = BoardRows(board, lambda: self._tell(self._rows()))

        def place(index: int) -> WorkerSlot:
            return WorkerSlot(
                index,
                launch,
                rows,
                pools,
                config=lambda: (
                    self.config,
                    self.crew.sockets(index),
                    (
                        self._rows(),
                        self.brought.message,
                        FleetShareMessage(self.share.value),
                        *self.certificates.messages,
                        *self.orders.challenges,
                    ),
                ),
                accept_anyway=lambda: self._waited and not pools.complete,
                on_change=self._on_worker_change,
                on_notice=self._on_notice,
                on_exit=self._on_worker_exit,
            )

        self._free_row = rows.free
        self.collector = Collector(lambda: self.crew.processes(), pools)
        self.crew = Workers(
            place, settings.workers, listeners, self._own, lambda *what: self.collector.until(*what)
        )
        self.workers = self.crew.slots
        self.turn = asyncio.Lock()
        """Held by a reload or a restart while it changes the workers."""
        self.watch = RegistryWatch(build, self.take_membership, self._own)
        self._waited = False
        self._tasks: list[asyncio.Task[None]] = []
        self._files: asyncio.Task[None] | None = None
        self._failed = asyncio.Event()
        self._announced = False
        self.on_configured: Callable[[], Awaitable[None]] | None = None
        """Called when another configuration is in force."""
        self.on_ready: Callable[[], None] = lambda: None
        """Called once, when everything is there for the first time."""
        self.lag = 0.0
        """Seconds by which our own loop was late for its latest tick, which is due each second."""
        self.exporter: Exporter | None = None
        """Sends spans; None = there were none."""
        self._fields_named = Novelties(FIELDS_NAMED, LONGEST_FIELD_NAMED)

    # ------------------------------------------------------------------ start and stop

    async def start_workers(self) -> None:
        """Start the worker processes. They take a while to load, so call this before all that
        takes this process a while; `start` is next."""
        await self.crew.start()

    def start(self) -> None:
        """Build the provider, start the watch and what else is to be done."""
        registry = self.settings.registry
        self.watch.follow(registry, self.watch.build(registry))
        self._tasks = [
            self._own(self._tick(), "tick"),
            self._own(self._pace(), "pace"),
            self._own(self.checks.run(), "checks"),
            self._own(self._accept_in_time(), "first set"),
        ]
        self.orders.use(self.orders.acme)
        self._follow_files()
        self.shared.follow(self.settings, self.own)
        self.checks.follow(self.pools.by_service)

    def _follow_files(self) -> None:
        """Watch the files of the certificates in force, and none that were before."""
        if self._files is not None:
            self._files.cancel()
        work = self.certificates.run(self._tell, self._reactions.tell)
        self._files = self._own(work, "certificates")

    async def reconfigure(
        self,
        settings: Settings,
        config: WorkerConfig,
        certificates: Certificates,
        listening: Sequence[Listening],
        take: Callable[[], None],
    ) -> str:
        """Put another configuration in force in every worker, or in none. `certificates`: started
        already; `listening`: its sockets; `take` does what else is to be done, once every worker
        has it. Returns the reason why it could not be; "" = it is."""
        crew, grace = self.crew, settings.shutdown.grace
        before, sockets = (self.config, self.certificates), crew.listeners.current
        self.config, self.certificates = config, certificates
        now = config, certificates.messages
        error = await crew.change(now, listening, settings.workers, grace)
        if error and not self.stopping:
            self.config, self.certificates = before
            # A generation of its own: workers must answer for it, not for the one before.
            generation = config.generation + 1
            self.config = msgspec.structs.replace(self.config, generation=generation)
            now = self.config, self.certificates.messages
            if again := await crew.change(now, sockets, self.settings.workers, grace):
                log.error("config_not_taken_back", error=again)
        if error:
            return error
        self.settings = settings
        self._follow_files()
        self.shared.follow(settings, self.own)
        take()
        at = time.monotonic()
        destinations = config.admin_port, config.allow
        self._destinations.use(*destinations)
        changes = self.pools.configure(
            settings.static,
            settings.services,
            settings.defaults,
            at,
            other_destinations=destinations != (before[0].admin_port, before[0].allow),
            other_registry=self.watch.awaited,
            routes=settings.routes,
            derived=settings.derived,
            trusted=settings.config is None,
        )
        self.apply(changes)
        self.checks.configure()
        self.brought.configure(settings.routes_from_instances)
        self.apply(self.pools.settle(at))
        if self.on_configured is not None:
            await self.on_configured()
        self._on_worker_change()  # That may have been all that was missing.
        return ""

    async def restart_workers(self) -> str:
        """Replace all workers, one after the other; "" or the reason why one could not be."""
        async with self.turn:
            if self.stopping:
                return "the proxy is stopping"
            error = await self.crew.restart(self.settings.shutdown.grace)
        log.info("workers_restarted", error=error)
        return error

    def own(self, work: Any, name: str) -> asyncio.Task[None]:
        """Run `work` until `close`; the process stops if it fails."""
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(self._own(work, name))
        return self._tasks[-1]

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

    async def drain(self, grace: float, delay: float = 0.0, *, shared: bool = False) -> bool:
        """Let all workers accept for `delay` seconds more and finish: see `Workers.drain`."""
        self.stopping = True
        return await self.crew.drain(grace, delay, shared)

    async def kill(self) -> None:
        """End all workers at once and wait until they are gone."""
        self.stopping = True
        await self.crew.kill()

    async def close(self) -> None:
        """Stop watching and release the provider. The workers must be gone."""
        tasks = [*self._tasks, *([self._files] if self._files else [])]
        await ended(*tasks)
        await self.crew.close()
        await self.checks.close()
        await self.watch.close()

    # ------------------------------------------------------------------ changes of pools

    @property
    def registry(self) -> RegistryStatus:
        """The state of the registry as the provider tells it, once there is one."""
        return self.watch.status

    def take_membership(self, membership: Membership) -> None:
        """Take over what the registry says, or what a predecessor knew of it."""
        first = not self.pools.complete
        changes = self.pools.apply(membership, time.monotonic())
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
        self.apply(changes)

    def apply(self, changes: Changes) -> None:
        """Let workers know of changes of the pools, and whoever else is concerned."""
        # Workers first: what follows takes time, and they serve meanwhile.
        for process in self.crew.processes():
            process.update((*changes.pools, *changes.gone))
        self._reactions.tell_changes(changes)
        self.brought.follow((*changes.learned, *changes.gone))
        if changes:
            self.checks.follow((*changes.pools, *changes.gone))
            self._pace_changed.set()

    async def _pace(self) -> None:
        """Do the work of passing time: ejections end, newcomers get their weight."""
        while True:
            self._pace_changed.clear()
            times = (self.outliers.ejections.next_at, self.pools.next_step)
            due = [at for at in times if at is not None]
            wait = min(due) - time.monotonic() if due else None
            try:
                async with asyncio.timeout(None if wait is None else max(0.0, wait)):
                    await self._pace_changed.wait()
            except TimeoutError:
                pass
            now = time.monotonic()
            self.outliers.step(now)
            self.apply(self.pools.step(now))

    async def _tick(self) -> None:
        ticks = itertools.count(1)
        while True:
            due = time.monotonic() + 1.0
            await asyncio.sleep(1.0)
            self.lag = max(0.0, time.monotonic() - due)
            for worker in self.crew.places:
                worker.tick()
            self.apply(self.pools.expire(time.monotonic()))
            self.outliers.step(time.monotonic())
            if next(ticks) % FORGET_TICKS == 0:
                self.outliers.forget()
                self.collector.forget()

    # ----------------------------------------------------------------------- the operator

    def reopen_access_log(self) -> None:
        """Let all workers go on in a new file: the old one was moved away."""
        for process in self.crew.processes():
            process.reopen_access_log()

    def _tell(self, message: Further) -> None:
        for process in self.crew.processes():
            process.tell(message)

    def _rows(self) -> Rows:
        return Rows(tuple(self.board.alive))

    async def _challenged(self, number: int, limit: float) -> bool:
        """Wait until all workers answer the challenges of this number."""
        return await self.collector.until(
            lambda: all(process.challenges >= number for process in self.crew.current()), limit
        )

    async def _accept_in_time(self) -> None:
        await asyncio.sleep(ACCEPT_ANYWAY)
        if self.pools.complete:
            return
        status = self.registry
        log.warning(
            "registry_not_reached",
            provider=status.provider,
            endpoints=list(self.settings.registry.options.addresses),
            error=status.last_error,
            effect="requests are answered 503 until the registry answers; still trying",
        )
        self._waited = True
        for process in self.crew.current():
            process.accept()
        self.apply(self.pools.serve_unknown(time.monotonic()))

    # --------------------------------------------------------------------- the workers

    def _on_notice(self, worker: int, notice: Notice) -> None:
        if isinstance(notice, Suspect):
            self.outliers.suspect(notice)
        elif isinstance(notice, Spans):
            self._trace(notice)
        elif isinstance(notice, FieldDropped):
            self._on_field_dropped(notice.name)
        elif isinstance(notice, CertificatesApplied):
            self.certificates.refused(notice.listener)
        elif notice.state != "trying":
            what = "breaker_opened" if notice.state == "open" else "breaker_closed"
            self._reactions.tell(what, service=notice.service, worker=worker)

    def _trace(self, spans: Spans) -> None:
        if self.exporter is None:
            # Half of an HTTP client's code, which few need.
            from proxy.control.tracing import Exporter

            self.exporter = Exporter(lambda: self.settings.tracing)
            self._own(self.exporter.run(), "spans")
        self.exporter.take(spans)

    def _on_field_dropped(self, name: str) -> None:
        """Name a field in the log once, though all workers tell of it."""
        if self._fields_named.take(name):
            last = self._fields_named.full
            log.warning(
                "field_dropped",
                name=name,
                reason="programs may take it for another one",
                last_named=last,
            )

    def missing(self) -> list[str]:
        """Reasons why the proxy is not ready; empty = ready."""
        reasons = []
        if self.stopping:
            reasons.append("stopping")
        if not self.pools.complete:
            reasons.append("no full set of instances is known yet")
        if not self.settings.shared_known:
            reasons.append("the shared configuration is not known yet")
        for worker in self.workers:
            process = worker.current
            if process is None:
                reasons.append(f"worker {worker.index} is not running")
            elif not process.accepting:
                reasons.append(f"worker {worker.index} does not accept connections yet")
            elif self.pools.complete and not process.knows_all:
                reasons.append(f"worker {worker.index} does not know the full set yet")
        return reasons

    def _on_worker_change(self) -> None:
        self.collector.on_change()
        if not self._announced and not self.missing():
            self._announced = True
            seconds = round(time.monotonic() - self.started_at, 3)
            log.info("ready", workers=len(self.workers), seconds=seconds)
            self.on_ready()

    def _on_worker_exit(self, process: WorkerProcess) -> None:
        self.collector.retire(process)
        self._free_row(process.row)
        if not process.draining:
            self._reactions.tell("worker_died", worker=process.index, pid=process.pid)
