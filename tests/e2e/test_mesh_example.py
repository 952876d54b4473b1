"""The example of docs/mesh.md: three services in two languages, which go on calling each other
while each is redeployed, leaves and then the root are replaced, and etcd is away."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import ssl
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
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.tcp_fault import TcpFault
from tests.support.processes import AwaitedProcess, eventually, free_port, listens

EXAMPLE = Path(__file__).parents[2] / "examples" / "mesh"
CALLERS = {"users": "orders", "orders": "web", "web": "client"}
"""Service → the only one that may call it."""
SHORT = "45s"
"""Life of the first leaves: side-cars renew them while the test runs."""
FILE = {
    "defaults": {"keepalive": {"max_requests": 2}},
    "routes": [{"path": "/", "respond": 204}],
}
"""Of connections between side-cars half are new: what was proved once proves nothing later."""
HANDSHAKES = 10

pytestmark = [
    pytest.mark.drill,
    pytest.mark.timeout(360),
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node.js"),
]


def ca(*words: str) -> None:
    result = CliRunner().invoke(main, ["ca", *words])
    assert result.exit_code == 0, result.output


class Site:
    """Owns the side-cars, and with them the programs."""

    def __init__(self, directory: Path, registry: str, stack: AsyncExitStack) -> None:
        """`registry`: its URL."""
        self.directory, self._registry = directory, registry
        self.ca = directory / "ca"
        self._stack = stack
        self._unused = Authority(directory)
        self._renewal = free_port()
        self._file = directory / "mesh.json"
        guarded = {"type": "etcd", "endpoints": [registry], "mass_loss_guard": {}}
        self._file.write_text(json.dumps({**FILE, "registry": guarded}))
        self.sides: dict[str, Beside] = {}
        ca("init", str(self.ca))

    async def serve_renewals(self) -> None:
        """Start what side-cars renew their leaves from."""
        command = [sys.executable, "-m", "proxy", "ca", "serve", str(self.ca)]
        address = f"127.0.0.1:{self._renewal}"
        server = AwaitedProcess([*command, "--bind", address], self.directory / "ca.log")
        server.launch()
        self._stack.push_async_callback(server.stop)
        await eventually(lambda: listens(self._renewal), 20.0, server.log)

    def launch(self, service: str) -> Beside:
        """Start a further instance of a service; those before go on."""
        port = free_port()
        side = Beside(
            *(service, port, self.directory, self._unused, self._registry, "--ttl", "10s"),
            *("-c", str(self._file), "--renew-from", f"https://127.0.0.1:{self._renewal}"),
            *("--callers", CALLERS.get(service, "nobody")),
        )
        program = {
            "users": (sys.executable, "users.py", str(port)),
            "orders": (sys.executable, "orders.py", str(port), str(side.outbound)),
            "web": ("node", "web.mjs", str(port), str(side.outbound)),
            "client": (sys.executable, "users.py", str(port)),
        }[service]
        side.run_in(EXAMPLE, program)
        self._stack.push_async_callback(side.stop)
        ca("issue", str(self.ca), service, "--out", str(side.identity), "--life", SHORT)
        side.launch()
        self.sides[side.id] = side
        return side

    async def deploy(self, service: str) -> Beside:
        """The same, and wait until the registry has it."""
        side = self.launch(service)
        await side.there()
        return side

    async def retire(self, side: Beside) -> None:
        """Stop an instance."""
        await side.stop(60.0)
        del self.sides[side.id]

    async def renewed(self) -> None:
        """Wait until every side-car has renewed its first leaf, and has the new one in use."""
        for side in self.sides.values():
            await eventually(lambda s=side: "identity_renewed" in s.log(), 90.0, side.log)
        await self.in_use()

    async def rotate(self) -> None:
        """Take one step towards another root, and wait until all have what came of it in use."""
        ca("rotate", str(self.ca))
        for side in self.sides.values():
            ca("issue", str(self.ca), side.service, "--out", str(side.identity))
        await self.in_use()

    async def in_use(self) -> None:
        """Wait until every side-car shows the leaf of its directory, to clients and to others, and
        has done so in handshakes on either side."""
        for side in self.sides.values():
            await eventually(lambda s=side: shows_its_leaf(s), 20.0, side.log)
        for service in CALLERS:
            sides = [side for side in self.sides.values() if side.service == service]
            before = await handshakes(*sides)
            await eventually(lambda s=sides, b=before: further(s, b), 60.0, sides[0].log)

    async def refusals(self) -> list[str]:
        """Counts of whatever a side-car did not believe of another one."""
        pages = [(await side.ask_admin("/metrics"))[1] for side in self.sides.values()]
        return [line for page in pages for line in re.findall(REFUSALS, page, re.MULTILINE)]


REFUSALS = r'^fairlead_(?:tls_hand.*"(?:alert|refused)"|upstream_att.*"tls_failed").*$'
FULL = r'^fairlead_tls_handshakes_total\{listener="inbound",result="full"\} (\d+)'


async def handshakes(*sides: Beside) -> int:
    """How often others have proved themselves to these, and these to them."""
    pages = [(await side.ask_admin("/metrics"))[1] for side in sides]
    return sum(int(count) for page in pages for count in re.findall(FULL, page, re.MULTILINE))


async def further(sides: list[Beside], before: int) -> bool:
    return await handshakes(*sides) >= before + HANDSHAKES


async def shows_its_leaf(side: Beside) -> bool:
    leaf = (side.identity / "tls.crt").read_text().partition("-----END")[0]
    der = ssl.PEM_cert_to_DER_cert(f"{leaf}-----END CERTIFICATE-----")
    document = json.loads((await side.ask_admin("/api/v1/certificates"))[1])
    owners = [*document["listeners"], *document["services"]["files"]]
    shown = {pair["fingerprint"] for one in owners for pair in one["certificates"]}
    return shown == {hashlib.sha256(der).hexdigest()}


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
        way = await stack.enter_async_context(TcpFault(etcd.client_port))
        site = Site(tmp_path, way.url, stack)
        await site.serve_renewals()
        first = {service: await site.deploy(service) for service in (*CALLERS, "client")}
        client = first["client"]
        for service, caller in CALLERS.items():
            await first[caller].knows(service)
        traffic = await stack.enter_async_context(flowing(client))
        await traffic.more(20)
        for service, caller in CALLERS.items():
            replacement = await site.deploy(service)
            await first[caller].knows(service, 2)
            await site.retire(first[service])
            first[service] = replacement
            await traffic.more(20)
        await site.renewed()
        for _ in range(3):
            await site.rotate()
            await traffic.more(20)
        assert await site.refusals() == []
        # The guard is for pools of two or more.
        for service, caller in CALLERS.items():
            await site.deploy(service)
            await first[caller].knows(service, 2)
        await way.refuse()
        replacement = site.launch("users")
        async with EtcdClient(etcd.url) as direct:

            async def expired() -> bool:
                return not await direct.get_all("/services/")

            await eventually(expired, 60.0, "leases are over")
        await traffic.more(50)
        assert "registered" not in replacement.log()
        await way.accept()
        await replacement.there()
        await first["orders"].knows("users", 3)
        await site.retire(first["users"])
        await traffic.more(50)
        assert set(traffic.answers) == {"200 web: an order of ann"}, traffic.answers
