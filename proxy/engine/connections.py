"""How many connections a worker has, and who gives way when there are too many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

import structlog

from proxy.engine.deadlines import Timed
from proxy.engine.fault_log import FaultLog
from proxy.engine.listener_counts import ListenerCounts
from proxy.engine.node import Node
from proxy.engine.pool import Pool
from proxy.engine.pools import Pools
from proxy.engine.streams import ClientStream
from proxy.engine.telemetry import WorkerCounters
from proxy.engine.tunnel import Tunnel
from proxy.engine.upstream.connector import Connector
from proxy.errors import NO_DESCRIPTOR
from proxy.messages import UNROUTED

_log = structlog.get_logger()

Opened = tuple[Pool, Node, ListenerCounts]
"""Where a tunnel leads, and by which listener its client came."""


_LOOKS: Final = 1024
"""Instances looked at for an idle connection when there is one too many. There may be tens of
thousands, and there is one too many at each connection then; so the next look goes on where the one
before has ended. `RESERVED` of `worker.py` may be too many meanwhile."""

LAST_CALL: Final = 1.0
"""Seconds that an idle connection stays open when the worker stops, or its listener is gone. A
request that crosses our close is lost to the client; so much later than the last answer that did
not announce the close, few do."""

UNHURRIED: Final = 5.0
"""Seconds for the same where nobody waits for the worker's end, since others serve already."""


class Arrival(Timed):
    """A connection on which HTTP has yet to begin."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        super().__init__()
        self.counts: ListenerCounts

    def drain(self) -> None:
        """The worker stops, or the listener is gone: this is waited for for a moment only."""
        raise NotImplementedError


class Connections:
    """Owns the connections of clients, the tunnels, and the room for both."""

    def __init__(
        self, counters: WorkerCounters, faults: FaultLog, pools: Pools, descriptors: int
    ) -> None:
        """`descriptors`: connections, of clients and to instances, that this process may have."""
        self._counters = counters
        self._faults = faults
        self._pools = pools
        self.connector: Connector
        """Maker of the connections to instances, which asks here for room."""
        self.descriptors = descriptors
        self.clients: set[ClientStream] = set()  # ≤ 1 KiB + 100 B per connection
        self.arrivals: set[Arrival] = set()  # ≤ 1 KiB + 100 B per connection
        """Connections on which HTTP has yet to begin."""
        self.tunnels: dict[Tunnel, Opened] = {}  # ≤ 1 KiB + 400 B per tunnel
        self._round: Iterator[Node] = iter(())
        """Instances yet to be looked at for an idle connection, before all are again."""
        self.draining = False
        """The worker stops."""
        self.last_call = LAST_CALL
        """Seconds that idle connections stay open when they are to leave."""
        self.quiet = asyncio.Event()
        """Set when nothing is in flight while draining."""

    def on_client_connected(self, client: ClientStream) -> None:
        """A connection was accepted."""
        self.clients.add(client)
        self._counters.client_connections += 1
        self.make_room()
        # Each needs a second one to an instance: whoever is let in is to be served as well.
        if self.crowded:
            self.shed(client, "the process has as many open as it may")
        counts = client.counts
        if counts.per_client and not counts.enter(client.facts.address):
            self.shed(client, f"the client has its {counts.per_client}")
        if client.counts.leaving:
            client.drain()

    @property
    def crowded(self) -> bool:
        """There are more connections of clients than can be served together."""
        clients = len(self.clients) + len(self.tunnels) + len(self.arrivals)
        return 2 * clients > self.descriptors

    def shed(self, client: ClientStream, detail: str) -> None:
        """Close one connection too many, so that those that are served can go on. Closing one that
        has asked nothing costs its client a retry; running out of descriptors in the middle of a
        request would cost it the request."""
        self._counters.service(UNROUTED).failed(NO_DESCRIPTOR.code)
        address = client.facts.address.decode("ascii")
        self._faults.refusal(NO_DESCRIPTOR, f"connection closed: {detail}", address)
        client.abort()

    def make_room(self) -> None:
        """There is one connection more, or about to be: when that is one too many, an idle one
        gives way. There is one, since no more clients are let in than can be served."""
        connector = self.connector
        in_use = len(self.arrivals) + len(self.clients) + 2 * len(self.tunnels)
        in_use += connector.open + connector.dialling
        if in_use <= self.descriptors:
            return
        for _ in range(_LOOKS):  # ≤ _LOOKS
            node = next(self._round, None)
            if node is None:
                self._round = (
                    node for pool in list(self._pools) for node in list(pool.nodes.values())
                )
                continue
            if node.idle:
                node.idle.pop(0).close()
                return
            for session in node.shared:  # ≤ connections
                if session.idle:
                    session.retire()
                    return

    def on_client_changed(self, before: ClientStream, after: ClientStream) -> None:
        """A connection goes on in another version of HTTP."""
        self.clients.discard(before)
        self.clients.add(after)
        if after.counts.leaving:
            after.drain()

    def on_client_lost(self, client: ClientStream) -> None:
        """A connection is closed, or has become a tunnel."""
        if client in self.clients:
            self.clients.discard(client)
            self._counters.client_connections -= 1
            client.counts.leave(client.facts.address)
            self.note_quiet()

    def on_tunnel_opened(
        self, tunnel: Tunnel, pool: Pool, node: Node, counts: ListenerCounts
    ) -> None:
        """A connection and its upstream connection became a tunnel; `counts`: of its listener."""
        self.tunnels[tunnel] = (pool, node, counts)
        self._counters.tunnels += 1

    def on_tunnel_closed(self, tunnel: Tunnel) -> None:
        """Forget a tunnel, both sides of which are gone."""
        del self.tunnels[tunnel]
        self._counters.tunnels -= 1
        self.note_quiet()

    def leave(self, grace: float, counts: ListenerCounts | None = None) -> None:
        """Let connections finish within `grace` seconds: those of one listener, or all."""
        for client in list(self.clients):  # ≤ connections
            if counts is None or client.counts is counts:
                client.drain()
        for arrival in list(self.arrivals):  # ≤ connections
            if counts is None or arrival.counts is counts:
                arrival.drain()
        for tunnel, opened in list(self.tunnels.items()):  # ≤ tunnels
            if counts is None or opened[2] is counts:
                tunnel.stop_after(grace)

    def cut(self, counts: ListenerCounts | None = None) -> int:
        """End what is left of the connections of one listener, or of all; how many there were."""
        clients = [one for one in self.clients if counts is None or one.counts is counts]
        tunnels = [
            tunnel
            for tunnel, opened in self.tunnels.items()
            if counts is None or opened[2] is counts
        ]
        for client in clients:  # ≤ connections
            client.abort()
        for tunnel in tunnels:  # ≤ tunnels
            tunnel.close()
        return len(clients) + len(tunnels)

    def note_quiet(self) -> None:
        """Note the end of a connection: perhaps it was the last that a stopping worker waits
        for."""
        if self.draining and not self.clients and not self.tunnels and not self.arrivals:
            self.quiet.set()

    def review_tunnels(self, uniform: Callable[[float, float], float]) -> None:
        """Pools changed: end tunnels to instances that leave, where the service wants that, some
        sooner and some later, so that not all their clients come back at the same moment.
        `uniform`: a random number between two."""
        to_close: dict[Pool, int] = {}
        to_stay: dict[Pool, int] = {}
        for tunnel, (pool, node, counts) in self.tunnels.items():  # ≤ tunnels
            policy = pool.settings.drain
            leaves = not node.present or node.status == "draining"
            if leaves and policy.tunnels == "close":
                if not tunnel.leaving:
                    tunnel.stop_after(
                        policy.close_after * uniform(0.5, 1.5), pool.counters.tunnel_closed
                    )
                    to_close[pool] = to_close.get(pool, 0) + 1
            elif tunnel.leaving and not counts.leaving:
                tunnel.stay()
                to_stay[pool] = to_stay.get(pool, 0) + 1
        for pool, tunnels in to_close.items():  # ≤ services
            after = pool.settings.drain.close_after
            _log.info("tunnels_to_close", service=pool.service, count=tunnels, after=after)
        for pool, tunnels in to_stay.items():  # ≤ services
            _log.info("tunnels_to_stay", service=pool.service, count=tunnels)
