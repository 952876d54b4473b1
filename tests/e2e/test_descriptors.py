"""More clients than there are descriptors: it says so, serves those it has, and recovers."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from tests.e2e.origin import Gate, Origin, echo
from tests.e2e.raw_http import Answer, Client, ask
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually

OPEN_FILES = 192
ROOM = (OPEN_FILES - 64 - 1) // 2
"""Clients that a worker with so many descriptors takes, one listener given."""
TICK = os.sysconf("SC_CLK_TCK")


def static(*origins: Origin, **more: Any) -> dict[str, Any]:
    instances = [origin.instance for origin in origins]
    return {"services": {"s": {"instances": instances, **more}}, "routes": [{"service": "s"}]}


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has spent."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


async def share_of_a_core(pid: int, seconds: float = 1.0) -> float:
    """What a process spends from now on: the time is the subject."""
    began, before = monotonic(), cpu_seconds(pid)
    await asyncio.sleep(seconds)
    return (cpu_seconds(pid) - before) / (monotonic() - began)


class Held:
    """Owns kept connections over which requests go on, one after the other."""

    def __init__(self, clients: list[Client]) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._clients = clients
        self._stop = asyncio.Event()

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        async def ask_on(client: Client) -> None:
            while not self._stop.is_set():
                try:
                    answer = await client.ask("GET", "/")
                except Exception as error:
                    self.failures.append(repr(error))
                    return
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {answer.body!r}")
                self.answered += 1
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(ask_on(client)) for client in self._clients]
        try:
            yield
        finally:
            self._stop.set()
            await asyncio.gather(*tasks)

    async def go_on(self, within: float = 10) -> None:
        """Wait until each could have been answered a few times more."""
        wanted = self.answered + 5 * len(self._clients)
        await eventually(lambda: self.answered >= wanted, within, "more answers")


class Crowd:
    """Owns connections that ask nothing, each replaced when the proxy closes it."""

    def __init__(self, port: int, size: int) -> None:
        self._port = port
        self._size = size
        self.closed = 0
        """Connections that the proxy closed."""
        self.open = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Crowd:
        self._tasks = [asyncio.create_task(self._stand()) for _ in range(self._size)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _stand(self) -> None:
        while True:
            async with await Client.connect(self._port) as client:
                self.open += 1
                try:
                    await client.reader.read()
                except ConnectionError:
                    pass
                finally:
                    self.open -= 1
            self.closed += 1
            await asyncio.sleep(0.2)


async def refusals(proxy: RunningProxy) -> float:
    """Connections closed, and requests refused, for want of descriptors."""
    _, metrics = await proxy.get("/metrics")
    return sum(
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith("fairlead_proxy_errors_total{") and 'fault="no_descriptor"' in line
    )


async def answers(proxy: RunningProxy) -> bool:
    try:
        return (await ask(proxy.port, "GET", "/")).status == 200
    except Exception:
        return False


async def test_more_clients_than_it_can_hold(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin("a"))
        proxy = await stack.enter_async_context(
            RunningProxy(static(origin), tmp_path, open_files=OPEN_FILES)
        )
        (worker,) = await proxy.worker_pids()
        clients = []
        for _ in range(20):
            client = await stack.enter_async_context(await Client.connect(proxy.port))
            assert (await client.ask("GET", "/")).status == 200
            clients.append(client)
        held = Held(clients)
        async with held.asking():
            async with Crowd(proxy.port, 4 * ROOM) as crowd:
                await eventually(lambda: crowd.closed > 4 * ROOM, 20, "connections shed")
                await held.go_on()
                assert await proxy.readyz() == 200
                assert await refusals(proxy) > 0
            # All it can hold stay, and nobody else comes: it has nothing to do but the requests.
            async with Crowd(proxy.port, ROOM - len(clients)) as crowd:
                await eventually(lambda: crowd.open == ROOM - len(clients), 10, "a full house")
                closed = crowd.closed
                await held.go_on()
                assert crowd.closed == closed
                assert not await answers(proxy)
            await eventually(lambda: answers(proxy), 10, "new clients are served again")
        assert held.failures == []
        await proxy.logs('"no_descriptor"')
        assert "Traceback" not in proxy.log()
        assert await proxy.worker_pids() == [worker]


async def test_clients_that_were_let_in_can_all_ask_at_the_same_time(tmp_path: Path) -> None:
    """Also where the idle connections to other instances have taken the descriptors."""
    async with AsyncExitStack() as stack:
        origins = [await stack.enter_async_context(Origin(name)) for name in "abcdefgh"]
        proxy = await stack.enter_async_context(
            RunningProxy(static(*origins), tmp_path, open_files=OPEN_FILES)
        )
        (worker,) = await proxy.worker_pids()
        clients = [
            await stack.enter_async_context(await Client.connect(proxy.port)) for _ in range(ROOM)
        ]
        for _ in range(4):
            gate = Gate()
            for origin in origins:
                origin.script = gate
            before = sum(len(origin.calls) for origin in origins)
            asked = [asyncio.create_task(client.ask("GET", "/")) for client in clients]

            def all_there(wanted: int = before + ROOM) -> bool:
                return sum(len(origin.calls) for origin in origins) == wanted

            await eventually(all_there, 10, "all requests at the instances")
            gate.open()
            assert {answer.status for answer in await asyncio.gather(*asked)} == {200}
            assert len(os.listdir(f"/proc/{worker}/fd")) < OPEN_FILES
        assert await refusals(proxy) == 0


async def test_no_descriptor_is_left_at_all(tmp_path: Path) -> None:
    """Something else has taken them: neither new connections nor dialling can work."""
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin("a"))
        # Idle connections stay for as long as the test takes.
        settings = static(origin, keepalive={"idle": "60s"})
        proxy = await stack.enter_async_context(RunningProxy(settings, tmp_path))
        (worker,) = await proxy.worker_pids()
        clients = [
            await stack.enter_async_context(await Client.connect(proxy.port)) for _ in range(12)
        ]
        gate = Gate()
        origin.script = gate
        asked = [asyncio.create_task(client.ask("GET", "/")) for client in clients[:6]]
        await eventually(lambda: len(origin.calls) == 6, 10, "six connections to the instance")
        gate.open()
        assert {answer.status for answer in await asyncio.gather(*asked)} == {200}
        origin.script = echo
        soft, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        highest = max(map(int, os.listdir(f"/proc/{worker}/fd")))
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (highest, hard))
        held = Held(clients[:6])
        async with held.asking():
            waiting = []
            for _ in range(50):
                sock = socket.socket()
                stack.callback(sock.close)
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", proxy.port))
                waiting.append(sock)
            await held.go_on()
        assert held.failures == []
        assert await share_of_a_core(worker) < 0.3
        await eventually(lambda: "descriptors_exhausted" in proxy.log(), 5, "the log line")
        # Six connections to the instance there are, and others cannot be made.
        gate = origin.script = Gate()
        asked = [asyncio.create_task(client.ask("GET", "/")) for client in clients]

        def answered() -> list[Answer]:
            return [task.result() for task in asked if task.done()]

        await eventually(lambda: len(answered()) == 6, 5, "six refusals")
        for answer in answered():
            assert answer.status == 503
            assert 'details="no_descriptor"' in (answer["Proxy-Status"] or "")
        rest = [task for task in asked if not task.done()]
        assert await refusals(proxy) > 6
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (soft, hard))
        gate.open()
        assert {answer.status for answer in await asyncio.gather(*rest)} == {200}
        await eventually(lambda: answers(proxy), 10, "new clients are served again")
        # It was our own want, which says nothing against the instance.
        _, service = await proxy.get("/api/v1/services/s")
        assert [row["status"] for row in service["instances"]] == ["ready"]
        await proxy.logs(os.strerror(errno.EMFILE))
        await eventually(lambda: "descriptors_free_again" in proxy.log(), 5, "the other log line")


async def test_a_proxy_with_too_few_descriptors_does_not_start(tmp_path: Path) -> None:
    async with Origin("a") as origin:
        proxy = RunningProxy(static(origin), tmp_path, open_files=100)
        proxy.launch()
        assert await proxy.wait() == 1
        for told in ("100 (ulimit -Hn)", "128"):
            assert told in proxy.log()
        assert "Traceback" not in proxy.log()
