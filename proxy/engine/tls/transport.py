"""The transport that a protocol above TLS writes to."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final

RECORD: Final = 16 * 1024
"""Bytes of content in the largest record (RFC 8446 §5.1). Writing is done in such pieces, and each
leaves the memory BIO before the next is made: that keeps for ever the largest size it ever had."""
_SMALL: Final = 4 * 1024
"""Pieces up to here are joined into a record with their neighbours."""


class TlsTransport:
    """Owns the TLS state of one connection, and what is said by us under it."""

    __slots__ = ("_above", "_closing", "_context", "_error", "_framed", "_incoming",
                 "_outgoing", "_paused", "_raw", "_rest", "_said_end", "_secured", "ssl",
                 "transport")  # fmt: skip

    def __init__(self, wrap: Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject]) -> None:
        """`wrap`: makes the TLS state over what is received and what is to be sent."""
        self._incoming = ssl.MemoryBIO()  # ≤ 64 KiB
        self._outgoing = ssl.MemoryBIO()  # ≤ 256 KiB
        self.ssl = wrap(self._incoming, self._outgoing)
        self._raw: Any = self.ssl._sslobj  # type: ignore[attr-defined]
        """The object below, whose methods read and write without a Python frame around them."""
        self._context = self.ssl.context
        """The context that the handshake began with, whichever the name led to. OpenSSL may ask its
        callback for the name once more, after a HelloRetryRequest, and does not keep it alive."""
        self.transport: asyncio.Transport
        """The TCP connection."""
        self._above: Any = None
        self._framed = True
        """Whether what is said above TLS tells itself where it ends."""
        self._secured = False
        self._paused = False
        """The protocol above does not want more."""
        self._rest = b""  # ≤ 512 KiB
        """Received, and not decrypted yet."""
        self._said_end = False
        self._closing = False
        self._error: Exception | None = None

    def _go_on(self) -> None:
        """Pass on what was held back, and read on."""
        raise NotImplementedError

    # -- writing

    def write(self, data: bytes) -> None:
        """See `asyncio.Transport`."""
        if self._said_end or self._closing or not data:
            return
        if len(data) > RECORD:
            self.writelines([data])
            return
        try:
            self._raw.write(data)
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self.transport.write(self._outgoing.read())

    def writelines(self, pieces: list[bytes]) -> None:
        """See `asyncio.Transport`. Small pieces share a record."""
        if self._said_end or self._closing:
            return
        records: list[bytes] = []
        try:
            self._encrypt(pieces, records)
        except ssl.SSLError as error:
            self._fail(error)
        else:
            # All at once: the protocol above may be told to pause, and close, from within.
            self.transport.writelines(records)

    def _encrypt(self, pieces: list[bytes], records: list[bytes]) -> None:
        small: list[bytes] = []
        size = 0
        for piece in pieces:  # ≤ 4096
            if len(piece) <= _SMALL:
                small.append(piece)
                size += len(piece)
                if size <= RECORD - _SMALL:
                    continue
                piece = b""
            self._encrypt_one(b"".join(small), records)
            small, size = [], 0
            self._encrypt_one(piece, records)
        self._encrypt_one(b"".join(small), records)

    def _encrypt_one(self, data: bytes, records: list[bytes]) -> None:
        view = memoryview(data)
        write, read = self._raw.write, self._outgoing.read
        for start in range(0, len(data), RECORD):  # ≤ 4096
            write(view[start : start + RECORD])
            records.append(read())

    def can_write_eof(self) -> bool:
        """See `asyncio.Transport`."""
        return True

    def write_eof(self) -> None:
        """Say that this was the last byte, under TLS and below it, and read on."""
        if not self._closing:
            self._say_end()
            self.transport.write_eof()

    def get_write_buffer_size(self) -> int:
        """See `asyncio.Transport`."""
        return self.transport.get_write_buffer_size()

    def _say_end(self) -> None:
        if self._said_end or not self._secured:
            return
        self._said_end = True
        try:
            self.ssl.unwrap()
        except ssl.SSLError:
            pass  # The peer has not said it yet, and nobody waits for that.
        if not self.transport.is_closing():
            self.transport.write(self._outgoing.read())

    def _flush(self) -> None:
        """Send what TLS itself has to say, unless our end is said already."""
        data = self._outgoing.read()
        if data and not self._said_end and not self.transport.is_closing():
            self.transport.write(data)

    # -- the end

    def close(self) -> None:
        """Say so, and close when everything is written. Nobody waits for the peer to say the
        same."""
        if not self._closing:
            self._closing = True
            self._say_end()
            self.transport.close()

    def abort(self) -> None:
        """Close at once, without a word: the peer must not take this for the end."""
        self._closing = True
        self._rest = b""
        self.transport.abort()

    def is_closing(self) -> bool:
        """See `asyncio.Transport`."""
        return self._closing or self.transport.is_closing()

    def _fail(self, error: Exception) -> None:
        """Close for bytes that cannot be decrypted, or not encrypted."""
        self._error = error
        self._closing = True
        self._rest = b""
        self._flush()  # The alert.
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # A peer that does not read could put off the end for ever.
        else:
            self.transport.close()

    # -- reading, and who reads

    def pause_reading(self) -> None:
        """See `asyncio.Transport`."""
        self._paused = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """See `asyncio.Transport`."""
        if self._paused:
            self._paused = False
            self._go_on_soon()

    def _go_on_soon(self) -> None:
        raise NotImplementedError

    def is_reading(self) -> bool:
        """See `asyncio.Transport`."""
        return not self._paused and not self.is_closing()

    def get_extra_info(self, name: str, default: object = None) -> Any:
        """See `asyncio.BaseTransport`; `tls` is this connection."""
        return self if name == "tls" else self.transport.get_extra_info(name, default)

    def set_protocol(self, above: object) -> None:
        """See `asyncio.BaseTransport`. Of what `above` hears nothing says that it is complete but
        the end."""
        self._above = above
        self._framed = False
