"""The supervisor: keeps the workers running and hands them every change of the pools.

    registry ─▶ Provider.watch ─▶ PoolBook.apply ─┐
    checks ─▶ Monitor ─▶ findings ─▶ PoolBook.check ─┤
    workers ─▶ Suspect ─▶ Ejections ─▶ PoolBook.eject ─┼─▶ Worker.update ─▶ channel
    operator ─▶ PoolBook.drain ─┤
    time ─▶ PoolBook.step ─┘

It survives the loss of anything below it: a worker that dies is replaced, a provider that
fails is built anew, and the pools stay as they were.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import Any

import structlog

from proxy import catalog
from proxy.control import status
from proxy.control.ejections import KEPT_BY, Ejected, Ejections, Refusal, Sight
from proxy.control.events import Events
from proxy.control.pools import Changes, PoolBook
from proxy.control.sockets import descriptors
from proxy.control.statistics import Retired, Totals
from proxy.control.workers import Incarnation, Launch, Notice, Worker
from proxy.destinations import Destinations
from proxy.engine.load import Board
from proxy.health.base import Check, Endpoint
from proxy.health.monitor import Finding, Monitor, Plan
from proxy.health.schedule import Candidate, Rules
from proxy.log import Novelties
from proxy.membership import Instance, Membership
from proxy.messages import FIELDS_NAMED, LONGEST_FIELD_NAMED, FieldDropped, Suspect, WorkerConfig
from proxy.registry.base import Provider
from proxy.settings.file import Settings
from proxy.settings.service import HealthCheckSettings
from proxy.statuses import RegistryStatus

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

SUSPECT_GATHER = 0.005
"""Seconds in which suspects are gathered, so that a rack that loses power is one update of
each pool; a tenth of the time in which an ejection must have reached all workers."""

FORGET_TICKS = 60
"""Seconds between two looks at whether those that were ejected are still there."""

REFUSAL_PAUSE = 10.0
"""Seconds between two log lines, and two events, about suspects of one service that stay: while
all of its instances fail, workers report some hundred times a second."""

LAUNCH_LIMIT = 0.25
"""Seconds by which starting the worker processes may hold up the rest of the start. It takes
some five milliseconds each; one that takes longer is started meanwhile."""

CHECK_DESCRIPTORS = 4
"""At most one part in so many of this process's descriptors is for checks under way: where few are
allowed, the registry is followed and the admin server answers all the same."""

KILL_AFTER_GRACE = 2.0
"""Seconds a worker has beyond its grace to cut what is left and exit."""


class Supervisor:
    """Owns the workers, the provider, the ejections, the checks, the events, and what dead
    workers had counted.

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
        *,
        events: Events | None = None,
        rng: Random | None = None,
        destinations: Destinations | None = None,
    ) -> None:
        """`provider` builds a provider; called by `start` and after a provider failed.
        `destinations`: where checks of the registry's instances may not lead."""
        rng = rng or Random()
        self.settings = settings
        self.config = config
        self.book = book
        self.board = board
        self.events = events or Events()
        self.ejections = Ejections(rng)
        self._destinations = destinations or Destinations()
        self.monitor = Monitor(
            self._plan,
            self._on_findings,
            self._on_check_passed,
            most=descriptors() // CHECK_DESCRIPTORS,
            rng=rng,
        )
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
                on_notice=self._on_notice,
                on_exit=self._on_worker_exit,
            )
            for index in range(settings.workers)
        ]
        self._new_provider = provider
        self._provider: Provider | None = None
        self.retired = Retired()
        """What dead workers had counted."""
        self._waited = False
        self._numbers = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._failed: asyncio.Event = asyncio.Event()
        self._worker_changed: asyncio.Event = asyncio.Event()
        self._announced = False
        self.on_ready: Callable[[], None] = lambda: None
        """Called once, when everything is there for the first time."""
        self._plans: dict[HealthCheckSettings, Plan] = {}
        self._looked_at: dict[str, tuple[Instance, ...]] = {}
        """Service → the instances that the monitor was told of."""
        self._suspects: list[Suspect] = []
        self._fields_named = Novelties(FIELDS_NAMED, LONGEST_FIELD_NAMED)
        self._refused_at: dict[str, float] = {}
        self._ejected_at: dict[tuple[str, str], float] = {}
        self._pace_changed = asyncio.Event()

    # ------------------------------------------------------------------ start and stop

    async def start_workers(self) -> None:
        """Start the worker processes. They take a while to load, so call this before all that
        takes this process a while; `start` is next."""
        self._keepers = [
            self._own(worker.keep(), f"worker {worker.index}") for worker in self.workers
        ]
        tried = [asyncio.create_task(worker.tried.wait()) for worker in self.workers]
        await asyncio.wait(tried, timeout=LAUNCH_LIMIT)
        for task in tried:
            task.cancel()

    def start(self) -> None:
        """Build the provider, start the watch and what else is to be done."""
        self._provider = self._new_provider()
        self._tasks = [
            self._own(self._watch(), "registry watch"),
            self._own(self._tick(), "tick"),
            self._own(self._pace(), "pace"),
            self._own(self.monitor.run(), "checks"),
            self._own(self._accept_in_time(), "first set"),
        ]
        self._check(self.book.pools)

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

    async def drain(self, grace: float, delay: float = 0.0) -> bool:
        """Let all workers accept for `delay` seconds more and finish; kill those that do not
        within `grace` and a little; wait until they are gone. True if none had to be killed."""
        self.stopping = True
        for worker in self.workers:
            worker.drain(grace, delay)
        await asyncio.wait(self._keepers, timeout=delay + grace + KILL_AFTER_GRACE)
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
        await self.monitor.close()
        if self._provider is not None:
            await self._provider.close()

    # --------------------------------------------------------------------- the registry

    @property
    def registry(self) -> RegistryStatus:
        """What the provider says of its registry, once there is one."""
        assert self._provider is not None, "before start()"
        return self._provider.status()

    async def _watch(self) -> None:
        while True:
            provider = self._provider
            assert provider is not None
            try:
                async for membership in provider.watch():
                    self._apply(membership)
                # A provider whose membership is final has said it.
                return
            except Exception:
                log.exception("provider_failed", provider=provider.name)
            self._provider = await self._next_provider(provider)

    async def _next_provider(self, failed: Provider) -> Provider:
        """What made one fail may make it fail to close, and the next to be built: no descriptor,
        say. That is no reason to stop serving what is known."""
        try:
            await failed.close()
        except Exception:
            log.exception("provider_not_closed", provider=failed.name)
        while True:
            await asyncio.sleep(PROVIDER_PAUSE)
            try:
                return self._new_provider()
            except Exception:
                log.exception("provider_not_built", provider=failed.name)

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
        # Workers first: what follows takes time, and they serve meanwhile.
        for worker in self.workers:
            if worker.current is not None:
                worker.current.update((*changes.pools, *changes.gone))
        for service in changes.panic_began:
            log.warning("panic_began", service=service)
            self._publish("panic_began", service=service)
        for service in changes.panic_ended:
            log.info("panic_ended", service=service)
            self._publish("panic_ended", service=service)
        for service in changes.fallback_began:
            log.warning("fallback_began", service=service)
            self._publish("fallback_began", service=service)
        for service in changes.fallback_ended:
            log.info("fallback_ended", service=service)
            self._publish("fallback_ended", service=service)
        for service in changes.gone:
            log.info("service_forgotten", service=service)
        if changes:
            self._publish(
                "pools",
                changed=list(changes.pools),
                gone=list(changes.gone),
                registered=changes.registered,
                deregistered=changes.deregistered,
                updated=changes.updated,
            )
            self._check((*changes.pools, *changes.gone))
            self._pace_changed.set()

    def _publish(self, kind: str, /, **fields: Any) -> None:
        self.events.publish(kind, time.time(), **fields)

    # -------------------------------------------------------------------- active checks

    def _plan(self, service: str) -> Plan | None:
        wanted = self.book.settings(service).health_check
        if wanted is None:
            return None
        if wanted not in self._plans:
            check = build_check(wanted)
            check.destinations = self._destinations
            self._plans[wanted] = Plan(check, Rules(wanted.interval, wanted.fall, wanted.rise))
        return self._plans[wanted]

    def _check(self, services: Iterable[str]) -> None:
        """The instances of these services are other ones now."""
        for service in services:
            pool = self.book.pools.get(service)
            instances = () if pool is None else pool.source
            local = pool is not None and pool.local
            if self._looked_at.get(service) is instances:
                continue
            self._looked_at[service] = instances
            if not instances:
                del self._looked_at[service]
            for instance in instances if self._plan(service) is not None else ():
                if not self.monitor.checks(service, instance.key) and not _well(instance):
                    # Or it would be served as soon as the registry calls it healthy, whatever
                    # our own checks found meanwhile.
                    self.book.check(service, instance.key, "not checked since it was unhealthy")
            left = self.monitor.update(
                service,
                (
                    Candidate(
                        instance.key,
                        Endpoint(instance.address, instance.port, local),
                        _well(instance),
                    )
                    for instance in instances
                ),
            )
            for key in left:
                self.book.check(service, key, None)

    def _on_findings(self, findings: list[Finding]) -> None:
        for finding in findings:
            self.book.check(
                finding.service, finding.key, None if finding.healthy else finding.message
            )
            fields = {
                "service": finding.service,
                "instance": _id(finding.key),
                "message": finding.message,
            }
            if finding.healthy:
                log.info("check_healthy", **fields)
            else:
                log.warning("check_unhealthy", **fields)
            self._publish("check_healthy" if finding.healthy else "check_unhealthy", **fields)
        self._tell(self.book.settle(time.monotonic()))

    def _on_check_passed(self, service: str, key: str, began: float) -> None:
        if self._ejected_at.get((service, key), began) < began and self.ejections.passed(
            service, key, time.monotonic()
        ):
            self._reinstate([(service, key)], "it passed a check")

    # ------------------------------------------------------------------------ ejections

    def _on_notice(self, notice: Notice) -> None:
        if isinstance(notice, Suspect):
            self._on_suspect(notice)
        elif isinstance(notice, FieldDropped):
            self._on_field_dropped(notice.name)
        elif notice.state != "trying":
            kind = "breaker_opened" if notice.state == "open" else "breaker_closed"
            self._publish(kind, service=notice.service, worker=notice.worker)

    def _on_field_dropped(self, name: str) -> None:
        """All workers tell of it; the log does once."""
        if self._fields_named.take(name):
            last = self._fields_named.full
            log.warning(
                "field_dropped",
                name=name,
                reason="programs may take it for another one",
                last_named=last,
            )

    def _on_suspect(self, suspect: Suspect) -> None:
        if not self._suspects:
            asyncio.get_running_loop().call_later(SUSPECT_GATHER, self._judge_suspects)
        self._suspects.append(suspect)

    def _judge_suspects(self) -> None:
        suspects, self._suspects = self._suspects, []
        now = time.monotonic()
        by_service: dict[str, dict[str, Suspect]] = {}
        for suspect in suspects:
            by_service.setdefault(suspect.service, {})[suspect.key] = suspect
        for service, named in by_service.items():
            settings = status.settings_of(self.settings, service).ejection
            ejected = 0
            for key, sight in self.book.sights(service, named).items():
                # Those of this very batch are still shown as ready.
                now_ready = Sight(sight.total, sight.ready - ejected, sight.is_ready)
                found = self.ejections.suspect(service, key, now_ready, settings, now)
                if isinstance(found, Refusal):
                    self._refused(named[key], found, now)
                else:
                    self._eject(named[key], found, now)
                    ejected += 1
        self._tell(self.book.settle(now))

    def _eject(self, suspect: Suspect, found: Ejected, now: float) -> None:
        service, key = suspect.service, suspect.key
        times = f"{suspect.failures} × " if suspect.failures else ""
        self.book.eject(service, key, f"{times}{suspect.reason}", found.until)
        self._ejected_at[service, key] = now
        fields = {
            "service": service,
            "instance": _id(key),
            "reason": suspect.reason,
            "failures": suspect.failures,
            "seconds": round(found.until - now, 3),
            "count": found.count,
        }
        log.warning("instance_ejected", **fields)
        self._publish("ejected", **fields)
        self._pace_changed.set()

    def _refused(self, suspect: Suspect, why: Refusal, now: float) -> None:
        if why not in KEPT_BY:
            return
        if now - self._refused_at.get(suspect.service, -REFUSAL_PAUSE) < REFUSAL_PAUSE:
            return
        self._refused_at[suspect.service] = now
        fields = {
            "service": suspect.service,
            "instance": _id(suspect.key),
            "reason": suspect.reason,
            "because": why.value,
        }
        log.warning("instance_not_ejected", **fields)
        self._publish("not_ejected", **fields)

    def _reinstate(self, over: Iterable[tuple[str, str]], why: str) -> None:
        for service, key in over:
            self.book.reinstate(service, key)
            self._ejected_at.pop((service, key), None)
            fields = {"service": service, "instance": _id(key), "because": why}
            log.info("instance_reinstated", **fields)
            self._publish("reinstated", **fields)
        self._tell(self.book.settle(time.monotonic()))

    async def _pace(self) -> None:
        """What happens because time passes: ejections end, newcomers get their weight."""
        while True:
            self._pace_changed.clear()
            due = [at for at in (self.ejections.next_at, self.book.next_step) if at is not None]
            wait = min(due) - time.monotonic() if due else None
            try:
                async with asyncio.timeout(None if wait is None else max(0.0, wait)):
                    await self._pace_changed.wait()
            except TimeoutError:
                pass
            now = time.monotonic()
            over = self.ejections.step(now)
            if over:
                self._reinstate(over, "its time is over")
            self._tell(self.book.step(now))

    # ----------------------------------------------------------------------- the operator

    def drain_instance(self, service: str, id_: str, on: bool) -> bool:
        """No new requests for an instance, or again; False if nobody knows it. Holds for
        whatever is registered under that id, until it is undone or this process ends."""
        member = self.book.named(service, id_)
        if member is None and not self.book.drained(service, id_):
            return False
        if on:
            self.book.drain(service, id_)
        else:
            self.book.undrain(service, id_)
        log.info("instance_drained" if on else "instance_undrained", service=service, instance=id_)
        self._publish("drained" if on else "undrained", service=service, instance=id_)
        self._tell(self.book.settle(time.monotonic()))
        return True

    def reopen_access_log(self) -> None:
        """Let all workers go on in a new file: the old one was moved away."""
        for worker in self.workers:
            if worker.current is not None:
                worker.current.reopen_access_log()

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
        self._tell(self.book.serve_unknown(time.monotonic()))

    async def _tick(self) -> None:
        ticks = itertools.count(1)
        while True:
            await asyncio.sleep(1.0)
            for worker in self.workers:
                worker.tick()
            self._tell(self.book.expire(time.monotonic()))
            over = self.ejections.step(time.monotonic())
            if over:
                self._reinstate(over, "its time is over")
            if next(ticks) % FORGET_TICKS == 0:
                self._forget_ejections()
                known = self._known()
                for worker in self.workers:
                    if worker.current is not None:
                        worker.current.stats.forget(known, self.book.pools)

    def _forget_ejections(self) -> None:
        """Nobody is shown the totals of instances, and of services, that left."""
        names: dict[str, list[str]] = {}
        for service, key in self.ejections.totals:
            names.setdefault(service, []).append(key)
        for service, keys in names.items():
            known = self.book.sights(service, keys)
            for key in keys:
                if key not in known and not self.ejections.is_out(service, key):
                    del self.ejections.totals[service, key]
        for service, rule in list(self.ejections.refused):
            if service not in self.book.pools:
                del self.ejections.refused[service, rule]
        for service in [name for name in self._refused_at if name not in self.book.pools]:
            del self._refused_at[service]

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
            self.on_ready()

    def _on_worker_exit(self, life: Incarnation) -> None:
        self.retired = self.retired.plus(life.stats, self._known())
        self.board.clear_row(life.index)
        if not life.draining:
            self._publish("worker_died", worker=life.index, pid=life.pid)
        self._worker_changed.set()

    def totals(self) -> Totals:
        """The workers' counters as they were last reported, with those of dead workers."""
        return Totals(
            self.retired,
            [worker.current.stats for worker in self.workers if worker.current is not None],
        )

    def _known(self) -> set[tuple[str, str]]:
        """Service and node key of every member of a pool."""
        return {
            (service, member.instance.key)
            for service, pool in self.book.pools.items()
            for member in pool.members
        }

    def answers(self, instance: Instance) -> int:
        """Requests that the instance has answered, as far as the workers have told."""
        total = self.totals().node(instance.service, instance.key)
        return 0 if total is None else total.outcomes.get("ok", 0)

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


def _id(key: str) -> str:
    """The id in an `Instance.key`; endpoints have no @ in them."""
    return key.rpartition("@")[0]


def _well(instance: Instance) -> bool:
    """By the registry's word, where checks begin."""
    return instance.health in ("healthy", "draining")


def build_check(settings: HealthCheckSettings) -> Check:
    """The check that the settings ask for. ValueError when a parameter is wrong."""
    parameters: dict[str, Any] = {"timeout": settings.timeout}
    if settings.type == "http":
        parameters |= {"path": settings.path, "expect": settings.expect, "host": settings.host}
    elif settings.type == "exec":
        parameters |= {"command": settings.command}
    if settings.type in ("http", "tcp"):
        parameters["port"] = settings.port
    check: Check = catalog.load(catalog.CHECKS, settings.type)(**parameters)
    return check
