"""The `tcp` check: does anything accept connections there?"""

from __future__ import annotations

from typing import ClassVar

from proxy.health.base import Endpoint
from proxy.health.connect import ConnectingCheck, connect


class TcpCheck(ConnectingCheck):
    """Good when the connection is made. Sends nothing."""

    name: ClassVar[str] = "tcp"

    def __init__(self, *, timeout: float = 1.0, port: int = 0) -> None:
        """`port`: another one of the instance, for its management; 0 = the endpoint's."""
        super().__init__(timeout=timeout, port=port)

    async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
        endpoint = self._place(endpoint)
        _, writer = await connect(self._lookups, endpoint, destinations=self.destinations)
        # An orderly end: resets would save a socket in TIME_WAIT for each probe, and fill the logs
        # of simple servers with errors. The kernel sends the rest of it, nobody has to wait.
        writer.close()
        return True, "connected"
