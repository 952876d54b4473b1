"""A worker process while it lives: it accepts, serves, and does what the control process says.

A worker holds no configuration of its own and decides nothing about membership. When the channel
ends, the control process is dead: the worker finishes quickly and goes too, so that no port stays
taken by an orphan.
"""

from __future__ import annotations

import asyncio
import os
import resource
import select
import socket
from collections.abc import Callable, Coroutine
from random import Random
from time import monotonic, perf_counter
from typing import Any

import structlog

from proxy import catalog
from proxy.channel import Channel
from proxy.destinations import Destinations
from proxy.engine.accepting import new_connection
from proxy.engine.access_log import AccessLogs
from proxy.engine.challenges import Challenges
from proxy.engine.collector import Collector
from proxy.engine.connections import LAST_CALL, UNHURRIED, Connections
from proxy.engine.deadlines import Deadlines
from proxy.engine.exchange import new_exchange
from proxy.engine.fault_log import FaultLog
from proxy.engine.filtered_exchange import FilteredExchange
from proxy.engine.filters import Filters
from proxy.engine.flow import as_protocol
from proxy.engine.grpc_exchange import new_call
from proxy.engine.hangups import Hangups
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.listener_counts import ListenerCounts
from proxy.engine.listeners import Listeners
from proxy.engine.load import Board, OtherRows
from proxy.engine.mirror import new_mirror
from proxy.engine.node import Node
from proxy.engine.notices import Notices
from proxy.engine.pool_context import PoolContext
from proxy.engine.pools import Pools
from proxy.engine.proxy_protocol import ProxyProtocol
from proxy.engine.reports import Reports
from proxy.engine.resilience.limits import BucketTable
from proxy.engine.routing import RouteTable
from proxy.engine.services import NewExchange, Services
from proxy.engine.sockets import Sockets
from proxy.engine.telemetry import WorkerCounters
from proxy.engine.tls.handshakes import Handshakes
from proxy.engine.tracing import Tracer
from proxy.engine.upstream.connector import Connector
from proxy.engine.upstream.unreachable import Unreachable
from proxy.filters.watch import Watch
from proxy.log import lost as lost_lines
from proxy.log import set_up
from proxy.messages import (
    Accept,
    Accepting,
    AcmeApplied,
    AcmeChallenges,
    Applied,
    BroughtRoutes,
    CertificatesApplied,
    Collect,
    Configure,
    Configured,
    Drain,
    FleetShare,
    Hello,
    ListenerCertificates,
    Open,
    Release,
    ReopenAccessLog,
    Rows,
    ToWorker,
    UpstreamFiles,
)
from proxy.messages import Pools as PoolsMessage
from proxy.names.base import Resolver
from proxy.names.cache import Names
from proxy.settings.route import RouteSpec

_log = structlog.get_logger()

STATS_INTERVAL = 1.0
"""Seconds between reports: what a worker that dies takes with it at most."""
ORPHAN_GRACE = 3.0
"""Seconds a worker outlives its control process to finish what is in flight; the promise to
users is five."""
RESERVED = 64
"""Descriptors kept for what is no connection (log, loop, …); each listener has one more."""
LAST_ENDS = 0.2
"""Seconds for connections that were cut to end, which takes them some turns of the loop."""
LAST_LINES = 1.0
"""Seconds at the end for the access log: the control process waits two beyond the grace."""


def _room(sockets: int) -> int:
    """Connections that a process with so many listening sockets may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED - sockets


class Worker:
    """Owns everything that lives as long as a worker process."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        row: int,
        board: Board,
        descriptors: socket.socket | None,
        rng: Random,
        now: Callable[[], float] = monotonic,
        poller: Callable[[], select.epoll] = select.epoll,
        resolver: Resolver | None = None,
        new_channel: Callable[..., Channel[ToWorker]] = Channel,
        index: int = 0,
        own_process: bool = True,
        watch: Watch | None = None,
    ) -> None:
        """`row`: of the board; `descriptors`: see `Sockets`. `resolver`: of instances' names; by
        default this machine's. `new_channel`: makes this end of the channel to the control
        process. `index`: by which the log calls it. `own_process`: see `Collector`; `watch`: see
        `Filters`."""
        self._index = index
        self.counters = counters = WorkerCounters()
        self._channel = new_channel(ToWorker, self.on_message, self._on_orphaned)
        self._notices = Notices(counters, self._channel.send)
        self.faults = FaultLog(counters)
        self._buckets = BucketTable(board.buckets)
        shared = PoolContext(
            board.row(row),
            rng,
            self._buckets,
            self._notices.suspect,
            board.total,
            lambda: self.pools.look(now()),
            loop.call_later,
            self._notices.breaker_turned,
            self.faults.inside,
            now,
        )
        others = OtherRows(board, row, lambda slot, delta: self.pools.slot_changed(slot, delta))
        self.pools = Pools(counters, shared, others)
        self.connections = Connections(counters, self.faults, self.pools, _room(0))
        self.names = Names(loop, resolver)
        deadlines = Deadlines(loop, now)
        handshakes = Handshakes(loop.call_soon)
        connector = Connector(loop, deadlines, self.connections.make_room, self.names, handshakes)
        self.connections.connector = connector
        self.services = Services(
            loop,
            now,
            deadlines,
            handshakes,
            Hangups(loop, poller),
            self.pools,
            connector,
            Unreachable(deadlines, connector),
            self.connections,
            counters,
            self.faults,
            Filters(loop, now, shared.buckets, self.faults.inside, connector.refusal, watch=watch),
            new_exchange,
            new_call,
            self._notices.fields_dropped,
        )
        self.services.new_mirror = new_mirror
        self.access_logs = AccessLogs(loop, rng.random)
        self.stopped = asyncio.Event()
        """Set when the process may exit."""
        self.failed = False
        """The worker stops because it cannot do its work."""
        self._loop = loop
        self._rng = rng
        self._sockets = Sockets(loop, descriptors, self._connection)
        self._listeners = Listeners(rng)
        self._accepts = False
        """The worker was told to accept."""
        self._changes: set[asyncio.Task[None]] = set()  # ≤ 64 KiB
        """Changes of what is accepted from that are under way."""
        self._collector = Collector(own_process)
        self._draining: asyncio.Task[None] | None = None
        self._tracer = Tracer(rng, self._channel.send, loop.call_soon)
        self._reports = Reports(
            counters,
            self.pools,
            self._channel.send,
            loop.call_soon,
            lambda: self.access_logs.dropped,
            lost_lines,
            self.names,
            lambda: connector.http2,
        )

    # -- the control process

    async def join(self, channel: socket.socket) -> None:
        """Say hello and start listening to the control process."""
        await self._channel.open(channel)
        self._channel.send(Hello(pid=os.getpid()))
        self._loop.call_later(STATS_INTERVAL, self._report)

    def on_message(self, message: ToWorker) -> None:
        """Do what the control process says."""
        if isinstance(message, PoolsMessage):
            self._apply_pools(message)
        elif isinstance(message, Collect):
            self._reports.report(message.number)
        elif isinstance(message, Configure):
            self._configure(message)
        elif isinstance(message, ListenerCertificates):
            self._take_certificates(message)
        elif isinstance(message, UpstreamFiles):
            self.services.connector.contexts.use(message.contents)
        elif isinstance(message, AcmeChallenges):
            there_are = message.tokens or message.certificates
            self.services.challenges = Challenges(message) if there_are else None
            self._channel.send(AcmeApplied(message.number))
        elif isinstance(message, Accept):
            self.pools.names.complete = False
            self._accept()
        elif isinstance(message, Open):
            if self._accepts:
                self._change(self._open())
        elif isinstance(message, Release):
            self._change(self._release(message))
        elif isinstance(message, Drain):
            self.drain(message.grace, message.delay, message.shared)
        elif isinstance(message, BroughtRoutes):
            self._bring(message)
        elif isinstance(message, FleetShare):
            self._buckets.share = message.share
        elif isinstance(message, Rows):
            self.pools.others.follow(message.alive)
        elif isinstance(message, ReopenAccessLog):
            self.access_logs.reopen()

    def _bring(self, message: BroughtRoutes) -> None:
        specs = [RouteSpec(host=h, path_prefix=p, service=s) for h, p, s in message.routes]
        self.services.brought = RouteTable(specs) if specs else None

    def _configure(self, message: Configure) -> None:
        config, sockets = message.config, message.sockets
        try:
            for name in config.plugins:  # ≤ routes
                catalog.imported(name)
            routes = RouteTable(config.routes)
            self._sockets.receive(sockets)
            renamed = self._sockets.renamed(sockets, [one.name for one in config.listeners])
            listeners = self._listeners.prepare(config, renamed)
            filters = self.services.filters.prepare(config)
        except Exception as error:
            # The one before stays, whole: nothing was changed yet.
            _log.error("configuration_refused", exc_info=error)
            self._channel.send(Configured(config.generation, f"{type(error).__name__}: {error}"))
            return
        if config.log is not None:
            set_up(config.log, worker=self._index)
        services = self.services
        services.via_token = b"fairlead (%b)" % config.via_token.encode("ascii")
        services.filters.use(filters)
        self._listeners.use(listeners, filters.listeners)
        self._sockets.use(sockets, listeners, message.lasting)
        self.connections.descriptors = _room(len(self._sockets))
        services.connector.destinations = Destinations(config.admin_port, config.allow)
        self.pools.configure(config.defaults, config.services, config.tripped)
        services.routes = routes
        self.access_logs.use(config.access_log, services)
        untraced: NewExchange = FilteredExchange if filters.any else new_exchange
        self._tracer.use(config.tracing, services, untraced)
        self._channel.send(Configured(config.generation))

    def _take_certificates(self, message: ListenerCertificates) -> None:
        certificates = self._listeners.certificates(message.listener)
        if certificates is None:
            return
        error = ""
        try:
            certificates.apply(message)
        except (OSError, ValueError) as failure:
            error = str(failure)
        self._channel.send(
            CertificatesApplied(message.listener, message.generation, error, certificates.alive)
        )

    def _apply_pools(self, message: PoolsMessage) -> None:
        for snapshot in message.snapshots:  # ≤ services
            self._leave(self.pools.apply(snapshot))
        for change in message.changes:  # ≤ services
            self._leave(self.pools.change(change))
        for service in message.removed:  # ≤ services
            self._leave(self.pools.remove(service))
        if self.connections.tunnels:
            self.connections.review_tunnels(self._rng.uniform)
        seconds = perf_counter() - self._channel.began
        self._channel.send(Applied(seq=message.seq, seconds=seconds))
        _log.debug(
            "pools_applied",
            services=len(message.snapshots) + len(message.changes) + len(message.removed),
            revision=message.revision,
            seconds=round(seconds, 6),
        )
        if message.complete:
            if not self.pools.names.complete:
                self._collector.spare(collect=False)  # Clients are served already.
            self.pools.names.complete = True
            if not self._accepts:
                for pool in self.pools:  # ≤ services
                    pool.settling.finish()  # Nobody waits yet.
            self._accept()

    def _leave(self, nodes: list[Node]) -> None:
        """Close idle connections of nodes that left, or must not be used."""
        for node in nodes:  # ≤ instances
            self.services.connector.close_idle(node)
            if not node.present:
                self.services.unreachable.forget(node)

    def _report(self) -> None:
        self._notices.look_for_descriptors()
        self.faults.tick()
        now = self.services.now()
        self.counters.note_report(now, STATS_INTERVAL)
        self.access_logs.report(now)
        self._tracer.tell(now)
        connections = self.connections
        self._collector.look(len(connections.clients) + len(connections.tunnels))
        for pool in self.pools:  # ≤ services
            pool.tick(now)
        if not self._channel.closed:
            self._reports.report(0)
            self._loop.call_later(STATS_INTERVAL, self._report)

    # -- accepting and stopping

    def _accept(self) -> None:
        if not self._accepts and not self.connections.draining:
            self._accepts = True
            self._change(self._begin())

    def _change(self, work: Coroutine[Any, Any, None]) -> None:
        """Change what is accepted from."""
        task = self._loop.create_task(work)
        self._changes.add(task)
        task.add_done_callback(self._changed)

    def _changed(self, task: asyncio.Task[None]) -> None:
        self._changes.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            # A worker that cannot accept is of no use: the control process starts another one.
            _log.error("cannot_accept", exc_info=error)
            self.failed = True
            self.stopped.set()

    async def _begin(self) -> None:
        await self._open()
        self._collector.spare(collect=True)

    async def _open(self) -> None:
        await self._sockets.accept()
        self._channel.send(Accepting(self._sockets.open))

    async def _release(self, message: Release) -> None:
        """Accept no more from some sockets. Listeners of which none is left are gone."""
        released = self._sockets.release(message.sockets)
        listeners = {
            each.facts.settings.name: each.facts.counts
            for each in released
            if each.facts is not None
        }
        gone = {
            name: counts
            for name, counts in listeners.items()
            if message.last and name not in self._listeners
        }
        for counts in gone.values():  # ≤ listeners
            counts.leaving = True
        await self._sockets.close(released, message.last)
        self.connections.descriptors = _room(len(self._sockets))
        self._channel.send(Accepting(self._sockets.open))
        for name, counts in gone.items():  # ≤ listeners
            self.connections.leave(message.grace, counts)
            self._loop.call_later(message.grace, self._cut, message.grace, counts, name)

    def _connection(self, facts: ListenerConfig) -> asyncio.Protocol:
        if facts.settings.proxy_protocol:
            return as_protocol(ProxyProtocol(self.services, facts))
        return new_connection(self.services, facts)

    def listener(self, name: str) -> ListenerConfig:
        """Facts for new connections of a listener; a reload may replace them."""
        return self._listeners[name]

    def drain(self, grace: float, delay: float = 0.0, shared: bool = False) -> None:
        """Answer `Connection: close` at once, stop accepting after `delay` seconds, answer what
        was asked, and exit within `grace` seconds after that. `shared`: see `Drain`."""
        if not self.connections.draining:
            self.connections.draining = True
            self._listeners.leave()
            self._draining = self._loop.create_task(self._drain(grace, delay, shared))

    async def _drain(self, grace: float, delay: float, shared: bool) -> None:
        await asyncio.sleep(delay)
        if self._changes:
            await asyncio.wait(self._changes)
        await self._sockets.close(self._sockets.release_all(), not shared)
        services, connections = self.services, self.connections
        # It may have been so for a moment while connections were accepted.
        connections.quiet.clear()
        if shared:
            connections.last_call = max(LAST_CALL, min(UNHURRIED, grace / 2))
        connections.leave(grace)
        connections.note_quiet()
        try:
            await asyncio.wait_for(connections.quiet.wait(), grace)
        except TimeoutError:
            pass  # What is left is cut below.
        if connections.clients or connections.tunnels:
            self._cut(grace)
            try:
                # Their ends are told in turns of the loop to come; those of the access log, too.
                await asyncio.wait_for(connections.quiet.wait(), LAST_ENDS)
            except TimeoutError:
                pass  # Somebody does not read what a tunnel had written before.
        await services.connector.close()
        services.filters.close()
        services.hangups.close()
        self.names.close()
        if not self._channel.closed:
            self._reports.report_at_once()
        await asyncio.sleep(0)
        self._channel.close()
        self.stopped.set()

    def _cut(self, grace: float, counts: ListenerCounts | None = None, name: str = "") -> None:
        """The grace is over: end what is left, of one listener or of all."""
        cut = self.connections.cut(counts)
        if cut:
            event = "connections_cut_of_listener" if name else "connections_cut_at_stop"
            _log.warning(event, count=cut, grace=grace, **({"listener": name} if name else {}))

    def _on_orphaned(self, error: Exception | None) -> None:
        if not self.stopped.is_set():
            _log.warning("control_process_gone", error=None if error is None else str(error))
            # Whoever comes after the control process may have the sockets by now.
            self.drain(ORPHAN_GRACE, shared=True)
