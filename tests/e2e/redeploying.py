"""Instances that are processes of their own, and a load that counts every answer."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from pathlib import Path

from tests.e2e.raw_http import Client
from tests.support.processes import eventually


class Load:
    """Clients in a closed loop over kept connections; every answer is counted. Apart from
    `traffic.Traffic`, which keeps each request, needs two workers and forgives a close between
    requests: here a close is a failure, and answers come as fast as they can."""

    def __init__(self, port: int, *, clients: int = 16, pace: float = 0.0) -> None:
        """`pace`: seconds that each client waits between two requests."""
        self.port = port
        self._clients = clients
        self._pace = pace
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    @property
    def total(self) -> int:
        return sum(self.answers.values()) + len(self.failures)

    async def shows(self, name: str, *, more_than: int, within: float) -> None:
        """Wait until this instance has answered more than so many requests."""
        await eventually(lambda: self.answers[name] > more_than, within, f"{name} in use")

    async def _client(self) -> None:
        while not self._stop.is_set():
            async with await Client.connect(self.port) as client:
                while not self._stop.is_set():
                    try:
                        answer = await client.ask("GET", "/")
                    except Exception as error:
                        self.failures.append(repr(error))
                        break
                    if answer.status == 200:
                        self.answers[answer.body.decode()] += 1
                    else:
                        self.failures.append(f"{answer.status} {answer.body[:200]!r}")
                    if self._pace:
                        await asyncio.sleep(self._pace)


class Instances:
    """Owns the instance processes, by id."""

    def __init__(self, etcd: str, ttl: float) -> None:
        self.etcd = etcd
        self.ttl = ttl
        self.processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str, port: int = 0) -> None:
        """Returns when it is registered. One with a port of its own only has to listen: it
        registers when it can."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.e2e.instance_process", self.etcd, name, str(self.ttl),
            str(port),
            stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        self.processes[name] = process
        assert process.stdout is not None
        async with asyncio.timeout(30):
            async for line in process.stdout:  # The library logs there, too.
                if line == b"registered\n":
                    return
        del self.processes[name]
        await process.wait()
        raise AssertionError(f"{name} ended before it was registered")

    async def stop(self, name: str, number: signal.Signals) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        await asyncio.wait_for(process.wait(), 15)

    async def close(self) -> None:
        for name in list(self.processes):
            await self.stop(name, signal.SIGKILL)
