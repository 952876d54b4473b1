"""Listeners whose connections are passed on, to one service; under TLS what is said in it."""

from __future__ import annotations

import asyncio

from proxy.engine.arrival import CountedArrival
from proxy.engine.flow import as_protocol
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.passthrough import Passthrough
from proxy.engine.services import Services
from proxy.errors import NO_INSTANCE


class TcpArrival(CountedArrival):
    """Owns a client's connection until it is known who the client is."""

    __slots__ = ("_announced",)

    def __init__(
        self,
        services: Services,
        listener: ListenerConfig,
        announced: tuple[str, int] | None = None,
    ) -> None:
        """`announced`: see `ListenerConfig.client`."""
        super().__init__(services, listener)
        self._announced = announced

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._arrive(transport, 0.0)
        if self._transport.is_closing():
            return
        services, listener = self._services, self._listener
        service = listener.settings.mode_tcp or ""
        pool = services.pools.get(service)
        if pool is None:
            self._refuse(NO_INSTANCE, f"{service} has no instance")
            return
        client = listener.client(self._transport, self._announced)
        self._leave()
        above = as_protocol(
            Passthrough(services, listener, pool, client.address, b"", client.caller, ours=True)
        )
        self._transport.set_protocol(above)
        above.connection_made(self._transport)

    def on_deadline(self, now: float) -> None:
        """See `Timed`: the worker stops."""
        self._transport.abort()
