"""The processes of `bench.fleet`: providers as proxies have them, relays, and followers that only
listen."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog
import uvloop

from proxy.control.relay import Relay
from proxy.registry.base import Provider
from proxy.registry.etcd.options import Options as EtcdOptions
from proxy.registry.etcd.provider import EtcdProvider
from proxy.registry.relay.frames import ALIVE, PATH, Frame
from proxy.registry.relay.options import Options as RelayOptions
from proxy.registry.relay.provider import RelayProvider
from proxy.settings.file import Settings
from proxy.settings.registry import Registry
from proxy.settings.relay import RelaySettings


def resident(pid: int) -> float:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Follower:
    """Owns a provider, one after the other, and what it was late by."""

    def __init__(self, build: Callable[[], Provider]) -> None:
        self.late: list[float] = []
        self._build = build
        self._instances = 0
        self._marker = 0.0
        self._grew = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.provider: Provider

    def start(self) -> None:
        self.provider = self._build()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.provider.close()
        self._instances = 0

    async def complete(self, instances: int) -> float:
        """Wait until it knows so many; the time of now."""
        return await self._until(lambda: self._instances >= instances)

    async def marked(self, at: float) -> float:
        """Wait until it knows the marker of this time, or a later one; the time of now."""
        return await self._until(lambda: self._marker >= at)

    async def restart(self, instances: int) -> float:
        """Begin anew; seconds until it knows everything."""
        await self.stop()
        began = time.time()
        self.start()
        return await self.complete(instances) - began

    async def _until(self, condition: Callable[[], bool]) -> float:
        while not condition():
            self._grew.clear()
            await self._grew.wait()
        return time.time()

    async def _run(self) -> None:
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
            self._instances = sum(map(len, services.values()))
            self._marker = max(
                (float(one.metadata["at"]) for one in services.get("marker", ())), default=0.0
            )
            self._grew.set()


def providers_process(
    end: Connection, urls: Sequence[str], number: int, relays: bool, instances: int, seed: int
) -> None:
    """A process with so many providers, which says when all have everything, and then does what it
    is told: `(what, argument)` → an answer."""

    async def main() -> None:
        def made(at: int) -> Provider:
            rng = random.Random(1000 * seed + at)
            if relays:
                return RelayProvider(RelayOptions(endpoints=tuple(urls)), rng=rng)
            return EtcdProvider(EtcdOptions(endpoints=tuple(urls)), rng=rng)

        followers = [Follower(partial(made, at)) for at in range(number)]
        for one in followers:
            one.start()
        await asyncio.gather(*(one.complete(instances) for one in followers))

        async def late(_: Any) -> Any:
            found = [one.late for one in followers]
            for one in followers:
                one.late = []
            return time.process_time(), resident(os.getpid()), found

        async def marked(at: float) -> Any:
            return await asyncio.gather(*(one.marked(at) for one in followers))

        async def roll(_: Any) -> Any:
            return [await one.restart(instances) for one in followers]

        async def lists(_: Any) -> Any:
            return sum(sum(one.provider.status().resyncs.values()) for one in followers)

        works: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "late": late, "marked": marked, "roll": roll, "lists": lists,
        }  # fmt: skip
        await obey(end, works)
        for one in followers:
            await one.stop()

    quiet()
    uvloop.run(main())


async def obey(end: Connection, works: dict[str, Callable[[Any], Awaitable[Any]]]) -> None:
    """Say that everything is ready, and do what is asked until "stop"."""
    end.send("ready")
    loop = asyncio.get_running_loop()
    while True:
        what, argument = await loop.run_in_executor(None, end.recv)
        if what == "stop":
            return
        end.send(await works[what](argument))


class Sink(asyncio.Protocol):
    """A follower of a relay that takes what it is told, and counts it."""

    def __init__(self, counts: list[int], digest: str) -> None:
        self._counts = counts
        self.told = asyncio.Event()
        self._asks = f"GET {PATH}?from={digest} HTTP/1.1\r\nHost: relay\r\n\r\n".encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        cast(asyncio.Transport, transport).write(self._asks)

    def data_received(self, data: bytes) -> None:
        self._counts[0] += len(data)
        if not self.told.is_set() and data.startswith(b"HTTP/1.1 200 "):
            self.told.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._counts[1] += 1


def sinks_process(end: Connection, urls: Sequence[str], number: int) -> None:
    """A process with so many sinks, which have had the list before; ready when relays have told
    each something."""

    async def main() -> None:
        counts, loop = [0, 0], asyncio.get_running_loop()
        async with aiohttp.ClientSession() as session, session.get(urls[0] + ALIVE) as answer:
            digest = msgspec.json.decode(await answer.read(), type=Frame).digest
        for at in range(number):
            parts = urlsplit(urls[at % len(urls)])
            _, sink = await loop.create_connection(
                lambda: Sink(counts, digest), parts.hostname, parts.port
            )
            await sink.told.wait()

        async def late(_: Any) -> Any:
            return tuple(counts)

        await obey(end, {"late": late})

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

        async def late(_: Any) -> Any:
            return time.process_time(), resident(os.getpid())

        await obey(end, {"late": late})
        relay.leave()
        await asyncio.gather(*tasks, return_exceptions=True)

    quiet()
    uvloop.run(main())


def quiet() -> None:
    """Log errors alone."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
