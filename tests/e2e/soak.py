"""A long run under faults, by hand: `python -m tests.e2e.soak --minutes 60 [--compiled]`.

A real etcd, eight instances that are processes, and two workers serve GETs, uploads, downloads
and tunnels, while instances are killed, started on the same port, stopped, deregistered and made
to answer 503, etcd is killed, clients leave in the middle, and the peers of `tests/e2e/hostile.py`
do their worst. Every answer is checked: its bytes, its mark, and that no POST is executed twice.

The report says what failed and how, what resident memory each process had in each tenth of the run,
and how many descriptors the workers hold at the end beside those at the beginning. Exit code 1: an
answer was wrong, something was executed twice or stayed counted, or descriptors are left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic

from bench import compiled
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.hostile import CLIENTS as HOSTILE
from tests.e2e.raw_http import Client, read_head, request
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port, listens

INSTANCES = 8
PATTERN = bytes(range(256)) * 4096
"""Every body is a beginning of this, so that its length says what it must be."""


# -- an instance


class Instance:
    """What `python -m tests.e2e.soak instance ID PORT LOG` does. SIGUSR1: 503 for three seconds."""

    def __init__(self, name: str, log: Path) -> None:
        self._name = name
        self._log = log.open("a", buffering=1)
        self._sick_until = 0.0

    def sicken(self) -> None:
        self._sick_until = monotonic() + 3.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await read_head(reader)
                if head.get("Upgrade"):
                    writer.write(
                        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n"
                        b"Upgrade: echo\r\n\r\n"
                    )
                    while piece := await reader.read(65536):
                        writer.write(piece)
                        await writer.drain()
                    return
                body = await reader.readexactly(head.length() or 0)
                await self._answer(head.start[0], head.start[1], body, head.get("X-Mark"), writer)
        except Exception:
            pass  # The proxy has left, which it may.
        finally:
            writer.close()

    async def _answer(
        self, method: str, target: str, body: bytes, mark: str | None, writer: asyncio.StreamWriter
    ) -> None:
        status = "200 OK"
        if monotonic() < self._sick_until:
            status, answer = "503 Service Unavailable", b"sick"
        elif method == "POST":
            self._log.write(f"{mark} {body == PATTERN[: len(body)]}\n")
            answer = b"%d" % len(body)
        else:
            size = target.rpartition("/")[2]
            answer = PATTERN[: int(size) if size.isdigit() else 0]
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(answer)}\r\nX-Mark: {mark}\r\n\r\n"
        writer.writelines((head.encode(), answer))
        await writer.drain()


async def _instance(name: str, port: int, log: Path) -> None:
    instance = Instance(name, log)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, instance.sicken)
    server = await asyncio.start_server(instance.serve, "127.0.0.1", port, backlog=512)
    await server.serve_forever()


class Fleet:
    """Owns the instance processes and what etcd says of them."""

    def __init__(self, directory: Path, etcd: EtcdClient) -> None:
        self._directory = directory
        self._etcd = etcd
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._ports = {f"i{n}": free_port() for n in range(INSTANCES)}
        self.names = list(self._ports)

    async def start(self, name: str) -> None:
        """Returns when it listens: its port may be a passing connection's for a moment."""
        port = self._ports[name]
        while not await listens(port):
            if name not in self._processes or self._processes[name].returncode is not None:
                await self._launch(name, port)
            await asyncio.sleep(0.2)

    async def _launch(self, name: str, port: int) -> None:
        self._processes[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.e2e.soak", "instance", name, str(port),
            str(self._directory / f"{name}.log"),
        )  # fmt: skip

    async def register(self, name: str) -> None:
        record = {"address": "127.0.0.1", "port": self._ports[name]}
        await self._etcd.put(f"/services/s/{name}", json.dumps(record))

    async def deregister(self, name: str) -> None:
        await self._etcd.delete(f"/services/s/{name}")

    def send(self, name: str, number: signal.Signals) -> None:
        self._processes[name].send_signal(number)

    async def kill(self, name: str) -> None:
        self.send(name, signal.SIGKILL)
        await self._processes[name].wait()

    async def close(self) -> None:
        for name in self._processes:
            if self._processes[name].returncode is None:
                await self.kill(name)

    def executed(self) -> tuple[int, int, int]:
        """POSTs, those with a wrong body, and those that were executed more than once."""
        lines = [
            line for path in self._directory.glob("i*.log") for line in path.read_text().split("\n")
        ]
        marks = Counter(line.split()[0] for line in lines if line)
        return (
            len(marks),
            sum(line.endswith("False") for line in lines),
            sum(times > 1 for times in marks.values()),
        )


# -- honest clients


class Clients:
    """Owns the honest clients and what they saw. No `tests.support.load`, which knows answers only:
    these have tunnels, leave early, and read framing strictly."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._marks = 0
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []

    def start(self, clients: int) -> None:
        self._tasks = [asyncio.create_task(self._run(random.Random(n))) for n in range(clients)]

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _run(self, rng: random.Random) -> None:
        while not self._stop.is_set():
            try:
                async with await Client.connect(self._port) as client:
                    for _ in range(rng.randrange(1, 60)):
                        if self._stop.is_set():
                            return
                        if not await self._one(client, rng):
                            break
                        await asyncio.sleep(rng.random() * 0.02)
            except Exception as error:
                self.seen[f"connection: {type(error).__name__}"] += 1

    async def _one(self, client: Client, rng: random.Random) -> bool:
        """One request; False if the connection is of no use any more."""
        kind = rng.choices(("small", "large", "post", "leave", "tunnel"), (80, 4, 12, 3, 1))[0]
        self._marks += 1
        mark = f"m{self._marks}"
        size = rng.randrange(200) if kind == "small" else rng.randrange(1, len(PATTERN) // 4)
        fields = [("X-Mark", mark), ("X-Request-ID", mark)]
        if kind == "tunnel":
            return await self._tunnel(client, fields)
        if kind == "leave":
            await client.send(request("GET", f"/{len(PATTERN)}", fields))
            await asyncio.sleep(rng.random() * 0.01)
            self.seen["left"] += 1
            return False
        body = PATTERN[:size] if kind == "post" else b""
        answer = await client.ask("POST" if body else "GET", f"/{size}", fields, body)
        self.seen[f"{kind} {answer.status}"] += 1
        if answer.status == 200:
            expected = b"%d" % size if body else PATTERN[:size]
            if answer.body != expected or answer["X-Mark"] != mark:
                self.wrong.append(f"{kind}: {mark} got {answer['X-Mark']}, {len(answer.body)} B")
        elif answer.status != 503 or answer.body != b"sick":
            try:
                self.seen[f"  {json.loads(answer.body).get('code', 'no code')}"] += 1
            except ValueError:
                self.wrong.append(f"{kind}: {answer.status} {answer.body[:100]!r}")
        return not answer.closes

    async def _tunnel(self, client: Client, fields: list[tuple[str, str]]) -> bool:
        upgrade = [*fields, ("Connection", "Upgrade"), ("Upgrade", "echo")]
        answer = await client.ask("GET", "/tunnel", upgrade)
        self.seen[f"tunnel {answer.status}"] += 1
        if answer.status == 101:
            for size in (1, 1000, 70_000):
                await client.send(PATTERN[:size])
                if await client.exactly(size) != PATTERN[:size]:
                    self.wrong.append("tunnel: other bytes than were sent")
        return False


# -- faults


async def chaos(fleet: Fleet, etcd: EtcdServer, proxy: RunningProxy, until: float) -> None:
    """One fault after the other, at most two instances at a time."""
    rng = random.Random(4)
    hostile = list(HOSTILE)
    while monotonic() < until:
        await asyncio.sleep(rng.uniform(1, 4))
        name = rng.choice(fleet.names)
        fault = rng.choice(("kill", "kill", "pause", "sick", "leave", "etcd", "hostile", "hostile"))
        if fault == "kill":
            await fleet.kill(name)
            await asyncio.sleep(rng.uniform(0, 3))
            await fleet.start(name)
        elif fault == "pause":
            fleet.send(name, signal.SIGSTOP)
            await asyncio.sleep(rng.uniform(0.5, 3))
            fleet.send(name, signal.SIGCONT)
        elif fault == "sick":
            fleet.send(name, signal.SIGUSR1)
        elif fault == "leave":
            await fleet.deregister(name)
            await asyncio.sleep(rng.uniform(0, 3))
            await fleet.register(name)
        elif fault == "etcd" and rng.random() < 0.3:
            await etcd.kill()
            await asyncio.sleep(rng.uniform(1, 5))
            await etcd.start()
        elif fault == "hostile":
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.e2e.hostile", rng.choice(hostile), str(proxy.port),
                "3", stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            await process.wait()


def _rss(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def _in_flight(proxy: RunningProxy) -> int:
    _, body = await proxy.get("/api/v1/services/s")
    return sum(instance["inflight"] for instance in body["instances"])


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def soak(minutes: float, count: int, environ: dict[str, str]) -> int:
    """The run and its report. Returns the exit code."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fairlead-soak-")))
        etcd = await stack.enter_async_context(EtcdServer())
        client = await stack.enter_async_context(EtcdClient(etcd.url))
        fleet = Fleet(directory, client)
        stack.push_async_callback(fleet.close)
        for name in fleet.names:
            await fleet.start(name)
            await fleet.register(name)
        evil = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.e2e.hostile", "instance", "0",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        stack.callback(evil.kill)
        assert evil.stdout is not None
        evil_port = int(await evil.stdout.readline())
        config = {
            "workers": 2,
            "registry": {"type": "etcd", "endpoints": [etcd.url]},
            "services": {
                "s": {"balancer": "least_connections"},
                "evil": {"instances": [{"address": "127.0.0.1", "port": evil_port}]},
            },
            "routes": [{"path_prefix": "/evil", "service": "evil"}, {"service": "s"}],
        }
        proxy = await stack.enter_async_context(RunningProxy(config, directory, environ=environ))
        pids = [proxy.control, *await proxy.worker_pids()]
        base = [_descriptors(pid) for pid in pids]
        clients = Clients(proxy.port)
        clients.start(count)
        begun = monotonic()
        until = begun + minutes * 60
        faults = asyncio.create_task(chaos(fleet, etcd, proxy, until))
        try:
            for tenth in range(1, 11):
                await asyncio.sleep(max(0.0, begun + tenth * minutes * 6 - monotonic()))
                sizes = " ".join(f"{_rss(pid):6.1f}" for pid in pids)
                _say(f"{tenth:3}/10  RSS MB {sizes}  requests {clients.seen.total()}")
                if faults.done():
                    await faults
        finally:
            await faults
            await clients.stop()
        await eventually(lambda: _at_rest(proxy), 90, "nothing is in flight")
        await asyncio.sleep(90)  # Longer than idle connections and lingering clients stay.
        after = [_descriptors(pid) for pid in pids]
        same = pids == [proxy.control, *await proxy.worker_pids()]
        posts, wrong_bodies, twice = fleet.executed()
        for what, times in sorted(clients.seen.items()):
            _say(f"{times:9}  {what}")
        _say(f"POSTs {posts}, wrong bodies {wrong_bodies}, executed twice {twice}")
        _say(f"wrong answers {len(clients.wrong)} {clients.wrong[:5]}")
        _say(f"descriptors of control and workers: {base} -> {after}; the same workers: {same}")
        lines = [line for line in proxy.log().splitlines() if '"level":"error"' in line.lower()]
        _say(f"errors in the log: {len(lines)} {lines[:3]}")
        left = any(now > before + 8 for now, before in zip(after, base, strict=True))
        return int(bool(clients.wrong or wrong_bodies or twice or left or not same))


async def _at_rest(proxy: RunningProxy) -> bool:
    return await _in_flight(proxy) == 0


def main() -> int:
    """See the module."""
    if sys.argv[1:2] == ["instance"]:
        asyncio.run(_instance(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])))
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--compiled", action="store_true", help="what `make compiled` built")
    options = parser.parse_args()
    environ = compiled.environment() if options.compiled else {}
    return asyncio.run(soak(options.minutes, options.clients, environ))


if __name__ == "__main__":
    sys.exit(main())
