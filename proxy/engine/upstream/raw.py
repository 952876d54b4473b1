"""A connection to an instance that carries no HTTP of ours: bytes of a client, as they are."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from proxy.engine.http1.keepalive import KeptConnection


class RawConnection(KeptConnection):
    """Owns the transport until a tunnel does, and what the instance has said by then."""

    __slots__ = ("_said",)

    alpn: ClassVar[tuple[str, ...] | None] = None
    _said: bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._said = b""  # ≤ 512 KiB
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._said += data
        self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Give up an instance that has said its last byte before its first one was passed on."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.disown()

    def park(self, now: float, limit: float | None = None) -> None:
        """See `UpstreamStream`. Nobody else can use it."""
        self.close()

    def on_deadline(self, now: float) -> None:
        """See `Timed`."""

    def hand_over(self) -> tuple[asyncio.Transport, bytes]:
        """See `UpstreamStream`."""
        self._let_go()
        self._discount()
        return self.transport, self._said


class SecuredRaw(RawConnection):
    """Owns the transport until a tunnel under TLS does, with whatever is said in it."""

    __slots__ = ()

    alpn: ClassVar[tuple[str, ...] | None] = ()


class SessionOpening(RawConnection):
    """Owns the transport until a session of HTTP/2 does."""

    __slots__ = ()

    # With the second one a server that does not know the first can say so, and need not hang up.
    alpn: ClassVar[tuple[str, ...] | None] = ("h2", "http/1.1")
