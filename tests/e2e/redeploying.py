"""Instances that are processes of their own, and a load that counts every answer."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from itertools import repeat
from pathlib import Path

from tests.e2e.raw_http import request
from tests.support.load import PATIENCE, Client, Load
from tests.support.processes import eventually


class CountingLoad(Load):
    """Owns the count of each instance's answers. A connection that is closed is a failure, also
    between two requests. Paced, since how many meet a bad instance before all workers know of it
    grows with the rate."""

    def __init__(self, port: int, *, clients: int = 16, pace: float = 0.001) -> None:
        super().__init__(port, repeat(request("GET", "/")), clients=clients, pace=pace)
        self.answers: Counter[str] = Counter()
        self.last: dict[str, float] = {}
        """Instance → when it last answered: `time.monotonic()`."""
        self.failures: list[str] = []

    @property
    def total(self) -> int:
        return sum(self.answers.values()) + len(self.failures)

    async def shows(self, name: str, *, more_than: int, within: float) -> None:
        """Wait until this instance has answered more than so many requests."""
        await eventually(lambda: self.answers[name] > more_than, within, f"{name} in use")

    def on_answer(self, client: Client) -> None:
        took = client.ended - client.began
        if client.status == 200 and took < PATIENCE:
            by = client.body.decode()
            self.answers[by] += 1
            self.last[by] = client.ended
        else:
            self.failures.append(f"{client.status} {client.body[:200]!r} after {took:.3f} s")

    def on_failure(self, client: Client, error: BaseException) -> None:
        self.failures.append(repr(error))

    def on_close(self, client: Client) -> None:
        self.failures.append("closed between requests")


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
