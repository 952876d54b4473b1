"""The certificates that a listener proves itself with: one for each name, all at once replaced."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary, WeakSet

from proxy.engine.edge import Edge
from proxy.engine.tls.transport import TlsTransport
from proxy.http.client_cert import parsed, rfc9440, xfcc
from proxy.http.tls_facts import note_name
from proxy.messages import CertificatePair, ListenerCertificates
from proxy.settings.listener_tls import ListenerTls
from proxy.tls.contexts import ServerPolicy, peer_certificates, server_context
from proxy.tls.identity import service_of
from proxy.tls.names import NameTable

if TYPE_CHECKING:
    Hook = Callable[[sys.UnraisableHookArgs], object]

_UNKNOWN: Final = int(ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)
_INTERNAL: Final = int(ssl.AlertDescription.ALERT_DESCRIPTION_INTERNAL_ERROR)


def without_names(hook: Hook) -> Hook:
    """A `sys.unraisablehook`: `hook`, but for names that clients ask for and that are not ASCII.
    `ssl` fails such a handshake before our callback is called, and says so on stderr besides, so
    that a client could fill the log."""

    def tell(unraisable: sys.UnraisableHookArgs) -> None:
        error = unraisable.exc_value
        name = error.object if isinstance(error, UnicodeDecodeError) else None
        # Python 3.14 has words for it instead of the name.
        if name is None or (
            unraisable.object != name and "servername" not in (unraisable.err_msg or "")
        ):
            hook(unraisable)

    return tell


class Generation:
    """Contexts of one set of certificates, each made when the first client asks for its name.

    Nothing in here refers to the context that a handshake begins with: that refers to this, and
    both are freed with the last connection that began under them.
    """

    __slots__ = ("_by_host", "_contexts", "_edges", "_names", "_pairs", "_policy", "_refuses")

    def __init__(
        self,
        pairs: tuple[CertificatePair, ...],
        policy: ServerPolicy,
        refuses: bool,
        edges: WeakKeyDictionary[ssl.SSLContext, Edge],
        by_host: bool,
    ) -> None:
        """`refuses`: clients that ask for a name that no certificate has; `edges`: what each
        context demands of requests; `by_host`: where clients must show a certificate, requests
        must be for a host of the server's."""
        self._edges = edges
        self._pairs = pairs
        self._policy = policy
        self._refuses = refuses
        self._names = NameTable([pair.names for pair in pairs], [pair.kind for pair in pairs])
        self._by_host = by_host
        self._contexts: dict[tuple[int, ...], ssl.SSLContext] = {}  # ≤ 32 KiB per name

    def begin(self) -> ssl.SSLContext:
        """A context for handshakes to begin with: the default, until a client has said more."""
        context = self._make(self._names.default)
        context.sni_callback = self._on_name
        return context

    def _on_name(self, tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        """The client asks for a name, or for none; an alert, or None to go on."""
        try:
            if name is None:
                return None
            note_name(tls, name)
            chosen = self._names.find(name)
            if not chosen:
                return _UNKNOWN if self._refuses else None
            if chosen != self._names.default:
                tls.context = self._context(chosen)
            return None
        except Exception:
            # An exception here would be printed and forgotten, at each hello again.
            return _INTERNAL

    def _context(self, chosen: tuple[int, ...]) -> ssl.SSLContext:
        context = self._contexts.get(chosen)
        if context is None:
            context = self._contexts[chosen] = self._make(chosen)
        return context

    def _make(self, chosen: tuple[int, ...]) -> ssl.SSLContext:
        pairs = [self._pairs[index] for index in chosen]
        context = server_context(pairs, self._policy)
        names = [pair.names for pair in pairs]
        # One connection may carry requests for all names of its certificate, and what is demanded
        # of clients is the same for them.
        if any(names) and (self._refuses or (self._policy.client_ca and self._by_host)):
            self._edges[context] = Edge(names=NameTable(names))
        return context


class ServerCertificates:
    """Owns the generation that new connections of one listener get."""

    __slots__ = ("_alpn", "_context", "_edges", "_generations", "_next", "settings")

    def __init__(self, settings: ListenerTls, alpn: tuple[str, ...] = ("http/1.1",)) -> None:
        """`alpn`: protocols that clients may choose, the best one first."""
        self.settings = self._next = settings
        self._alpn = alpn
        self._context: ssl.SSLContext | None = None
        self._edges: WeakKeyDictionary[ssl.SSLContext, Edge] = (
            WeakKeyDictionary()
        )  # ≤ 8 KiB per name
        self._generations: WeakSet[ssl.SSLContext] = WeakSet()  # ≤ 1 KiB + 1 KiB per connection

    def configure(self, settings: ListenerTls, alpn: tuple[str, ...] = ("http/1.1",)) -> None:
        """Follow other settings from the next `apply` on, which is about to come: what they ask of
        clients needs what they name."""
        self._next = settings
        self._alpn = alpn

    def apply(self, message: ListenerCertificates) -> None:
        """Use these for new connections. Raises `ValueError` or `OSError` when they cannot be
        used; what was in use before goes on."""
        settings = self._next
        policy = ServerPolicy(
            min_version=settings.min_version,
            ciphers=settings.ciphers,
            client_ca=message.client_ca,
            client_auth=settings.client_auth,
            tickets=settings.tickets,
            ticket_keys=message.ticket_keys,
            session_context=message.session_context,
            alpn=self._alpn,
        )
        refuses = settings.unknown_names == "refuse"
        by_host = not settings.trust_domain
        generation = Generation(message.pairs, policy, refuses, self._edges, by_host)
        self._context = context = generation.begin()
        self._generations.add(context)
        self.settings = settings

    @property
    def ready(self) -> bool:
        """Whether there is a certificate."""
        return self._context is not None

    @property
    def alive(self) -> int:
        """Generations that some connection still has."""
        return len(self._generations)

    def edge(self, connection: TlsTransport | None) -> Edge | None:
        """Demands on the requests of a connection; None = not one that speaks TLS."""
        return None if connection is None else self._edges.get(connection.ssl.context)

    def shown(self, connection: TlsTransport | None) -> bytes:
        """Field lines of the certificate that the client has shown, if instances are told."""
        how = self.settings.forward_client_cert
        if how == "off" or connection is None:
            return b""
        certificates = peer_certificates(connection.ssl)
        if not certificates:
            return b""
        if how == "rfc9440":
            return rfc9440(certificates)
        return xfcc(certificates, parsed(connection.ssl))

    def caller(self, connection: TlsTransport | None) -> str:
        """The service that the client is; empty = it has not proved to be one."""
        domain = self.settings.trust_domain
        if not domain or connection is None:
            return ""
        return service_of(parsed(connection.ssl), domain)

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """The state of a new connection."""
        # Without a certificate, which ACME has yet to bring, OpenSSL refuses with an alert.
        context = self._context or server_context((), ServerPolicy())
        return context.wrap_bio(incoming, outgoing, server_side=True)
