"""Upgrades through the real proxy: after the 101 every byte passes, both ways, until the end."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.origin import Call, Origin, echo, switch, websocket
from tests.e2e.raw_http import Client, request, socket_buffers
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

UPGRADE = (("Connection", "Upgrade"), ("Upgrade", "websocket"))


@dataclass
class Site:
    proxy: RunningProxy
    origin: Origin
    half: int
    """Port of the listener where a client that has ended is served."""

    async def tunnels(self) -> int:
        """`fairlead_tunnels` as scraped."""
        status, text = await self.proxy.get("/metrics")
        assert status == 200
        found = re.search(r"^fairlead_tunnels (\S+)$", text, re.MULTILINE)
        assert found is not None, text
        return int(float(found[1]))

    async def open(self, early: bytes = b"", path: str = "/ws") -> Client:
        """A client whose upgrade was accepted."""
        client = await Client.connect(self.proxy.port)
        await client.send(request("GET", path, UPGRADE) + early)
        answer = await client.answer()
        assert answer.status == 101, answer
        assert (answer["Upgrade"], answer["Connection"]) == ("websocket", "Upgrade")
        return client

    async def is_quiet(self) -> bool:
        """No tunnel is left, at either end."""
        return self.origin.in_flight == 0 and await self.tunnels() == 0


def config(origin: Origin, port: int, half: int) -> dict[str, object]:
    instances = [origin.instance]
    short = {"timeouts": {"tunnel_idle": "600ms"}, "instances": instances}
    return {
        "workers": 2,
        "listeners": [
            {"name": "web", "bind": f"127.0.0.1:{port}"},
            {"name": "half", "bind": f"127.0.0.1:{half}", "client_close": "half_close"},
        ],
        "services": {"ws": {"instances": instances}, "short": short},
        "routes": [{"path_prefix": "/{service}"}],
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin())
        port, half = free_port(), free_port()
        proxy = RunningProxy(config(origin, port, half), tmp_path_factory.mktemp("proxy"))
        proxy.port = port
        await stack.enter_async_context(proxy)
        yield Site(proxy, origin, half)


@pytest_asyncio.fixture(loop_scope="module")
async def site(running: Site) -> AsyncIterator[Site]:
    running.origin.calls.clear()
    running.origin.script = websocket
    yield running
    # Whatever a test did to its tunnels, nothing of them may stay behind.
    running.origin.script = echo
    await eventually(running.is_quiet, 8, "the ends of all tunnels")


async def test_bytes_pass_both_ways(site: Site) -> None:
    async with await site.open() as client:
        assert await site.tunnels() == 1
        for size in (1, 125, 70_000, 1 << 20):
            data = hashlib.shake_128(b"%d" % size).digest(size)
            sending = asyncio.create_task(client.send(data))
            assert await client.exactly(size) == data
            await sending
    call = site.origin.calls[-1]
    assert call.head.get("Upgrade") == "websocket"
    assert call.head.get("Connection") == "Upgrade"


async def test_early_bytes_of_both_sides_arrive_first(site: Site) -> None:
    async def eager(call: Call) -> None:
        call.closing = True
        await call.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
            b"\r\nwelcome"
        )
        await call.write(await call.reader.readexactly(9))

    site.origin.script = eager
    async with await site.open(b"early ") as client:
        await client.send(b"and")
        assert await client.rest() == b"welcomeearly and"


async def test_many_early_bytes_are_not_lost(site: Site) -> None:
    """More than the proxy keeps of what follows a request while it is served."""
    early = bytes(range(256)) * 2000
    async with await Client.connect(site.proxy.port) as client:
        sending = asyncio.create_task(client.send(request("GET", "/ws", UPGRADE) + early))
        assert (await client.answer()).status == 101
        assert await client.exactly(len(early)) == early
        await sending


@pytest.mark.parametrize("early", [False, True])
async def test_the_client_may_half_close(site: Site, early: bool) -> None:
    async with await Client.connect(site.half if early else site.proxy.port) as client:
        await client.send(request("GET", "/ws", UPGRADE) + b"last words")
        if early:
            client.half_close()
        assert (await client.answer()).status == 101
        if not early:
            client.half_close()
        # The origin sends what it has, and ends when it has seen the client's end.
        assert await client.rest() == b"last words"


async def test_the_instance_may_half_close(site: Site) -> None:
    heard = asyncio.get_running_loop().create_future()

    async def speaks_first(call: Call) -> None:
        await switch(call)
        await call.write(b"all I have to say")
        call.writer.write_eof()
        heard.set_result(await call.reader.read())

    site.origin.script = speaks_first
    async with await site.open() as client:
        assert await client.rest() == b"all I have to say"
        await client.send(b"and my answer")
        client.half_close()
        assert await asyncio.wait_for(heard, 5) == b"and my answer"


async def test_a_reset_is_passed_on(site: Site) -> None:
    async def resets(call: Call) -> None:
        await switch(call)
        await call.reader.readexactly(1)
        call.abort()

    site.origin.script = resets
    async with await site.open() as client:
        await client.send(b"x")
        assert await client.is_closed()
    site.origin.script = websocket
    client = await site.open()
    await client.close()
    # The fixture sees to it that the origin's side ends too.


async def test_a_refused_upgrade_is_an_ordinary_answer(site: Site) -> None:
    async def refuse(call: Call) -> None:
        await call.reply(b"no", 426)

    site.origin.script = refuse
    async with await Client.connect(site.proxy.port) as client:
        for _ in range(3):
            answer = await client.ask("GET", "/ws", UPGRADE)
            assert (answer.status, answer.body) == (426, b"no")


@pytest.mark.parametrize("token", ["h2c", "HTTP/2.0", "TLS/1.2"])
async def test_some_protocols_are_not_offered(site: Site, token: str) -> None:
    site.origin.script = echo
    async with await Client.connect(site.proxy.port) as client:
        answer = await client.ask("GET", "/ws", [("Connection", "Upgrade"), ("Upgrade", token)])
        assert answer.status == 200
    assert site.origin.calls[-1].head.get("Upgrade") is None


async def test_two_hundred_tunnels_at_once(site: Site) -> None:
    async with AsyncExitStack() as stack:
        clients = await asyncio.gather(*(site.open() for _ in range(200)))
        for client in clients:
            await stack.enter_async_context(client)
        assert await site.tunnels() == 200
        _, service = await site.proxy.get("/api/v1/services/ws")
        assert service["instances"][0]["inflight"] == 200

        async def talk(number: int, client: Client) -> None:
            for turn in range(5):
                data = b"%d of %d;" % (turn, number)
                await client.send(data)
                assert await client.exactly(len(data)) == data

        await asyncio.gather(*(talk(n, client) for n, client in enumerate(clients)))


async def test_a_slow_end_stops_a_fast_one(site: Site) -> None:
    async def flood(call: Call) -> None:
        await switch(call)
        for _ in range(2000):
            await call.write(bytes(64 * 1024))

    site.origin.script = flood
    async with await site.open() as client:
        client.stop_reading()
        call = site.origin.calls[-1]
        last, since = -1, time.monotonic()

        def still() -> bool:
            nonlocal last, since
            if call.sent != last:
                last, since = call.sent, time.monotonic()
            return time.monotonic() - since > 0.5

        await eventually(still, 10, "the flood stops")
        assert 0 < last < socket_buffers() + (8 << 20)
        client.read_on()
        left = 2000 * 64 * 1024
        while left:
            piece = await asyncio.wait_for(client.reader.read(1 << 18), 10)
            assert piece
            left -= len(piece)


async def test_an_idle_tunnel_is_closed_and_a_busy_one_is_not(site: Site) -> None:
    async with (
        await site.open(path="/short") as idle,
        await site.open(path="/short") as busy,
        await site.open(path="/ws") as patient,
    ):
        began = time.monotonic()
        idle_end = asyncio.create_task(idle.is_closed())
        while not idle_end.done() or time.monotonic() - began < 1.2:
            await busy.send(b"x")
            assert await busy.exactly(1) == b"x"
            await asyncio.wait([idle_end], timeout=0.1)
        assert await idle_end
        assert time.monotonic() - began > 0.5
        await patient.send(b"still here")
        assert await patient.exactly(10) == b"still here"


async def test_a_stop_ends_tunnels_within_the_grace(tmp_path: Path) -> None:
    async with Origin(script=websocket) as origin:
        shutdown = {"delay": "0s", "grace": "1s"}
        port, half = free_port(), free_port()
        made = config(origin, port, half)
        proxy = RunningProxy({**made, "shutdown": shutdown}, tmp_path)
        proxy.port = port
        async with proxy:
            site = Site(proxy, origin, half)
            clients = [await site.open() for _ in range(10)]
            began = time.monotonic()
            stopping = asyncio.create_task(proxy.stop())
            # Until then they work.
            for client in clients:
                await client.send(b"x")
                assert await client.exactly(1) == b"x"
            assert await stopping == 0
            assert time.monotonic() - began > 0.8
            for client in clients:
                assert await client.is_closed()
                await client.close()
            await eventually(lambda: origin.open == 0, 5, "the origin's ends")
