"""A real Eureka, which `.ci/eureka` builds: Spring Cloud's, alone, without its caches."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import aiohttp

from tests.support.processes import AwaitedProcess, Started, eventually, free_port

JAR = os.environ.get("FAIRLEAD_TEST_EUREKA", "")
OPTIONS = (
    "--eureka.client.register-with-eureka=false",
    "--eureka.client.fetch-registry=false",
    "--eureka.server.use-read-only-response-cache=false",
    "--eureka.server.wait-time-in-ms-when-sync-empty=0",
    # An answer that is made while somebody registers may be kept without him, by default for 180 s.
    "--eureka.server.response-cache-auto-expiration-in-seconds=1",
)
START_LIMIT = 100.0
"""Seconds until it must answer; on a quiet machine it takes ten."""


missing = "" if JAR else "Eureka of .ci/eureka"
"""The server that is not on this machine."""


class EurekaServer(Started):
    """Owns one server, whose data are in its memory. Its address stays the same when it is started
    again.

    `async with EurekaServer() as eureka:` gives one that answers at `eureka.url`."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="fairlead-test-eureka-")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/eureka"
        command = [
            "java",
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-jar",
            JAR,
            f"--server.port={port}",
            *OPTIONS,
        ]
        self.process = AwaitedProcess(command, Path(self._directory) / "log")

    async def start(self) -> None:
        self.process.launch()
        await eventually(self._answers, START_LIMIT, self.process.log)

    async def __aexit__(self, *exc: object) -> None:
        await self.process.kill()
        shutil.rmtree(self._directory)

    async def _answers(self) -> bool:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self.url}/apps") as got:
                return got.status == 200
        except (aiohttp.ClientError, OSError):
            return False


async def emptied(url: str) -> None:
    """Cancel all instances."""
    async with aiohttp.ClientSession(headers={"Accept": "application/json"}) as session:
        async with session.get(f"{url}/apps") as response:
            found = (await response.json())["applications"]["application"]
        for one in [one for app in found for one in app["instance"]]:
            async with session.delete(f"{url}/apps/{one['app']}/{one['instanceId']}") as response:
                assert response.status == 200, await response.text()
