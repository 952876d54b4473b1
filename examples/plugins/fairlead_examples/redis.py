"""A check that asks a Redis server for its PONG."""

from __future__ import annotations

import asyncio

from proxy.health.base import Check, Endpoint


class RedisCheck(Check):
    """Good when the answer to PING is PONG."""

    name = "redis"

    def __init__(self, *, timeout: float = 1.0, password: str = "") -> None:
        super().__init__(timeout=timeout)
        self._password = password

    async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
        reader, writer = await asyncio.open_connection(endpoint.address, endpoint.port)
        try:
            if self._password:
                writer.write(b"AUTH " + self._password.encode() + b"\r\n")
            writer.write(b"PING\r\n")
            answer = b""
            for _ in range(1 + bool(self._password)):
                answer = await reader.readline()
            return answer == b"+PONG\r\n", answer[:80].decode(errors="replace")
        finally:
            writer.close()
