"""Handshakes of clients."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from typing import Final

from proxy.engine.arrival import CountedArrival
from proxy.engine.flow import as_protocol
from proxy.engine.http1.server import ClientConnection
from proxy.engine.http2.session import ClientSession
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.services import Services
from proxy.engine.tcp import TcpArrival
from proxy.engine.tls.connection import TlsConnection
from proxy.errors import BAD_REQUEST, HANDSHAKE_FAILED, NO_DESCRIPTOR

_PLAIN: Final = frozenset(("HTTP_REQUEST", "HTTPS_PROXY_REQUEST"))
"""Reasons that OpenSSL gives for a client that speaks HTTP without TLS."""
_ALERT: Final = ("ALERT", "SSLV3_ALERT", "TLSV1_ALERT", "TLSV13_ALERT")
"""How its words begin for what the other side has said, and not we."""


class ServerHandshake(CountedArrival):
    """Owns a client's connection until its handshake is over."""

    __slots__ = ("_counted", "connection")

    def __init__(
        self,
        services: Services,
        listener: ListenerConfig,
        announced: tuple[str, int] | None,
        wrap: Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject] | None = None,
    ) -> None:
        """`wrap`: see `TlsTransport`; by default that of the listener's certificates."""
        super().__init__(services, listener, announced)
        self._counted = False
        if wrap is None:
            assert listener.certificates is not None
            wrap = listener.certificates.wrap
        self.connection = TlsConnection(wrap, self, services.handshakes, services.loop.call_soon)

    def on_open(self, connection: TlsConnection) -> None:
        """See `Secured`."""
        listener = self._listener
        listener.counts.handshakes += 1
        self._arrive(connection.transport, listener.timeouts.handshake)
        # A quarter of the clients there is room for: each needs a connection to an instance, too.
        most = listener.limits.handshakes or self._services.connections.descriptors // 8 + 1
        if listener.counts.handshakes > most and not connection.transport.is_closing():
            self._count("too_many")
            self._refuse(NO_DESCRIPTOR, "connection closed: too many handshakes are under way")

    def _leave(self) -> None:
        self._listener.counts.handshakes -= 1
        super()._leave()

    def on_secured(self, connection: TlsConnection) -> None:
        """See `Secured`."""
        self._leave()
        self._count("resumed" if connection.ssl.session_reused else "full")
        if self._listener.settings.mode_tcp is not None:
            connection.speak(TcpArrival(self._services, self._listener, self._announced))
            return
        http2 = connection.ssl.selected_alpn_protocol() == "h2"
        speaks = ClientSession if http2 else ClientConnection
        connection.speak(speaks(self._services, self._listener, self._announced))

    def on_not_secured(self, connection: TlsConnection, error: Exception | None) -> None:
        """See `Secured`."""
        if not isinstance(error, ssl.SSLError):
            self._lose()
            self._count("closed")  # Mostly by somebody who looks whether the port is open.
            return
        if error.reason in _PLAIN and self._listener.settings.mode_tcp is None:
            self._leave()
            self._count("plain_http")
            self._answer_plainly()
            return
        self._lose()
        reason = str(error.reason or error)
        self._count("alert" if reason.startswith(_ALERT) else "refused")
        certificates = self._listener.certificates
        if certificates is not None and not certificates.ready:
            reason = "there is no certificate yet"
        self._note(HANDSHAKE_FAILED, f"no TLS: {reason.lower().replace('_', ' ')}")
        self._transport.close()

    def on_deadline(self, now: float) -> None:
        """See `Timed`."""
        self._count("timeout")
        limit = self._listener.timeouts.handshake
        self._refuse(HANDSHAKE_FAILED, f"no handshake within {limit:g} s")

    def _answer_plainly(self) -> None:
        """The client speaks HTTP without TLS, and can read an answer in the same."""
        client = ClientConnection(self._services, self._listener, self._announced)
        self._transport.set_protocol(as_protocol(client))
        self._transport.resume_reading()  # A handshake is not read on while it waits for its turn.
        client.connection_made(self._transport)
        if not self._transport.is_closing():
            client.refuse(BAD_REQUEST, "plain HTTP on a port that speaks TLS: try https://")

    def _count(self, result: str) -> None:
        if not self._counted:
            self._counted = True
            self._services.counters.handshake(self._listener.settings.name, result)


class ChallengeHandshake(ServerHandshake):
    """Owns the connection of an ACME server that looks whether a name leads here. All it wants is
    the handshake (RFC 8737 §3)."""

    __slots__ = ()

    def __init__(
        self, services: Services, listener: ListenerConfig, context: ssl.SSLContext
    ) -> None:
        """`context`: answers the challenge."""
        super().__init__(services, listener, None, partial(context.wrap_bio, server_side=True))

    def on_secured(self, connection: TlsConnection) -> None:
        """See `Secured`."""
        self._lose()
        self._count("challenge")
        connection.close()
