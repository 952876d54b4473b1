"""The far end of a connection that speaks TLS, for tests that talk of what is said under it."""

from __future__ import annotations

import _ssl
import ctypes
import ssl
from collections.abc import Callable
from functools import cache
from typing import Any

from proxy.messages import CertificatePair
from proxy.tls.contexts import ServerPolicy, server_context
from tests.support.certificates import Authority
from tests.support.loop_and_network import FakeTransport

_OPENSSL = ctypes.CDLL(_ssl.__file__)
_OPENSSL.SSL_key_update.argtypes = (ctypes.c_void_p, ctypes.c_int)
_OPENSSL.SSL_renegotiate.argtypes = (ctypes.c_void_p,)
_OPENSSL.SSL_do_handshake.argtypes = (ctypes.c_void_p,)

NAMES = ("h", "*.example.com", "127.0.0.1")


@cache
def authority() -> tuple[bytes, CertificatePair]:
    """PEM of an authority, and a certificate of it for `NAMES`."""
    authority = Authority()
    made = authority.issue(*NAMES)
    return authority.ca, CertificatePair(made.cert, made.key, NAMES, "ec")


def new_client_side() -> ssl.SSLContext:
    """A client's context that believes `authority`, for one test to change."""
    context = ssl.create_default_context(cadata=authority()[0].decode())
    context.check_hostname = False
    return context


@cache
def client_side() -> ssl.SSLContext:
    """The same for all tests, which leave it as it is."""
    return new_client_side()


@cache
def server_side(*alpn: str) -> ssl.SSLContext:
    """An instance's context, with the certificate of `authority`, that speaks these protocols."""
    return server_context([authority()[1]], ServerPolicy(alpn=alpn))


class TlsFarEnd:
    """A `FakeTransport` as it is used by a peer that speaks TLS: what it feeds is encrypted, what
    it has taken is decrypted, and its end is a close_notify with a FIN behind it.

    Owns the peer's TLS state.
    """

    def __init__(
        self, raw: FakeTransport, context: ssl.SSLContext, before: bytes = b"", **options: Any
    ) -> None:
        """`before`: sent in front of the handshake; `options`: of `ssl.SSLContext.wrap_bio`."""
        self.raw = raw
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self._incoming, self._outgoing, **options)
        self._before = before
        self._taken = bytearray()
        self._secured = False
        self.said_end = False
        """We have said close_notify."""
        self.heard_end = False
        """The proxy has."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def get_protocol(self) -> Any:
        """See `FakeTransport`: what is above TLS."""
        return self.raw.get_protocol()._above

    def shake(self, settle: Callable[[], None]) -> None:
        """The handshake, with nothing left to be said. Raises what OpenSSL does."""
        for _ in range(8):
            if self._secured:
                break
            self.step()
            settle()
        self.raw.pauses.clear()

    def step(self) -> bool:
        """As much of the handshake as can be done with what is here. True if anything was."""
        if self._secured or (self.ssl.server_side and not self.raw.taken):
            return False
        self._receive()
        try:
            self.ssl.do_handshake()
            self._secured = True
        except ssl.SSLWantReadError:
            pass
        finally:
            self._send()
        return True

    def encrypt(self, data: bytes) -> bytes:
        """What goes over the wire for it."""
        if data:
            self.ssl.write(data)
        return self._outgoing.read()

    def key_update(self, times: int = 1) -> bytes:
        """What goes over the wire for so many new keys of ours, each with the wish for one of the
        proxy's (RFC 8446 §4.6.3). `ssl` cannot say that."""
        for _ in range(times):
            assert _OPENSSL.SSL_key_update(self._pointer, 1) == 1
            self.ssl.do_handshake()
        return self._outgoing.read()

    def renegotiate(self) -> bytes:
        """What goes over the wire for a wish for a new handshake, in TLS 1.2. Without the answer
        nothing goes on for this end."""
        assert _OPENSSL.SSL_renegotiate(self._pointer) == 1
        _OPENSSL.SSL_do_handshake(self._pointer)
        return self._outgoing.read()

    @property
    def _pointer(self) -> ctypes.c_void_p:
        # Behind the head of the object, and the reference to a socket.
        at = id(self.ssl._sslobj) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
        return ctypes.c_void_p.from_address(at)

    def end(self) -> bytes:
        """What goes over the wire for a close_notify."""
        self.said_end = True
        try:
            self.ssl.unwrap()
        except ssl.SSLError:
            pass
        return self._outgoing.read()

    def feed(self, *pieces: bytes) -> None:
        """See `FakeTransport`."""
        self.raw.feed(*[self.encrypt(piece) for piece in pieces])

    def feed_eof(self) -> None:
        """See `FakeTransport`."""
        if not self.said_end:
            self._receive()
            self._read()
            if not self.raw.lost:
                self.raw.feed(self.end())
        self._send()
        self.raw.feed_eof()

    @property
    def taken(self) -> bytearray:
        """See `FakeTransport`."""
        self._receive()
        self._read()
        return self._taken

    @property
    def ended(self) -> bool:
        """See `FakeTransport`; an end that was not said under TLS is none."""
        self._receive()
        self._read()
        return self.raw.ended and (self.heard_end or self.raw.aborted)

    def _receive(self) -> None:
        self._incoming.write(bytes(self.raw.taken))
        self.raw.taken.clear()

    def _send(self) -> None:
        data, self._before = self._before + self._outgoing.read(), b""
        if data and not self.raw.lost:
            self.raw.feed(data)

    def _read(self) -> None:
        while self._secured and not self.heard_end:
            try:
                piece = self.ssl.read(65536)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLZeroReturnError:
                piece = b""
            self.heard_end = not piece
            self._taken += piece
