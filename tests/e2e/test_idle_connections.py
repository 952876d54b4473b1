"""What ten thousand clients cost that keep their connections and ask nothing."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.origin import Origin
from tests.e2e.raw_http import ask
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually

pytestmark = pytest.mark.drill

CLIENTS = 10_000
BUDGET = 150.0
"""MB (10⁶ bytes) in all workers together, code and shared libraries included."""
AT_A_TIME = 200


@pytest.fixture
async def possible() -> AsyncIterator[int]:
    """How many of the connections this machine's hard limit on open files allows: one each in this
    process, two each in one of two workers, between which they are not spread quite evenly."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield CLIENTS if hard == resource.RLIM_INFINITY else min(CLIENTS, int(0.9 * (hard - 200)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Idle(asyncio.Protocol):
    """Asks once, and keeps the connection."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self._received = b""
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, _ = self._received.partition(b"\r\n\r\n")
        if blank and not self.answered.done():  # The body is empty.
            assert head.startswith(b"HTTP/1.1 200 "), head
            self.answered.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(error or ConnectionError("closed without an answer"))
            self.answered.exception()  # Retrieved: some are not awaited.


async def crowd(port: int, size: int) -> list[Idle]:
    """So many connections, each of which had a request answered."""
    loop = asyncio.get_running_loop()
    room = asyncio.Semaphore(AT_A_TIME)

    async def one() -> Idle:
        async with room:
            _, client = await loop.create_connection(Idle, "127.0.0.1", port)
            await client.answered
            return client

    return list(await asyncio.gather(*(one() for _ in range(size))))


def memory(pids: list[int], kind: str) -> float:
    """MB of these processes together: `Rss`, which counts what they share once for each, or `Pss`,
    which counts it once."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))
    return total * 1024 / 1e6


async def connections(proxy: RunningProxy) -> int:
    return sum(row["client_connections"] or 0 for row in await proxy.workers())


async def is_down_to(proxy: RunningProxy, number: int) -> bool:
    return await connections(proxy) <= number


@pytest.mark.timeout(240)
async def test_ten_thousand_idle_connections(tmp_path: Path, possible: int) -> None:
    async with Origin("a") as origin:
        config = {
            "services": {"s": {"instances": [origin.instance]}},
            "routes": [{"service": "s"}],
            "workers": 2,
        }
        async with RunningProxy(config, tmp_path) as proxy:
            workers = await proxy.worker_pids()
            for _ in range(20):
                await ask(proxy.port, "GET", "/")  # What the first requests load is no crowd's.
            empty = memory(workers, "Rss")
            peaks, proportional = [], []
            for _ in range(2):
                clients = await crowd(proxy.port, possible)
                assert await connections(proxy) >= possible
                peaks.append(memory(workers, "Rss"))
                proportional.append(memory(workers, "Pss"))
                # They are connections still, not only memory.
                for client in clients[:: len(clients) // 50]:
                    client.ask()
                    await client.answered
                for client in clients:
                    client.transport.abort()
                await eventually(lambda: is_down_to(proxy, 0), 20, "their end")
                assert (await ask(proxy.port, "GET", "/")).status == 200
            left = memory(workers, "Rss")
            assert await proxy.worker_pids() == workers

    figures = (
        f"{possible} connections, MB in two workers: {empty:.1f} empty, RSS {peaks}, PSS"
        f" {proportional}, {left:.1f} left\n"
    )
    sys.stdout.write(figures)  # Shown with -rP, and when it fails.
    # With a lower limit on open files there are fewer connections, and the budget is less.
    budget = empty + (BUDGET - empty) * possible / CLIENTS
    assert max(peaks) < budget, figures
    # The second crowd uses what the first one left.
    assert peaks[1] < peaks[0] + 0.1 * (peaks[0] - empty), figures
