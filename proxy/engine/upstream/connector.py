"""New connections to instances, and the end of idle ones."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from functools import partial
from math import inf
from socket import gaierror
from typing import TYPE_CHECKING, Protocol

import structlog

from proxy.engine.flow import as_protocol
from proxy.engine.upstream.connection import UpstreamConnection
from proxy.errors import (
    CLOSED_EARLY,
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    DNS_FAILED,
    INTERNAL,
    NO_DESCRIPTOR,
    NO_PORT,
    UNREACHABLE,
    Fault,
    Refused,
)

if TYPE_CHECKING:
    from proxy.engine.deadlines import Deadlines
    from proxy.engine.pool import Node
    from proxy.settings.service import ServiceSettings

_log = structlog.get_logger()

_NO_DESCRIPTOR = frozenset((errno.EMFILE, errno.ENFILE))
_UNREACHABLE = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL))

ROOM_STEP = 0.05
ROOM_LIMIT = 1.0
"""Seconds between two tries, and for all of them, when there is no descriptor for a connection.
A burst of clients is accepted in one go, before those that are too many can be closed: that takes
a turn of the event loop. Much longer, and waiting would only make the shortage worse."""


class Dialler(Protocol):
    """Who waits for a connection."""

    def on_connected(self, connection: UpstreamConnection) -> None:
        """The connection is up and belongs to the caller."""
        ...

    def on_connect_failed(self, node: Node, fault: Fault, detail: str) -> None:
        """There is no connection and there will be none."""
        ...


class Connector:
    """Owns the tasks that dial, and the number of connections that are open."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        deadlines: Deadlines,
        make_room: Callable[[], None],
    ) -> None:
        """`make_room` is called before each connection: its chance to close something."""
        self._loop = loop
        self.soon = loop.call_soon
        """Call something in the loop's next turn."""
        self._make_room = make_room
        self._deadlines = deadlines
        self._dialling: set[asyncio.Task[None]] = set()
        self._left: set[Node] = set()
        """Those to which a connection is being made that nobody waits for any more."""
        self.open = 0
        """Connections to instances, but for those that have become tunnels."""

    def dial(
        self, node: Node, settings: ServiceSettings, waiter: Dialler, at_most: float = inf
    ) -> asyncio.Task[None]:
        """Connect in the background; `waiter` hears of the result exactly once, after
        `timeouts.connect` or `at_most` seconds at the latest. Returns what `leave` wants."""
        limit = min(settings.timeouts.connect or inf, at_most)
        task = self._loop.create_task(self._dial(node, settings, waiter, limit))
        self._dialling.add(task)
        task.add_done_callback(self._dialled)
        return task

    def leave(self, node: Node, dial: asyncio.Task[None]) -> None:
        """Whoever waited for `dial`, to `node`, is gone. One such connection to each instance is
        made all the same: the next request can use it, and that it cannot be made is worth
        knowing, which clients less patient than `timeouts.connect` would never let us find out.
        Others are given up, and hear nothing: clients that come and go must not take all
        descriptors."""
        if node in self._left:
            dial.cancel()
        else:
            self._left.add(node)
            dial.add_done_callback(partial(self._made, node))

    def _made(self, node: Node, dial: asyncio.Task[None]) -> None:
        self._left.discard(node)

    def _dialled(self, task: asyncio.Task[None]) -> None:
        self._dialling.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("dialling_failed_inside", exc_info=error)

    async def _dial(
        self, node: Node, settings: ServiceSettings, waiter: Dialler, limit: float
    ) -> None:
        try:
            async with asyncio.timeout(None if limit == inf else limit):
                connection = await self._connect(node, settings)
        except Exception as error:
            fault = _translate(error)
            waiter.on_connect_failed(node, fault, f"{node.id}: {_words(error, limit)}")
            return
        if connection.closed:
            # Between the connect and this line of the task the instance has hung up.
            detail = f"{node.id} closed the connection as soon as it was open"
            waiter.on_connect_failed(node, CLOSED_EARLY, detail)
        else:
            waiter.on_connected(connection)

    async def _connect(self, node: Node, settings: ServiceSettings) -> UpstreamConnection:
        tries = round(ROOM_LIMIT / ROOM_STEP)
        while True:
            self._make_room()
            connection = UpstreamConnection(node, settings, self._deadlines, self)
            try:
                await self._loop.create_connection(
                    partial(as_protocol, connection), node.address, node.port
                )
            except OSError as error:
                if error.errno not in _NO_DESCRIPTOR or not tries:
                    raise
                tries -= 1
            except asyncio.CancelledError:
                # Its time is over, or nobody wants it, just when it was made: uvloop closes it
                # then, and does not say so.
                connection.disown()
                raise
            else:
                return connection
            await asyncio.sleep(ROOM_STEP)

    @property
    def dialling(self) -> int:
        """Connections being made."""
        return len(self._dialling)

    def close_idle(self, node: Node) -> None:
        """The node left or must not be used: nothing idle stays behind."""
        while node.idle:
            node.idle.pop().close()

    async def close(self) -> None:
        """Give up what is being dialled."""
        for task in self._dialling:
            task.cancel()
        if self._dialling:
            await asyncio.wait(self._dialling, timeout=1)


def _translate(error: Exception) -> Fault:
    """The one place where a dialling error becomes a fault."""
    if isinstance(error, TimeoutError):
        return CONNECT_TIMEOUT
    if isinstance(error, Refused):
        return error.fault
    if isinstance(error, gaierror | UnicodeError):
        return DNS_FAILED  # What the IDNA codec does not take is no name, either.
    if not isinstance(error, OSError):
        return INTERNAL
    if error.errno in _NO_DESCRIPTOR:
        return NO_DESCRIPTOR
    if error.errno == errno.EADDRNOTAVAIL:
        return NO_PORT
    if error.errno in _UNREACHABLE:
        return UNREACHABLE
    return CONNECT_REFUSED


def _words(error: Exception, limit: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no connection within {limit:g} s"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
