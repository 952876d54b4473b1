"""The `tcp` check: does anything accept connections there?"""

from __future__ import annotations

from typing import ClassVar

from proxy.health.base import Check, Endpoint, checked_port
from proxy.health.connect import connect
from proxy.names.lookups import Lookups


class TcpCheck(Check):
    """Good when the connection is made. Sends nothing."""

    name: ClassVar[str] = "tcp"

    def __init__(self, *, timeout: float = 1.0, port: int = 0) -> None:
        """`port`: another one of the instance, for its management; 0 = the endpoint's."""
        super().__init__(timeout=timeout)
        self._port = checked_port(port)
        self._lookups = Lookups()

    async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
        if self._port:
            endpoint = endpoint._replace(port=self._port)
        _, writer = await connect(self._lookups, endpoint, destinations=self.destinations)
        # An orderly end: resets would save a socket in TIME_WAIT for each probe, and fill the logs
        # of simple servers with errors. The kernel sends the rest of it, nobody has to wait.
        writer.close()
        return True, "connected"

    async def close(self) -> None:
        self._lookups.close()
