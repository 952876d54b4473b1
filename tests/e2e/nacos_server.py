"""A real Nacos, which `.ci/nacos` builds: alone, without rights."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import aiohttp

from tests.support.processes import AwaitedProcess, Started, eventually, free_port

PROGRAM = os.environ.get("FAIRLEAD_TEST_NACOS", "")
START_LIMIT = 120.0
"""Seconds until it must answer; on a quiet machine it takes ten."""

missing = "" if PROGRAM else "Nacos of .ci/nacos"
"""The server that is not on this machine."""

_FURTHER = 1001
"""From the port of HTTP to the last of those beside it, of gRPC."""


class NacosServer(Started):
    """Owns one server, whose data are in its memory. Its address stays the same when it is started
    again.

    `async with NacosServer() as nacos:` gives one that answers at `nacos.url`."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="fairlead-test-nacos-")
        port = free_port()
        while port + _FURTHER > 65535:
            port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [PROGRAM, str(port), self._directory]
        directory = Path(self._directory)
        # It writes files into the directory that it works in, too.
        self.process = AwaitedProcess(command, directory / "log", directory=directory)

    async def start(self) -> None:
        self.process.launch()
        await eventually(self._answers, START_LIMIT, self.process.log)

    async def __aexit__(self, *exc: object) -> None:
        await self.process.kill()
        shutil.rmtree(self._directory)

    async def call(self, method: str, **query: str) -> int:
        """One call about an instance of a group; the status."""
        url = f"{self.url}/nacos/v3/client/ns/instance"
        async with aiohttp.request(method, url, params=query) as response:
            await response.read()
            return response.status

    async def _answers(self) -> bool:
        url = f"{self.url}/nacos/v3/client/ns/instance/list"
        try:
            async with aiohttp.request("GET", url, params={"serviceName": "any"}) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False
