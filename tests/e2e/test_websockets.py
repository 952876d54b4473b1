"""WebSockets of real libraries through the real proxy: `websockets` on both ends, Node's own
client, and Node's `ws` where it is installed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError

from tests.e2e.programs import NODE, Program, need, output
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
LARGE = hashlib.shake_128(b"large").digest(16 * MIB)
TUNNELS = 1000
PER_TUNNEL = 64 * 1024
"""Bytes of the worker's memory that an idle tunnel may cost. It costs about a sixth of that;
a buffer of usual size kept for each would show."""
LIMIT = 20.0
"""Seconds any step may take on a busy machine."""


@dataclass
class Site:
    proxy: RunningProxy
    worker: int
    closed: asyncio.Queue[tuple[int | None, str]] = field(default_factory=asyncio.Queue)
    """Code and reason of each connection that the server saw end."""
    protocols: list[str | None] = field(default_factory=list)

    def url(self, name: str) -> str:
        return f"ws://127.0.0.1:{self.proxy.port}/ws/{name}"

    def open(self, name: str = "echo", deflate: bool = True) -> connect:
        return connect(
            self.url(name),
            proxy=None,
            compression="deflate" if deflate else None,
            subprotocols=["chat", "superchat"],  # type: ignore[list-item]
            max_size=None,
            open_timeout=LIMIT,
            ping_interval=None,
        )

    async def tunnels(self) -> int:
        """`fairlead_tunnels` as scraped."""
        status, text = await self.proxy.get("/metrics")
        assert status == 200
        found = re.search(r"^fairlead_tunnels (\S+)$", text, re.MULTILINE)
        assert found is not None, text
        return int(float(found[1]))

    async def last_close(self) -> tuple[int | None, str]:
        return await asyncio.wait_for(self.closed.get(), LIMIT)

    def memory(self) -> int:
        """Resident bytes of the worker."""
        status = Path(f"/proc/{self.worker}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None, status
        return int(found[1]) * 1024

    async def talk(self, connection: ServerConnection) -> None:
        """The server: what it does goes by the path."""
        assert connection.request is not None
        name = connection.request.path.rpartition("/")[2]
        self.protocols.append(connection.subprotocol)
        try:
            if name == "leave":
                await connection.close(4002, "enough")
            elif name == "drop":
                await connection.recv()
                connection.transport.abort()
            elif name == "pieces":
                await connection.send(["one ", "two ", "three"])
                await connection.send([LARGE[: MIB // 2], LARGE[MIB // 2 : MIB]])
            elif name == "ping":
                latency = await asyncio.wait_for(await connection.ping(b"server's"), LIMIT)
                await connection.send(f"{latency >= 0}")
            async for message in connection:
                await connection.send(message)
        except ConnectionClosed:
            pass
        finally:
            await connection.wait_closed()
            self.closed.put_nowait((connection.close_code, connection.close_reason or ""))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Both ends of every tunnel are in this process.
    wanted = 2 * TUNNELS + 1000
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    async with AsyncExitStack() as stack:
        port = free_port()
        instance = {"id": "one", "address": "127.0.0.1", "port": port}
        node = {"id": "node", "address": "127.0.0.1", "port": free_port()}
        config = {
            "services": {"ws": {"instances": [instance]}, "node": {"instances": [node]}},
            "routes": [{"path_prefix": "/{service}", "strip_prefix": True}],
        }
        proxy = RunningProxy(config, tmp_path_factory.mktemp("proxy"))
        await stack.enter_async_context(proxy)
        [worker] = await proxy.worker_pids()
        site = Site(proxy, worker)
        await stack.enter_async_context(
            serve(
                site.talk,
                "127.0.0.1",
                port,
                subprotocols=["superchat"],  # type: ignore[list-item]
                max_size=None,
                ping_interval=None,
            )
        )
        yield site


@pytest_asyncio.fixture(loop_scope="module")
async def site(running: Site) -> AsyncIterator[Site]:
    running.closed = asyncio.Queue()
    running.protocols.clear()
    yield running

    async def quiet() -> bool:
        return await running.tunnels() == 0

    await eventually(quiet, LIMIT, "the end of all tunnels")


async def received(client: ClientConnection) -> str | bytes:
    return await asyncio.wait_for(client.recv(), LIMIT)


@pytest.mark.parametrize("deflate", [True, False])
async def test_messages_of_all_sizes(site: Site, deflate: bool) -> None:
    async with site.open(deflate=deflate) as client:
        # What the two ends agreed on went through.
        assert client.subprotocol == "superchat"
        assert [extension.name for extension in client.protocol.extensions] == (
            ["permessage-deflate"] if deflate else []
        )
        for size in (0, 1, 125, 126, 65_535, 65_536, MIB):
            await client.send(LARGE[:size])
            assert await received(client) == LARGE[:size]
        await client.send("größer als ∅")
        assert await received(client) == "größer als ∅"
    assert site.protocols == ["superchat"]
    assert await site.last_close() == (1000, "")


async def test_16_mb_in_one_message(site: Site) -> None:
    async with site.open(deflate=False) as client:
        for _ in range(2):
            sending = asyncio.create_task(client.send(LARGE))
            assert await received(client) == LARGE
            await sending


async def test_fragments_arrive_as_fragments(site: Site) -> None:
    async with site.open("pieces") as client:

        async def fragments() -> list[str | bytes]:
            return [piece async for piece in client.recv_streaming()]

        # The last one is empty: it says that the message is over.
        assert await asyncio.wait_for(fragments(), LIMIT) == ["one ", "two ", "three", ""]
        halves = [LARGE[: MIB // 2], LARGE[MIB // 2 : MIB], b""]
        assert await asyncio.wait_for(fragments(), LIMIT) == halves
        await client.send([b"a", b"b", b"c"])
        assert await received(client) == b"abc"


async def test_pings_of_both_sides_are_answered(site: Site) -> None:
    async with site.open("ping") as client:
        assert await received(client) == "True"
        for _ in range(5):
            assert await asyncio.wait_for(await client.ping(), LIMIT) >= 0


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
async def test_the_clients_close_code_reaches_the_server(site: Site, code: int) -> None:
    client = await site.open()
    await client.close(code, "goodbye")
    assert await site.last_close() == (code, "goodbye")
    assert client.close_code == code


async def test_the_servers_close_code_reaches_the_client(site: Site) -> None:
    async with site.open("leave") as client:
        with pytest.raises(ConnectionClosedError) as closed:
            await received(client)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4002, "enough")
    assert await site.last_close() == (4002, "enough")


async def test_an_end_without_a_close_is_noticed_on_the_other_side(site: Site) -> None:
    async with site.open("drop") as client:
        await client.send("now")
        with pytest.raises(ConnectionClosedError) as closed:
            await received(client)
    assert closed.value.rcvd is None
    assert client.close_code == 1006
    assert (await site.last_close())[0] == 1006
    client = await site.open()
    client.transport.abort()
    assert (await site.last_close())[0] == 1006
    await client.wait_closed()


async def test_a_thousand_tunnels_at_once(site: Site) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2 * TUNNELS + 200:
        pytest.skip(f"only {soft} open files are allowed")
    before = site.memory()
    clients: list[ClientConnection] = []
    try:
        for _ in range(TUNNELS // 50):
            clients += await asyncio.gather(*(site.open(deflate=False) for _ in range(50)))
        assert await site.tunnels() == TUNNELS
        _, service = await site.proxy.get("/api/v1/services/ws")
        assert service["instances"][0]["inflight"] == TUNNELS

        async def echo(number: int, client: ClientConnection) -> None:
            for turn in range(2):
                await client.send(f"{turn} of {number}")
                assert await received(client) == f"{turn} of {number}"

        await asyncio.gather(*(echo(number, client) for number, client in enumerate(clients)))
        each = (site.memory() - before) / TUNNELS
        print(f"an idle tunnel costs the worker {each / 1024:.1f} KiB")  # noqa: T201
        assert each < PER_TUNNEL
    finally:
        await asyncio.gather(*(client.close() for client in clients))
    assert [await site.last_close() for _ in range(TUNNELS)] == [(1000, "")] * TUNNELS


# -- Node


async def builtin() -> list[str]:
    """How to start a Node that has a WebSocket of its own; skips the test where there is none."""
    program = need("node")
    found = re.match(rb"v(\d+)\.(\d+)", await output(program, "--version"))
    assert found is not None
    version = int(found[1]), int(found[2])
    if version >= (22, 0):
        return [program]
    if version >= (20, 10):
        return [program, "--experimental-websocket"]
    pytest.skip("this node has no WebSocket")


async def with_ws() -> list[str]:
    """How to start a Node that finds the package `ws`; skips the test where there is none."""
    program = need("node")
    probe = "try { require('ws'); console.log('yes') } catch { console.log('no') }"
    if await output(program, "-e", probe) != b"yes\n":
        pytest.skip("node's package ws is not installed (npm install ws, and set NODE_PATH)")
    return [program]


@pytest.mark.parametrize("library", ["builtin", "ws"])
async def test_a_client_on_node(site: Site, library: str) -> None:
    start = await (builtin() if library == "builtin" else with_ws())
    # Node 20's own client, still an experiment there, never delivers 16 MiB, whoever sends it.
    size = 16 * MIB if library == "ws" else MIB
    said = await output(*start, str(NODE / "ws_client.mjs"), library, site.url(""), str(size))
    assert json.loads(said) == {
        "protocol": "superchat",
        "echo": ["text", "größer als ∅", size, True],
        "pieces": ["one two three", MIB],
        "left": [4002, "enough"],
        "dropped": 1006,
        "many": 50,
    }
    closes = [await site.last_close() for _ in range(4)]
    assert (4001, "goodbye") in closes


async def test_a_client_on_node_has_one_over_http2(site: Site) -> None:
    base = f"http://127.0.0.1:{site.proxy.port}"
    said = await output(need("node"), str(NODE / "h2_websocket.mjs"), base, "/ws/echo")
    assert json.loads(said) == {
        "announced": True,
        "status": 200,
        "frames": [[0x81, "hello"], [0x88, "\x03\xe8"]],
        "code": 0,
    }
    assert await site.last_close() == (1000, "")


async def test_a_server_on_node(site: Site, tmp_path: Path) -> None:
    start = await with_ws()
    port = site.proxy.config["services"]["node"]["instances"][0]["port"]
    line = [*start, str(NODE / "ws_server.mjs"), str(port)]
    async with Program(line, port, tmp_path / "log", os.environ):
        url = f"ws://127.0.0.1:{site.proxy.port}/node/echo"
        async with connect(url, proxy=None, max_size=None, open_timeout=LIMIT) as client:
            for message in ("größer als ∅", LARGE, b""):
                sending = asyncio.create_task(client.send(message))
                assert await received(client) == message
                await sending
            assert await asyncio.wait_for(await client.ping(), LIMIT) >= 0
            await client.send("leave")
            with pytest.raises(ConnectionClosedError) as closed:
                await received(client)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4002, "enough")
