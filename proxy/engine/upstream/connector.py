"""New connections to instances, and the end of idle ones."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable
from functools import partial
from math import inf
from socket import AF_INET6, SOCK_DGRAM, socket

import structlog

from proxy.destinations import Destinations
from proxy.engine.deadlines import Deadlines
from proxy.engine.flow import as_protocol
from proxy.engine.http1.client import UpstreamConnection
from proxy.engine.http1.keepalive import KeptConnection, Upstreams
from proxy.engine.node import Node
from proxy.engine.pace import Pace
from proxy.engine.streams import UpstreamStream
from proxy.engine.tls.client import ClientContexts, ClientHandshake
from proxy.engine.tls.handshakes import Handshakes
from proxy.engine.upstream.dialler import Dialler
from proxy.engine.upstream.sharing import Sharing
from proxy.engine.upstream.turns import NO_PORT_PAUSE, Turn, Turns
from proxy.errors import (
    BAD_ANSWER,
    CLOSED_EARLY,
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    DESTINATION_DENIED,
    DNS_FAILED,
    NO_DESCRIPTOR,
    NO_PORT,
    TLS_FAILED,
    UNREACHABLE,
    Fault,
    Refused,
)
from proxy.names.base import Unresolved
from proxy.names.cache import Name, Names
from proxy.names.eyeballs import first_of
from proxy.proxy_header import header
from proxy.settings.service import ServiceSettings

_log = structlog.get_logger()

_NO_DESCRIPTOR = frozenset((errno.EMFILE, errno.ENFILE))
_UNREACHABLE = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL))

ROOM_STEP = 0.05
ROOM_LIMIT = 1.0
"""Seconds between two tries, and for all of them, when there is no descriptor for a connection.
A burst of clients is accepted in one go, before those that are too many can be closed: that takes
a turn of the event loop. Much longer, and waiting would only make the shortage worse."""


class Dial(Turn):
    """Owns where a connection stands that somebody wants: it waits for its turn, or is made."""

    __slots__ = ("_connector", "left", "limit", "make", "node", "settings", "task", "until",
                 "waiter")  # fmt: skip

    def __init__(
        self,
        connector: Connector,
        node: Node,
        settings: ServiceSettings,
        waiter: Dialler,
        limit: float,
        make: type[KeptConnection],
        pooled: bool,
    ) -> None:
        """See `Connector.dial`; `limit`: seconds for all of it; `pooled`: any of this kind will do,
        made before or not."""
        super().__init__(pooled and make is UpstreamConnection)
        self._connector, self.waiter = connector, waiter
        self.node, self.settings, self.make = node, settings, make
        self.limit, self.until = limit, connector.deadlines.now() + limit
        self.task: asyncio.Task[None] | None = None
        """Makes the connection."""
        self.left = False
        """The waiter is gone: see `Connector.leave`."""

    def on_turn(self) -> None:
        """See `Turn`."""
        self._connector.end_wait(self)
        self._connector.connect(self)

    def on_given(self, connection: UpstreamStream) -> None:
        """See `Turn`."""
        self._connector.end_wait(self)
        self._connector.forget(self)
        self.waiter.on_connected(self.node, connection)

    def on_deadline(self, now: float) -> None:
        """See `Timed`: the turn has not come in time."""
        self.cancel()
        name = self.node.name
        self._connector.fail(self, TimeoutError(), name is not None and bool(name.addresses))

    def cancel(self) -> None:
        """Let the waiter hear nothing."""
        if self.task is not None:
            self.task.cancel()
        else:
            assert self.node.turns is not None
            self.node.turns.leave(self)
            self._connector.end_wait(self)
            self._connector.forget(self)


class Connector:
    """Owns the dials, and the number of connections that are open."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        deadlines: Deadlines,
        make_room: Callable[[], None],
        names: Names,
        handshakes: Handshakes,
    ) -> None:
        """`make_room` is called before each connection: its chance to close something."""
        self._loop = loop
        self.deadlines = deadlines
        self._handshakes = handshakes
        self.contexts = ClientContexts(loop)
        """TLS contexts, by the policy of a service."""
        self.pace = Pace(loop.call_soon, deadlines.now)
        """Of the worker."""
        self._upstreams = Upstreams(deadlines, loop.call_soon, self.pace)
        self._sharing = Sharing(self._upstreams, self.dial)
        self._make_room = make_room
        self._names = names
        self.destinations = Destinations()
        """Where instances that are not the local file's may not lead."""
        self._dials: set[Dial] = set()  # ≤ 1 KiB + 4 KiB per request
        self._left: set[Node] = set()  # ≤ 1 KiB + 100 B per instance
        """Nodes to which a connection is being made that nobody waits for any more."""
        self._beside = 0
        """Connections being made beside the first one of their dial, less those that wait for their
        turn."""

    def dial(
        self,
        node: Node,
        settings: ServiceSettings,
        waiter: Dialler,
        at_most: float = inf,
        make: type[KeptConnection] = UpstreamConnection,
    ) -> Dial | None:
        """Connect in the background; `waiter` hears of the result exactly once, after
        `timeouts.connect` or `at_most` seconds at the latest; who bounds it so finds out whether a
        connection can be made, and gets none that is left behind. Looking up the name of the
        instance, and trying all of its addresses, is one attempt. `make`: kind of the connection.
        Returns what `leave` wants; None for a stream of HTTP/2, of which the waiter may have heard
        already."""
        told = settings.send_proxy_protocol != "off"
        if node.http2 and make is UpstreamConnection and not told:
            self._sharing.ask(node, settings, waiter, at_most)
            return None
        return self._begin(node, settings, waiter, at_most, make, not told and at_most == inf)

    def _begin(
        self,
        node: Node,
        settings: ServiceSettings,
        waiter: Dialler,
        at_most: float = inf,
        make: type[KeptConnection] = UpstreamConnection,
        pooled: bool = False,
    ) -> Dial:
        limit = min(settings.timeouts.connect or inf, at_most)
        dial = Dial(self, node, settings, waiter, limit, make, pooled)
        self._dials.add(dial)
        turns = node.turns
        if turns is None:
            turns = node.turns = Turns(self._upstreams.soon, self.deadlines.now)
        if turns.full:
            self._beside -= 1
            turns.wait(dial)
            self.deadlines.arm(dial, dial.until)
        else:
            turns.begin()
            self.connect(dial)
        return dial

    def connect(self, dial: Dial) -> None:
        """Make the connection, whose turn it is, in a task."""
        dial.task = self._loop.create_task(self._dial(dial))
        dial.task.add_done_callback(partial(self._dialled, dial))

    def end_wait(self, dial: Dial) -> None:
        """A dial does not wait for its turn any more."""
        self._beside += 1
        self.deadlines.forget(dial)

    def forget(self, dial: Dial) -> None:
        """A dial is over."""
        self._dials.discard(dial)
        if dial.left:
            self._left.discard(dial.node)

    def leave(self, dial: Dial) -> None:
        """Leave `dial`, whose waiter is gone. One such connection to each instance is
        made all the same: the next request can use it, and that it cannot be made is worth knowing,
        which clients less patient than `timeouts.connect` would never let us find out. Further ones
        are given up, and hear nothing: clients that come and go must not take all descriptors."""
        if dial.task is None or dial.node in self._left:
            dial.cancel()  # While one waits, others are made.
        else:
            self._left.add(dial.node)
            dial.left = True

    def _dialled(self, dial: Dial, task: asyncio.Task[None]) -> None:
        self.forget(dial)
        assert dial.node.turns is not None
        dial.node.turns.end()  # Here, since of a task that is cancelled early no line is run.
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("dialling_failed_inside", exc_info=error)

    async def _dial(self, dial: Dial) -> None:
        node, settings, make = dial.node, dial.settings, dial.make
        name = node.name
        if name is None:
            name = node.name = self._names.get(node.address)
        addresses: tuple[str, ...] = ()
        version, preface = settings.send_proxy_protocol, b""
        try:
            if version != "off":
                preface = header(version, dial.waiter.ends())
            left = dial.until - self.deadlines.now()
            async with asyncio.timeout(None if left == inf else left):
                addresses = name.known() or await name.find()
                if not node.local:
                    addresses = self._permitted(addresses, node.port)
                if len(addresses) == 1:
                    only = addresses[0]
                    connection = await self._connect(node, settings, make, preface, only)
                else:
                    connection = await self._race(node, settings, make, preface, name, addresses)
        except Exception as error:
            self.fail(dial, error, bool(addresses))
            return
        if connection.closed:
            # Between the connect and this line of the task the instance has hung up.
            detail = f"{node.id} closed the connection as soon as it was open"
            dial.waiter.on_connect_failed(node, CLOSED_EARLY, detail)
        else:
            dial.waiter.on_connected(node, connection)

    def fail(self, dial: Dial, error: Exception, known: bool) -> None:
        """Tell who waits why there is no connection. `known`: where it would lead."""
        node, limit = dial.node, dial.limit
        if not known and isinstance(error, TimeoutError):
            error = Unresolved(f"no name server has answered within {limit:g} s")
        fault = _translate(error)
        if fault is None:
            dial.waiter.on_dial_raised(node, error)
        else:
            dial.waiter.on_connect_failed(node, fault, f"{node.id}: {_words(error, limit)}")

    def refusal(self, address: str, port: int) -> str:
        """Why nobody but the local file may have us connect to an address; empty: they may."""
        return self.destinations.refusal(address, port)

    def _permitted(self, addresses: tuple[str, ...], port: int) -> tuple[str, ...]:
        """Addresses to which an instance of the registry may lead. Raises `Refused` if there are
        none."""
        refusal = ""
        permitted = []
        for address in addresses:  # ≤ 16
            reason = self.refusal(address, port)
            if reason:
                refusal = reason
            else:
                permitted.append(address)
        if not permitted:
            raise Refused(DESTINATION_DENIED, refusal)
        return addresses if not refusal else tuple(permitted)

    async def _race(
        self,
        node: Node,
        settings: ServiceSettings,
        make: type[KeptConnection],
        preface: bytes,
        name: Name,
        addresses: tuple[str, ...],
    ) -> KeptConnection:
        """The first connection to one of several addresses."""
        dial = partial(self._connect_beside, node, settings, make, preface)
        self._beside -= 1  # The task of the dial stands for one of them.
        try:
            address, connection = await first_of(addresses, dial, KeptConnection.close)
        finally:
            self._beside += 1
        name.prefer(address)
        return connection

    async def _connect_beside(
        self,
        node: Node,
        settings: ServiceSettings,
        make: type[KeptConnection],
        preface: bytes,
        address: str,
    ) -> KeptConnection:
        self._beside += 1
        try:
            return await self._connect(node, settings, make, preface, address)
        finally:
            self._beside -= 1

    async def _connect(
        self,
        node: Node,
        settings: ServiceSettings,
        make: type[KeptConnection],
        preface: bytes,
        address: str,
    ) -> KeptConnection:
        tries = round(ROOM_LIMIT / ROOM_STEP)
        context = None
        if node.server_name is not None and make.alpn is not None:
            context = await self.contexts.get(settings.tls, make.alpn)
        turns = node.turns
        assert turns is not None
        while True:  # ≤ 32
            if turns.ports_from > self._loop.time():
                raise OSError(errno.EADDRNOTAVAIL, "there was no local port a moment ago")
            self._make_room()
            connection = make(node, settings, self._upstreams)
            try:
                if context is None:
                    await self._loop.create_connection(
                        partial(as_protocol, connection), address, node.port
                    )
                    if preface:
                        connection.transport.write(preface)
                else:
                    domain = settings.tls.trust_domain
                    await self._secure(node, context, connection, preface, address, domain)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and not _has_source(address):
                    raise OSError(
                        errno.ENETUNREACH, f"this machine has no address to reach {address} from"
                    ) from None
                if error.errno == errno.EADDRNOTAVAIL:
                    turns.ports_from = self._loop.time() + NO_PORT_PAUSE
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

    async def _secure(
        self,
        node: Node,
        context: ssl.SSLContext,
        connection: KeptConnection,
        preface: bytes,
        address: str,
        domain: str,
    ) -> None:
        """Connect, and let `connection` have what is said under TLS."""
        try:
            handshake = ClientHandshake(
                node, context, connection, self._handshakes, self._loop, preface, domain
            )
        except (TypeError, ValueError) as error:  # The first for one with a NUL.
            detail = f"{node.server_name!r} is no name that could be asked for: {error}"
            raise Refused(TLS_FAILED, detail) from None
        try:
            await self._loop.create_connection(
                partial(as_protocol, handshake.tls), address, node.port
            )
            await handshake.done
            if connection.alpn and connection.alpn[0] == "h2":
                chosen = handshake.tls.ssl.selected_alpn_protocol()
                if chosen != "h2":
                    raise Refused(BAD_ANSWER, f"chose {chosen or 'nothing'} by ALPN, not h2")
        except BaseException:
            handshake.abandon()
            raise

    @property
    def open(self) -> int:
        """Connections to instances, but for those that have become tunnels."""
        return self._upstreams.open

    @property
    def http2(self) -> tuple[int, int]:
        """Sessions of HTTP/2 with instances, and requests under way on them."""
        return self._upstreams.sessions, self._upstreams.streams

    @property
    def dialling(self) -> int:
        """Connections being made."""
        return max(0, len(self._dials) + self._beside)

    def close_idle(self, node: Node) -> None:
        """The node left or must not be used: nothing idle stays behind."""
        while node.idle:  # ≤ connections
            node.idle.pop().close()
        for session in list(node.shared):  # ≤ connections
            session.retire()

    async def close(self) -> None:
        """Give up what is being dialled."""
        tasks = [dial.task for dial in self._dials if dial.task is not None]
        for dial in list(self._dials):  # ≤ requests
            dial.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1)


def _translate(error: Exception) -> Fault | None:
    """The one place where a dialling error becomes a fault. None = it is none of the network's."""
    if isinstance(error, TimeoutError):
        return CONNECT_TIMEOUT
    if isinstance(error, Refused):
        return error.fault
    if isinstance(error, Unresolved):
        return DNS_FAILED
    if not isinstance(error, OSError):
        return None
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


def _has_source(address: str) -> bool:
    """Whether this machine has an address from which packets to `address` would be. If so, and a
    connection could not be made for want of one, it is local ports that are used up."""
    if ":" not in address:
        return True  # There is always one, or there is no route.
    try:
        with socket(AF_INET6, SOCK_DGRAM) as probe:
            probe.connect((address, 9))
    except OSError:
        return False
    return True
