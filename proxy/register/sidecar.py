"""`fairlead register`: the registering side-car, for services in any language.

    start the command ─▶ register, check, report ─┬─ it ends: deregister, exit with its code
                                                  └─ SIGTERM: mark draining, wait, deregister,
                                                     stop it, exit with its code

The command is started first and never waits for etcd: a registry that is down keeps nobody from
serving those who know the way.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence

import msgspec
import structlog

from proxy.health.base import Endpoint
from proxy.init import exit_code
from proxy.register.record import Record, checked
from proxy.register.registrar import Registrar
from proxy.register.reporter import HealthReporter, checking
from proxy.settings.registry import RegistryOptions

log = structlog.get_logger()

PASSED_ON = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
"""Signals that are the command's business alone."""
DRAIN_LIMIT = 2.0
"""Seconds for the draining mark to be written; when etcd is down nobody could read it anyway."""
GROUP_POLL = 0.05
"""Seconds between looks at a process group that has to go. The kernel tells nobody when a group
of processes that are not our children becomes empty."""
NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit codes for a command that cannot be started, as shells give them."""


class SidecarSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings on the command line."""

    record: Record
    program_port: int = 0
    """For checks that are commands to know, where it is not the record's; 0 = it is."""
    registry: RegistryOptions
    ttl: float = 10.0
    check: str | None = None
    interval: float = 5.0
    timeout: float = 1.0
    fall: int = 3
    rise: int = 2
    drain_wait: float = 3.0
    """Between the draining mark and deregistration: proxies see the mark within 0.1 s, and
    requests that were on their way arrive and are answered in the rest."""
    stop_timeout: float = 10.0
    """Between SIGTERM and SIGKILL for the command; docker's own limit."""
    command: tuple[str, ...] = ()


class Sidecar:
    """Owns the command's process, its registration, and the order in which both end."""

    def __init__(self, settings: SidecarSettings) -> None:
        """ValueError for settings that cannot work: endpoints, TTL, check, record."""
        self._settings = settings
        # Wrong words are found out before anything is started; the registrar will fill in
        # what is missing.
        record = settings.record
        if settings.check is not None:
            checking(settings.check, settings.timeout)
        checked(
            msgspec.structs.replace(
                record, address=record.address or "127.0.0.1", id=record.id or "unnamed"
            )
        )
        self._registrar = Registrar(
            self._as_it_starts(record),
            registry=settings.registry,
            ttl=settings.ttl,
            start_limit=0,
        )
        self._command: _Command | None = None
        self._leave = asyncio.Event()
        """Asked to deregister."""
        self._stop = asyncio.Event()
        """Asked to stop."""
        self._hurry = asyncio.Event()
        """Asked again: get on with what comes next."""

    def _as_it_starts(self, record: Record) -> Record:
        if self._settings.check is None:
            return record
        return msgspec.structs.replace(record, status="unhealthy", message="not checked yet")

    async def run(self) -> int:
        """Until the command ends or a signal comes. The exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop, number)
        for number in PASSED_ON:
            loop.add_signal_handler(number, self._pass_on, number)
        await self._prepare()
        if self._settings.command and not self._stop.is_set():
            try:
                self._command = await _Command.start(self._settings.command)
            except OSError as error:
                log.error(
                    "command_not_started",
                    command=self._settings.command[0],
                    error=error.strerror or str(error),
                )
                return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        try:
            if not self._stop.is_set():
                await self._serve()
            if self._leave.is_set():
                await self._first(self._stop)
        finally:
            code = 0 if self._command is None else await self._end(self._command)
        return code

    # ------------------------------------------------------------------------------ private

    async def _prepare(self) -> None:
        """Wait for what has to be there before the command is."""

    def _asked_to_stop(self, number: int) -> None:
        log.info("stopping", signal=signal.Signals(number).name, at_once=self._stop.is_set())
        if self._stop.is_set():
            self._hurry.set()
        self._leave.set()
        self._stop.set()

    def _pass_on(self, number: int) -> None:
        if self._command is not None:
            self._command.send(signal.Signals(number))
        elif number == signal.SIGHUP and self._reload():
            pass
        elif number in (signal.SIGHUP, signal.SIGQUIT):
            # Without a command there is nobody else these could be meant for.
            self._asked_to_stop(number)

    def _reload(self) -> bool:
        """Read the configuration again, where there is one; else False."""
        return False

    async def _serve(self) -> None:
        """Registered, from here to the end of the service or of its traffic."""
        async with self._registrar as registrar:
            record = registrar.registrations[0].record
            reporter = None
            if self._settings.check is not None:
                own = Endpoint(record.address, self._settings.program_port or record.port)
                reporter = HealthReporter(
                    registrar,
                    checking(self._settings.check, self._settings.timeout, own),
                    interval=self._settings.interval,
                    fall=self._settings.fall,
                    rise=self._settings.rise,
                )
                reporter.start()
            try:
                if not await self._first(self._leave):
                    return  # The command has ended: nothing to drain.
            finally:
                if reporter is not None:
                    await reporter.stop()
            await self._drain(registrar)

    async def _drain(self, registrar: Registrar) -> None:
        if not registrar.registered:
            return  # Nobody was sent here, or nobody can be told.
        if await registrar.drain("stopping", limit=DRAIN_LIMIT):
            log.info("draining", seconds=self._settings.drain_wait)
            try:
                async with asyncio.timeout(self._settings.drain_wait):
                    await self._first(self._hurry)
            except TimeoutError:
                pass

    async def _first(self, event: asyncio.Event) -> bool:
        """Wait for the event or the command's end; True when it was the event."""
        waiting: list[asyncio.Task[object]] = [asyncio.create_task(event.wait())]
        if self._command is not None:
            waiting.append(asyncio.create_task(self._command.ended()))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        return event.is_set() and not (self._command is not None and self._command.over)

    async def _end(self, command: _Command) -> int:
        """Stop the command, if it has not ended, and what it left behind. Its exit code."""
        self._hurry.clear()
        stopping = asyncio.create_task(self._stop_command(command))
        hurry = asyncio.create_task(self._hurry.wait())
        limit = self._settings.stop_timeout
        await asyncio.wait((stopping, hurry), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            log.warning("command_killed", pid=command.pid, limit=limit, asked=hurry.done())
            command.send_group(signal.SIGKILL)
        for task in (stopping, hurry):
            task.cancel()
        await asyncio.gather(stopping, hurry, return_exceptions=True)
        return exit_code(await command.ended())

    async def _stop_command(self, command: _Command) -> None:
        if not command.over:
            command.send(signal.SIGTERM)
            await command.ended()
        await self._sweep(command)

    async def _sweep(self, command: _Command) -> None:
        """A shell that was stopped may leave its children; they are asked as well."""
        number: int = signal.SIGTERM
        while command.send_group(number):
            number = 0
            await asyncio.sleep(GROUP_POLL)


class _Command:
    """Owns the command's process, in a process group of its own: Ctrl-C at a terminal goes to
    the side-car alone, and what the command starts can be ended with it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(cls, command: Sequence[str]) -> _Command:
        process = await asyncio.create_subprocess_exec(*command, process_group=0)
        log.info("command_started", command=command[0], pid=process.pid)
        return cls(process)

    @property
    def over(self) -> bool:
        return self._process.returncode is not None

    async def ended(self) -> int:
        """The return code of the command, once it has ended; -n for signal n."""
        return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        if not self.over:
            try:
                self._process.send_signal(number)
            except ProcessLookupError:
                pass

    def send_group(self, number: int) -> bool:
        """False when the group is empty."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True


def run(settings: SidecarSettings) -> int:
    """Run a side-car to its end; see `Sidecar`."""

    async def main() -> int:
        return await Sidecar(settings).run()

    return asyncio.run(main())
