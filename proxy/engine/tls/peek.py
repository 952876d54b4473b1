"""The look at a client's hello, where it depends on the name in it who answers."""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.engine.arrival import CountedArrival
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.passthrough import Passthrough
from proxy.engine.services import Services
from proxy.engine.tls.server import ChallengeHandshake, ServerHandshake
from proxy.errors import HANDSHAKE_FAILED
from proxy.tls.hello import Hello, read_hello

UNRECOGNIZED: Final = b"\x15\x03\x03\x00\x02\x02\x70"
"""The alert `unrecognized_name`, fatal, in a record of its own (RFC 6066 §3)."""


class Peek(CountedArrival):
    """Owns a client's connection until its hello is here."""

    __slots__ = ("_buffer",)

    def __init__(
        self,
        services: Services,
        listener: ListenerConfig,
        announced: tuple[str, int] | None = None,
    ) -> None:
        """`announced`: see `ListenerConfig.client`."""
        super().__init__(services, listener, announced)
        self._buffer = b""  # ≤ 384 KiB

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._arrive(transport, self._listener.timeouts.handshake)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            hello = read_hello(self._buffer)
        except ValueError as error:
            if self._listener.certificates is None:
                self._refuse(HANDSHAKE_FAILED, f"no TLS: {error}")
                return
            hello = Hello("", ())  # OpenSSL has the right words for it.
        if hello is not None:
            self._go_on(hello)

    def on_deadline(self, now: float) -> None:
        """See `Timed`."""
        limit = self._listener.timeouts.handshake
        self._refuse(HANDSHAKE_FAILED, f"no hello within {limit:g} s")

    def _go_on(self, hello: Hello) -> None:
        """Let whoever is meant have the connection."""
        services, listener = self._services, self._listener
        service = None
        if listener.settings.tls_passthrough:
            service = services.routes.passthrough(hello.server_name)
        data, self._buffer = self._buffer, b""
        challenge = None if services.challenges is None else services.challenges.context(hello)
        if challenge is not None:
            self._hand_on(ChallengeHandshake(services, listener, challenge).connection, data)
        elif service is not None:
            self._pass_through(service, data)
        elif listener.certificates is not None:
            handshake = ServerHandshake(services, listener, self._announced)
            self._hand_on(handshake.connection, data)
        else:
            self._transport.write(UNRECOGNIZED)
            name = hello.server_name or "none"
            self._note(HANDSHAKE_FAILED, f"no route and no certificate for the name: {name}")
            self._transport.close()

    def _pass_through(self, service: str, data: bytes) -> None:
        pool = self._services.pools.get(service)
        if pool is None:
            self._refuse(HANDSHAKE_FAILED, f"{service} has no instance")
            return
        services, listener, announced = self._services, self._listener, self._announced
        address = listener.client(self._transport, announced).address
        passed = Passthrough(services, listener, pool, address, data, announced=announced)
        self._hand_on(passed)
