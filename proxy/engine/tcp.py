"""Listeners whose connections are passed on, to one service; under TLS what is said in it."""

from __future__ import annotations

import asyncio

from proxy.engine.arrival import CountedArrival
from proxy.engine.passthrough import Passthrough
from proxy.errors import NO_INSTANCE


class TcpArrival(CountedArrival):
    """Owns a client's connection until it is known who the client is."""

    __slots__ = ("_above",)

    _above: asyncio.Protocol

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
        passed = Passthrough(
            services, listener, pool, client.address, b"", client.caller, self._announced, ours=True
        )
        self._above = self._hand_on(passed)

    def data_received(self, data: bytes) -> None:
        """Pass on what came in one piece with what was announced."""
        self._above.data_received(data)

    def on_deadline(self, now: float) -> None:
        """See `Timed`: the worker stops."""
        self._transport.abort()
