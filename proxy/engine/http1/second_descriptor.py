"""The answer of an instance that reset a connection over which it was still sent a body.

An instance may refuse an upload, close, and reset what we still send. uvloop closes the socket when
a write fails, and with it goes the answer that the kernel has for us: unless there is a second
descriptor of the same socket, which keeps it readable.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable
from typing import Final

_LAST: Final = 16
"""Descriptors that are left to those who cannot do without."""


class SecondDescriptor:
    """Owns another descriptor of a transport's socket."""

    __slots__ = ("_decrypt", "_fd")

    def __init__(self, fd: int, decrypt: Callable[[bytes], bytes] | None) -> None:
        """`decrypt`: bytes of the socket → what was said in them, under TLS."""
        self._fd = fd
        self._decrypt = decrypt

    def read(self, most: int) -> bytes:
        """Up to `most` bytes that came before the end of the connection; empty = that was all."""
        while True:  # ≤ 64
            try:
                data = os.read(self._fd, most)
            except OSError:
                return b""
            if not data or self._decrypt is None:
                return data
            said = self._decrypt(data)
            if said:
                return said

    def close(self) -> None:
        """Call before, or together with, closing the transport: the last of the two to be closed
        ends the connection."""
        os.close(self._fd)


def second_descriptor(transport: asyncio.Transport) -> SecondDescriptor | None:
    """A second descriptor of the transport's socket; None if that has no socket, or no descriptor
    is left."""
    sock = transport.get_extra_info("socket")
    if sock is None or transport.is_closing():
        return None
    try:
        fd = os.dup(sock.fileno())
    except OSError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if fd >= soft - _LAST:
        # The lowest one that was free: the last ones are for connections.
        os.close(fd)
        return None
    tls = transport.get_extra_info("tls")
    return SecondDescriptor(fd, None if tls is None else tls.decrypt_rest)
