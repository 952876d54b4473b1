"""Connections to instances between exchanges: open, idle, closed."""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import Callable
from math import inf
from typing import ClassVar, Final, cast

from proxy.engine.deadlines import Deadlines
from proxy.engine.http1.second_descriptor import SecondDescriptor
from proxy.engine.node import Node
from proxy.engine.pace import Pace
from proxy.engine.streams import StreamEvents, UpstreamStream
from proxy.settings.service import ServiceSettings

EXCESS: Final = 10.0
"""Seconds that a connection beyond `keepalive.max_idle` stays for the next request. The one used
last is used first, so those stay that were needed at the same time within so many seconds: the pool
follows the demand. Bursts some seconds apart find their connections again; closing these in between
would take a local port for a minute for each, of which there are 28,000."""

_TIMEOUT: Final = re.compile(rb"(?:^|,)[ \t]*timeout=(\d{1,9})[ \t]*(?:,|$)", re.IGNORECASE)


class Upstreams:
    """Values shared by all connections of a worker to instances. Owns the number of these."""

    __slots__ = ("deadlines", "open", "pace", "sessions", "soon", "streams")

    def __init__(self, deadlines: Deadlines, soon: Callable[..., object], pace: Pace) -> None:
        """`soon`: calls a function in a turn of the loop to come."""
        self.deadlines = deadlines
        self.soon = soon
        self.pace = pace
        self.open = 0
        """Connections that are open, but for those that have become tunnels."""
        self.sessions = 0
        """Connections of HTTP/2 among them."""
        self.streams = 0
        """Requests under way on connections of HTTP/2."""


class KeptConnection(UpstreamStream):
    """Owns the transport to one instance, and for how long it is kept while nothing is asked."""

    __slots__ = ("_counted", "_deadlines", "_dup", "_events", "_first_byte", "_idle", "_max_idle",
                 "_max_uses", "_node", "_server_name", "_settings", "_upstreams", "_uses",
                 "closed", "transport")  # fmt: skip

    alpn: ClassVar[tuple[str, ...] | None] = ("http/1.1",)
    """Protocols that are offered under TLS, the one to be spoken first; None = there is no TLS."""

    def __init__(self, node: Node, settings: ServiceSettings, upstreams: Upstreams) -> None:
        super().__init__()
        self._node = node
        self._server_name = node.server_name
        """Name that the instance had to prove, which may be another one by now."""
        self._adopt(settings)
        self._upstreams = upstreams
        self._deadlines = upstreams.deadlines
        self._uses = 0
        self.closed = True
        """Not open any more, or not yet."""
        self._counted = False
        """Among those that are open."""
        self.transport: asyncio.Transport
        self._events: StreamEvents | None = None
        """Hears of the exchange that is under way."""
        self._dup: SecondDescriptor | None = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else "idle" if self._events is None else "busy"
        return f"<{type(self).__name__} {self._node.key} {state} uses={self._uses}>"

    def _adopt(self, settings: ServiceSettings) -> None:
        """Go by other settings. What each exchange asks of them is here as well, where it is found
        in half the time."""
        self._settings = settings
        keepalive = settings.keepalive
        self._idle, self._max_idle = keepalive.idle, keepalive.max_idle
        self._max_uses = keepalive.max_requests
        self._first_byte = settings.timeouts.first_byte

    @property
    def outdated(self) -> bool:
        """The instance has another name to prove by now, or one at all."""
        return self._server_name is not self._node.server_name

    def is_quiet(self) -> bool:
        """See `UpstreamStream`. One system call."""
        if self.transport.is_closing():
            return False  # It failed in this turn of the loop, and we are told in the next.
        if self.outdated:
            return False  # It was set aside before.
        sock = self.transport.get_extra_info("socket")
        if sock is None:
            return True
        poller = select.poll()
        poller.register(sock.fileno(), select.POLLIN)
        return not poller.poll(0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are not registered as such
        self._upstreams.open += 1
        self._counted = True
        self.closed = False

    def disown(self) -> None:
        """The connection was closed before anybody got it, perhaps before it was open."""
        self.closed = True
        self._discount()

    def _discount(self) -> None:
        """Count it once as not open any more: its loss may be told or not, before this or after."""
        if self._counted:
            self._counted = False
            self._upstreams.open -= 1

    def park(self, now: float, limit: float | None = None) -> None:
        """See `UpstreamStream`."""
        node = self._node
        other = self._server_name is not node.server_name  # `outdated`, without a call.
        if self.closed or not node.admitted or node.http2 or other or not self._max_idle:
            self.close()
            return
        if limit is None:
            if self._uses:
                limit = self.deadline - now  # It was given to somebody who had no use for it.
            else:
                limit = self._idle
                self._uses = 1  # It will have been idle like one that was used: see `_fail`.
        turns = node.turns
        if turns is None or not turns.give(self):
            if len(node.idle) >= self._max_idle:
                limit = min(limit, EXCESS)
            node.idle.append(self)
        self.deadline = now + limit
        if self.deadline < self.filed:
            self._deadlines.file(self, self.deadline)

    def close(self) -> None:
        """See `UpstreamStream`."""
        self._let_go()
        if not self.closed:
            self.closed = True
            if self.transport.get_write_buffer_size():
                # The rest of a request that was answered before it was read: `close` would
                # wait for an instance that may never read it.
                self.transport.abort()
            else:
                self.transport.close()

    def abort(self) -> None:
        """See `UpstreamStream`."""
        self._let_go()
        if not self.closed:
            self.closed = True
            self.transport.abort()

    def _let_go(self) -> None:
        """Let no one hear of this connection any more."""
        self._events = None
        self._deadlines.forget(self)
        self._drop_dup()

    def _drop_dup(self) -> None:
        if self._dup is not None:
            self._dup.close()
            self._dup = None

    def _drop_idle(self) -> None:
        """The connection is of no use to the next exchange."""
        try:
            self._node.idle.remove(self)
        except ValueError:
            pass  # It was not idle: handed over, or closed by us.
        self.close()


def promised(keep_alive: bytes) -> float:
    """`Keep-Alive: timeout=N` in seconds; infinite when it says nothing readable. We stop a
    second earlier, so that the request and the instance's close do not cross."""
    match = _TIMEOUT.search(keep_alive)
    return inf if match is None else float(match[1])
