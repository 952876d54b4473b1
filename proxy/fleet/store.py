"""Ranges of keys in etcd that proxies of a fleet follow, and calls to whichever member answers.

Followers are told whole states and never of an outage: what was known stays. A list and a watch
from its revision on; every few seconds a linearizable read proves that the watch still tells all.
After an outage the next member is asked for what has changed since, so that a fleet which lost a
member does not list everything at once.
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
from proxy.registry.etcd.wire import EtcdError, KeyValue, Unreachable
from proxy.registry.followed import first_to_end
from proxy.registry.rotation import Rotation

log = structlog.get_logger()
T = TypeVar("T")

PROVE_EVERY = 4.0
"""Seconds, as the registry's provider: a watch that is silent may be of a member that is gone."""
PROVE_LIMIT = 3.0
"""Seconds for that read."""
PAUSE = 0.1
LONGEST_PAUSE = 1.0
"""Seconds before the next member is tried, by chance between 0 and a limit that doubles from the
first to the last, or to `rotation.ROUND`: a fleet does not come back to etcd at one moment. A
thousand proxies with three ranges each are then 6,000 reads of one key a second for three members,
once."""

Take = Callable[[Mapping[bytes, KeyValue]], None]
"""Hears of all keys of a range, whenever one has changed."""


class Store:
    """Owns connections to the members of one etcd; one of them is asked at a time. Built while etcd
    is down, and outside an event loop."""

    def __init__(self, options: Options, rng: random.Random | None = None) -> None:
        self._gateways = [Gateway(url, options) for url in options.endpoints]
        size = len(self._gateways)
        self._rotation = Rotation(size, rng or random.Random(), PAUSE, LONGEST_PAUSE)

    async def call(self, work: Callable[[Gateway], Awaitable[T]]) -> T:
        """Result of the first member that answers. EtcdError: none did, or it refused."""
        for left in reversed(range(len(self._gateways))):
            gateway = self._gateways[self._rotation.current]
            try:
                done = await work(gateway)
                self._rotation.progress()
                return done
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
        known = _Known(start, end)
        while True:
            gateway = self._gateways[self._rotation.current]
            answered = True
            try:
                await self._session(gateway, known, take, on_state)
            except EtcdError as error:
                answered = error.answered
                on_state(str(error))
            except Exception as error:
                # A bug here must not end a proxy that serves.
                log.exception("fleet_range_failed", start=start.decode(errors="replace"))
                on_state(f"{type(error).__name__}: {error}")
            await self._leave(gateway)
            await asyncio.sleep(self._rotation.delay(answered=answered))

    def delay(self, error: EtcdError) -> float:
        """Seconds until a call that failed for this reason is to be made again."""
        return self._rotation.delay(answered=error.answered)

    async def close(self) -> None:
        """Close all connections."""
        for gateway in self._gateways:
            await gateway.disconnect()

    async def _leave(self, gateway: Gateway) -> None:
        await gateway.disconnect()
        self._rotation.advance()

    async def _session(
        self, gateway: Gateway, known: _Known, take: Take, on_state: Callable[[str], None]
    ) -> None:
        """Ends only by an exception."""
        if known.revision == 0:
            known.held, known.revision = await _listed(gateway, known.start, known.end)
            take(known.held)
        else:
            await _check(gateway, known)
        async with gateway.watch(known.start, known.end, known.revision + 1) as watch:
            on_state("")
            self._rotation.progress()
            await first_to_end(_read(watch, known, take), _prove(gateway, known))


class _Known:
    """Owns what is known of a range: it goes on at another member where it was, without a list."""

    def __init__(self, start: bytes, end: bytes) -> None:
        self.start, self.end = start, end
        self.held: dict[bytes, KeyValue] = {}
        self.revision = 0
        """Up to which everything is here; 0 = a list is needed."""

    def doubt(self, why: str) -> Unreachable:
        """The error of a range that has to be listed anew."""
        self.revision = 0
        return Unreachable(why)


async def _listed(gateway: Gateway, start: bytes, end: bytes) -> tuple[dict[bytes, KeyValue], int]:
    held: dict[bytes, KeyValue] = {}
    revision = 0
    async with aclosing(gateway.pages(start, end)) as pages:
        async for page in pages:
            revision = revision or page.header.revision
            held.update((kv.key, kv) for kv in page.kvs)
    return held, revision


async def _read(watch: Watch, known: _Known, take: Take) -> None:
    async for frame in watch:
        if frame.canceled or frame.compact_revision:
            # Compacted, most likely; whatever it is, a list is the way on.
            raise known.doubt(frame.cancel_reason or "the watch was canceled")
        for event in frame.events:
            known.revision = max(known.revision, event.kv.mod_revision)
            if event.deleted:
                known.held.pop(event.kv.key, None)
            else:
                known.held[event.kv.key] = event.kv
        if frame.events:
            take(known.held)


async def _prove(gateway: Gateway, known: _Known) -> None:
    """Unreachable once two reads in a row say something else than the watch has told."""
    doubted = False
    while True:
        await asyncio.sleep(PROVE_EVERY)
        if await _check(gateway, known):
            doubted = False
        elif doubted:
            raise known.doubt("the watch lags behind the store")
        else:
            doubted = True


async def _check(gateway: Gateway, known: _Known) -> bool:
    """Whether the store says of the range what is known of it, by its newest key and the number of
    keys; Unreachable for one that went back."""
    reply = await gateway.range(
        known.start, known.end, limit=1, newest_first=True, timeout=PROVE_LIMIT
    )
    if reply.header.revision < known.revision:
        raise known.doubt(f"the store went back from {known.revision} to {reply.header.revision}")
    newest = max((kv.mod_revision for kv in known.held.values()), default=0)
    told = reply.kvs[0].mod_revision if reply.kvs else 0
    return (newest, len(known.held)) == (told, reply.count)
