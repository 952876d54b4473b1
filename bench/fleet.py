"""A fleet on one etcd of three members: `python -m bench.fleet --proxies 20 --relays 2`.

The discovery code of the product, many providers in each of a few processes, follows what a writer
changes; each change carries the time at which it was sent. With `--relays N` most follow N relays
in processes of their own, and the others etcd.

Measured: from the moment of a write to the moment at which a provider has told of it, the
processor time of etcd's members and of the providers, and bytes that members have sent to clients.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import re
import tempfile
import time
from collections.abc import Coroutine, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import structlog
import uvloop

from bench.processes import cpu_ns
from proxy.control.relay import Relay
from proxy.embedded_etcd import EtcdProcess, free_port
from proxy.registry.base import Provider
from proxy.registry.etcd.gateway import Gateway, put_op
from proxy.registry.etcd.options import Options as EtcdOptions
from proxy.registry.etcd.provider import EtcdProvider
from proxy.registry.relay.options import Options as RelayOptions
from proxy.registry.relay.provider import RelayProvider
from proxy.settings.file import Settings
from proxy.settings.registry import Registry
from proxy.settings.relay import RelaySettings

SERVICE_SIZE = 50
"""Instances of a service."""
AT_ONCE = 100
"""Keys of one transaction when the store is filled: etcd takes 128 operations."""
SETTLE = 2.0
"""Seconds after the last change."""
START_LIMIT = 120.0
"""Seconds for all to have the first list."""


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
        await asyncio.gather(*(one.healthy() for one in self.members))
        return self

    async def __aexit__(self, *exc: object) -> None:
        for one in self.members:
            await one.kill()

    def cpu(self) -> float:
        """Seconds of processor time of all members."""
        return sum(cpu_ns(one.process.pid) for one in self.members if one.process) / 1e9

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
    while (now := time.monotonic()) - began < seconds:
        while count < (now - began) * rate:
            put = put_op(key(rng.randrange(instances)), record(time.time()), 0)
            task = asyncio.ensure_future(gateways[count % len(gateways)].txn((), [put]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            count += 1
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    for gateway in gateways:
        await gateway.disconnect()
    return count


class Follower:
    """Owns a provider and what it was late by."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.late: list[float] = []
        self.instances = 0
        self._grew = asyncio.Event()

    async def complete(self, instances: int) -> None:
        """Wait until it knows so many."""
        while self.instances < instances:
            self._grew.clear()
            await self._grew.wait()

    async def run(self) -> None:
        before: Any = {}
        async for membership in self.provider.watch():
            now = time.time()
            services = membership.services
            for name, pool in services.items():
                old = before.get(name, ())
                if old is pool or not old:
                    continue
                known = {one.id: one for one in old}
                for one in pool:
                    if known.get(one.id) is not one:
                        self.late.append(now - float(one.metadata["at"]))
            before = services
            self.instances = sum(map(len, services.values()))
            self._grew.set()


def providers_process(
    end: Connection, urls: Sequence[str], number: int, relays: bool, instances: int, seed: int
) -> None:
    """A process with so many providers, which says when all have everything, and what came of it
    when it is told to."""

    async def main() -> None:
        def made(at: int) -> Provider:
            rng = random.Random(1000 * seed + at)
            if relays:
                return RelayProvider(RelayOptions(endpoints=tuple(urls)), rng=rng)
            return EtcdProvider(EtcdOptions(endpoints=tuple(urls)), rng=rng)

        followers = [Follower(made(at)) for at in range(number)]
        tasks = [asyncio.create_task(one.run()) for one in followers]
        await asyncio.gather(*(one.complete(instances) for one in followers))
        first = time.process_time()
        end.send("ready")
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, end.recv)
        used = time.process_time() - first
        end.send((used, [one.late for one in followers]))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    quiet()
    uvloop.run(main())


def relay_process(end: Connection, etcd: Sequence[str], port: int) -> None:
    """A process with a relay alone."""

    async def main() -> None:
        tasks: list[asyncio.Task[None]] = []

        def own(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
            tasks.append(asyncio.create_task(work, name=name))
            return tasks[-1]

        options = EtcdOptions(endpoints=tuple(etcd))
        settings = Settings(
            relay=RelaySettings(bind=f"127.0.0.1:{port}"),
            registry=Registry(type="etcd", options=options),
        )
        relay = Relay(own, lambda: None)
        relay.follow(settings)
        first = time.process_time()
        end.send("ready")
        await asyncio.get_running_loop().run_in_executor(None, end.recv)
        end.send(time.process_time() - first)
        relay.leave()
        await asyncio.gather(*tasks, return_exceptions=True)

    quiet()
    uvloop.run(main())


def quiet() -> None:
    """Log errors alone."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))


def percentile(values: Sequence[float], share: float) -> float:
    found = sorted(values)
    return found[min(len(found) - 1, int(len(found) * share))] if found else 0.0


async def measure(given: argparse.Namespace) -> dict[str, Any]:
    processes: list[Any] = []
    ends: list[Connection] = []
    relay_ends: list[Connection] = []
    spawn = multiprocessing.get_context("spawn")

    def start(target: Any, *arguments: Any) -> Connection:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=target, args=(theirs, *arguments), daemon=True)
        process.start()
        processes.append(process)
        return ours

    with tempfile.TemporaryDirectory(prefix="fairlead-bench-fleet-") as directory:
        async with Cluster(Path(directory)) as cluster:
            gateway = Gateway(cluster.urls[0])
            await fill(gateway, given.instances)
            await gateway.disconnect()
            ports = [free_port() for _ in range(given.relays)]
            relay_ends = [start(relay_process, cluster.urls, port) for port in ports]
            loop = asyncio.get_running_loop()

            async def heard(end: Connection) -> Any:
                async with asyncio.timeout(START_LIMIT):
                    return await loop.run_in_executor(None, end.recv)

            for end in relay_ends:
                await heard(end)
            began = time.monotonic()
            urls = [f"http://127.0.0.1:{port}" for port in ports] or cluster.urls
            for at in range(given.processes):
                number = len(range(at, given.proxies, given.processes))
                relays = bool(ports)
                ends.append(start(providers_process, urls, number, relays, given.instances, at))
            for end in ends:
                await heard(end)
            listed = time.monotonic() - began
            await asyncio.sleep(SETTLE)
            cpu, sent = cluster.cpu(), await cluster.sent()
            count = await change(cluster.urls, given.instances, given.rate, given.seconds)
            await asyncio.sleep(SETTLE)
            cpu, sent = cluster.cpu() - cpu, await cluster.sent() - sent
            for end in (*ends, *relay_ends):
                end.send("stop")
            told = [await heard(end) for end in ends]
            relay_cpu = [await heard(end) for end in relay_ends]
    for process in processes:
        process.join(10)
    late = [one for _, lists in told for one_list in lists for one in one_list]
    events = sum(len(one_list) for _, lists in told for one_list in lists)
    span = given.seconds + SETTLE
    return {
        "proxies": given.proxies,
        "relays": given.relays,
        "instances": given.instances,
        "changes_a_second": round(count / given.seconds, 1),
        "first_lists_s": round(listed, 2),
        "late_p50_ms": round(1000 * percentile(late, 0.5), 1),
        "late_p99_ms": round(1000 * percentile(late, 0.99), 1),
        "told_of": round(events / max(1, count * given.proxies), 3),
        "etcd_cores": round(cpu / span, 3),
        "etcd_us_per_event_and_proxy": round(1e6 * cpu / max(1, count * given.proxies), 1),
        "proxy_cores": round(sum(used for used, _ in told) / given.proxies / span, 4),
        "proxy_ms_per_event": round(
            1000 * sum(used for used, _ in told) / max(1, count * given.proxies), 3
        ),
        "relay_cores": round(sum(relay_cpu) / max(1, len(relay_cpu)) / span, 3),
        "sent_mb": round(sent / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proxies", type=int, default=20)
    parser.add_argument("--instances", type=int, default=2_000)
    parser.add_argument("--rate", type=float, default=50.0, help="changes a second")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--relays", type=int, default=0)
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    print(json.dumps(uvloop.run(measure(parser.parse_args()))))


if __name__ == "__main__":
    main()
