"""What a viewer of the dashboard costs where there are 2,000 instances, all of them asked: by hand,

FAIRLEAD_DASHBOARD_LOAD=1 pytest -s tests/e2e/test_dashboard_load.py
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio

from bench.processes import cpu_ns
from tests.e2e.browser import CHROMIUM, Browser
from tests.e2e.running import RunningProxy
from tests.support.processes import free_port

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.skipif(
        "FAIRLEAD_DASHBOARD_LOAD" not in os.environ, reason="FAIRLEAD_DASHBOARD_LOAD is not set"
    ),
    pytest.mark.timeout(300),
]

SERVICES, EACH = 20, 100
SECONDS = 20.0
CLIENTS = 8


class Answers(asyncio.Protocol):
    """An instance's side of a connection: `hi` for each head."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
        self._transport.write(answer * data.count(b"\r\n\r\n"))


@pytest_asyncio.fixture
async def instance() -> AsyncIterator[int]:
    """Port of an instance that answers on every address of 127.0.0.0/8, in place of them all."""

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answers, "0.0.0.0", port := free_port())
    yield port
    server.close()


def configuration(port: int) -> dict[str, Any]:
    services = {
        f"service-{number}": {
            "balancer": "round_robin",
            "keepalive": {"max_idle": 1},
            "instances": [
                {"id": f"s{number}-{one}", "address": f"127.1.{number}.{one + 1}", "port": port}
                for one in range(EACH)
            ],
        }
        for number in range(SERVICES)
    }
    return {"services": services, "routes": [{"path_prefix": "/{service}"}], "workers": 2}


class Traffic:
    """Owns clients that ask all services in turn, and how often they were answered."""

    def __init__(self, port: int) -> None:
        self.answers = 0
        self._port = port

    async def ask(self, first: int) -> None:
        """Ask without pause."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        service = first
        try:
            while True:
                service = (service + 1) % SERVICES
                writer.write(b"GET /service-%d/x HTTP/1.1\r\nHost: x\r\n\r\n" % service)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200"), head
                await reader.readexactly(2)
                self.answers += 1
        finally:
            writer.close()
            await writer.wait_closed()


async def test_a_viewer_of_two_thousand_busy_instances(instance: int, tmp_path: Path) -> None:
    told: list[str] = []
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(RunningProxy(configuration(instance), tmp_path))
        traffic = Traffic(proxy.port)
        tasks = [asyncio.create_task(traffic.ask(first)) for first in range(CLIENTS)]
        browser = await stack.enter_async_context(Browser(tmp_path / "profile"))

        async def costs(what: str) -> float:
            answers, used, began = traffic.answers, cpu_ns(proxy.control), monotonic()
            await asyncio.sleep(SECONDS)
            seconds = monotonic() - began
            share = (cpu_ns(proxy.control) - used) / seconds / 1e9
            rate = (traffic.answers - answers) / seconds
            told.append(f"{what}: {share:.2%} of a core at {rate:,.0f} requests a second")
            return share

        await asyncio.sleep(10.0)  # All instances have been asked, by both workers.
        alone = await costs("nobody looks")
        began = monotonic()
        await browser.open(proxy.admin + "/")
        await browser.until(
            f"document.querySelectorAll('#content tbody tr').length === {SERVICES}", "services", 60
        )
        told.append(f"first page after {monotonic() - began:.2f} s")
        services = await costs("a viewer of all services")
        began = monotonic()
        await browser.run("location.hash = 'service=service-1'")
        await browser.until(
            "document.querySelector('#content').innerText.includes('s1-0')", "its instances", 60
        )
        told.append(f"instances of a service after {monotonic() - began:.2f} s")
        one = await costs("a viewer of one service")
        told.append(f"a viewer costs {services - alone:.2%}, {one - alone:.2%} of a core")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert browser.errors == []
    told.append(f"load {os.getloadavg()[0]:.1f}")
    sys.stdout.write("\n".join(("", *told, "")))
