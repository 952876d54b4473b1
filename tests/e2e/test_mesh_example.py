"""The example of docs/mesh.md: three services in two languages, which go on calling each other
while each is redeployed, leaves and then the root are replaced, and etcd is away."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from proxy.cli import main
from tests.e2e.beside import Beside
from tests.e2e.certificates import Authority
from tests.e2e.etcd_server import EtcdServer
from tests.support.processes import eventually, free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "mesh"
CALLERS = {"users": "orders", "orders": "web", "web": "client"}
"""Service → the only one that may call it."""

pytestmark = [
    pytest.mark.drill,
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node.js"),
]


def ca(*words: str) -> None:
    result = CliRunner().invoke(main, ["ca", *words])
    assert result.exit_code == 0, result.output


class Site:
    """Owns the side-cars, and with them the programs."""

    def __init__(self, directory: Path, etcd: EtcdServer, stack: AsyncExitStack) -> None:
        self.directory, self.etcd = directory, etcd
        self.ca = directory / "ca"
        self._stack = stack
        self._unused = Authority(directory)
        self.sides: dict[str, Beside] = {}
        ca("init", str(self.ca))

    async def deploy(self, service: str) -> Beside:
        """Start a further instance of a service; the one before goes on."""
        port = free_port()
        side = Beside(
            *(service, port, self.directory, self._unused, self.etcd.url),
            *("--ttl", "10s", "--callers", CALLERS.get(service, "nobody")),
        )
        program = {
            "users": (sys.executable, "users.py", str(port)),
            "orders": (sys.executable, "orders.py", str(port), str(side.outbound)),
            "web": ("node", "web.mjs", str(port), str(side.outbound)),
            "client": (sys.executable, "users.py", str(port)),
        }[service]
        side.run_in(EXAMPLE, program)
        self._stack.push_async_callback(side.stop)
        self.renew(side)
        await side.started()
        self.sides[side.id] = side
        return side

    def renew(self, *sides: Beside) -> None:
        """Issue anew what side-cars prove themselves with."""
        for side in sides or self.sides.values():
            ca("issue", str(self.ca), side.service, "--out", str(side.identity))

    async def renewed(self) -> None:
        """Renew all, and wait until every side-car has it in use."""
        before = {id_: await fingerprint(side) for id_, side in self.sides.items()}
        self.renew()
        for id_, side in self.sides.items():
            await eventually(lambda s=side, b=before[id_]: changed(s, b), 20.0, side.log)


async def fingerprint(side: Beside) -> str:
    _, text = await side.ask_admin("/api/v1/certificates")
    document = json.loads(text)
    found: str = document["listeners"][0]["certificates"][0]["fingerprint"]
    return found


async def changed(side: Beside, before: str) -> bool:
    return await fingerprint(side) != before


class Traffic:
    """Owns clients that call `web` all the time, and what came of it."""

    def __init__(self, client: Beside) -> None:
        self._url = f"http://127.0.0.1:{client.outbound}/"
        self.answers: Counter[str] = Counter()

    async def more(self, calls: int) -> None:
        """Wait for so many further calls."""
        wanted = self.answers.total() + calls
        await eventually(lambda: self.answers.total() >= wanted, 60.0, self.answers)

    async def run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            while True:
                try:
                    async with session.get(self._url, headers={"Host": "web"}) as answer:
                        self.answers[f"{answer.status} {await answer.text()}"] += 1
                except (aiohttp.ClientError, TimeoutError) as error:
                    self.answers[repr(error)] += 1
                await asyncio.sleep(0.01)


@asynccontextmanager
async def flowing(client: Beside) -> AsyncIterator[Traffic]:
    traffic = Traffic(client)
    tasks = [asyncio.create_task(traffic.run()) for _ in range(4)]
    try:
        yield traffic
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_no_call_fails_whatever_is_replaced(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(EtcdServer())
        site = Site(tmp_path, etcd, stack)
        first = {service: await site.deploy(service) for service in (*CALLERS, "client")}
        client = first["client"]
        for service, caller in CALLERS.items():
            await first[caller].knows(service)
        traffic = await stack.enter_async_context(flowing(client))
        await traffic.more(20)
        for service, caller in CALLERS.items():
            await site.deploy(service)
            await first[caller].knows(service, 2)
            before = first.pop(service)
            await before.stop(60.0)
            del site.sides[before.id]
            first[service] = next(one for one in site.sides.values() if one.service == service)
            await traffic.more(20)
        await site.renewed()
        await traffic.more(20)
        for _ in range(3):
            ca("rotate", str(site.ca))
            await site.renewed()
            await traffic.more(20)
        await etcd.stop()
        await traffic.more(50)
        await etcd.start()
        await traffic.more(20)
        assert set(traffic.answers) == {"200 web: an order of ann"}, traffic.answers
