"""How a connection is closed whose bytes are not whole.

A connection that is closed after its last byte ends with a FIN, and so does one that is closed in
the middle: `transport.abort()` resets nothing. Where only the end of the connection says that the
bytes are complete, as for an answer of unknown length to an HTTP/1.0 client or in a tunnel, the
peer would take a part for the whole.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

_AT_ONCE: Final = struct.pack("ii", 1, 0)
_IN_GOOD_ORDER: Final = struct.pack("ii", 0, 0)


def end_by_reset(transport: asyncio.Transport, reset: bool) -> None:
    """Whether closing the connection resets it instead of ending it, whoever closes it: we, or the
    kernel when the process is killed. For bytes whose end is the connection's: if there is more of
    them, the peer must not take a plain end for theirs (RFC 9112 §8). Without effect on a Unix
    socket, which knows no reset that one could ask for."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        try:
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE if reset else _IN_GOOD_ORDER
            )
        except OSError:
            pass  # The peer has reset it already.


def cut(transport: asyncio.Transport) -> None:
    """Close now. If something that was written is thus lost, the peer sees a reset, and not an
    end that looks like all of it."""
    if transport.get_write_buffer_size():
        end_by_reset(transport, True)
    transport.abort()
