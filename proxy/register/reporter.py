"""The health reporter: a service checks itself and says so in its record.

`Reporting` decides what is worth writing; `HealthReporter` asks and tells. Ten thousand
instances that are well write nothing but a sign of life every few minutes.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self
from urllib.parse import urlsplit

import msgspec
import structlog

from proxy.health.base import Check, Endpoint, Verdict
from proxy.health.exec import ExecCheck
from proxy.health.http import HttpCheck
from proxy.health.tcp import TcpCheck
from proxy.health.thresholds import Standing
from proxy.waiting import ended

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from proxy.register.metrics import RegistrationMetrics

log = structlog.get_logger()

HEARTBEAT = 300.0
"""Seconds between signs of life while nothing changes: 10,000 instances then cost etcd 33
writes a second, and every proxy as many events."""
MESSAGE_GAP = 10.0
"""Seconds between writes that change nothing but the message. A check that prints the time
would otherwise write at every probe."""
FAST = 1.0
"""Seconds between probes while the next few results decide."""
FASTEST = 0.25
"""Seconds between the first probes, until one is good: a service that has just come up should
not wait for its turn."""

Answer = bool | str | None
Question = str | Callable[[], Answer | Awaitable[Answer]]
"""`http://host:port/path`, `https://…`, `tcp://host:port`, `exec:COMMAND`; or a function, see
`CallableCheck`."""

Healthy = Literal["healthy", "unhealthy"]


class Report(msgspec.Struct, frozen=True):
    """A report to write. `status` None: nothing new, but seen."""

    status: Healthy | None
    message: str = ""


class Reporting:
    """Owns the standing of one instance and what was last said of it.

    Up to the first good verdict each counts at once: a service that comes up is served when it
    answers. From then on `fall` and `rise` decide.
    The message is that of the last verdict in agreement with the standing.
    """

    def __init__(self, fall: int = 3, rise: int = 2, *, heartbeat: float = HEARTBEAT) -> None:
        Standing(fall, rise)  # ValueError for thresholds that are none
        self._fall = fall
        self._rise = rise
        self._heartbeat = heartbeat
        self._standing: Standing | None = None
        self._said: Report | None = None
        self._said_at = 0.0
        self._was_good = False

    @property
    def healthy(self) -> bool | None:
        """The verdict; None before the first one."""
        return None if self._standing is None else self._standing.healthy

    def observe(self, verdict: Verdict, now: float) -> Report | None:
        """Take a verdict in; what to write, if anything."""
        if self._standing is None or not self._was_good:
            self._standing = Standing(self._fall, self._rise, healthy=verdict.ok)
        else:
            self._standing.observe(verdict.ok)
        standing = self._standing
        self._was_good = self._was_good or standing.healthy
        said = self._said
        status: Healthy = "healthy" if standing.healthy else "unhealthy"
        if verdict.ok == standing.healthy or said is None:
            message = verdict.message
        else:
            message = said.message
        if said is None or status != said.status:
            return self._say(Report(status, message), now)
        if message != said.message and now - self._said_at >= MESSAGE_GAP:
            return self._say(Report(status, message), now)
        if now - self._said_at >= self._heartbeat:
            self._said_at = now
            return Report(None)
        return None

    def _say(self, report: Report, now: float) -> Report:
        self._said = report
        self._said_at = now
        return report

    def gap(self, interval: float, rng: random.Random) -> float:
        """Seconds until the next probe, ± 10 % so that a fleet does not ask in step."""
        if self._standing is not None and self._standing.in_transition:
            interval = min(interval, FAST)
        elif not self._was_good:
            interval = min(interval, FASTEST)
        return interval * rng.uniform(0.9, 1.1)


class Reportable(Protocol):
    """A `Registrar` or one `Registration`, to which a reporter reports."""

    def report(self, status: str, message: str = "") -> None: ...
    def seen(self) -> None: ...


class CallableCheck(Check):
    """A function of the service's own. Good when it returns True, None or "": bad for False or
    a text, which is the message, and for any exception.

    A coroutine function is awaited. Any other runs in a thread, so it may block; one that is
    over its limit cannot be stopped, so no other is started before it has ended.
    """

    name: ClassVar[str] = "callable"

    def __init__(
        self, function: Callable[[], Answer | Awaitable[Answer]], *, timeout: float = 1.0
    ) -> None:
        super().__init__(timeout=timeout)
        self._function = function
        self._thread: threading.Thread | None = None

    async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
        answer: Answer | Awaitable[Answer]
        if inspect.iscoroutinefunction(self._function):
            answer = self._function()
        else:
            answer = await self._in_thread()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is None or answer is True or answer == "":
            return True, "OK"
        return False, answer if isinstance(answer, str) else "not well"

    async def _in_thread(self) -> Answer | Awaitable[Answer]:
        if self._thread is not None and self._thread.is_alive():
            raise RuntimeError("the check before has not ended yet")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer | Awaitable[Answer]] = loop.create_future()

        def finish(result: Answer | Awaitable[Answer], error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def run() -> None:
            result: Answer | Awaitable[Answer] = None
            failure: Exception | None = None
            try:
                result = self._function()
            except Exception as error:
                failure = error
            try:
                loop.call_soon_threadsafe(finish, result, failure)
            except RuntimeError:
                pass  # The loop is closed: nobody waits any more.

        # A daemon of its own and not the loop's executor, which a loop waits for at its end:
        # a check that hangs must not keep a service from stopping.
        self._thread = threading.Thread(target=run, name="health-check", daemon=True)
        self._thread.start()
        return await future


NOWHERE = Endpoint("", 0)


def checking(question: Question, timeout: float, own: Endpoint = NOWHERE) -> tuple[Check, Endpoint]:
    """The check and where to ask; `own` is for commands to know. ValueError for text that is
    none of the forms."""
    if callable(question):
        return CallableCheck(question, timeout=timeout), own
    kind, colon, rest = question.partition(":")
    if kind == "exec" and colon:
        return ExecCheck(timeout=timeout, command=rest), own
    allowed = "allowed are http://HOST:PORT/PATH, https://…, tcp://HOST:PORT and exec:COMMAND"
    try:
        parts = urlsplit(question)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError as error:
        raise ValueError(f"check: {question!r}: {error}; {allowed}") from None
    if parts.scheme not in ("http", "https", "tcp") or not parts.hostname or port is None:
        raise ValueError(f"check: {question!r} is none; {allowed}")
    endpoint = Endpoint(parts.hostname, port)
    if parts.scheme == "tcp":
        if parts.path not in ("", "/") or parts.query:
            raise ValueError(f"check: {question!r} has a path; {allowed}")
        return TcpCheck(timeout=timeout), endpoint
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return HttpCheck(timeout=timeout, path=path, https=parts.scheme == "https"), endpoint


def counting_on(registry: CollectorRegistry) -> RegistrationMetrics:
    """The metrics on a Prometheus registry. Who counts nothing does not load the library."""
    from proxy.register.metrics import RegistrationMetrics

    return RegistrationMetrics.on(registry)


class HealthReporter:
    """Owns the task that asks the question and reports the answers.

    `start` and `stop` may be called any number of times, in any order; as an async context
    manager it does both. What it learnt is kept over a stop. `services` are the labels of
    `health_checks_total`.
    """

    def __init__(
        self,
        target: Reportable,
        question: Question | tuple[Check, Endpoint],
        *,
        interval: float = 5.0,
        timeout: float = 1.0,
        fall: int = 3,
        rise: int = 2,
        heartbeat: float = HEARTBEAT,
        services: tuple[str, ...] = (),
        metrics: CollectorRegistry | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not interval > 0:
            raise ValueError(f"interval: {interval!r} is not a positive number of seconds")
        self._target = target
        self._check, self._endpoint = (
            question if isinstance(question, tuple) else checking(question, timeout)
        )
        self._interval = interval
        self._reporting = Reporting(fall, rise, heartbeat=heartbeat)
        self._services = services
        self._metrics = None if metrics is None else counting_on(metrics)
        self._rng = rng or random.Random()
        self._clock = clock
        self._blind = False
        """The last check could not be made, for want of a descriptor."""
        self._task: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool | None:
        """The verdict; None before the first one."""
        return self._reporting.healthy

    def start(self) -> None:
        """Begin to ask, unless it has begun."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="health-reporter")

    async def stop(self) -> None:
        """Ask no more. Returns when nothing of it runs."""
        task, self._task = self._task, None
        await ended(task)
        await self._check.close()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def _run(self) -> None:
        while True:
            verdict = await self._check.probe(self._endpoint)
            try:
                self._take(verdict)
            except Exception:
                # A target of the user's own that raises must not end the checks.
                log.exception("health_not_reported")
            await asyncio.sleep(self._reporting.gap(self._interval, self._rng))

    def _take(self, verdict: Verdict) -> None:
        result: Literal["healthy", "unhealthy", "skipped"] = (
            "healthy" if verdict.ok else "unhealthy"
        )
        if not verdict.asked:
            result = "skipped"
        if self._metrics is not None:
            for service in self._services:
                self._metrics.checked(service, result)
        if self._blind != (not verdict.asked):
            self._blind = not verdict.asked
            if self._blind:
                log.warning("checks_skipped", reason=verdict.message)
        if not verdict.asked:
            return  # It says nothing of the service, which may be well.
        before = self._reporting.healthy
        report = self._reporting.observe(verdict, self._clock())
        if self._reporting.healthy != before:
            log.info("health_changed", healthy=self._reporting.healthy, message=verdict.message)
        if report is not None and report.status is None:
            self._target.seen()
        elif report is not None and report.status is not None:
            self._target.report(report.status, report.message)
