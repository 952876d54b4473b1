"""Clients that leave, through the real proxy: real ends and resets, and who hears of them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.e2e.origin import Call, Gate, Origin, echo
from tests.e2e.raw_http import Client, request
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANY = 200
PATIENCE = 10.0
"""Seconds for what takes milliseconds on a quiet machine."""
PIPELINED = request("GET", "/s/next") * (150_000 // len(request("GET", "/s/next")))
"""More than is read ahead."""


@dataclass
class Site:
    proxy: RunningProxy
    origin: Origin
    half: int
    """Port of the listener with `client_close: half_close`."""
    announced: int
    """Port of the one with the PROXY protocol."""
    unix: str

    async def idle(self) -> bool:
        """Nothing is in flight, at either end."""
        if self.origin.in_flight:
            return False
        _, service = await self.proxy.get("/api/v1/services/s")
        inflight: int = service["instances"][0]["inflight"]
        return inflight == 0

    async def descriptors(self) -> int:
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in await self.proxy.worker_pids())


async def wait_for_ever(call: Call) -> None:
    """Answer nothing, and see the end of the connection."""
    await call.reader.read()
    call.closing = True


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("proxy")
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin())
        web, half, announced, unix = free_port(), free_port(), free_port(), directory / "socket"
        config = {
            "workers": 2,
            "listeners": [
                {"name": "web", "bind": f"127.0.0.1:{web}"},
                {"name": "half", "bind": f"127.0.0.1:{half}", "client_close": "half_close"},
                {
                    "name": "announced",
                    "bind": f"127.0.0.1:{announced}",
                    "proxy_protocol": True,
                },
                {"name": "unix", "bind": f"unix:{unix}"},
            ],
            "services": {
                "s": {"instances": [origin.instance]},
                "queue": {
                    "instances": [origin.instance],
                    "max_inflight": 1,
                    "queue": {"size": 100},
                    "timeouts": {"queue": "1m"},
                },
            },
            "routes": [{"path_prefix": "/{service}"}],
        }
        proxy = RunningProxy(config, directory)
        proxy.port = web
        await stack.enter_async_context(proxy)
        yield Site(proxy, origin, half, announced, str(unix))


@pytest_asyncio.fixture(loop_scope="module")
async def site(running: Site) -> AsyncIterator[Site]:
    running.origin.calls.clear()
    running.origin.script = wait_for_ever
    yield running
    running.origin.script = echo
    await eventually(running.idle, PATIENCE, "the end of all requests")


async def connect(port: int | str) -> socket.socket:
    """A bare connection to a port or a Unix socket."""
    unix = isinstance(port, str)
    sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    sock.setblocking(False)
    where = port if unix else ("127.0.0.1", port)
    await asyncio.get_running_loop().sock_connect(sock, where)
    return sock


def leave(sock: socket.socket, how: str) -> None:
    if how == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def asked(site: Site, port: int | str, data: bytes, count: int = 1) -> list[socket.socket]:
    """So many clients whose requests have arrived."""
    loop = asyncio.get_running_loop()
    before = site.origin.in_flight
    clients = [await connect(port) for _ in range(count)]
    for sock in clients:
        await loop.sock_sendall(sock, data)
    await eventually(
        lambda: site.origin.in_flight == before + count, PATIENCE, "all requests at the instance"
    )
    return clients


@pytest.mark.parametrize("ahead", [b"", PIPELINED], ids=["read", "not read"])
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_all_of_two_hundred_clients_that_leave_are_noticed(
    site: Site, how: str, ahead: bytes
) -> None:
    base = await site.descriptors()
    clients = await asked(site, site.proxy.port, request("GET", "/s/wait"), MANY)
    for sock in clients:
        if ahead:
            # What the kernel takes; the rest could only follow if somebody read.
            sock.send(ahead)
    for sock in clients:
        leave(sock, how)
    await eventually(site.idle, PATIENCE, "the end of all requests")
    assert len(site.origin.calls) == MANY

    async def all_closed() -> bool:
        return await site.descriptors() <= base + 2  # A second poller for each worker.

    await eventually(all_closed, PATIENCE, "as many descriptors as before")


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("listener", ["unix", "announced"])
async def test_on_every_kind_of_listener(site: Site, listener: str, how: str) -> None:
    before = b"PROXY TCP4 192.0.2.9 192.0.2.1 9 80\r\n" if listener == "announced" else b""
    port = site.unix if listener == "unix" else site.announced
    [sock] = await asked(site, port, before + request("GET", "/s/wait") + PIPELINED[:1000])
    leave(sock, how)
    await eventually(site.idle, PATIENCE, "the end of the request")


async def test_a_reset_while_the_instance_takes_nothing_more(site: Site) -> None:
    """The client is not read then: its bytes have nowhere to go. An end would stand behind them,
    in the client's own kernel."""
    held = asyncio.Event()

    async def take_nothing(call: Call) -> None:
        held.set()
        transport = call.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()
        await gone.wait()
        transport.resume_reading()
        await wait_for_ever(call)

    gone = asyncio.Event()
    site.origin.script = take_nothing
    loop = asyncio.get_running_loop()
    sock = await connect(site.proxy.port)
    try:
        head = request("POST", "/s/up", (("Content-Length", str(10**9)),))
        await loop.sock_sendall(sock, head)
        await held.wait()
        full = False
        while not full:
            try:
                await asyncio.wait_for(loop.sock_sendall(sock, bytes(1 << 20)), 0.3)
            except TimeoutError:
                full = True  # Nobody takes more.
        leave(sock, "reset")

        async def nothing_in_flight() -> bool:
            _, service = await site.proxy.get("/api/v1/services/s")
            idle: bool = service["instances"][0]["inflight"] == 0
            return idle

        await eventually(nothing_in_flight, PATIENCE, "the end of the request")
    finally:
        gone.set()


async def test_clients_that_leave_the_queue_never_reach_the_instance(site: Site) -> None:
    gate = Gate()
    site.origin.script = gate
    [first] = await asked(site, site.proxy.port, request("GET", "/queue/first"))
    loop = asyncio.get_running_loop()
    waiting = [await connect(site.proxy.port) for _ in range(20)]
    for sock in waiting:
        await loop.sock_sendall(sock, request("GET", "/queue/gone"))

    async def queued(count: int) -> bool:
        _, service = await site.proxy.get("/api/v1/services/queue")
        number: int = service["limits"]["waiting"]
        return number == count

    await eventually(lambda: queued(20), PATIENCE, "twenty requests in the queue")
    for sock in waiting:
        leave(sock, "end")
    await eventually(lambda: queued(0), PATIENCE, "an empty queue")
    gate.open()
    async with await Client.connect(site.proxy.port) as client:
        assert (await client.ask("GET", "/queue/last")).status == 200
    assert [call.tail for call in site.origin.calls] == ["first", "last"]
    first.close()


async def test_with_half_close_every_request_of_a_client_that_has_ended_is_answered(
    site: Site,
) -> None:
    site.origin.script = echo
    async with await Client.connect(site.half) as client:
        await client.send(request("GET", "/s/1") * 10 + request("GET", "/none") * 10)
        client.half_close()
        statuses = [(await client.answer()).status for _ in range(20)]
        assert await client.is_closed()
    assert statuses == [200] * 10 + [404] * 10


async def test_with_half_close_a_client_that_has_ended_may_still_be_reset(site: Site) -> None:
    [sock] = await asked(site, site.half, request("GET", "/s/wait"))
    sock.shutdown(socket.SHUT_WR)
    async with await Client.connect(site.half) as client:  # Served after that was heard.
        assert (await client.ask("GET", "/none")).status == 404
    assert site.origin.in_flight == 1
    leave(sock, "reset")
    await eventually(site.idle, PATIENCE, "the end of the request")


# -- and the other way round: what a client of HTTP/1.0 sees of an answer of unknown length


async def read_to_the_end(sock: socket.socket) -> tuple[bytes, bool]:
    """Everything, and whether it ended in good order."""
    loop, got = asyncio.get_running_loop(), b""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                data = await loop.sock_recv(sock, 1 << 16)
            except ConnectionResetError:
                return got, False
            if not data:
                return got, True
            got += data


@pytest.mark.parametrize("how", ["complete", "cut", "the worker is killed"])
async def test_an_answer_that_breaks_off_does_not_look_complete(site: Site, how: str) -> None:
    step = asyncio.Event()

    async def chunked(call: Call) -> None:
        call.closing = True
        await call.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await step.wait()
        if how == "complete":
            await call.write(b"0\r\n\r\n")
        elif how != "cut":
            await call.reader.read()

    site.origin.script = chunked
    [sock] = await asked(site, site.proxy.port, b"GET /s/old HTTP/1.0\r\nHost: h\r\n\r\n")
    loop, got = asyncio.get_running_loop(), b""
    while not got.endswith(b"hi"):
        got += await loop.sock_recv(sock, 1 << 16)
    if how == "the worker is killed":
        workers = await site.proxy.worker_pids()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
    step.set()
    rest, in_good_order = await read_to_the_end(sock)
    sock.close()
    assert rest == b""
    assert in_good_order == (how == "complete")
    if how == "the worker is killed":

        async def replaced() -> bool:
            pids = await site.proxy.worker_pids()
            return len(pids) == len(workers) and not {*pids} & {*workers}

        await eventually(replaced, 30, "new workers")
        await eventually(site.proxy.readyz, PATIENCE, "ready again")


async def test_a_reset_goes_through_a_tunnel(site: Site) -> None:
    """Bytes of a tunnel have no other end than that of the connection."""
    site.origin.script = resets_after_switching
    upgrade = (("Connection", "Upgrade"), ("Upgrade", "x"))
    sock = await connect(site.proxy.port)
    await asyncio.get_running_loop().sock_sendall(sock, request("GET", "/s/tunnel", upgrade))
    got, in_good_order = await read_to_the_end(sock)
    sock.close()
    assert got.startswith(b"HTTP/1.1 101 ")
    assert not in_good_order


async def resets_after_switching(call: Call) -> None:
    call.closing = True
    await call.write(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
    )
    call.abort()
