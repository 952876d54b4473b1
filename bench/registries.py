"""What each registry costs the process that follows it: `bench registries`.

For each type: the server of the drills (a real one where there is one) is given thousands of
instances of one service, which is the worst case, and the provider alone follows it in a process of
its own. That tells of

* the first list: seconds until it is known, processor time, memory,
* the longest time for which the loop did nothing else: processor time between two turns of a task
  that asks for nothing else, so that other programs on the machine do not count,
* one change at a time: from the moment at which it is *sent* until the provider has yielded it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

import msgspec
import structlog

from bench.results import machine, write
from proxy.catalog import PROVIDERS, load, registry_options
from tests.e2e.drilled import DRILLED, SERVICE, Drilled, id_of
from tests.support.processes import eventually

PUSHED = (
    *("etcd", "etcd-scripted", "zookeeper", "consul", "consul-scripted", "kubernetes"),
    *("consul-kv", "consul-kv-scripted"),
    *("nacos", "nacos-push"),
)
"""Those that tell of changes at once; of the others it takes their interval."""
CHANGED = "i0"
"""Id of the instance that changes."""
SETTLE = 1.0
"""Seconds after the last change in which the provider may still work."""
APART = 0.1
"""Seconds between two changes: they are not to be joined into one."""
TURN = 0.001
"""Seconds between two turns of the task that finds blocks."""
LIMIT = 120.0
"""Seconds in which a provider must have the first list, on a machine that others use."""


@dataclass
class Result:
    """One type, measured. Times in ms unless a name says otherwise."""

    registry: str
    instances: int
    list_s: float
    """From the start of the provider to the first membership with all of them."""
    list_cpu_s: float
    list_block: float
    rss_mb: float
    """More than before the provider was made."""
    changes: int
    change_p50: float
    change_p99: float
    change_block: float
    change_cpu: float
    """Processor time for one change."""


def main(arguments: Sequence[str]) -> int:
    """Run and print; writes bench/results/*.json."""
    parser = argparse.ArgumentParser(prog="python -m bench registries", description=__doc__)
    parser.add_argument("--instances", type=int, default=4000)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--changes-of", type=int, default=1000, metavar="INSTANCES")
    parser.add_argument("--only", action="append", choices=sorted(DRILLED), default=[])
    parser.add_argument("--follow", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.follow is not None:
        asyncio.run(_follow(*options.follow, options.instances))
        return 0
    facts = machine(frozenset(os.sched_getaffinity(0)))
    results: list[Result] = []
    for name in options.only or sorted(DRILLED):
        if DRILLED[name].missing:
            print(f"{name}: there is no {DRILLED[name].missing} on this machine")
            continue
        sizes = [(options.instances, 0)]
        if name in PUSHED:
            sizes.append((options.changes_of, options.changes))
        for instances, changes in sizes:
            results.append(asyncio.run(_measure(name, instances, changes)))
            print(row(results[-1]), flush=True)
    path = write({"machine": facts, "registries": [asdict(result) for result in results]})
    print(f"\nwritten to {path}")
    return 0


def row(one: Result) -> str:
    """The row of a table in docs/registries.md: of changes, or of the first list."""
    if one.changes:
        delay = f"{one.change_p50:.0f} | {one.change_p99:.0f}"
        figures = f"{delay} | {one.change_cpu:.1f} | {one.change_block:.0f}"
    else:
        first = f"{one.list_s:.2f} | {one.list_cpu_s:.2f}"
        figures = f"{first} | {one.rss_mb:.0f} | {one.list_block:.0f}"
    return f"| {one.registry} | {one.instances:,} | {figures} |"


async def _measure(name: str, instances: int, changes: int) -> Result:
    async with DRILLED[name]() as registry:
        ids = [f"i{number}" for number in range(instances)]
        for start in range(0, instances, 200):
            await registry.register(*ids[start : start + 200])
        follower = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench", "registries", "--instances", str(instances)),
            *("--follow", registry.type, json.dumps(msgspec.to_builtins(registry.options()))),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            return await _drive(name, registry, follower, instances, changes)
        finally:
            if follower.returncode is None:
                follower.kill()
            await follower.wait()


async def _drive(
    name: str,
    registry: Drilled,
    follower: asyncio.subprocess.Process,
    instances: int,
    changes: int,
) -> Result:
    assert follower.stdin is not None
    assert follower.stdout is not None

    async def told() -> dict[str, float]:
        assert follower.stdout is not None
        async with asyncio.timeout(LIMIT):
            found: dict[str, float] = json.loads(await follower.stdout.readline())
        return found

    first = await told()
    times = []
    for number in range(changes):
        port = 9000 + number
        await asyncio.sleep(APART)
        sent = time.monotonic()
        await registry.register(CHANGED, port=port)
        while (news := await told())["port"] != port:
            pass
        times.append((news["at"] - sent) * 1000)
    await asyncio.sleep(SETTLE)
    follower.stdin.close()
    last = await told()
    while "cpu" not in last:
        last = await told()
    cpu = (last["cpu"] - first["cpu"]) * 1000 / changes if changes else 0.0
    return Result(
        name,
        instances,
        first["seconds"],
        first["cpu"],
        first["block"],
        first["rss_mb"],
        changes,
        median(times) if times else 0.0,
        quantiles(times, n=100)[98] if len(times) > 1 else 0.0,
        last["block"],
        cpu,
    )


async def _follow(kind: str, options: str, instances: int) -> None:
    """Be the process that follows: a line for each membership, until the end of its input."""
    # Memberships are told on standard output.
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(sys.stderr))
    keys = msgspec.convert(json.loads(options), registry_options(kind))
    blocks = _Blocks()
    watcher = asyncio.create_task(blocks.watch())
    before = _rss_mb()
    provider = load(PROVIDERS, kind)(keys)
    began, cpu = time.monotonic(), time.process_time()
    listed = asyncio.Event()

    async def read() -> None:
        async for membership in provider.watch():
            pool = membership.services.get(SERVICE, ())
            if listed.is_set():
                port = next(one.port for one in pool if id_of(one) == CHANGED)
                _say(at=time.monotonic(), port=port)
            elif len(pool) == instances:
                _say(
                    seconds=time.monotonic() - began,
                    cpu=time.process_time() - cpu,
                    block=blocks.taken(),
                    rss_mb=_rss_mb() - before,
                )
                listed.set()

    reader = asyncio.create_task(read())
    await eventually(listed.is_set, LIMIT)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    _say(cpu=time.process_time() - cpu, block=blocks.taken())
    await provider.close()
    await reader
    watcher.cancel()


def _say(**fields: float) -> None:
    print(json.dumps(fields), flush=True)


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
