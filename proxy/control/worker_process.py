"""A worker process as the control process sees it: the dialogue (`messages.ToWorker`,
`messages.FromWorker`) from start to exit.

    worker                      control process
      Hello(pid)          ─▶
                          ◀─    Configure(config, sockets) descriptors come before it, beside the
                                                           channel
                          ◀─    Rows(alive)                of the board, and changes
                          ◀─    ListenerCertificates …     of each TLS listener, and changes
                          ◀─    UpstreamFiles              of TLS to instances, and changes
                          ◀─    AcmeChallenges             to be answered, and changes
                          ◀─    Pools(1, snapshots, complete?) …
      Applied(1)          ─▶
      Accepting           ─▶                             once a complete set, or Accept, came
                          ◀─    Pools(2, changed, removed) …
      WorkerStats(0)      ─▶                             each second: also the sign of life
      CertificatesApplied ─▶                             they are in effect, or cannot be used
      AcmeApplied         ─▶                             they are answered
      Suspect(instance)   ─▶                             it fails in live traffic
      BreakerTurned       ─▶                             a circuit breaker opened or closed
      FieldDropped        ─▶                             a client's field was left out
                          ◀─    ReopenAccessLog
                          ◀─    Collect(n)
      WorkerStats(n)      ─▶
                          ◀─    Open                       new sockets, after a Configure
                          ◀─    Release(sockets)
      Accepting           ─▶                             each time
                          ◀─    Drain(grace)               also when a successor accepts
      (exit)

At most one `Pools` is under way to a worker, and it is small: what changes meanwhile, and what
there is beyond it, is gathered and goes out after its `Applied`. So a slow worker gets fewer
messages and never a queue, and is never held for long.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Literal

import structlog

from proxy.channel import Channel, send_sockets
from proxy.control.launch import Running
from proxy.control.listeners import Listened
from proxy.control.pools import PoolRegistry
from proxy.control.statistics import Applies, Reported
from proxy.messages import (
    Accept,
    Accepting,
    AcmeApplied,
    AcmeChallenges,
    Applied,
    BreakerTurned,
    BroughtRoutes,
    CertificateMessage,
    CertificatesApplied,
    Collect,
    Configure,
    Configured,
    Drain,
    FieldDropped,
    FleetShare,
    FromWorker,
    Hello,
    Open,
    PoolChange,
    Pools,
    PoolSnapshot,
    Release,
    ReopenAccessLog,
    Rows,
    Spans,
    Suspect,
    WorkerConfig,
    WorkerStats,
)

log = structlog.get_logger()

Notice = Suspect | BreakerTurned | FieldDropped | Spans | CertificatesApplied
"""A worker's message that concerns more than itself; of the last kind, only what it refused."""

Sockets = Mapping[int, Listened]
"""Listening sockets by number."""

Further = Rows | CertificateMessage | AcmeChallenges | BroughtRoutes | FleetShare
Beginning = tuple[WorkerConfig, Sockets, Sequence[Further]]
"""The part of a dialogue that comes before the pools."""

SILENT_WARNING = 5
"""Seconds of silence after which operators are told: its clients have been waiting for as long."""

MESSAGE = 240
"""Instances in one message, more only if one service has more: applying them takes a worker some
two milliseconds, in which it serves nobody. The next message waits for its `Applied`."""

SERVICE_SIZE = 6
"""Instances that one service costs as much as, beside its own."""

PARTING = 2.0
"""Seconds a worker has to exit once its channel is closed, before it is killed; and the other way
round, for what it said last to be read, which the kernel has by then."""

KILL_AFTER_GRACE = 2.0
"""Seconds a worker has beyond its grace to cut what is left and exit."""


class WorkerProcess:
    """A worker process from start to exit.

    Owns its channel and the state of the dialogue; nothing in here survives the process.
    """

    def __init__(
        self,
        index: int,
        row: int,
        process: Running,
        pools: PoolRegistry,
        applies: Applies,
        config: Callable[[], Beginning],
        accept_anyway: Callable[[], bool],
        on_change: Callable[[], None],
        on_notice: Callable[[Notice], None],
        descriptors: socket.socket,
    ) -> None:
        """`descriptors`: takes sockets to the worker."""
        self.index = index
        self.row = row
        """Of the board."""
        self._applies = applies
        self.process = process
        self.started_at = time.monotonic()
        self.accepting = False
        self.open: Set[int] = frozenset()
        """Numbers of the sockets that it accepts from."""
        self.held: set[int] = set()
        """Numbers of the sockets that it was given."""
        self._descriptors = descriptors
        self.draining = False
        self.applied = 0
        """Number of the last `Pools` in effect."""
        self.revision = 0
        """The registry's, of what is in effect."""
        self.knows_all = False
        """The worker applied a complete set."""
        self.stats = Reported()
        """Counts of the process."""
        self.answered = 0
        """Number of the last `Collect` it answered."""
        self.silent_ticks = 0
        """Seconds since it said anything."""
        self.configured = Configured(0)
        """The last it said of its configuration."""
        self.certificates: dict[str, CertificatesApplied] = {}
        """By listener, the last it said of its certificates."""
        self.challenges = 0
        """Number of the last `AcmeChallenges` that it answers."""
        self._pools = pools
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
        self._told: dict[str, PoolSnapshot] = {}
        """By service, what the worker has when it has read everything."""
        self.parted = asyncio.Event()
        """Set when it has said its last word."""
        self._parting: asyncio.TimerHandle | None = None
        self.channel: Channel[FromWorker] = Channel(FromWorker, self._on_message, self._on_closed)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def gone(self) -> bool:
        return self.process.returncode is not None

    @property
    def ready(self) -> bool:
        """The worker accepts connections and knows the first full set."""
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

    def configure(
        self,
        config: WorkerConfig,
        sockets: Sockets,
        further: Iterable[Further],
    ) -> None:
        """Take another configuration. One that has not said hello will get the one in force."""
        if not self._greeted:
            return
        new = {number: one.sock for number, one in sockets.items() if number not in self.held}
        try:
            send_sockets(self._descriptors, new)
        except OSError as error:
            # It reads nothing, or the system is out of what that takes.
            log.error("worker_not_configured", worker=self.index, pid=self.pid, error=str(error))
            self.kill()
            return
        self.held |= new.keys()
        names = {number: one.name for number, one in sockets.items()}
        lasting = tuple(number for number, one in sockets.items() if one.lasting)
        for message in (Configure(config, names, lasting), *further):
            self.channel.send(message)

    def open_sockets(self) -> None:
        """Accept from all sockets that it has, if it accepts."""
        self.channel.send(Open())

    def release(self, numbers: Set[int], last: bool, grace: float) -> None:
        """Accept no more from these: see `Release`."""
        mine = self.held & numbers
        if mine:
            self.held -= mine
            self.channel.send(Release(tuple(mine), last, grace))

    def has_answered(self, generation: int) -> bool:
        """Whether it is known what the worker made of a configuration."""
        return self.configured.generation >= generation

    def update(self, services: Iterable[str]) -> None:
        """Tell of services that changed or are gone; what they are now is read from the pools when
        the message is built."""
        if not self._greeted:
            return
        self._dirty.update(dict.fromkeys(services))
        self._flush()

    def _flush(self) -> None:
        news = self._dirty or (self._pools.complete and not self._sent_complete)
        if news and self.applied == self._sent:
            self._send_pools()

    def _send_pools(self) -> None:
        """Send what changed, or the part of it that a worker applies in one go."""
        snapshots: list[PoolSnapshot] = []
        changes: list[PoolChange] = []
        removed: list[str] = []
        size = 0
        while self._dirty and size < MESSAGE:
            service = next(iter(self._dirty))
            del self._dirty[service]
            snapshot = self._pools.snapshot(service)
            told = self._told.pop(service, None)
            if snapshot is None:
                removed.append(service)
            else:
                self._told[service] = snapshot
                change = None if told is None else self._pools.by_service[service].change_from(told)
                if change is not None:
                    changes.append(change)
                    size += len(change.nodes) + len(change.gone)
                else:
                    snapshots.append(snapshot)
                    size += len(snapshot.nodes)
            size += SERVICE_SIZE
        self._sent += 1
        whole = not self._dirty
        if whole:
            self._sent_revision = self._pools.revision
        complete = whole and self._pools.complete
        if complete and not self._sent_complete:
            self._sent_complete = self._sent
        self.channel.send(
            Pools(
                seq=self._sent,
                snapshots=tuple(snapshots),
                changes=tuple(changes),
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

    def tell(self, message: Further) -> None:
        """Pass on what all workers are told. One that has not said hello will be told then."""
        if self._greeted:
            self.channel.send(message)

    def collect(self, number: int) -> bool:
        """Ask for statistics; False if it cannot answer yet."""
        if not self._greeted or self.channel.closed:
            return False
        self.channel.send(Collect(number))
        return True

    def drain(self, grace: float, delay: float, shared: bool = False) -> None:
        """Stop accepting after `delay`, finish, exit. One that has not said hello has nothing to
        finish. If others go on accepting from its sockets (`shared`), nobody waits for it, and it
        is killed if it is late."""
        self.draining = True
        if not self._greeted:
            self.kill()
            return
        self.channel.send(Drain(grace, delay, shared))
        if shared:
            limit = delay + grace + KILL_AFTER_GRACE
            self._parting = asyncio.get_running_loop().call_later(limit, self._kill_late)

    def _kill_late(self) -> None:
        log.warning("worker_killed_after_grace", worker=self.index, pid=self.pid)
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
        self._descriptors.close()
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
                self.configure(*self._config())
                self._dirty = dict.fromkeys(self._pools.by_service)
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
            case Configured():
                self.configured = message
            case Accepting(sockets):
                if not self.accepting:
                    log.info("worker_accepting", worker=self.index, pid=self.pid)
                self.accepting, self.open = True, frozenset(sockets)
            case WorkerStats():
                self.stats.take(message, time.monotonic())
                if message.more:
                    return
                self.answered = max(self.answered, message.number)
            case CertificatesApplied(listener, generation, error):
                self.certificates[listener] = message
                if error:
                    log.error(
                        "certificates_refused",
                        worker=self.index,
                        listener=listener,
                        generation=generation,
                        error=error,
                    )
                    self._on_notice(message)
            case AcmeApplied(number):
                self.challenges = number
            case Suspect() | BreakerTurned() | FieldDropped() | Spans():
                self._on_notice(message)
                return
        self._on_change()

    def _on_closed(self, error: Exception | None) -> None:
        self.parted.set()
        if error is not None:
            log.error("worker_channel_failed", worker=self.index, pid=self.pid, error=str(error))
        # It cannot be told anything any more, so it must go. Most of the time it is going.
        if self.process.returncode is None and not self.draining:
            self._parting = asyncio.get_running_loop().call_later(PARTING, self.kill)
