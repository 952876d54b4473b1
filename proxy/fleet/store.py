"""Ranges of keys in etcd that proxies of a fleet follow, and calls to whichever member answers.

Followers are told whole states and never of an outage: what was known stays. A list and a watch
from its revision on; every few seconds a linearizable read proves that the watch still tells all.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import TypeVar

import structlog

from proxy.registry.etcd.gateway import Gateway, Watch
from proxy.registry.etcd.options import Options
from proxy.registry.etcd.wire import EtcdError, KeyValue, Unreachable, error_named
from proxy.registry.followed import first_to_end
from proxy.registry.rotation import Rotation

log = structlog.get_logger()
T = TypeVar("T")

PROVE_EVERY = 4.0
"""Seconds, as the registry's provider: a watch that is silent may be of a member that is gone."""
PROVE_LIMIT = 3.0
"""Seconds for that read."""
PAUSE = 0.1
LONGEST_PAUSE = 3.0
"""Seconds before the next member is tried, by chance between 0 and a limit that doubles from the
first to the last: a fleet does not come back to etcd at one moment."""

Take = Callable[[Mapping[bytes, KeyValue]], None]
"""Hears of all keys of a range, whenever one has changed."""


class Store:
    """Owns connections to the members of one etcd; one of them is asked at a time. Built while etcd
    is down, and outside an event loop."""

    def __init__(self, options: Options, rng: random.Random | None = None) -> None:
        self._gateways = [
            Gateway(
                url,
                tls=options.tls,
                username=options.username,
                password=options.password,
                password_file=options.password_file,
            )
            for url in options.endpoints
        ]
        size = len(self._gateways)
        self._rotation = Rotation(size, rng or random.Random(), PAUSE, LONGEST_PAUSE)

    async def call(self, work: Callable[[Gateway], Awaitable[T]]) -> T:
        """Result of the first member that answers. EtcdError: none did, or it refused."""
        for left in reversed(range(len(self._gateways))):
            gateway = self._gateways[self._rotation.current]
            try:
                return await work(gateway)
            except EtcdError:
                await self._leave(gateway)
                if not left:
                    raise
        raise AssertionError("an etcd has members")

    async def read(self, start: bytes, end: bytes) -> dict[bytes, KeyValue]:
        """All keys of a range, at one revision. EtcdError."""
        return (await self.call(lambda gateway: _listed(gateway, start, end)))[0]

    async def follow(
        self, start: bytes, end: bytes, take: Take, on_state: Callable[[str], None]
    ) -> None:
        """Tell of a range until cancelled. `on_state` hears why it cannot be followed just now, ""
        when it can."""
        while True:
            gateway = self._gateways[self._rotation.current]
            try:
                await self._session(gateway, start, end, take, on_state)
            except EtcdError as error:
                on_state(str(error))
            except Exception as error:
                # A bug here must not end a proxy that serves.
                log.exception("fleet_range_failed", start=start.decode(errors="replace"))
                on_state(f"{type(error).__name__}: {error}")
            await self._leave(gateway)
            await asyncio.sleep(self._rotation.delay())

    async def close(self) -> None:
        """Close all connections."""
        for gateway in self._gateways:
            await gateway.disconnect()

    async def _leave(self, gateway: Gateway) -> None:
        await gateway.disconnect()
        self._rotation.advance()

    async def _session(
        self,
        gateway: Gateway,
        start: bytes,
        end: bytes,
        take: Take,
        on_state: Callable[[str], None],
    ) -> None:
        """Ends only by an exception."""
        held, revision = await _listed(gateway, start, end)
        take(held)
        async with gateway.watch(start, end, revision + 1) as watch:
            on_state("")
            self._rotation.progress()
            await first_to_end(
                _read(watch, held, take), _prove(gateway, start, end, held, revision)
            )


async def _listed(gateway: Gateway, start: bytes, end: bytes) -> tuple[dict[bytes, KeyValue], int]:
    held: dict[bytes, KeyValue] = {}
    revision = 0
    async with aclosing(gateway.pages(start, end)) as pages:
        async for page in pages:
            revision = revision or page.header.revision
            held.update((kv.key, kv) for kv in page.kvs)
    return held, revision


async def _read(watch: Watch, held: dict[bytes, KeyValue], take: Take) -> None:
    async for frame in watch:
        if frame.canceled or frame.compact_revision:
            raise error_named(frame.cancel_reason or "watch canceled")
        for event in frame.events:
            if event.deleted:
                held.pop(event.kv.key, None)
            else:
                held[event.kv.key] = event.kv
        if frame.events:
            take(held)


async def _prove(
    gateway: Gateway, start: bytes, end: bytes, held: Mapping[bytes, KeyValue], revision: int
) -> None:
    """Unreachable once two reads in a row say something else than the watch has told."""
    doubted = False
    while True:
        await asyncio.sleep(PROVE_EVERY)
        reply = await gateway.range(start, end, limit=1, newest_first=True, timeout=PROVE_LIMIT)
        if reply.header.revision < revision:
            raise Unreachable(f"the store went back from {revision} to {reply.header.revision}")
        revision = reply.header.revision
        newest = max((kv.mod_revision for kv in held.values()), default=0)
        told = reply.kvs[0].mod_revision if reply.kvs else 0
        if (newest, len(held)) == (told, reply.count):
            doubted = False
        elif doubted:
            raise Unreachable("the watch lags behind the store")
        else:
            doubted = True
