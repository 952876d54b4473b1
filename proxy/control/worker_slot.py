"""The place of one worker: a process that dies, or hangs, is replaced."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import structlog

from proxy.control.launch import Launch, describe_exit
from proxy.control.pools import PoolRegistry
from proxy.control.statistics import Applies
from proxy.control.worker_process import SILENT_WARNING, Beginning, Notice, WorkerProcess

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


def restart_delay(early_deaths: int) -> float:
    """Seconds until the next start, after that many deaths in a row before `STEADY`: the first
    replacement starts at once."""
    if early_deaths <= 1:
        return 0.0
    return min(LONGEST_DELAY, 0.05 * 2.0 ** min(early_deaths - 2, 10))


class WorkerSlot:
    """The worker of one index, one process after the other.

    Owns the task that starts it, waits for its exit and replaces it.
    """

    def __init__(
        self,
        index: int,
        launch: Launch,
        pools: PoolRegistry,
        config: Callable[[], Beginning],
        accept_anyway: Callable[[], bool],
        on_change: Callable[[], None],
        on_notice: Callable[[Notice], None],
        on_exit: Callable[[WorkerProcess], None],
    ) -> None:
        """`on_change` hears of each message but notices, which go to `on_notice`; `on_exit`
        of each death before the replacement starts."""
        self.index = index
        self.current: WorkerProcess | None = None
        self.tried = asyncio.Event()
        """Set once the first process was started, or could not be."""
        self.restarts = 0
        self.last_exit: str | None = None
        self.applies = Applies()
        self._launch = launch
        self._pools = pools
        self._config = config
        self._accept_anyway = accept_anyway
        self._on_change = on_change
        self._on_notice = on_notice
        self._on_exit = on_exit
        self._final = asyncio.Event()

    @property
    def ready(self) -> bool:
        return self.current is not None and self.current.ready

    async def keep(self) -> None:
        """Keep the worker running until `drain` or `kill`, then until its exit."""
        early_deaths = 0
        while not self._final.is_set():
            started = time.monotonic()
            await self._live()
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

    async def _live(self) -> None:
        """A process, from start to exit."""
        try:
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    process = await self._launch(self.index, theirs)
            except OSError:
                ours.close()
                raise
        except OSError as error:
            self.tried.set()
            self.last_exit = f"not started: {error.strerror or error}"
            log.error("worker_not_started", worker=self.index, error=str(error))
            return
        self.tried.set()
        life = WorkerProcess(
            self.index,
            process,
            self._pools,
            self.applies,
            self._config,
            self._accept_anyway,
            self._on_change,
            self._on_notice,
        )
        try:
            await life.channel.open(ours)
            self.current = life
            log.info("worker_started", worker=self.index, pid=process.pid)
            if self._final.is_set():
                # It was not to be started any more, which nobody could know in time.
                life.drain(0.0, 0.0)
            returncode = await process.wait()
        except BaseException:
            life.kill()
            raise
        finally:
            life.close()
            self.current = None
        self.last_exit = describe_exit(returncode)
        if life.draining:
            log.info("worker_stopped", worker=self.index, pid=process.pid, how=self.last_exit)
        else:
            log.error("worker_died", worker=self.index, pid=process.pid, how=self.last_exit)
        self._on_exit(life)

    def tick(self) -> None:
        """Call each second: a worker that is silent is told of, and if it is so for long killed and
        so replaced."""
        life = self.current
        if life is None:
            return
        life.silent_ticks += 1
        if life.silent_ticks == SILENT_WARNING:
            log.warning("worker_silent", worker=self.index, pid=life.pid, silent=SILENT_WARNING)
        if life.silent_ticks > SILENT_TICKS:
            log.error("worker_hung", worker=self.index, pid=life.pid, silent=life.silent_ticks)
            life.silent_ticks = 0
            life.kill()

    def drain(self, grace: float, delay: float, kept: tuple[str, ...] = ()) -> None:
        """Let the process finish within `grace` seconds after `delay`; it is not replaced. `kept`:
        see `Drain`."""
        self._final.set()
        if self.current is not None:
            self.current.drain(grace, delay, kept)

    def kill(self) -> None:
        """End the process at once; it is not replaced."""
        self._final.set()
        if self.current is not None:
            self.current.draining = True
            self.current.kill()
