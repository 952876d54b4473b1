"""The `tcp` check: does anything accept connections there?"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from proxy.health.base import Check, Endpoint


class TcpCheck(Check):
    """Good when the connection is made. Sends nothing."""

    name: ClassVar[str] = "tcp"

    async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
        _, writer = await asyncio.open_connection(endpoint.address, endpoint.port)
        # An orderly end: resets would save a socket in TIME_WAIT for each probe, and fill the logs
        # of simple servers with errors. The kernel sends the rest of it, nobody has to wait.
        writer.close()
        return True, "connected"
