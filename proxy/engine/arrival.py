"""Connections of clients before HTTP begins on them."""

from __future__ import annotations

import asyncio
from math import inf
from typing import cast

from proxy.engine.connections import Arrival
from proxy.engine.flow import as_protocol
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.services import Services
from proxy.errors import NO_DESCRIPTOR, Fault
from proxy.messages import UNROUTED


class CountedArrival(Arrival):
    """Owns that a connection counts until a client's stream has it."""

    __slots__ = ("_announced", "_listener", "_services", "_transport")

    def __init__(
        self,
        services: Services,
        listener: ListenerConfig,
        announced: tuple[str, int] | None = None,
    ) -> None:
        """`announced`: see `ListenerConfig.client`."""
        super().__init__()
        self._announced = announced
        self._services = services
        self._listener = listener
        self.counts = listener.counts
        self._transport: asyncio.Transport

    def _arrive(self, transport: asyncio.BaseTransport, limit: float) -> None:
        """The connection is accepted; `limit`: seconds until something must have come of it."""
        self._transport = cast(asyncio.Transport, transport)
        listener, services = self._listener, self._services
        connections = services.connections
        services.deadlines.arm(self, services.now() + (limit or inf))
        # Whoever says nothing holds a descriptor like everybody else.
        listener.counts.open += 1
        connections.arrivals.add(self)
        connections.make_room()
        if listener.counts.open > listener.room or connections.crowded:
            self._refuse(NO_DESCRIPTOR, "connection closed: there are as many as there may be")

    def connection_lost(self, error: Exception | None) -> None:
        self._lose()

    def eof_received(self) -> bool:
        """Close the connection without an answer: balancers look whether a port is open like
        this."""
        return False

    def drain(self) -> None:
        """See `Arrival`."""
        services = self._services
        services.deadlines.arm(
            self, min(self.deadline, services.now() + services.connections.last_call)
        )

    def _leave(self) -> None:
        """The connection is somebody else's from here on."""
        self._services.deadlines.forget(self)
        self._services.connections.arrivals.discard(self)
        self._listener.counts.open -= 1

    def _hand_on(self, protocol: object, data: bytes = b"") -> asyncio.Protocol:
        """Let another have the connection, and what was read of it."""
        self._leave()
        above = as_protocol(protocol)
        self._transport.set_protocol(above)
        above.connection_made(self._transport)
        if data and not self._transport.is_closing():
            above.data_received(data)
        return above

    def _lose(self) -> None:
        """The connection is gone: perhaps the last that a stopping worker waits for."""
        self._leave()
        self._services.connections.note_quiet()

    def _refuse(self, fault: Fault, detail: str) -> None:
        """Close without a word: whoever is at the other end may not even speak HTTP."""
        self._note(fault, detail)
        self._transport.abort()

    def _note(self, fault: Fault, detail: str) -> None:
        services = self._services
        services.deadlines.forget(self)
        services.counters.service(UNROUTED).failed(fault.code)
        peer = self._transport.get_extra_info("peername")
        services.faults.refusal(fault, detail, str(peer[0]) if peer else "unknown")
