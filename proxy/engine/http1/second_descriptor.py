"""The answer of an instance that reset a connection over which it was still sent a body.

An instance may refuse an upload, close, and reset what we still send. uvloop closes the socket when
a write fails, and with it goes the answer that the kernel has for us: unless there is a second
descriptor of the same socket, which keeps it readable.
"""

from __future__ import annotations

import asyncio
import os
import resource
from typing import Final

_LAST: Final = 16
"""Descriptors that are left to those who cannot do without."""


class SecondDescriptor:
    """Owns another descriptor of a transport's socket."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, most: int) -> bytes:
        """Up to `most` bytes that came before the end of the connection; empty = that was all."""
        try:
            return os.read(self._fd, most)
        except OSError:
            return b""

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
    return SecondDescriptor(fd)
