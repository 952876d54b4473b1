"""What the control plane costs with thousands of instances in a real etcd: `bench scale`.

For each size: fill etcd, start the real `fairlead run`, change instances at a steady rate, and
see when each change is in effect in *all* workers. That is told in two independent ways:

* every worker writes a log line when it has swapped in a change (`pools_applied`, at `debug`),
  with the registry's revision and its own clock: a change at revision 17 is in effect when the
  last worker has written 17 or more;
* a few of the changes move an instance from one origin of ours to another while a client of each
  worker asks for it without pause: such a change is in effect when both get the other's answer.

Both count from the moment at which etcd's answer to the put arrives here, on the same clock.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench import told
from bench.processes import Server, StartError, cpu_ns, parent_of
from bench.results import machine, write
from proxy.embedded_etcd import EmbeddedEtcd, EtcdFailed
from proxy.registry.etcd.gateway import Gateway, delete_op, put_op
from proxy.registry.etcd.options import Options as EtcdOptions
from proxy.registry.etcd.provider import EtcdProvider
from tests.support.processes import free_port

PREFIX = b"/services/"
BATCH = 100
"""Keys written in one transaction while etcd is filled; it takes 128 at most."""
WRITERS = 32
"""Changes under way at a time at most: a store that is slow must not pile up a queue in here."""
PROBE_PAUSE = 0.005
"""Seconds between two requests of a client that watches for a change: what its times are off by
at most."""
FLIP_EVERY = 0.25
"""Seconds between two changes that are watched from outside."""
SETTLE = 1.0
"""Seconds after the last change in which it may still arrive."""
IDLE = 4.0
"""Seconds in which nothing changes, to see what a second costs by itself."""
PROBED = "probed"
"""The service whose only instance moves to and fro."""
TARGET = f"/{PROBED}/"


@dataclass(frozen=True)
class Plan:
    """One size. `rate`: changes a second."""

    services: int
    instances: int
    """Of each service."""
    rate: float
    seconds: float
    workers: int = 2

    @property
    def total(self) -> int:
        return self.services * self.instances


PLANS = (
    Plan(100, 10, 200, 8),
    Plan(500, 10, 200, 20),
    Plan(2000, 10, 200, 8),
)
QUICK = (Plan(50, 10, 100, 3),)


@dataclass
class Process:
    """What one process used."""

    cpu_ms_per_s: float
    """While instances changed."""
    idle_cpu_ms_per_s: float
    cpu_us_per_change: float
    """What the changes cost: the difference of the two, over the changes."""
    start_cpu_s: float
    """From its start until the proxy was ready."""
    rss_mb: float
    """Now; what is shared with others counts in full."""
    uss_mb: float
    """What would be free if it ended."""
    peak_mb: float


@dataclass
class Result:
    """One size, measured. Times in ms unless a name says otherwise."""

    plan: Plan
    list_s: float
    """A full list of everything by the provider alone: from nothing to the first membership."""
    list_cpu_s: float
    ready_s: float
    """From the start of the process until the proxy was ready."""
    changes: int
    rate: float
    delay_p50: float
    delay_p99: float
    delay_max: float
    sent_p99: float
    """As `delay_p99`, but from the moment at which the put was *sent*: an upper bound."""
    probes: int
    probe_p50: float
    probe_p99: float
    """The same as seen by clients."""
    request_p99: float
    request_max: float
    """Of the requests of these clients: what holds a worker's loop makes them late."""
    apply_p50: float
    apply_p99: float
    apply_max: float
    """How long a change held a worker's loop; the first full set is not a change."""
    first_apply_max: float
    """Before the workers accepted."""
    applies: int
    scrape: float
    scrape_bytes: int
    scrape_block: float
    """The longest time for which the control process did not answer while it was scraped."""
    control: Process
    workers: list[Process] = field(default_factory=list)


def main(arguments: Sequence[str]) -> int:
    """Run and print; writes bench/results/*.json. 1 when something did not start."""
    parser = argparse.ArgumentParser(prog="python -m bench scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small size, some ten seconds")
    parser.add_argument(
        "--size", action="append", default=[], metavar="SERVICES×INSTANCES",
        help="instead of the usual sizes, such as 500x10; may be repeated",
    )  # fmt: skip
    parser.add_argument("--rate", type=float, default=200.0, help="changes a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of changes, with --size")
    options = parser.parse_args(arguments)
    plans: Sequence[Plan] = QUICK if options.quick else PLANS
    if options.size:
        try:
            sizes = [tuple(map(int, size.replace("×", "x").split("x"))) for size in options.size]
            plans = [Plan(many, each, options.rate, options.seconds) for many, each in sizes]
        except ValueError:
            parser.error("--size: must be like 500x10")
    facts = machine(frozenset(os.sched_getaffinity(0)))
    print(f"{facts['cpu']}, {facts['cores']} cores, load average {facts['load_average']:.1f}")
    results: list[Result] = []
    try:
        for plan in plans:
            result = asyncio.run(_measure(plan))
            results.append(result)
            print(
                "\n" + table([result]) if len(plans) == 1 else f"  {plan.total:,} done", flush=True
            )
    except (StartError, EtcdFailed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if len(plans) > 1:
        print("\n" + table(results))
    path = write({"machine": facts, "scale": [asdict(result) for result in results]})
    print(f"\nwritten to {os.path.relpath(path)}")
    return 0


async def _measure(plan: Plan) -> Result:
    rng = Random(1)
    with TemporaryDirectory(prefix="bench-scale-") as name:
        async with (
            EmbeddedEtcd() as etcd,
            _gateway(etcd.url) as gateway,
            told.origins(2) as origins,
        ):
            store = _Store(plan, gateway, rng)
            await store.fill()
            await store.move_probed(origins[0])
            list_s, list_cpu_s = await _list(etcd.url)
            proxy = _Proxy(plan, etcd.url, Path(name))
            try:
                return await _drive(plan, proxy, store, origins, list_s, list_cpu_s)
            finally:
                await asyncio.to_thread(proxy.server.stop)


async def _list(url: str) -> tuple[float, float]:
    """Seconds, and seconds of processor time, from an empty provider to all instances."""
    provider = EtcdProvider(EtcdOptions(endpoints=(url,)))
    began, cpu = time.perf_counter(), time.process_time()
    stream = provider.watch()
    await anext(stream)
    taken = time.perf_counter() - began, time.process_time() - cpu
    await stream.aclose()  # type: ignore[attr-defined]  # an asynchronous generator has one
    return taken


async def _drive(
    plan: Plan,
    proxy: _Proxy,
    store: _Store,
    origins: Sequence[int],
    list_s: float,
    list_cpu_s: float,
) -> Result:
    await asyncio.to_thread(proxy.server.wait_ready, proxy.ready)
    ready_s = time.perf_counter() - proxy.began
    pids = proxy.pids()
    start = [cpu_ns(pid) / 1e9 for pid in pids]
    first = proxy.applied()
    clients = await _one_client_per_worker(proxy.port, plan.workers)
    tasks = [asyncio.create_task(client.ask()) for client in clients]

    before, began = [cpu_ns(pid) for pid in pids], time.perf_counter()
    await asyncio.sleep(IDLE)
    idle = [(cpu_ns(pid) - was) / (time.perf_counter() - began) / 1e6 for pid, was in
            zip(pids, before, strict=True)]  # fmt: skip

    for client in clients:
        client.times.clear()
    before, began = [cpu_ns(pid) for pid in pids], time.perf_counter()
    flips = asyncio.create_task(_flip(store, origins, plan.seconds))
    await store.change(plan.seconds)
    seconds = time.perf_counter() - began
    busy = [(cpu_ns(pid) - was) / seconds / 1e6 for pid, was in zip(pids, before, strict=True)]
    flipped = await flips
    await asyncio.sleep(SETTLE)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    applied = proxy.applied()
    delays, sent = _delays(store.changes, applied, plan.workers)
    seen = _seen(flipped, clients)
    took = sorted(one.seconds for worker in applied for one in
                  applied[worker][len(first.get(worker, ())):])  # fmt: skip
    requests = sorted(time for client in clients for time in client.times)
    scrape, size, block = await asyncio.to_thread(_scrape, proxy)
    used = [
        Process(
            cpu_ms_per_s=busy[at],
            idle_cpu_ms_per_s=idle[at],
            cpu_us_per_change=(busy[at] - idle[at]) * seconds * 1000 / len(store.changes),
            start_cpu_s=start[at],
            **_memory(pid),
        )
        for at, pid in enumerate(pids)
    ]
    return Result(
        plan=plan,
        list_s=list_s,
        list_cpu_s=list_cpu_s,
        ready_s=ready_s,
        changes=len(store.changes),
        rate=len(store.changes) / seconds,
        delay_p50=_part(delays, 0.5) * 1e3,
        delay_p99=_part(delays, 0.99) * 1e3,
        delay_max=_part(delays, 1.0) * 1e3,
        sent_p99=_part(sent, 0.99) * 1e3,
        probes=len(seen),
        probe_p50=_part(seen, 0.5) * 1e3,
        probe_p99=_part(seen, 0.99) * 1e3,
        request_p99=_part(requests, 0.99) * 1e3,
        request_max=_part(requests, 1.0) * 1e3,
        apply_p50=_part(took, 0.5) * 1e3,
        apply_p99=_part(took, 0.99) * 1e3,
        apply_max=_part(took, 1.0) * 1e3,
        first_apply_max=max((one.seconds for each in first.values() for one in each), default=0.0)
        * 1e3,
        applies=len(took),
        scrape=scrape * 1e3,
        scrape_bytes=size,
        scrape_block=block * 1e3,
        control=used[0],
        workers=used[1:],
    )


# ------------------------------------------------------------------------------ the store


@dataclass(frozen=True)
class Change:
    """One write: the store's revision, and when it was sent and answered (`time.time`)."""

    revision: int
    sent: float
    done: float


class _Store:
    """Owns what was written to etcd."""

    def __init__(self, plan: Plan, gateway: Gateway, rng: Random) -> None:
        self.changes: list[Change] = []
        self._plan = plan
        self._gateway = gateway
        self._rng = rng
        self._there = [[True] * plan.instances for _ in range(plan.services)]

    async def fill(self) -> None:
        names = [(s, i) for s in range(self._plan.services) for i in range(self._plan.instances)]
        for start in range(0, len(names), BATCH):
            await self._gateway.txn(
                (),
                [put_op(_key(*name), _record(*name), 0) for name in names[start : start + BATCH]],
            )

    async def change(self, seconds: float) -> None:
        """At the plan's rate, on schedule however long a write takes, as many services would:
        weights, moves to other ports, health, departures and returns."""
        rate, began = self._plan.rate, time.perf_counter()
        gate = asyncio.Semaphore(WRITERS)
        tasks: set[asyncio.Task[None]] = set()
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            await gate.acquire()
            task = asyncio.create_task(self._change(number))
            task.add_done_callback(lambda _: gate.release())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def _change(self, number: int) -> None:
        service = self._rng.randrange(self._plan.services)
        instance = self._rng.randrange(self._plan.instances)
        there = self._there[service]
        if there[instance] and number % 4 == 3:
            there[instance] = False
            operation = delete_op(_key(service, instance))
        else:
            there[instance] = True
            how = ({"weight": 1 + number % 100}, {"port": 1024 + number % 60_000},
                   {"sick": number % 3 == 0, "weight": 101 + number % 100})[number % 3]  # fmt: skip
            operation = put_op(_key(service, instance), _record(service, instance, **how), 0)
        self.changes.append(await self._write(operation))

    async def move_probed(self, port: int) -> Change:
        body = {"address": "127.0.0.1", "port": port}
        return await self._write(put_op(PREFIX + PROBED.encode() + b"/it", _json(body), 0))

    async def _write(self, operation: dict[str, Any]) -> Change:
        sent = time.time()
        reply = await self._gateway.txn((), [operation])
        return Change(reply.header.revision, sent, time.time())


def _key(service: int, instance: int) -> bytes:
    return PREFIX + b"service-%04d/instance-%04d" % (service, instance)


def _record(
    service: int, instance: int, *, weight: int = 1, port: int = 8080, sick: bool = False
) -> bytes:
    """As the registrar writes them: some 250 bytes."""
    return _json(
        {
            "id": f"instance-{instance:04d}",
            "name": f"service-{service:04d}",
            "address": f"10.{service >> 8}.{service & 255}.{instance & 255}",
            "port": port,
            "version": "1.14.2",
            "metadata": {"weight": str(weight), "zone": "eu-central-1a", "team": "payments"},
            "health": {"status": "unhealthy" if sick else "healthy", "message": "checked"},
        }
    )


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


@contextlib.asynccontextmanager
async def _gateway(url: str) -> AsyncIterator[Gateway]:
    gateway = Gateway(url)
    try:
        yield gateway
    finally:
        await gateway.disconnect()


# ------------------------------------------------------------------------------ the proxy


@dataclass(frozen=True)
class Applied:
    """One line of a worker's log."""

    revision: int
    at: float
    """`time.time`"""
    seconds: float


class _Proxy:
    """Owns the proxy under measurement."""

    def __init__(self, plan: Plan, etcd: str, directory: Path) -> None:
        self.port, self._admin = free_port(), free_port()
        config = {
            "listeners": [{"name": "web", "bind": f"127.0.0.1:{self.port}"}],
            "admin": {"bind": f"127.0.0.1:{self._admin}"},
            "workers": plan.workers,
            "log": {"level": "debug"},
            "registry": {"type": "etcd", "endpoints": [etcd]},
            "routes": [{"path_prefix": "/{service}", "strip_prefix": True}],
            "shutdown": {"delay": "0s", "grace": "1s"},
        }
        file = directory / "proxy.yaml"
        file.write_text(json.dumps(config))  # which is YAML
        self._log = directory / "proxy.log"
        self.began = time.perf_counter()
        self.server = Server(
            "fairlead",
            [sys.executable, "-m", "proxy", "run", "-c", str(file)],
            directory=Path(__file__).parent.parent,
            log=self._log,
            cores=frozenset(os.sched_getaffinity(0)),
        )

    def ready(self) -> None:
        self.get("/readyz")

    def get(self, path: str) -> bytes:
        url = f"http://127.0.0.1:{self._admin}{path}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            body: bytes = answer.read()
        return body

    def pids(self) -> list[int]:
        """Of the control process, then of the workers."""
        workers = [row["pid"] for row in json.loads(self.get("/api/v1/workers"))["workers"]]
        return [parent_of(workers[0]), *workers]

    def applied(self) -> dict[int, list[Applied]]:
        """By worker, in the order of the log."""
        found: dict[int, list[Applied]] = {}
        for line in self._log.read_text().splitlines():
            if '"pools_applied"' in line:
                event = json.loads(line)
                at = datetime.fromisoformat(event["timestamp"]).timestamp()
                found.setdefault(event["worker"], []).append(
                    Applied(event["revision"], at, event["seconds"])
                )
        return found


def _delays(
    changes: Sequence[Change], applied: dict[int, list[Applied]], workers: int
) -> tuple[list[float], list[float]]:
    """Seconds from the answer, and from the sending, of each write to its effect in the last
    worker, in ascending order. StartError when some never had one."""
    if len(applied) != workers:
        raise StartError(f"{len(applied)} of {workers} workers applied anything")
    places = dict.fromkeys(applied, 0)
    delays, sent = [], []
    for change in sorted(changes, key=lambda change: change.revision):
        effect = 0.0
        for worker, steps in applied.items():
            while places[worker] < len(steps) and steps[places[worker]].revision < change.revision:
                places[worker] += 1
            if places[worker] == len(steps):
                raise StartError(f"worker {worker} never got revision {change.revision}")
            effect = max(effect, steps[places[worker]].at)
        delays.append(max(0.0, effect - change.done))
        sent.append(effect - change.sent)
    return sorted(delays), sorted(sent)


def _memory(pid: int) -> dict[str, float]:
    fields: dict[str, int] = {}
    for file in ("status", "smaps_rollup"):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            name, _, value = line.partition(":")
            if value.strip().endswith("kB"):
                fields[name] = int(value.split()[0])
    private = fields["Private_Clean"] + fields["Private_Dirty"]
    return {
        "rss_mb": fields["VmRSS"] / 1024,
        "uss_mb": private / 1024,
        "peak_mb": fields["VmHWM"] / 1024,
    }


def _scrape(proxy: _Proxy) -> tuple[float, int, float]:
    """Seconds of a scrape, its bytes, and the longest time for which a small request, asked over
    and over meanwhile, got no answer."""
    import threading

    waits: list[float] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            began = time.perf_counter()
            proxy.get("/healthz")
            waits.append(time.perf_counter() - began)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        began = time.perf_counter()
        size = len(proxy.get("/metrics"))
        taken = time.perf_counter() - began
    finally:
        over.set()
        asker.join()
    return taken, size, max(waits)


# ---------------------------------------------------------------------- seen from outside


class _Client(told.Client):
    """One that asks over and over."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self.times: list[float] = []
        """Seconds that each request took."""
        self.answers: list[tuple[float, int]] = []
        """(`time.time`, port of the origin) whenever it is another one than before."""

    async def ask(self) -> None:
        """Without end."""
        while True:
            began = time.perf_counter()
            port, _ = await self.once(TARGET)
            self.times.append(time.perf_counter() - began)
            if not self.answers or self.answers[-1][1] != port:
                self.answers.append((time.time(), port))
            await asyncio.sleep(PROBE_PAUSE)


async def _one_client_per_worker(port: int, workers: int) -> list[_Client]:
    found: dict[str, _Client] = {}
    for _ in range(200):
        client = await _Client.connect(port)
        _, worker = await client.once(TARGET)
        if worker in found:
            client.close()
        else:
            found[worker] = client
        if len(found) == workers:
            return list(found.values())
    raise StartError(f"200 connections reached {len(found)} of {workers} workers")


async def _flip(store: _Store, origins: Sequence[int], seconds: float) -> list[tuple[Change, int]]:
    """Move the probed instance to and fro; each change, and the port it moved to."""
    done: list[tuple[Change, int]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        port = origins[(len(done) + 1) % 2]
        done.append((await store.move_probed(port), port))
        await asyncio.sleep(FLIP_EVERY)
    return done


def _seen(flipped: Sequence[tuple[Change, int]], clients: Sequence[_Client]) -> list[float]:
    """Seconds from each answered write until the last client was answered by the new origin."""
    delays = []
    for change, port in flipped:
        times = []
        for client in clients:
            later = (at for at, to in client.answers if to == port and at > change.sent)
            times.append(next(later, None))
        if None in times:
            raise StartError("a client never saw the probed instance move")
        delays.append(max(0.0, max(at for at in times if at is not None) - change.done))
    return sorted(delays)


# ------------------------------------------------------------------------------- the table


def _part(ascending: Sequence[float], share: float) -> float:
    """A quantile; 0 of nothing."""
    if not ascending:
        return 0.0
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


def table(results: Sequence[Result]) -> str:
    """One column for each size."""
    return "\n".join(_lines(results))


def _lines(results: Sequence[Result]) -> Iterator[str]:
    def row(name: str, *cells: str) -> str:
        return f"{name:<52}" + "".join(f"{cell:>16}" for cell in cells)

    def each(name: str, show: Any) -> str:
        return row(name, *(show(result) for result in results))

    yield each("instances", lambda r: f"{r.plan.total:,}")
    yield each("services", lambda r: f"{r.plan.services:,}")
    yield each("full list, s (CPU s)", lambda r: f"{r.list_s:.2f} ({r.list_cpu_s:.2f})")
    yield each("start to ready, s", lambda r: f"{r.ready_s:.2f}")
    yield each("  CPU until then: control, s", lambda r: f"{r.control.start_cpu_s:.2f}")
    yield each("  a worker, s", lambda r: f"{_worker(r, 'start_cpu_s'):.2f}")
    yield each("changes a second", lambda r: f"{r.rate:.0f}")
    yield each("etcd's answer to effect in all workers: p50, ms", lambda r: f"{r.delay_p50:.0f}")
    yield each("  p99 (max), ms", lambda r: f"{r.delay_p99:.0f} ({r.delay_max:.0f})")
    yield each("  p99 from the sending of the put, ms", lambda r: f"{r.sent_p99:.0f}")
    yield each("  as clients saw it: p50, p99, ms",
               lambda r: f"{r.probe_p50:.0f}, {r.probe_p99:.0f}")  # fmt: skip
    yield each("requests meanwhile: p99 (max), ms",
               lambda r: f"{r.request_p99:.1f} ({r.request_max:.1f})")  # fmt: skip
    yield each("a change holds a worker's loop: p50, p99, ms",
               lambda r: f"{r.apply_p50:.2f}, {r.apply_p99:.2f}")  # fmt: skip
    yield each("  longest, ms", lambda r: f"{r.apply_max:.2f}")
    yield each("  of the first full set, ms", lambda r: f"{r.first_apply_max:.1f}")
    yield each("control process: CPU while changing, %",
               lambda r: f"{r.control.cpu_ms_per_s / 10:.1f}")  # fmt: skip
    yield each("  idle, %", lambda r: f"{r.control.idle_cpu_ms_per_s / 10:.2f}")
    yield each("  a change, µs", lambda r: f"{r.control.cpu_us_per_change:.0f}")
    yield each("  RSS (private, peak), MB", lambda r: _sizes([r.control]))
    yield each("worker: CPU while changing, %", lambda r: f"{_worker(r, 'cpu_ms_per_s') / 10:.1f}")
    yield each("  idle, %", lambda r: f"{_worker(r, 'idle_cpu_ms_per_s') / 10:.2f}")
    yield each("  a change, µs", lambda r: f"{_worker(r, 'cpu_us_per_change'):.0f}")
    yield each("  RSS (private, peak), MB", lambda r: _sizes(r.workers))
    yield each("scrape of /metrics, ms", lambda r: f"{r.scrape:.0f}")
    yield each("  bytes", lambda r: f"{r.scrape_bytes:,}")
    yield each("  longest silence of the admin server, ms", lambda r: f"{r.scrape_block:.0f}")
    yield "Idle and changing include two clients that ask 150 times a second each."


def _worker(result: Result, name: str) -> float:
    return median(getattr(worker, name) for worker in result.workers)


def _sizes(processes: Sequence[Process]) -> str:
    largest = max(processes, key=lambda process: process.rss_mb)
    return f"{largest.rss_mb:.0f} ({largest.uss_mb:.0f}, {largest.peak_mb:.0f})"
