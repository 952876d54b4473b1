"""A fleet on one etcd of three members: `python -m bench.fleet --proxies 20 --relays 2`.

The discovery code of the product, many providers in each of a few processes, follows what a writer
changes; each change carries the time at which it was sent. With `--relays N` most follow N relays
in processes of their own, and the others etcd.

Measured: from the moment of a write to the moment at which a provider has told of it, processor
time and memory of etcd's members and of the providers, and bytes that members have sent to clients.
`--sinks` are followers of relays that take what they are told and throw it away: what they would do
with it is done by the others, on this machine too.

With `--events`, while changes go on: every provider is restarted, one after the other; a third of
them is cut off from its servers and comes back; and etcd is restored from a backup.

`--keep` adds the row to `bench/results/fleet.json`, of which `--picture` draws
`docs/images/fleet.svg`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from bench.fleet_processes import providers_process, relay_process, resident, sinks_process
from bench.processes import cpu_ns, raise_open_files
from bench.simulate import COLOURS, panel
from proxy.embedded_etcd import EtcdProcess, etcd_binary, free_port
from proxy.registry.etcd.gateway import Gateway, put_op
from tests.e2e.tcp_fault import TcpFault

RESULTS = Path(__file__).parent / "results" / "fleet.json"
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "fleet.svg"
MARKER = b"/services/marker/m"
"""A key that is written when something is over: whoever has it is up to date."""
CUT_OFF = 15.0
"""Seconds for which a third is cut off."""
SERVICE_SIZE = 50
"""Instances of a service."""
AT_ONCE = 100
"""Keys of one transaction when the store is filled: etcd takes 128 operations."""
SETTLE = 2.0
"""Seconds before the first change."""
START_LIMIT = 120.0
"""Seconds for all to have the first list, and for whatever else processes are asked."""


class Cluster:
    """Owns three members of etcd, with data that is thrown away."""

    def __init__(self, directory: Path) -> None:
        names = ("a", "b", "c")
        self.members = [EtcdProcess(directory / name, name=name) for name in names]
        peers = ",".join(f"{one.name}=http://127.0.0.1:{one.peer_port}" for one in self.members)
        for one in self.members:
            one.directory.mkdir()
            one.options = (
                f"--initial-advertise-peer-urls=http://127.0.0.1:{one.peer_port}",
                f"--initial-cluster={peers}",
            )

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(one.url for one in self.members)

    async def __aenter__(self) -> Cluster:
        for one in self.members:
            await one.launch()
        await self.healthy()
        return self

    async def healthy(self) -> None:
        await asyncio.gather(*(one.healthy() for one in self.members))

    async def restore(self, backup: Path) -> None:
        """Put all members back to a backup, as docs/etcd.md says."""
        for one in self.members:
            await one.kill()
        for one in self.members:
            shutil.rmtree(one.data)
            await tool(
                "etcdutl", "snapshot", "restore", str(backup), f"--name={one.name}",
                f"--data-dir={one.data}", *one.options, "--initial-cluster-token=restored",
            )  # fmt: skip
            one.options = (*one.options, "--initial-cluster-token=restored")
        for one in self.members:
            await one.launch()
        await self.healthy()

    async def __aexit__(self, *exc: object) -> None:
        for one in self.members:
            await one.kill()

    def cpu(self) -> float:
        """Seconds of processor time of all members."""
        return sum(cpu_ns(one.process.pid) for one in self.members if one.process) / 1e9

    def memory(self) -> float:
        """Resident bytes of all members."""
        return sum(resident(one.process.pid) for one in self.members if one.process)

    async def sent(self) -> float:
        """Bytes that members have sent to clients."""
        total = 0.0
        async with aiohttp.ClientSession() as session:
            for one in self.members:
                async with session.get(f"{one.url}/metrics") as answer:
                    page = await answer.text()
                name = "etcd_network_client_grpc_sent_bytes_total"
                total += sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)", page, re.M)))
        return total


async def tool(program: str, *arguments: str) -> None:
    """Run one of etcd's tools."""
    process = await asyncio.create_subprocess_exec(
        str(etcd_binary().parent / program), *arguments,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{program}: {said.decode(errors='replace')}")


def record(at: float) -> bytes:
    metadata = {"at": repr(at), "zone": "a", "version": "1.2.3"}
    return json.dumps({"address": "10.0.0.1", "port": 8080, "metadata": metadata}).encode()


def key(number: int) -> bytes:
    return f"/services/s{number // SERVICE_SIZE:05}/i{number:06}".encode()


async def fill(gateway: Gateway, instances: int) -> None:
    for first in range(0, instances, AT_ONCE):
        numbers = range(first, min(instances, first + AT_ONCE))
        await gateway.txn((), [put_op(key(one), record(0.0), 0) for one in numbers])


async def change(urls: Sequence[str], instances: int, rate: float, seconds: float) -> int:
    """Write so many changes a second; how many were written."""
    gateways = [Gateway(url) for url in urls]
    rng = random.Random(1)
    began, count = time.monotonic(), 0
    tasks: set[asyncio.Task[Any]] = set()
    try:
        while (now := time.monotonic()) - began < seconds:
            while count < (now - began) * rate:
                put = put_op(key(rng.randrange(instances)), record(time.time()), 0)
                task = asyncio.ensure_future(gateways[count % len(gateways)].txn((), [put]))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                count += 1
            await asyncio.sleep(0.005)
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for gateway in gateways:
            await gateway.disconnect()
    return count


def percentile(values: Sequence[float], share: float) -> float:
    found = sorted(values)
    return found[min(len(found) - 1, int(len(found) * share))] if found else 0.0


class Fleet:
    """Owns the processes of a run, and asks them."""

    def __init__(self, given: argparse.Namespace, cluster: Cluster) -> None:
        self.given, self.cluster = given, cluster
        self.providers: list[Connection] = []
        self.relays: list[Connection] = []
        self.sinks: list[Connection] = []
        self.way: list[TcpFault] = []
        """By which a third of the providers reaches its servers."""
        self._processes: list[Any] = []
        self._stack = AsyncExitStack()

    def _start(self, target: Any, *arguments: Any) -> Connection:
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=target, args=(theirs, *arguments), daemon=True)
        process.start()
        theirs.close()  # So that the end of the process is the end of the pipe.
        self._processes.append(process)
        return ours

    async def __aenter__(self) -> Fleet:
        given = self.given
        ports = [free_port() for _ in range(given.relays)]
        self.relays = [self._start(relay_process, self.cluster.urls, port) for port in ports]
        await self.heard(self.relays)
        servers = [f"http://127.0.0.1:{port}" for port in ports] or list(self.cluster.urls)
        for at in range(given.processes):
            number = len(range(at, given.proxies, given.processes))
            urls = servers
            if given.events and at == 0:
                for url in servers:
                    way = TcpFault(urlsplit(url).port or 0)
                    self.way.append(await self._stack.enter_async_context(way))
                urls = [way.url for way in self.way]
            arguments = urls, number, bool(ports), given.instances, at
            self.providers.append(self._start(providers_process, *arguments))
        await self.heard(self.providers)
        if given.sinks:
            self.sinks = [self._start(sinks_process, servers, given.sinks)]
            await self.heard(self.sinks)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for end in (*self.providers, *self.relays, *self.sinks):
            with suppress(BrokenPipeError):
                end.send(("stop", None))
        for process in self._processes:
            process.join(10)
            process.kill()
        await self._stack.aclose()

    async def heard(self, ends: Sequence[Connection]) -> list[Any]:
        """The next answer of each; EOFError where a process has ended."""
        until = time.monotonic() + START_LIMIT

        def answer(end: Connection) -> Any:
            if not end.poll(max(0.0, until - time.monotonic())):
                raise TimeoutError(f"a process has not answered for {START_LIMIT:g} s")
            return end.recv()

        return [await asyncio.to_thread(answer, end) for end in ends]

    async def ask(self, ends: Sequence[Connection], what: str, argument: Any = None) -> list[Any]:
        """The answers of these processes."""
        for end in ends:
            end.send((what, argument))
        return await self.heard(ends)

    async def mark(self, ends: Sequence[Connection]) -> list[float]:
        """Write the marker; after how many seconds each provider of these processes had it."""
        gateway = Gateway(self.cluster.urls[0])
        try:
            at = time.time()
            await gateway.txn((), [put_op(MARKER, record(at), 0)])
        finally:
            await gateway.disconnect()
        found = await self.ask(ends, "marked", at)
        return [one - at for times in found for one in times]


async def measure(given: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="fairlead-bench-fleet-") as directory:
        async with Cluster(Path(directory)) as cluster:
            gateway = Gateway(cluster.urls[0])
            await fill(gateway, given.instances)
            await gateway.disconnect()
            began = time.monotonic()
            async with Fleet(given, cluster) as fleet:
                row = {"first_lists_s": round(time.monotonic() - began, 2)}
                row |= await steady(given, cluster, fleet)
                if given.events:
                    row["events"] = {
                        "rolling_restart": await rolling(given, cluster, fleet),
                        "third_cut_off": await cut_off(given, cluster, fleet),
                        "restore": await restored(given, cluster, fleet, Path(directory)),
                    }
                return row


async def steady(given: argparse.Namespace, cluster: Cluster, fleet: Fleet) -> dict[str, Any]:
    """Changes alone."""
    await asyncio.sleep(SETTLE)
    before = [await fleet.ask(ends, "late") for ends in (fleet.providers, fleet.relays)]
    cpu, sent = cluster.cpu(), await cluster.sent()
    began = time.monotonic()
    count = await change(cluster.urls, given.instances, given.rate, given.seconds)
    await fleet.mark(fleet.providers)  # Whoever has this has had everything before it.
    span = time.monotonic() - began
    cpu, sent = cluster.cpu() - cpu, await cluster.sent() - sent
    told, relays = [await fleet.ask(ends, "late") for ends in (fleet.providers, fleet.relays)]
    sinks = await fleet.ask(fleet.sinks, "late")
    used, relay_used = (
        sum(one[0] for one in now) - sum(one[0] for one in then)
        for now, then in zip((told, relays), before, strict=True)
    )
    late = [one for _, _, lists in told for one_list in lists for one in one_list]
    own, number = max(1, count * given.proxies), max(1, len(relays))
    return {
        "proxies": given.proxies,
        "relays": given.relays,
        "sinks": given.sinks,
        "instances": given.instances,
        "changes_a_second": round(count / given.seconds, 1),
        "load": round(os.getloadavg()[0], 1),
        "late_p50_ms": round(1000 * percentile(late, 0.5), 1),
        "late_p99_ms": round(1000 * percentile(late, 0.99), 1),
        "late_ms": [round(1000 * percentile(late, share / 100), 1) for share in range(0, 100, 3)],
        "told_of": round(len(late) / own, 3),
        "etcd_cores": round(cpu / span, 3),
        "etcd_ms_per_change": round(1000 * cpu / max(1, count), 3),
        "etcd_mb": round(cluster.memory() / 1e6),
        "proxy_cores": round(used / given.proxies / span, 4),
        "proxy_ms_per_change": round(1000 * used / own, 3),
        "proxy_mb": round(sum(one[1] for one in told) / given.proxies / 1e6, 1),
        "relay_cores": round(relay_used / number / span, 3),
        "relay_mb": round(sum(one[1] for one in relays) / number / 1e6),
        "sent_mb": round(sent / 1e6, 2),
        "sinks_mb": round(sum(size for size, _ in sinks) / 1e6, 1),
        "sinks_lost": sum(lost for _, lost in sinks),
    }


async def changing(given: argparse.Namespace, cluster: Cluster, work: Awaitable[Any]) -> Any:
    """Do something while changes go on."""
    task = asyncio.create_task(change(cluster.urls, given.instances, given.rate, 3600.0))
    try:
        return await work
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def rolling(given: argparse.Namespace, cluster: Cluster, fleet: Fleet) -> dict[str, Any]:
    """Every provider begins anew, one after the other in each process."""
    await fleet.ask(fleet.providers, "late")
    began, cpu, sent = time.monotonic(), cluster.cpu(), await cluster.sent()
    found = await changing(given, cluster, fleet.ask(fleet.providers, "roll"))
    span = time.monotonic() - began
    seconds = [one for all_ in found for one in all_]
    told = await fleet.ask(fleet.providers, "late")
    late = [one for _, _, lists in told for one_list in lists for one in one_list]
    return {
        "seconds": round(span, 1),
        "list_p50_s": round(percentile(seconds, 0.5), 2),
        "list_max_s": round(max(seconds), 2),
        "late_p99_ms": round(1000 * percentile(late, 0.99), 1),
        "etcd_cores": round((cluster.cpu() - cpu) / span, 3),
        "sent_mb": round((await cluster.sent() - sent) / 1e6, 1),
    }


async def cut_off(given: argparse.Namespace, cluster: Cluster, fleet: Fleet) -> dict[str, Any]:
    """The providers of the first process reach nobody for a while."""
    lists = sum(await fleet.ask(fleet.providers, "lists"))

    async def away() -> list[float]:
        for way in fleet.way:
            await way.refuse()
        await asyncio.sleep(CUT_OFF)
        for way in fleet.way:
            await way.accept()
        return await fleet.mark(fleet.providers[:1])

    sent = await cluster.sent()
    seconds = await changing(given, cluster, away())
    return {
        "seconds_away": CUT_OFF,
        "back_p50_s": round(percentile(seconds, 0.5), 2),
        "back_max_s": round(max(seconds), 2),
        "lists": sum(await fleet.ask(fleet.providers, "lists")) - lists,
        "sent_mb": round((await cluster.sent() - sent) / 1e6, 1),
    }


async def restored(
    given: argparse.Namespace, cluster: Cluster, fleet: Fleet, directory: Path
) -> dict[str, Any]:
    """All members are killed, and put back to a backup of some seconds before."""
    backup = directory / "backup.db"
    await tool("etcdctl", f"--endpoints={cluster.urls[0]}", "snapshot", "save", str(backup))
    await change(cluster.urls, given.instances, given.rate, 2.0)
    began = time.monotonic()
    await cluster.restore(backup)
    healthy = time.monotonic() - began
    seconds = await fleet.mark(fleet.providers)
    return {
        "etcd_away_s": round(healthy, 2),
        "back_p50_s": round(percentile(seconds, 0.5), 2),
        "back_max_s": round(max(seconds), 2),
        "sent_mb": round(await cluster.sent() / 1e6, 1),
    }


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """How late changes were, and what each cost etcd, as SVG."""

    def name(row: dict[str, Any]) -> str:
        followers = row["proxies"] + row["sinks"]
        by = f", {row['relays']} relays" if row["relays"] else ""
        return f"{followers}{by}: {row['instances']:,}, {row['changes_a_second']:.0f}/s"

    late = {
        name(row): [(3.0 * at, value) for at, value in enumerate(row["late_ms"])] for row in rows
    }
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 420 300" font-size="12"'
        ' font-family="sans-serif" fill="#868e96">',
        panel("Commit to effect, ms", "of a hundred changes", late, 50, 40),
        "</svg>\n",
    ]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proxies", type=int, default=20)
    parser.add_argument("--instances", type=int, default=2_000)
    parser.add_argument("--rate", type=float, default=50.0, help="changes a second")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--relays", type=int, default=0)
    parser.add_argument("--sinks", type=int, default=0, help="followers that only listen")
    parser.add_argument("--events", action="store_true", help="restarts, a partition, a restore")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--keep", action="store_true", help=f"add the row to {RESULTS.name}")
    parser.add_argument(
        "--picture", action="store_true", help="draw what was kept last, and no more"
    )
    given = parser.parse_args()
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    if given.picture:
        PICTURE.write_text(draw(rows[-len(COLOURS) :]))
        return
    if given.events:
        given.processes = max(3, given.processes)
    raise_open_files()  # Of which a relay gives its followers a quarter.
    row = asyncio.run(measure(given))
    print(json.dumps(row))
    if given.keep:
        RESULTS.write_text(json.dumps([*rows, row], indent=1) + "\n")


if __name__ == "__main__":
    main()
