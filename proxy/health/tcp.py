"""The `tcp` check: does anything accept connections there?"""

from __future__ import annotations

from typing import ClassVar

from proxy.health.base import Check, Endpoint
from proxy.health.connect import Names, connect


class TcpCheck(Check):
    """Good when the connection is made. Sends nothing."""

    name: ClassVar[str] = "tcp"

    def __init__(self, *, timeout: float = 1.0) -> None:
        super().__init__(timeout=timeout)
        self._names = Names()

    async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
        _, writer = await connect(self._names, endpoint)
        # An orderly end: resets would save a socket in TIME_WAIT for each probe, and fill the logs
        # of simple servers with errors. The kernel sends the rest of it, nobody has to wait.
        writer.close()
        return True, "connected"
