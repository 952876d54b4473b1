"""Connections that go to an instance as they are, whatever is spoken on them.

The instance is chosen, tried and counted as for a request, and there is another attempt where no
connection came about. From then on it is a tunnel.
"""

from __future__ import annotations

import asyncio
from typing import Final

from balancers.base import NO_KEY, hash_key
from proxy.engine.admission import check_caller
from proxy.engine.arrival import CountedArrival
from proxy.engine.listener_config import ListenerConfig, ends_of
from proxy.engine.next_attempt import next_attempt
from proxy.engine.node import Node
from proxy.engine.pool import Pool
from proxy.engine.selection import first_choice
from proxy.engine.services import Services
from proxy.engine.streams import UpstreamStream
from proxy.engine.tunnel import Tunnel
from proxy.engine.upstream.connector import Dial
from proxy.engine.upstream.raw import RawConnection, SecuredRaw
from proxy.errors import (
    CLIENT_GONE,
    INTERNAL,
    NO_DESCRIPTOR,
    NO_INSTANCE,
    QUEUE_FULL,
    Fault,
    Refused,
    Side,
)
from proxy.proxy_header import Ends

OK: Final = 200


class Passthrough(CountedArrival):
    """Owns a client's connection until it is a tunnel, and the attempts to make it one."""

    __slots__ = ("_address", "_attempts", "_began", "_caller", "_counts", "_dial", "_early",
                 "_ended", "_key", "_make", "_node", "_pool", "_tried", "_tunnel")  # fmt: skip

    def __init__(
        self,
        services: Services,
        listener: ListenerConfig,
        pool: Pool,
        address: bytes,
        early: bytes,
        caller: str = "",
        announced: tuple[str, int] | None = None,
        ours: bool = False,
    ) -> None:
        """`address`: the client's; `early`: what the client has said already; `caller`: the
        service that it has proved to be; `announced`: see `ListenerConfig.client`; `ours`: TLS to
        the instance is ours to speak, where the service's settings demand it."""
        super().__init__(services, listener, announced)
        self._pool = pool
        self._caller = caller
        self._began = 0.0
        self._counts = False
        """Whether what comes of the connection is yet to be counted."""
        ours = ours and pool.settings.tls.mode == "on"
        self._make: type[RawConnection] = SecuredRaw if ours else RawConnection
        self._address = address
        self._key = hash_key(address) if pool.uses_key else NO_KEY
        self._early = early  # ≤ 512 KiB
        self._ended = False
        """Whether the client has said its last byte."""
        self._attempts = 0
        self._node: Node | None = None
        """The instance on which the connection counts."""
        self._tried: tuple[Node, ...] = ()
        self._dial: Dial | None = None
        self._tunnel: Tunnel | None = None

    # -- the client's connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        limit = self.counts.per_client
        room = not limit or self.counts.enter(self._address)
        self._arrive(transport, 0.0)
        if self._transport.is_closing():
            return
        if not room:
            self._refuse(NO_DESCRIPTOR, f"connection closed: the client has its {limit}")
            return
        self._transport.pause_reading()
        pool, now = self._pool, self._services.now()
        self._began, self._counts = now, True
        if pool.callers is not None:
            try:
                check_caller(pool, self._caller, "", ())
            except Refused as refusal:
                self._give_up(refusal.fault, refusal.detail)
                return
        try:
            self._choose(now)
        except Exception as error:
            self._fail_inside(error)

    def _choose(self, now: float) -> None:
        """The first attempt, if there is an instance for one."""
        pool = self._pool
        if pool.reads_load:
            self._services.pools.others.refresh(now)
        pool.requests += 1
        node = pool.pick(self._key, ())
        if node is None:
            self._give_up(NO_INSTANCE, f"{pool.service} has no usable instance")
            return
        if pool.limited or node.impaired:
            node = first_choice(pool, node, self._key, now)
            if node is None:
                pool.counters.rejected("max_inflight")
                self._give_up(QUEUE_FULL, f"every instance of {pool.service} is busy")
                return
        self._try(node)

    def data_received(self, data: bytes) -> None:
        self._early += data
        self._transport.pause_reading()  # uvloop begins to read behind `connection_made`.

    def eof_received(self) -> bool:
        """Go on: who says no more, or nothing at all, may yet be answered."""
        self._ended = True
        return True

    def connection_lost(self, error: Exception | None) -> None:
        if self._dial is not None:
            self._services.connector.leave(self._dial)
            self._dial = None
        self._release(CLIENT_GONE.code)
        self._count(CLIENT_GONE.status)
        self.counts.leave(self._address)
        self._lose()

    def on_deadline(self, now: float) -> None:
        """See `Timed`: the worker stops."""
        self._transport.abort()

    # -- attempts

    def _try(self, node: Node) -> None:
        self._node = node
        self._attempts += 1
        self._pool.take(node)
        connector = self._services.connector
        self._dial = connector.dial(node, self._pool.settings, self, make=self._make)

    def ends(self) -> Ends | None:
        """See `Dialler`."""
        return ends_of(self._transport, self._announced)

    def on_connected(self, node: Node, connection: UpstreamStream) -> None:
        """See `Dialler`."""
        self._dial = None
        self._services.unreachable.reached(self._pool, node)
        if self._node is None or self._transport.is_closing():
            connection.close()  # The client has left.
            return
        try:
            self._become_tunnel(node, connection)
        except Exception as error:
            connection.abort()
            self._fail_inside(error)

    def on_connect_failed(self, node: Node, fault: Fault, detail: str) -> None:
        """See `Dialler`."""
        self._dial = None
        if fault.side is Side.UPSTREAM:
            self._services.unreachable.add(self._pool, node, detail)
        if self._node is None:
            return
        try:
            self._try_another(node, fault, detail)
        except Exception as error:
            self._fail_inside(error)

    def _try_another(self, node: Node, fault: Fault, detail: str) -> None:
        """Once more on another instance, if there is one that may be asked."""
        self._release(fault.code)
        self._tried = (*self._tried, node)
        pool = self._pool
        if pool.terms.may_repeat(fault, b"CONNECT", False, True, True):
            other = next_attempt(
                pool, self._key, self._tried, self._attempts, self._services.now(),
                stale_node=None, stale=False, answered=False, limit=pool.terms.max_retries,
            )  # fmt: skip
            if other is not None:
                pool.counters.retried(fault.code)
                self._try(other)
                return
        self._give_up(fault, detail)

    def on_dial_raised(self, node: Node, error: Exception) -> None:
        """See `Dialler`."""
        self._dial = None
        self._fail_inside(error)

    def _fail_inside(self, error: Exception) -> None:
        """End the connection for an error of ours: nobody else would, ever."""
        self._services.faults.inside(error, self._pool.service)
        self._count(INTERNAL.status)
        self._transport.abort()

    def _give_up(self, fault: Fault, detail: str) -> None:
        self._pool.counters.failed(fault.code)
        self._count(fault.status)
        self._note(fault, detail)
        self._transport.abort()

    def _count(self, status: int) -> None:
        """Count once what came of it, as that of a request for a tunnel, and how long it took."""
        if self._counts:
            self._counts = False
            took = self._services.now() - self._began
            self._pool.counters.over(b"CONNECT", status, took, self._caller)

    def _release(self, outcome: str) -> None:
        if self._node is not None:
            node, self._node = self._node, None
            self._pool.release(node, outcome)

    # -- the tunnel

    def _become_tunnel(self, node: Node, connection: UpstreamStream) -> None:
        services, pool = self._services, self._pool
        instance, said = connection.hand_over()
        self._tunnel = tunnel = Tunnel(
            self._transport,
            instance,
            services.deadlines,
            services.hangups,
            pool.settings.timeouts.tunnel_idle,
            self._on_tunnel_closed,
        )
        self._count(OK)
        # In this order: between the two the worker must not look quiet.
        services.connections.on_tunnel_opened(tunnel, pool, node, self.counts)
        self._leave()
        self.counts.open += 1  # It is one of the listener's connections all the same.
        early, self._early = self._early, b""
        tunnel.start(from_client=early, from_instance=said, client_ended=self._ended)

    def _on_tunnel_closed(self) -> None:
        assert self._tunnel is not None
        self.counts.open -= 1
        self.counts.leave(self._address)
        self._services.connections.on_tunnel_closed(self._tunnel)
        self._tunnel = None
        self._release("ok")
