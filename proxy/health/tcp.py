"""The `tcp` check: does anything accept connections there?"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import ClassVar

from proxy.health.base import Check, Endpoint

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing resets, so that probing a thousand endpoints every second
leaves no thousand sockets in TIME_WAIT. Nothing was sent that a reset could lose."""


class TcpCheck(Check):
    """Good when the connection is made. Sends nothing."""

    name: ClassVar[str] = "tcp"

    async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
        _, writer = await asyncio.open_connection(endpoint.address, endpoint.port)
        raw = writer.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
        return True, "connected"
