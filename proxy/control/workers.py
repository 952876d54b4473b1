"""One worker as the control process sees it: start, dialogue, exit, replacement.

The dialogue (`model.ToWorker`, `model.FromWorker`):

    worker                      control process
      Hello(pid)          ─▶
                          ◀─    Configure(config)
                          ◀─    Pools(1, snapshots, complete?) …
      Applied(1)          ─▶
      Accepting           ─▶                             once a complete set, or Accept, came
                          ◀─    Pools(2, changed, removed) …
      WorkerStats(0)      ─▶                             each second: also the sign of life
      Suspect(instance)   ─▶                             it fails in live traffic
      BreakerTurned       ─▶                             a circuit breaker opened or closed
      FieldDropped        ─▶                             a client's field was left out
                          ◀─    ReopenAccessLog
                          ◀─    Collect(n)
      WorkerStats(n)      ─▶
                          ◀─    Drain(grace)
      (exit)

At most one `Pools` is under way to a worker, and it is small: what changes meanwhile, and what
there is beyond it, is gathered and goes out after its `Applied`. So a slow worker gets fewer
messages and never a queue, and is never held for long.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol

import structlog

from proxy.channel import Channel
from proxy.control.pools import PoolBook
from proxy.control.statistics import Applies, Reported
from proxy.messages import (
    Accept,
    Accepting,
    Applied,
    BreakerTurned,
    Collect,
    Configure,
    Drain,
    FieldDropped,
    FromWorker,
    Hello,
    Pools,
    PoolSnapshot,
    ReopenAccessLog,
    Suspect,
    WorkerConfig,
    WorkerStats,
)

log = structlog.get_logger()

Notice = Suspect | BreakerTurned | FieldDropped
"""What a worker says that concerns more than itself."""

STEADY = 5.0
"""Seconds a worker must have lived for its death to count as the first again."""

LONGEST_DELAY = 1.0
"""Seconds at most between a death and the next start: a crash loop must not eat a CPU, and
whatever made the workers crash may be gone any moment."""

SILENT_WARNING = 5
"""Seconds of silence after which operators are told: its clients have been waiting for as long."""

SILENT_TICKS = 30
"""Seconds of silence after which a worker counts as hung. It reports each second, and nothing
it does may hold its loop for even one; 30 leaves room for a machine that swaps. Counted in
ticks of this process, so that a pause of this process itself is not held against them."""

MESSAGE = 240
"""Instances in one message, more only if one service has more: applying them takes a worker some
two milliseconds, in which it serves nobody. The next message waits for its `Applied`."""

SERVICE_SIZE = 6
"""Instances that one service costs as much as, beside its own."""

PARTING = 2.0
"""Seconds a worker has to exit once its channel is closed, before it is killed."""


def restart_delay(early_deaths: int) -> float:
    """Seconds until the next start, after that many deaths in a row before `STEADY`: the first
    replacement starts at once."""
    if early_deaths <= 1:
        return 0.0
    return min(LONGEST_DELAY, 0.05 * 2.0 ** min(early_deaths - 2, 10))


def describe_exit(returncode: int) -> str:
    """`exit status 1` or `signal SIGKILL`."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"signal {signal.Signals(-returncode).name}"
    except ValueError:
        return f"signal {-returncode}"


def module_command(module: str, search: Iterable[str] | None = None) -> tuple[str, ...]:
    """How to run a module of ours: the same interpreter, finding the same packages. `search`:
    this process's import path, if it is not `sys.path`."""
    # `-m` puts the current directory first on the import path. That must be so in the child
    # exactly if it was so here (`python -m proxy` in a checkout); the installed command may be
    # started in any directory, even one with another `proxy` package in it.
    here = os.path.realpath(os.curdir)
    path = sys.path if search is None else search
    safe = [] if here in map(os.path.realpath, path) else ["-P"]
    return (sys.executable, *safe, "-m", module)


ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 1024 * 1024),
    "MALLOC_TOP_PAD_": str(1024 * 1024),
}
"""Bytes, for glibc's malloc. Bodies go through a worker in pieces of up to 256 KiB. With the
defaults each piece that is freed goes back to the kernel, and the next one is faulted in page by
page: a third of the cost of a download. Whoever has set these variables keeps their own."""


class Launch(Protocol):
    """What is needed to start a worker process."""

    async def __call__(self, index: int, channel: socket.socket) -> Process: ...


class ProcessLaunch:
    """Starts worker processes; the descriptors it passes on belong to others."""

    def __init__(
        self,
        *,
        program: Sequence[str],
        workers: int,
        board: int,
        sockets: Mapping[str, Sequence[socket.socket]],
        environ: Mapping[str, str],
    ) -> None:
        """`board`: descriptor of the in-flight board; `sockets`: by listener, one per worker;
        `environ`: added to this process's environment."""
        self._program = tuple(program)
        self._workers = workers
        self._board = board
        self._sockets = sockets
        self._environ = environment_of_workers(os.environ, environ)

    async def __call__(self, index: int, channel: socket.socket) -> Process:
        """Start worker `index` with its end of the channel. OSError when there is no process
        to be had."""
        own = [(name, sockets[index].fileno()) for name, sockets in self._sockets.items()]
        arguments = [
            *("--index", str(index), "--workers", str(self._workers)),
            *("--channel", str(channel.fileno()), "--board", str(self._board)),
        ]
        for name, fd in own:
            arguments += ["--socket", f"{name}={fd}"]
        return await asyncio.create_subprocess_exec(
            *self._program,
            *arguments,
            stdin=DEVNULL,
            pass_fds=[channel.fileno(), self._board, *(fd for _, fd in own)],
            env=self._environ,
            # Ctrl-C in a terminal goes to the whole foreground group. A worker must not see
            # it: the control process alone decides in which order things stop.
            start_new_session=True,
        )


def environment_of_workers(own: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    """`own`: this process's environment. Whatever it says, strings are hashed under a seed that is
    drawn at the start: with a fixed one, as some images set it, clients could choose field names
    that all fall into one place of a dict."""
    return {**ALLOCATOR, **own, **added, "PYTHONHASHSEED": "random"}


class Incarnation:
    """One worker process from start to exit.

    Owns its channel and the state of the dialogue; nothing in here survives the process.
    """

    def __init__(
        self,
        index: int,
        process: Process,
        book: PoolBook,
        applies: Applies,
        config: Callable[[], WorkerConfig],
        accept_anyway: Callable[[], bool],
        on_change: Callable[[], None],
        on_notice: Callable[[Notice], None],
    ) -> None:
        self.index = index
        self._applies = applies
        self.process = process
        self.started_at = time.monotonic()
        self.accepting = False
        self.draining = False
        self.applied = 0
        """Number of the last `Pools` in effect."""
        self.revision = 0
        """The registry's, of what is in effect."""
        self.knows_all = False
        """It applied a complete set."""
        self.stats = Reported()
        """What it has counted."""
        self.answered = 0
        """Number of the last `Collect` it answered."""
        self.silent_ticks = 0
        """Seconds since it said anything."""
        self._book = book
        self._config = config
        self._accept_anyway = accept_anyway
        self._on_change = on_change
        self._on_notice = on_notice
        self._greeted = False
        self._sent = 0
        self._sent_revision = 0
        self._sent_complete = 0
        """Number of the first `Pools` that said `complete`; 0 = none did."""
        self._dirty: dict[str, None] = {}
        """Services that the worker is to be told of, those that wait for longest first."""
        self._parting: asyncio.TimerHandle | None = None
        self.channel: Channel[FromWorker] = Channel(FromWorker, self._on_message, self._on_closed)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ready(self) -> bool:
        """It accepts connections and knows the first full set."""
        return self.accepting and self.knows_all and not self.draining

    @property
    def state(self) -> Literal["starting", "waiting", "accepting", "draining"]:
        """`waiting`: configured, but it does not accept yet."""
        if self.draining:
            return "draining"
        if self.accepting:
            return "accepting"
        return "waiting" if self._greeted else "starting"

    # -------------------------------------------------------------------- towards it

    def update(self, services: Iterable[str]) -> None:
        """These services changed or are gone; what they are now is read from the book when
        the message is built."""
        if not self._greeted:
            return
        self._dirty.update(dict.fromkeys(services))
        self._flush()

    def _flush(self) -> None:
        news = self._dirty or (self._book.complete and not self._sent_complete)
        if news and self.applied == self._sent:
            self._send_pools()

    def _send_pools(self) -> None:
        """Send what changed, or the part of it that a worker applies in one go."""
        snapshots: list[PoolSnapshot] = []
        removed: list[str] = []
        size = 0
        while self._dirty and size < MESSAGE:
            service = next(iter(self._dirty))
            del self._dirty[service]
            snapshot = self._book.snapshot(service)
            if snapshot is None:
                removed.append(service)
            else:
                snapshots.append(snapshot)
                size += len(snapshot.nodes)
            size += SERVICE_SIZE
        self._sent += 1
        whole = not self._dirty
        if whole:
            self._sent_revision = self._book.revision
        complete = whole and self._book.complete
        if complete and not self._sent_complete:
            self._sent_complete = self._sent
        self.channel.send(
            Pools(
                seq=self._sent,
                snapshots=tuple(snapshots),
                removed=tuple(removed),
                complete=complete,
                revision=self._sent_revision,
            )
        )

    def accept(self) -> None:
        """Start accepting although no full set is known."""
        if self._greeted:
            self.channel.send(Accept())

    def reopen_access_log(self) -> None:
        """Go on in a new file. One that has not said hello will open it anyway."""
        if self._greeted:
            self.channel.send(ReopenAccessLog())

    def collect(self, number: int) -> bool:
        """Ask for statistics; False if it cannot answer yet."""
        if not self._greeted or self.channel.closed:
            return False
        self.channel.send(Collect(number))
        return True

    def drain(self, grace: float, delay: float) -> None:
        """Stop accepting after `delay`, finish, exit. One that has not said hello has nothing to
        finish."""
        self.draining = True
        if self._greeted:
            self.channel.send(Drain(grace, delay))
        else:
            self.kill()

    def kill(self) -> None:
        """End the process at once. Safe when it is gone."""
        try:
            self.process.kill()
        except ProcessLookupError:
            pass

    def close(self) -> None:
        """The process is gone: release what belongs to it."""
        self.channel.close()
        if self._parting is not None:
            self._parting.cancel()

    # ------------------------------------------------------------------------ from it

    def _on_message(self, message: FromWorker) -> None:
        if self.silent_ticks >= SILENT_WARNING:
            log.info(
                "worker_heard_again", worker=self.index, pid=self.pid, silent=self.silent_ticks
            )
        self.silent_ticks = 0
        match message:
            case Hello():
                self._greeted = True
                self.channel.send(Configure(self._config()))
                self._dirty = dict.fromkeys(self._book.pools)
                self._send_pools()
                if self._accept_anyway():
                    self.channel.send(Accept())
            case Applied(seq, seconds):
                self.applied = seq
                self.revision = self._sent_revision
                self._applies.add(seconds)
                if self._sent_complete and seq >= self._sent_complete:
                    self.knows_all = True
                self._flush()
            case Accepting():
                self.accepting = True
                log.info("worker_accepting", worker=self.index, pid=self.pid)
            case WorkerStats():
                self.stats.take(message)
                if message.more:
                    return
                self.answered = max(self.answered, message.number)
            case Suspect() | BreakerTurned() | FieldDropped():
                self._on_notice(message)
                return
        self._on_change()

    def _on_closed(self, error: Exception | None) -> None:
        if error is not None:
            log.error("worker_channel_failed", worker=self.index, pid=self.pid, error=str(error))
        # It cannot be told anything any more, so it must go. Most of the time it is going.
        if self.process.returncode is None and not self.draining:
            self._parting = asyncio.get_running_loop().call_later(PARTING, self.kill)


class Worker:
    """The worker of one index, through all its incarnations.

    Owns the task that starts it, waits for its exit and replaces it.
    """

    def __init__(
        self,
        index: int,
        launch: Launch,
        book: PoolBook,
        config: Callable[[], WorkerConfig],
        accept_anyway: Callable[[], bool],
        on_change: Callable[[], None],
        on_notice: Callable[[Notice], None],
        on_exit: Callable[[Incarnation], None],
    ) -> None:
        """`on_change` hears of each message but notices, which go to `on_notice`; `on_exit`
        of each death before the replacement starts."""
        self.index = index
        self.current: Incarnation | None = None
        self.tried = asyncio.Event()
        """Set once the first process was started, or could not be."""
        self.restarts = 0
        self.last_exit: str | None = None
        self.applies = Applies()
        self._launch = launch
        self._book = book
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
        """One incarnation, from start to exit."""
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
        life = Incarnation(
            self.index,
            process,
            self._book,
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

    def drain(self, grace: float, delay: float) -> None:
        """Let it finish within `grace` seconds after `delay`; it is not replaced."""
        self._final.set()
        if self.current is not None:
            self.current.drain(grace, delay)

    def kill(self) -> None:
        """End it at once; it is not replaced."""
        self._final.set()
        if self.current is not None:
            self.current.draining = True
            self.current.kill()
