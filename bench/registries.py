"""What each registry costs, and when clients see what it tells: `bench registries`.

For each type: the server of the drills (a real one where there is one) is given thousands of
instances of one service, which is the worst case. The provider alone follows it in a process of its
own, which tells of

* the first list: seconds until it is known, processor time, memory,
* the longest time for which the loop did nothing else: processor time between two turns of a task
  that asks for nothing else, so that other programs on the machine do not count.

Then a proxy follows a thousand, one of which moves from one port to the other and back. Two clients
ask all the time, each with a key that a hash ring maps to one of its two ports. So it is measured
from the moment at which a change is *sent* until a client is answered by the new instance, and
until one is not answered by the gone one any more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Self

import msgspec
import structlog

from bench.processes import StartError, cpu_ns
from bench.results import machine, write
from bench.told import Client, origins
from proxy.catalog import PROVIDERS, load, registry_options
from tests.e2e.drilled import SERVICE, Drilled
from tests.e2e.every_registry import EVERY, keys_of
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually

ASKED = ("dns", "eureka", "eureka-scripted", "http", "nacos-http")
"""Those that are asked each `interval`; the others tell of changes by themselves."""
CHANGED = "i0"
"""Id of the instance that changes."""
APART = 0.1
"""Seconds between two changes: they are not to be joined into one. Where the registry is asked, a
random part of the interval more."""
TURN = 0.001
"""Seconds between two turns of the task that finds blocks."""
PAUSE = 0.002
"""Seconds between two requests of a client."""
LIMIT = 120.0
"""Seconds in which a provider must have the first list, and a client see a change, on a machine
that others use."""
KEYS = 50_000
"""Keys that are tried until one leads to the instance: some thousand are usual."""


@dataclass
class Listed:
    """The first list of one type. Times in ms unless a name says otherwise."""

    registry: str
    instances: int
    list_s: float
    """From the start of the provider to the first membership with all of them."""
    list_cpu_s: float
    list_block: float
    rss_mb: float
    """More than before the provider was made."""

    def row(self) -> str:
        """Its row of a table in docs/registries.md."""
        first = f"{self.list_s:.2f} | {self.list_cpu_s:.2f}"
        return f"| {self.registry} | {first} | {self.rss_mb:.0f} | {self.list_block:.0f} |"


@dataclass
class Changed:
    """Changes in one type, one after the other, as clients of a proxy see them. Times in ms."""

    registry: str
    instances: int
    changes: int
    new: list[float]
    """From each change until the new instance answered."""
    gone: list[float]
    """Until another one than the gone one did."""
    cpu: float
    """Processor time of the control process for one change, all that it does meanwhile included."""

    def row(self) -> str:
        """See `Listed`."""
        figures = " | ".join(
            f"{median(one):.0f} | {_p99(one):.0f}" for one in (self.new, self.gone)
        )
        return f"| {self.registry} | {figures} | {self.cpu:.1f} |"


def _p99(times: Sequence[float]) -> float:
    """Of few the last one."""
    return quantiles(times, n=100)[98] if len(times) >= 100 else max(times)


def main(arguments: Sequence[str]) -> int:
    """Run and print; writes bench/results/*.json."""
    parser = argparse.ArgumentParser(prog="python -m bench registries", description=__doc__)
    parser.add_argument("--instances", type=int, default=4000, help="0 = no first lists")
    parser.add_argument("--changes", type=int, default=200, help="0 = none")
    parser.add_argument("--changes-asked", type=int, default=20, help=f"of {', '.join(ASKED)}")
    parser.add_argument("--changes-of", type=int, default=1000, metavar="INSTANCES")
    parser.add_argument("--only", action="append", choices=sorted(EVERY), default=[])
    parser.add_argument("--follow", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(sys.stderr))
    if options.follow is not None:
        asyncio.run(_follow(*options.follow, options.instances))
        return 0
    facts = machine(frozenset(os.sched_getaffinity(0)))
    lists: list[Listed] = []
    moves: list[Changed] = []
    for name in options.only or sorted(EVERY):
        if EVERY[name].missing:
            print(f"{name}: there is no {EVERY[name].missing} on this machine")
            continue
        if options.instances:
            lists.append(asyncio.run(_list(name, options.instances)))
            print(lists[-1].row(), flush=True)
        changes = min(options.changes, options.changes_asked) if name in ASKED else options.changes
        if changes:
            moves.append(asyncio.run(_move(name, options.changes_of, changes)))
            print(moves[-1].row(), flush=True)
    path = write(
        {
            "machine": facts,
            "registries": [asdict(one) for one in lists],
            "changes": [asdict(one) for one in moves],
        }
    )
    print(f"\nwritten to {path}")
    return 0


@contextlib.asynccontextmanager
async def _filled(name: str, instances: int, port: int = 8080) -> AsyncIterator[Drilled]:
    async with EVERY[name]() as registry:
        registry.address = "127.0.0.1"
        ids = [f"i{number}" for number in range(instances)]
        for start in range(0, instances, 200):
            await registry.register(*ids[start : start + 200], port=port)
        yield registry


# ------------------------------------------------------------------------- the first list


async def _list(name: str, instances: int) -> Listed:
    async with _filled(name, instances) as registry:
        follower = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench", "registries", "--instances", str(instances)),
            *("--follow", registry.type, json.dumps(msgspec.to_builtins(registry.options()))),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert follower.stdout is not None
            async with asyncio.timeout(LIMIT):
                return Listed(name, instances, **json.loads(await follower.stdout.readline()))
        finally:
            if follower.returncode is None:
                follower.kill()
            await follower.wait()


async def _follow(kind: str, options: str, instances: int) -> None:
    """Be the process that follows: one line, when everything is known."""
    keys = msgspec.convert(json.loads(options), registry_options(kind))
    blocks = _Blocks()
    watcher = asyncio.create_task(blocks.watch())
    before = _rss_mb()
    provider = load(PROVIDERS, kind)(keys)
    began, cpu = time.monotonic(), time.process_time()
    async with asyncio.timeout(LIMIT), contextlib.aclosing(provider.watch()) as memberships:
        async for membership in memberships:
            if len(membership.services.get(SERVICE, ())) == instances:
                break
        seconds = time.monotonic() - began
    told = {
        "list_s": seconds,
        "list_cpu_s": time.process_time() - cpu,
        "list_block": blocks.taken(),
        "rss_mb": _rss_mb() - before,
    }
    print(json.dumps(told), flush=True)
    await provider.close()
    watcher.cancel()


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


class _Blocks:
    """Owns the longest block since it was last asked, in ms."""

    def __init__(self) -> None:
        self._longest = 0.0

    async def watch(self) -> None:
        """Look, until cancelled."""
        while True:
            before = time.thread_time()
            await asyncio.sleep(TURN)
            self._longest = max(self._longest, time.thread_time() - before)

    def taken(self) -> float:
        """The longest one, which is forgotten."""
        longest, self._longest = self._longest, 0.0
        return longest * 1000


# -------------------------------------------------------------------- changes, from outside


async def _move(name: str, instances: int, changes: int) -> Changed:
    async with origins(3) as (others, *ports), _filled(name, instances, others) as registry:
        await registry.register(CHANGED, port=ports[0])
        config = {
            "registry": keys_of(registry),
            "services": {SERVICE: {"balancer": {"type": "consistent_hash", "key": "header:X-Key"}}},
            "routes": [{"service": SERVICE}],
        }
        with tempfile.TemporaryDirectory() as directory:
            async with RunningProxy(config, Path(directory)) as proxy:

                async def all_known() -> bool:
                    _, known = await proxy.get(f"/api/v1/services/{SERVICE}?limit=1")
                    return bool(known.get("total") == instances)

                await eventually(all_known, LIMIT, proxy.log)
                async with _Client(proxy.port) as one, _Client(proxy.port) as other:
                    return await _drive(
                        name, registry, proxy.control, (one, other), ports, instances, changes
                    )


async def _drive(
    name: str,
    registry: Drilled,
    control: int,
    clients: tuple[_Client, _Client],
    ports: Sequence[int],
    instances: int,
    changes: int,
) -> Changed:
    keys = {ports[0]: await clients[0].key_of(ports[0])}
    await registry.register(CHANGED, port=ports[1])
    await clients[0].until(keys[ports[0]], lambda port: port != ports[0])
    keys[ports[1]] = await clients[0].key_of(ports[1])
    interval: float = getattr(registry.options(), "interval", 0.0) if name in ASKED else 0.0
    new, gone = [], []
    cpu = cpu_ns(control)
    for number in range(changes):
        port, before = ports[number % 2], ports[1 - number % 2]
        await asyncio.sleep(APART + random.uniform(0, interval))
        sent = time.monotonic()
        _, seen, missed = await asyncio.gather(
            registry.register(CHANGED, port=port),
            clients[0].until(keys[port], lambda answered, port=port: answered == port),
            clients[1].until(keys[before], lambda answered, before=before: answered != before),
        )
        new.append((seen - sent) * 1000)
        gone.append((missed - sent) * 1000)
    used = (cpu_ns(control) - cpu) / 1e6 / changes
    return Changed(name, instances, changes, new, gone, used)


class _Client:
    """Owns a connection to the proxy, and opens another one where that may have been idle."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: Client | None = None

    async def ask(self, key: int) -> int:
        """The port that answers a request with this key."""
        assert self._connection is not None
        return (await self._connection.once("/", f"X-Key: {key}\r\n"))[0]

    async def key_of(self, port: int) -> int:
        """A key whose requests this port answers, also when the ring is laid out."""
        for key in range(KEYS):
            if await self.ask(key) == port:
                await asyncio.sleep(0.5)
                if await self.ask(key) == port:
                    return key
        raise StartError(f"{KEYS} keys led to others than {port}")

    async def until(self, key: int, wanted: Callable[[int], bool]) -> float:
        """`time.monotonic` when a request with this key was answered by a port that is wanted."""
        await self._connect()  # The proxy has closed one that was idle.
        async with asyncio.timeout(LIMIT):
            while True:
                if wanted(await self.ask(key)):
                    return time.monotonic()
                await asyncio.sleep(PAUSE)

    async def _connect(self) -> None:
        self.close()
        self._connection = await Client.connect(self._port)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    async def __aenter__(self) -> Self:
        await self._connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()
