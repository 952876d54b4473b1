"""TLS to instances: contexts, sessions, and the handshake of one connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final

from proxy.engine.http1.keepalive import KeptConnection
from proxy.engine.node import Node
from proxy.engine.tls.connection import TlsConnection
from proxy.engine.tls.handshakes import Handshakes
from proxy.errors import CLOSED_EARLY, TLS_FAILED, TLS_TYPES, Refused
from proxy.http.client_cert import parsed
from proxy.settings.upstream_tls import UpstreamTls
from proxy.tls.contexts import upstream_context
from proxy.tls.identity import is_another

_POLICIES: Final = 1000
"""Contexts that are kept: one for each different `tls:` of the file."""


class ClientContexts:
    """Owns the contexts for connections to instances, one for each policy."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._contents: Mapping[str, bytes] = {}  # ≤ 1 MiB per service
        self._made: dict[
            tuple[UpstreamTls, tuple[str, ...]], asyncio.Future[ssl.SSLContext]
        ] = {}  # ≤ _POLICIES * 1024 * 1024

    def use(self, contents: Mapping[str, bytes]) -> None:
        """Read these in the place of files from now on; by name. Connections from before go on."""
        self._contents = contents
        self._made.clear()

    async def get(self, tls: UpstreamTls, alpn: tuple[str, ...] = ("http/1.1",)) -> ssl.SSLContext:
        """The context for a policy, and for connections that offer these protocols. `Refused` when
        there can be none."""
        made = self._made.get((tls, alpn))
        if made is None or (made.done() and made.exception() is not None):
            if len(self._made) >= _POLICIES:
                self._made.clear()
            # The system's authorities take 35 ms, in which nobody would be served; and a crowd
            # that dials at once waits for the same one.
            made = self._loop.run_in_executor(None, upstream_context, tls, self._contents, alpn)
            self._made[tls, alpn] = made
        try:
            return await asyncio.shield(made)  # Whoever gives up takes it from nobody else.
        except (KeyError, OSError, ValueError) as error:
            detail = f"its tls settings cannot be used: {error}"
            raise Refused(TLS_FAILED, detail) from None


class ClientHandshake:
    """Owns a connection to an instance until its handshake is over."""

    def __init__(
        self,
        node: Node,
        context: ssl.SSLContext,
        connection: KeptConnection,
        handshakes: Handshakes,
        loop: asyncio.AbstractEventLoop,
        preface: bytes = b"",
        domain: str = "",
    ) -> None:
        """`preface`: goes in front of the handshake, in clear text; `domain`: where the instance
        must prove which service it is (`trust_domain`)."""
        self._node = node
        self._name = node.server_name
        self._preface = preface
        self._domain = domain
        self._context = context
        self._connection = connection
        self._open = False
        self.done: asyncio.Future[None] = loop.create_future()
        """The handshake is; or `Refused`."""
        self.tls = TlsConnection(self._wrap, self, handshakes, loop.call_soon)

    def _wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        kept = self._node.session
        session = kept[1] if kept is not None and kept[0] is self._context else None
        return self._context.wrap_bio(
            incoming,
            outgoing,
            False,
            self._name,
            session,  # type: ignore[arg-type]
        )

    def on_open(self, connection: TlsConnection) -> None:
        """See `Secured`."""
        self._open = True
        if self._preface:
            connection.transport.write(self._preface)

    def on_secured(self, connection: TlsConnection) -> None:
        """See `Secured`."""
        if self.done.done():  # Nobody waits for it any more.
            connection.transport.abort()
            return
        shown = parsed(connection.ssl) if self._domain else {}
        if said := is_another(shown, self._node.server_name, self._domain):
            connection.transport.abort()
            self._node.session = None
            self.done.set_exception(Refused(TLS_TYPES["tls_certificate_error"], said))
            return
        connection.on_first = self._keep_session
        connection.speak(self._connection)
        self.done.set_result(None)

    def _keep_session(self, connection: TlsConnection) -> None:
        """Keep what the next handshake with the instance can resume. Not before it has said
        something: a server of TLS 1.3 sends that behind the handshake. By then the instance may
        have to prove another name, which is not looked at when a session is resumed."""
        if self._node.server_name == self._name:
            self._node.session = (self._context, connection.ssl.session)

    def on_not_secured(self, connection: TlsConnection, error: Exception | None) -> None:
        """See `Secured`."""
        if not connection.transport.is_closing():
            connection.transport.close()
        self._node.session = None
        if not self.done.done():
            self.done.set_exception(_refusal(error))

    def abandon(self) -> None:
        """Close what nobody waits for any more."""
        self._connection.disown()
        if self._open and not self.tls.is_closing():
            self.tls.abort()


def _refusal(error: Exception | None) -> Refused:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(
            TLS_TYPES["tls_certificate_error"], f"its certificate: {error.verify_message}"
        )
    if isinstance(error, ssl.SSLError):
        reason = str(error.reason or error)
        kind = "tls_alert_received" if "ALERT" in reason else "tls_protocol_error"
        said = reason.lower().replace("_", " ")
        return Refused(TLS_TYPES[kind], f"no TLS: {said}")
    return Refused(CLOSED_EARLY, "it closed the connection in the TLS handshake")
