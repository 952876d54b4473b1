"""Reports of a worker's counters: those that changed since the last report, in pieces.

Thousands of instances are told in some milliseconds, which is too long for a loop that serves. So
only those are told that had a request since, and no more of them at a time than take half a
millisecond; the loop turns in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from proxy.engine.pool import NO_STATE
from proxy.engine.pools import Pools
from proxy.engine.telemetry import WorkerCounters
from proxy.messages import NodeStats, PolicyState, ServiceStats, WorkerStats
from proxy.names.cache import Names

PIECE = 200
"""Instances, or services, in one message: half a millisecond here and as much over there."""


class Reports:
    """Owns which counters were told, and the report that is being told."""

    def __init__(
        self,
        counters: WorkerCounters,
        pools: Pools,
        send: Callable[[WorkerStats], None],
        soon: Callable[[Callable[[], None]], object],
        dropped: Callable[[], int],
        log_dropped: Callable[[], int],
        names: Names,
        http2: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        """`send` takes the messages; `soon` calls something in the next turn of the loop;
        `dropped`: lines of the access log that could not be written; `log_dropped`: of the log;
        `http2`: sessions with instances, and requests on them."""
        self._counters = counters
        self._pools = pools
        self._send = send
        self._soon = soon
        self._dropped = dropped
        self._log_dropped = log_dropped
        self._names = names
        self._http2 = http2
        self._states: dict[str, PolicyState] = {}  # ≤ 1 KiB + 400 B per service
        """Service → where its limits stand, as was told, of those that have any."""
        self._under_way: Iterator[WorkerStats] | None = None
        self._asked: int | None = None
        """Number of a report that was asked for while another one was under way."""

    def report(self, number: int) -> None:
        """Tell what changed. `number`: of the question this answers, 0 = nobody asked. What
        changes while it is being told may be in it or in the next one."""
        if self._under_way is not None:
            # Some of it was told before the question, so it is no answer.
            self._asked = max(number, self._asked or 0)
            return
        self._under_way = self._pieces(number)
        self._tell()

    def report_at_once(self) -> None:
        """Tell everything in one go, at the end."""
        if self._under_way is not None:
            for piece in self._under_way:  # ≤ instances
                self._send(piece)
            self._under_way = self._asked = None
        for piece in self._pieces(0):  # ≤ instances
            self._send(piece)

    def _tell(self) -> None:
        if self._under_way is None:
            return
        piece = next(self._under_way, None)
        if piece is None or not piece.more:
            self._under_way = None
        if piece is not None:
            self._send(piece)
        if self._under_way is not None:
            self._soon(self._tell)
        elif self._asked is not None:
            number, self._asked = self._asked, None
            self._under_way = self._pieces(number)
            self._soon(self._tell)

    def _pieces(self, number: int) -> Iterator[WorkerStats]:
        """The last one, and only it, has no `more`."""
        services: dict[str, ServiceStats] = {}
        nodes: list[NodeStats] = []
        states: dict[str, PolicyState] = {}
        for name, counters in list(self._counters.services.items()):  # ≤ PIECE + services
            if counters.told == counters.changes:
                continue
            counters.told = counters.changes
            services[name] = counters.snapshot()
            if len(services) >= PIECE:
                yield self._message(number, services, [], {}, more=True)
                services = {}
        for name in [name for name in self._states if self._pools.get(name) is None]:  # ≤ services
            del self._states[name]
            states[name] = NO_STATE
        for pool in list(self._pools):  # ≤ services
            state = pool.policy_state()
            if state != self._states.get(pool.service, NO_STATE):
                self._states[pool.service] = states[pool.service] = state
                if len(states) >= PIECE:
                    yield self._message(number, services, nodes, states, more=True)
                    services, nodes, states = {}, [], {}
            for node in pool.changed_nodes():  # ≤ PIECE
                nodes.append(pool.stats_of(node))
                if len(nodes) >= PIECE:
                    yield self._message(number, services, nodes, states, more=True)
                    services, nodes, states = {}, [], {}
        yield self._message(number, services, nodes, states, more=False)

    def _message(
        self,
        number: int,
        services: dict[str, ServiceStats],
        nodes: list[NodeStats],
        states: dict[str, PolicyState],
        *,
        more: bool,
    ) -> WorkerStats:
        counters = self._counters
        instances = (0, 0) if self._http2 is None else self._http2()
        return WorkerStats(
            number=number,
            http2=(counters.http2_sessions, counters.http2_streams, *instances),
            client_connections=self._counters.client_connections,
            tunnels=self._counters.tunnels,
            services=services,
            nodes=nodes,
            states=states,
            more=more,
            access_log_dropped=self._dropped(),
            log_dropped=self._log_dropped(),
            underscored=self._counters.underscored,
            lag=self._counters.lag,
            name_failures=self._names.failures,
            names_outdated=self._names.outdated(),
            handshakes={name: dict(counts) for name, counts in self._counters.handshakes.items()},
            http2_closed={
                name: dict(counts) for name, counts in self._counters.http2_closed.items()
            },
            filters={name: dict(counts) for name, counts in self._counters.filters.items()},
        )
