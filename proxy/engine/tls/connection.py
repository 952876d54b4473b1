"""TLS over one TCP connection, of a client or to an instance.

    uvloop's transport ⇄ TlsConnection (SSLObject over two memory BIOs) ⇄ protocol above

Below it is a protocol of the event loop, above it a transport, with all that a TCP transport
does: an end in one direction, reading that is held, an abort, a buffer whose size one may ask for.
Neither asyncio's nor uvloop's own TLS can do that (decision 0022).

An end is only an end if the peer says so (close_notify, RFC 8446 §6.1). A FIN without that may be
anybody's who stands between; what it means is said where it is received (`eof_received`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, Protocol, cast

from proxy.engine.tls.handshakes import Handshakes
from proxy.engine.tls.transport import RECORD, TlsTransport

SLICE: Final = 32 * 1024
"""Bytes taken in at a time, since a memory BIO never becomes smaller: uvloop reads up to 256 KiB
at once."""
_UNREAD: Final = 64 * 1024
"""Bytes of answers to the TLS messages of a peer, key updates for example, that wait because it
does not read. No peer in its right mind comes near it."""


class Secured(Protocol):
    """A party that waits for a handshake."""

    def on_open(self, connection: TlsConnection) -> None:
        """The TCP connection is there."""
        ...

    def on_secured(self, connection: TlsConnection) -> None:
        """The handshake is done: `connection.speak` says who is above from here on."""
        ...

    def on_not_secured(self, connection: TlsConnection, error: Exception | None) -> None:
        """There will be no handshake: it has failed, or the connection is gone (an `OSError` that
        is no `ssl.SSLError`; None: it ended). What there was to say to the peer is written, and
        `connection.transport` is the caller's to close."""
        ...


class TlsConnection(TlsTransport):
    """Owns the handshake, and what was received and not yet passed on."""

    __slots__ = ("_answers", "_ended", "_gone", "_handshakes", "_partial", "_queued", "_soon",
                 "_told", "_unreadable", "_waiter", "on_first")  # fmt: skip

    def __init__(
        self,
        wrap: Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject],
        waiter: Secured,
        handshakes: Handshakes,
        soon: Callable[..., object],
    ) -> None:
        """`wrap`: see `TlsTransport`; `soon`: calls a function in a turn of the loop to come."""
        super().__init__(wrap)
        self._waiter: Secured | None = waiter
        self._handshakes = handshakes
        self._soon = soon
        self._queued = False
        """The handshake waits for its turn among the others."""
        self.on_first: Callable[[TlsConnection], None] | None = None
        """Called when the peer has said something under TLS for the first time."""
        self._ended = False
        """The peer has said its last byte, and said so."""
        self._told = False
        """The protocol above knows that."""
        self._partial = True
        """OpenSSL may hold a part of a record."""
        self._unreadable: ssl.SSLError | None = None
        """An error in what was read last: nothing can be read behind it."""
        self._answers = 0
        """Bytes of answers to TLS messages of the peer that it may not have read yet."""
        self._gone = False
        """The TCP connection is no more."""

    def __repr__(self) -> str:
        state = "secured" if self._secured else "shaking hands"
        return f"<{type(self).__name__} {state} above={self._above!r}>"

    # -- what happens to the TCP connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are not registered as such
        if self._waiter is not None:
            self._waiter.on_open(self)
        if not self.ssl.server_side:
            self._want_step()  # The client speaks first.

    def data_received(self, data: bytes) -> None:
        if not self._secured:
            self._rest += data
            self._want_step()
        elif self._rest or self._paused:
            self._rest += data
        else:
            self._take(data)

    def eof_received(self) -> bool:
        """True = the other direction goes on."""
        if not self._secured or self._closing:
            return False
        if self._ended:
            return True
        self._error = ConnectionAbortedError("the connection ended without a close_notify")
        if not self._framed:
            self.abort()  # At once, whatever the peer has not read.
        elif self._above.eof_received():
            return True
        else:
            self.close()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._gone = True
        self._error = error = self._error or error
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._closing = True
            self._handshakes.forget(self)
            waiter.on_not_secured(self, error)
        elif self._above is not None:
            self._lose()

    def _lose(self) -> None:
        if not self.ssl.server_side and not self._closing:
            self._pass_on_all()
        self._closing = True
        self._rest = b""
        above, self._above = self._above, None  # Both go now, and not with the garbage.
        above.connection_lost(self._error)

    def _pass_on_all(self) -> None:
        """Pass on what came before the end of the connection, however slow the protocol above is:
        it is the instance's answer."""
        while not self._closing and not self._told and self._holds_some:  # ≤ 20
            self._paused = False
            self._go_on()
        if self._told and self._closing:
            self._error = None  # Nothing was missing, and nothing was to follow.

    @property
    def _holds_some(self) -> bool:
        """Whether something waits for the protocol above to read on, which may be the end."""
        return bool(self._rest) or self._ended or self._incoming.pending > 0

    def pause_writing(self) -> None:
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        if self._above is not None:
            self._above.resume_writing()

    # -- the handshake

    def _want_step(self) -> None:
        if not self._queued and self._waiter is not None:
            self._queued = True
            self.transport.pause_reading()
            self._handshakes.want(self, self._step)

    def _step(self) -> None:
        self._queued = False
        waiter = self._waiter
        if waiter is None or self.transport.is_closing():
            return  # Somebody has given up on it, which is told as its loss.
        try:
            done = self._shake()
        except (ssl.SSLError, ssl.CertificateError) as error:
            self._waiter = None
            self._flush()  # The alert.
            waiter.on_not_secured(self, error)
            return
        self._flush()
        if done:
            self._waiter = None
            self._secured = True
            waiter.on_secured(self)
        elif not self.transport.is_closing():
            self.transport.resume_reading()

    def _shake(self) -> bool:
        """Whether the handshake is done, with what is here."""
        while True:  # ≤ 16
            if self._rest:
                self._incoming.write(self._rest[:SLICE])
                self._rest = self._rest[SLICE:]
            try:
                self.ssl.do_handshake()
                return True
            except ssl.SSLWantReadError:
                if not self._rest:
                    return False

    def speak(self, above: object) -> None:
        """From here on `above`, a protocol of asyncio, has what is said under TLS."""
        self._above = above
        self._above.connection_made(self)
        if self._gone:
            self._closing = True
            self._soon(self._lose)
        else:
            self._go_on()  # The peer may have said something behind its handshake.

    # -- reading

    def _take(self, data: bytes) -> None:
        """Decrypt and pass on, as far as the protocol above wants it."""
        if len(data) <= SLICE:
            self._incoming.write(data)
            self._pass_on()
            return
        start = 0
        while start < len(data):  # ≤ 16
            if self._paused or self._closing:
                self._rest = data[start:]
                return
            self._incoming.write(data[start : start + SLICE])
            start += SLICE
            self._pass_on()

    def _go_on(self) -> None:
        """See `TlsTransport`."""
        if self._paused or self._closing:
            return
        data, self._rest = self._rest, b""
        if data or self._incoming.pending:
            self._take(data)
        elif self._ended:
            self._tell_end()
        if not self._paused and not self._closing and not self.transport.is_closing():
            self.transport.resume_reading()

    def _go_on_soon(self) -> None:
        """See `TlsTransport`."""
        if self._holds_some:
            self._soon(self._go_on)
        else:
            self.transport.resume_reading()

    def _pass_on(self) -> None:
        """Pass on what there is of whole records."""
        data = self._decrypt()
        if data:
            if self.on_first is not None:
                on_first, self.on_first = self.on_first, None
                on_first(self)
            self._above.data_received(data)
        if self._closing:
            return
        if self._unreadable is not None:
            self._fail(self._unreadable)
            return
        if self._outgoing.pending:
            self._answer_peer()
        if self._ended:
            self._tell_end()

    def _tell_end(self) -> None:
        if not self._paused and not self._closing:
            self._told = True
            # As uvloop does it: who reads on hears of it again.
            self.pause_reading()
            if not self._above.eof_received():
                self.close()

    def _decrypt(self) -> bytes:
        incoming, read = self._incoming, self._raw.read
        if self._ended:
            incoming.read()  # Nothing counts behind a close_notify.
            return b""
        pieces: list[bytes] = []  # ≤ SLICE
        # To read until it says that there is no more would be an exception each time, which costs
        # more than all the rest.
        while waiting := incoming.pending:  # ≤ 2048
            try:
                # Room for all that can come of what waits: less to allocate than a whole record.
                # Behind a part of one, more may come of it.
                piece = read(RECORD if self._partial else waiting)
                self._partial = False
            except ssl.SSLWantReadError:
                self._partial = True
                break  # A part of a record, or nothing for us.
            except ssl.SSLZeroReturnError:
                piece = b""  # We have said our end, too.
            except ssl.SSLError as error:
                self._unreadable = error
                break
            if not piece:
                self._ended = True
                break
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def decrypt_rest(self, data: bytes) -> bytes:
        """Decrypt what the kernel still had of a connection that is gone; empty where it holds no
        whole record, or none that is sound."""
        self._incoming.write(data)
        return self._decrypt()

    def _answer_peer(self) -> None:
        """Send what TLS itself has to say to what was received, such as a new key."""
        # What is above writes is its own affair: that it waits is no reason.
        waiting = min(self._answers, self.transport.get_write_buffer_size())
        self._answers = waiting + self._outgoing.pending
        self._flush()
        if self._answers > _UNREAD and not self._closing:
            self._fail(ssl.SSLError("the peer asks and does not read"))
