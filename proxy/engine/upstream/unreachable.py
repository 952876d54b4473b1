"""Instances that this worker could not connect to: avoided, and tried again without a request.

    reachable ──(an attempt of a request got no connection)──▶ unreachable
    unreachable ──(some connection came about)──▶ reachable

While an instance is unreachable the others of its pool are used, and it is dialled once a second
with nothing to send. So clients pay for an instance that is gone with its first failures
only: no later request waits for a connection that may take seconds to fail, or spends its one
retry on finding out what was known. It is back in use a second after it accepts connections.

Ejection cannot do that: it needs failures to begin, a guess of how long to last, and requests
that try its end.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import structlog

from proxy.engine.deadlines import TICK, Alarm, Deadlines
from proxy.engine.node import Node
from proxy.engine.pool import Pool
from proxy.engine.streams import UpstreamStream
from proxy.engine.upstream.connector import Connector
from proxy.errors import Fault
from proxy.proxy_header import Ends

_log = structlog.get_logger()

AGAIN: Final = 1.0
"""Seconds from the end of one try to the next one of the same instance."""
AT_ONCE: Final = 64
"""Instances that are tried at a time: of a rack that is gone, each takes as long as a connection
may. More of them wait, and are avoided meanwhile."""
BATCH: Final = 8
"""Tries that are begun in one turn of the loop: under a millisecond."""
LIMIT: Final = 5.0
"""Seconds that a try takes at most, where the service lets its requests wait longer, or for ever:
others wait for its end. Enough for two lost packets."""


class Unreachable:
    """Owns who could not be connected to, when each is tried again, and the tries."""

    def __init__(self, deadlines: Deadlines, connector: Connector) -> None:
        self._deadlines = deadlines
        self._connector = connector
        self._due: OrderedDict[Node, tuple[float, Pool]] = (
            OrderedDict()
        )  # ≤ 1 KiB + 400 B per instance
        """Nodes that are tried again, and when, in the order of time."""
        self._trying = 0
        self._alarm = Alarm(self._on_time)

    def add(self, pool: Pool, node: Node, detail: str) -> None:
        """A request got no connection to `node`, a member of `pool`."""
        if node.unreachable or not node.present:
            return
        self._mark(node, True)
        pool.reach_changed(node)
        _log.warning("instance_unreachable", service=pool.service, instance=node.id, detail=detail)
        self._try_later(pool, node)

    def forget(self, node: Node) -> None:
        """Drop the state of a node that has left its pool, or can be connected to again."""
        if node.unreachable:
            self._mark(node, False)
            self._due.pop(node, None)
            if not self._due:
                self._deadlines.forget(self._alarm)

    def reached(self, pool: Pool, node: Node) -> None:
        """There is a connection to `node`."""
        if node.unreachable:
            self.forget(node)
            pool.reach_changed(node)
            _log.info("instance_reachable", service=pool.service, instance=node.id)

    def _mark(self, node: Node, unreachable: bool) -> None:
        node.unreachable = unreachable
        node.reassess()

    def _try_later(self, pool: Pool, node: Node) -> None:
        now = self._deadlines.now()
        self._due.pop(node, None)
        self._due[node] = (now + AGAIN, pool)
        self._set_alarm(now)

    def _set_alarm(self, now: float) -> None:
        if self._due and self._trying < AT_ONCE:
            due, _ = next(iter(self._due.values()))
            self._deadlines.arm(self._alarm, max(due, now + TICK))

    def _on_time(self, now: float) -> None:
        for _ in range(min(BATCH, AT_ONCE - self._trying, len(self._due))):  # ≤ BATCH
            node = next(iter(self._due))
            due, pool = self._due[node]
            if due > now:
                break
            if node.admitted:
                del self._due[node]
                self._trying += 1
                self._connector.dial(node, pool.settings, _Try(self, pool), LIMIT)
            else:
                self._try_later(pool, node)  # Nobody would use the connection.
        self._set_alarm(now)

    def on_tried(self, pool: Pool, node: Node, connection: UpstreamStream | None) -> None:
        """A try is over; None: there is no connection."""
        self._trying -= 1
        if connection is not None:
            self.reached(pool, node)
            connection.park(self._deadlines.now())
        elif node.present and node.unreachable:
            self._try_later(pool, node)
        self._set_alarm(self._deadlines.now())


class _Try:
    """One connection that is made for no request."""

    def __init__(self, owner: Unreachable, pool: Pool) -> None:
        self._owner = owner
        self._pool = pool

    def ends(self) -> Ends | None:
        """See `Dialler`."""
        return None

    def on_connected(self, node: Node, connection: UpstreamStream) -> None:
        """See `Dialler`."""
        self._owner.on_tried(self._pool, node, connection)

    def on_connect_failed(self, node: Node, fault: Fault, detail: str) -> None:
        """See `Dialler`."""
        self._owner.on_tried(self._pool, node, None)

    def on_dial_raised(self, node: Node, error: Exception) -> None:
        """See `Dialler`."""
        self._owner.on_tried(self._pool, node, None)
        raise error  # For the log: no request is concerned.
