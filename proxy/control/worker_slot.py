"""The place of one worker: a process that dies, or hangs, is replaced, and one that is to be
restarted gets a successor beside it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import structlog

from proxy.control.launch import Launch, describe_exit
from proxy.control.pools import PoolRegistry
from proxy.control.slots import Rows
from proxy.control.statistics import Applies
from proxy.control.worker_process import (
    KILL_AFTER_GRACE,
    PARTING,
    SILENT_WARNING,
    Beginning,
    Notice,
    WorkerProcess,
)

log = structlog.get_logger()

STEADY = 5.0
"""Seconds a worker must have lived for its death to count as the first again."""

LONGEST_DELAY = 1.0
"""Seconds at most between a death and the next start: a crash loop must not eat a CPU, and
whatever made the workers crash may be gone any moment."""

SILENT_TICKS = 30
"""Seconds of silence after which a worker counts as hung. It reports each second, and nothing
it does may hold its loop for even one; 30 leaves room for a machine that swaps. Counted in
ticks of this process, so that a pause of this process itself is not held against them."""

SUCCESSOR_LIMIT = 10.0
"""Seconds for a successor to accept: that takes half of one, and several where memory is short."""

Until = Callable[[Callable[[], bool], float], Awaitable[bool]]
"""Waits for a condition on workers, for so many seconds; False = the time is up."""


def restart_delay(early_deaths: int) -> float:
    """Seconds until the next start, after that many deaths in a row before `STEADY`: the first
    replacement starts at once."""
    if early_deaths <= 1:
        return 0.0
    return min(LONGEST_DELAY, 0.05 * 2.0 ** min(early_deaths - 2, 10))


_STREAM, _DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


def _pair(ours: ExitStack, theirs: ExitStack, kind: int) -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair(type=kind)
    one.setblocking(False)
    return ours.enter_context(one), theirs.enter_context(other)


class WorkerSlot:
    """The worker of one index, one process after the other.

    Owns the tasks that start it, wait for its exit and replace it.
    """

    def __init__(
        self,
        index: int,
        launch: Launch,
        rows: Rows,
        pools: PoolRegistry,
        config: Callable[[], Beginning],
        accept_anyway: Callable[[], bool],
        on_change: Callable[[], None],
        on_notice: Callable[[int, Notice], None],
        on_exit: Callable[[WorkerProcess], None],
    ) -> None:
        """`on_change` hears of each message but notices, which go to `on_notice` with the index;
        `on_exit` of each death before the replacement starts."""
        self.index = index
        self.current: WorkerProcess | None = None
        self.processes: list[WorkerProcess] = []
        """Processes that live, a successor and a predecessor of the current one included."""
        self.tried = asyncio.Event()
        """Set once the first process was started, or could not be."""
        self.restarts = 0
        self.last_exit: str | None = None
        self.applies = Applies()
        self._launch = launch
        self._rows = rows
        self._pools = pools
        self._config = config
        self._accept_anyway = accept_anyway
        self._on_change = on_change
        self._on_notice = on_notice
        self._on_exit = on_exit
        self._final = asyncio.Event()
        self._vacant = asyncio.Event()
        """Set while there is no current process."""
        self._starting = asyncio.Lock()
        """Held while a process is started for this place."""
        self._lives: asyncio.TaskGroup

    @property
    def ready(self) -> bool:
        return self.current is not None and self.current.ready

    @property
    def alive(self) -> bool:
        """There is a process, and it has said something lately."""
        return self.current is not None and self.current.silent_ticks < SILENT_WARNING

    async def keep(self) -> None:
        """Keep the worker running until `drain` or `kill`, then until its exit."""
        early_deaths = 0
        async with asyncio.TaskGroup() as self._lives:
            while not self._final.is_set():
                started = time.monotonic()
                async with self._starting:
                    if self.current is None:
                        self._install(await self._start())
                        self.tried.set()
                await self._vacant.wait()
                if self._final.is_set():
                    break
                self.restarts += 1
                early_deaths = 1 if time.monotonic() - started >= STEADY else early_deaths + 1
                delay = restart_delay(early_deaths)
                if delay:
                    log.warning("worker_restart_delayed", worker=self.index, delay=delay)
                    try:
                        await asyncio.wait_for(self._final.wait(), delay)
                    except TimeoutError:
                        pass

    async def replace(self, grace: float, limit: float, until: Until) -> str:
        """Start a successor beside the process, which finishes within `grace` seconds once that
        accepts, as it must within `limit`. Returns the reason why there is none; "" = there is."""
        async with self._starting:
            # Two processes for each place are enough.
            await until(lambda: len(self.processes) < 2, grace + KILL_AFTER_GRACE)
            life = await self._start()
            if life is None:
                return self.last_exit or ""
            try:
                await until(lambda: life.accepting or life.gone, limit)
                if life.draining:
                    return "the proxy is stopping"
                if life.gone:
                    return f"the successor has ended: {describe_exit(life.process.returncode or 0)}"
                if not life.accepting:
                    return f"the successor has not accepted within {limit:g} s"
                before = self.current
                self._install(life)
            finally:
                if self.current is not life and not life.draining:
                    life.draining = True
                    life.kill()
            if before is not None:
                before.drain(grace, 0.0, shared=True)
            return ""

    def _install(self, life: WorkerProcess | None) -> None:
        self.current = life
        if life is None:
            self._vacant.set()
        else:
            self._vacant.clear()

    async def _start(self) -> WorkerProcess | None:
        """A new process, which is looked after; None when there is none to be had."""
        try:
            row = self._rows.take()
            try:
                with ExitStack() as ours, ExitStack() as theirs:
                    ends = [_pair(ours, theirs, kind) for kind in (_STREAM, _DATAGRAM)]
                    process = await self._launch(self.index, row, *(end for _, end in ends))
                    ours.pop_all()
            except BaseException:
                self._rows.free(row)
                raise
        except OSError as error:
            self.last_exit = f"not started: {error.strerror or error}"
            log.error("worker_not_started", worker=self.index, error=str(error))
            return None
        life = WorkerProcess(
            self.index,
            row,
            process,
            self._pools,
            self.applies,
            self._config,
            self._accept_anyway,
            self._on_change,
            lambda notice: self._on_notice(self.index, notice),
            ends[1][0],
        )
        self.processes.append(life)
        self._lives.create_task(self._live(life, ends[0][0]))
        return life

    async def _live(self, life: WorkerProcess, channel: socket.socket) -> None:
        """The life of a process until its exit."""
        try:
            await life.channel.open(channel)
            log.info("worker_started", worker=self.index, pid=life.pid)
            if self._final.is_set():
                # It was not to be started any more, which nobody could know in time.
                life.drain(0.0, 0.0)
            returncode = await life.process.wait()
            # What it has counted last may be told of later than its exit.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(life.parted.wait(), PARTING)
        except BaseException:
            life.kill()
            raise
        finally:
            life.close()
            self.processes.remove(life)
            if self.current is life:
                self._install(None)
        self.last_exit = describe_exit(returncode)
        if life.draining:
            log.info("worker_stopped", worker=self.index, pid=life.pid, how=self.last_exit)
        else:
            log.error("worker_died", worker=self.index, pid=life.pid, how=self.last_exit)
        self._on_exit(life)

    def tick(self) -> None:
        """Call each second: a worker that is silent is told of, and if it is so for long killed and
        so replaced."""
        for life in self.processes:
            life.silent_ticks += 1
            if life.silent_ticks == SILENT_WARNING:
                log.warning("worker_silent", worker=self.index, pid=life.pid, silent=SILENT_WARNING)
            if life.silent_ticks > SILENT_TICKS:
                log.error("worker_hung", worker=self.index, pid=life.pid, silent=life.silent_ticks)
                life.silent_ticks = 0
                life.kill()

    def drain(self, grace: float, delay: float, shared: bool = False) -> None:
        """Let the process finish within `grace` seconds after `delay`; it is not replaced.
        `shared`: others go on accepting from its sockets."""
        self._final.set()
        for life in self.processes:
            if not life.draining:
                life.drain(grace, delay, shared)

    def kill(self) -> None:
        """End the processes at once; they are not replaced."""
        self._final.set()
        for life in self.processes:
            life.draining = True
            life.kill()
