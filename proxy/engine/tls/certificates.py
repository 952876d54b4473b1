"""The certificates that a listener proves itself with: one for each name, all at once replaced."""

from __future__ import annotations

import ssl
from typing import Final
from weakref import WeakSet

from proxy.messages import CertificatePair, ListenerCertificates
from proxy.settings.listener_tls import ListenerTls
from proxy.tls.contexts import ServerPolicy, server_context
from proxy.tls.names import NameTable

_UNKNOWN: Final = int(ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)
_INTERNAL: Final = int(ssl.AlertDescription.ALERT_DESCRIPTION_INTERNAL_ERROR)


class Generation:
    """Contexts of one set of certificates, each made when the first client asks for its name.

    Nothing in here refers to the context that a handshake begins with: that refers to this, and
    both are freed with the last connection that began under them.
    """

    __slots__ = ("_begun", "_contexts", "_names", "_pairs", "_policy", "_refuses", "_strict")

    def __init__(
        self, pairs: tuple[CertificatePair, ...], policy: ServerPolicy, refuses: bool
    ) -> None:
        """`refuses`: clients that ask for a name that no certificate has."""
        self._pairs = pairs
        self._policy = policy
        self._refuses = refuses
        self._names = NameTable([pair.names for pair in pairs], [pair.kind for pair in pairs])
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
        return server_context([self._pairs[index] for index in chosen], self._policy)


class ServerCertificates:
    """Owns the generation that new connections of one listener get."""

    __slots__ = ("_context", "_generations", "settings")

    def __init__(self, settings: ListenerTls) -> None:
        self.settings = settings
        self._context: ssl.SSLContext | None = None
        self._generations: WeakSet[ssl.SSLContext] = WeakSet()  # ≤ 1 KiB + 1 KiB per connection

    def apply(self, message: ListenerCertificates) -> None:
        """Use these for new connections. Raises `ValueError` or `OSError` when they cannot be
        used; what was in use before goes on."""
        settings = self.settings
        policy = ServerPolicy(
            min_version=settings.min_version,
            ciphers=settings.ciphers,
            client_ca=message.client_ca,
            client_auth=settings.client_auth,
            tickets=settings.tickets,
            ticket_keys=message.ticket_keys,
            session_context=message.session_context,
            alpn=("http/1.1",),
        )
        refuses = settings.unknown_names == "refuse"
        self._context = context = Generation(message.pairs, policy, refuses).begin()
        self._generations.add(context)

    @property
    def alive(self) -> int:
        """Generations that some connection still has."""
        return len(self._generations)

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """The state of a new connection."""
        context = self._context
        assert context is not None  # Sent before the worker accepts.
        return context.wrap_bio(incoming, outgoing, server_side=True)
