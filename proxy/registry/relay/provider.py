"""The provider that follows a relay, which is a proxy that follows the registry itself.

A session is one answer without an end: what has changed since the digest that is known, or a whole
list, then every change. A relay that has nothing to tell says so every second. One that is silent,
or whose registry is an older one than what is known, is left for the next.

That a store has really gone back, as after a restore, is believed when no relay has said anything
else for a while: each proves itself to its registry more often than that.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import ClassVar, Final

import msgspec

from proxy.membership import Instance
from proxy.registry.base import RegistryError
from proxy.registry.followed import Followed, Resync, Timing, first_to_end
from proxy.registry.records import MAX_VALUE, read
from proxy.registry.relay.frames import ALIVE, BEAT, PATH, Digest, Frame, digest_of
from proxy.registry.relay.options import Options
from proxy.registry.rest import RestEndpoint, Secret
from proxy.registry.roster import Entry, Roster
from proxy.waiting import set_within

TIMING: Final = Timing()

BELIEVED_AFTER: Final = 2.5
"""Probes, 10 s: relays follow etcd with the same timing, in which a member that lags is found out
after one and a half."""
MOST_LISTED: Final = 1_000_000
"""Instances of a list: fifty times what a large fleet has, and a fraction of the memory of a relay
that never ends its list."""

_REPLACED: Final = "store_went_back"


class RelayProvider(Followed[RestEndpoint]):
    """Owns what is known by way of relays."""

    name: ClassVar[str] = "relay"

    def __init__(
        self,
        options: Options,
        *,
        timing: Timing = TIMING,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        token = Secret(options.token, options.token_file)

        def shown() -> Mapping[str, str]:
            known = token()
            return {"Authorization": f"Bearer {known}"} if known else {}

        super().__init__(
            [RestEndpoint(url, tls=options.tls, fields=shown) for url in options.endpoints],
            Roster(_read, _service_of),
            timing=timing,
            rng=rng,
            clock=clock,
        )
        self._silence = BEAT + timing.probe_limit
        self._digest = Digest()
        self._told = asyncio.Event()
        self._older_since: float | None = None
        """When the first of the relays in a row said that its registry is an older one."""

    # ---------------------------------------------------------------------- one session

    async def _session(self, relay: RestEndpoint) -> None:
        """Ends only by an exception."""
        known = {} if self._list_for is not None else {"from": str(self._digest)}
        async with aclosing(relay.lines(PATH, known, timeout=None)) as lines:
            await self._begin(lines, relay)
            await first_to_end(self._follow(lines), self._supervise(relay))

    async def _begin(self, lines: AsyncGenerator[bytes, None], relay: RestEndpoint) -> None:
        """Take over the list, if the relay gives one."""
        frame = await self._next(lines)
        self._check(frame)
        if not frame.full:
            if self._list_for is not None:
                raise RegistryError(f"{PATH}: no list, which was asked for")
            self._apply(frame)
            return
        entries: dict[bytes, Entry] = {}
        while True:
            for service, id_, record in frame.put:
                key = _key(service, id_)
                entries[key] = self._roster.entry(key, bytes(record))
            if not frame.more:
                break
            if len(entries) > MOST_LISTED:
                raise RegistryError(f"{PATH}: a list of more than {MOST_LISTED} instances")
            frame = await self._next(lines)
        digest = digest_of((*_names(key), entry.value) for key, entry in entries.items())
        if str(digest) != frame.digest:
            raise RegistryError(f"{PATH}: a list that is not what its digest says")
        reason = self._list_for or "not_resumed"
        self._digest, self._cluster_id, self._older_since = digest, frame.cluster, None
        retain = reason in (_REPLACED, "reconcile")
        adopt = partial(self._roster.replace, entries, frame.revision, retain=retain)
        self._listed(relay, reason, adopt)

    async def _follow(self, lines: AsyncGenerator[bytes, None]) -> None:
        while True:
            frame = await self._next(lines)
            self._check(frame)
            if frame.full:
                raise RegistryError(f"{PATH}: a list in the middle")
            self._apply(frame)

    async def _next(self, lines: AsyncGenerator[bytes, None]) -> Frame:
        """The next frame; RegistryError if there is none in time."""
        try:
            async with asyncio.timeout(self._silence):
                line = await anext(lines)
            frame = msgspec.json.decode(line, type=Frame)
        except TimeoutError:
            raise RegistryError(f"{PATH}: silent for {self._silence:g} s") from None
        except StopAsyncIteration:
            raise RegistryError(f"{PATH}: the relay has ended its answer") from None
        except msgspec.MsgspecError as error:
            raise RegistryError(f"{PATH}: no frame of a relay: {error}") from None
        self._heard()
        return frame

    def _check(self, frame: Frame) -> None:
        """RegistryError for a frame of an older registry, or another, than what is known; Resync
        once there is no other to be had."""
        same = frame.cluster == self._cluster_id and frame.revision >= self._roster.revision
        if same or not self._cluster_id or self._list_for == _REPLACED:
            return
        if frame.digest == str(self._digest):
            if frame.cluster != self._cluster_id:
                self._cluster_id, self._roster.revision = frame.cluster, frame.revision
            return
        now = self._clock()
        if self._older_since is None:
            self._older_since = now
        known = f"{self._roster.revision} of {self._cluster_id}"
        said = f"at {frame.revision} of {frame.cluster}, older than {known}"
        if now - self._older_since >= BELIEVED_AFTER * self._timing.probe:
            raise Resync(_REPLACED, said)
        raise RegistryError(f"{PATH}: {said}")

    def _apply(self, frame: Frame) -> None:
        for service, id_ in frame.gone:
            self._forget(service, id_)
            self._roster.remove(_key(service, id_), frame.revision)
        for service, id_, record in frame.put:
            self._forget(service, id_)
            entry = self._roster.entry(_key(service, id_), bytes(record))
            self._digest.add(service, id_, entry.value)
            self._roster.put(entry)
        if str(self._digest) != frame.digest:
            raise Resync("digest", f"at {frame.revision}")
        self._roster.revision = max(self._roster.revision, frame.revision)
        self._older_since = None
        if frame.put or frame.gone:
            self._rotation.progress()
            self._changed.set()
        self._told.set()

    def _forget(self, service: str, id_: str) -> None:
        known = self._roster.entries.get(_key(service, id_))
        if known is not None:
            self._digest.remove(service, id_, known.value)

    # ------------------------------------------------------------------------- questions

    async def _ask(self, relay: RestEndpoint) -> None:
        await relay.get(ALIVE, timeout=self._timing.probe_limit)

    async def _confirm(self, relay: RestEndpoint) -> None:
        """Wait for a frame, which says by its digest that everything has come."""
        self._told.clear()
        if not await set_within(self._told, self._silence):
            raise RegistryError(f"{PATH}: silent for {self._silence:g} s")

    async def _compare(self, relay: RestEndpoint) -> set[tuple[bytes, bytes | None]]:
        """Make the digest anew, and ask nothing: it is what each frame proves."""
        entries = self._roster.entries.items()
        if str(digest_of((*_names(key), one.value) for key, one in entries)) != str(self._digest):
            raise Resync("reconcile", "the digest was wrong")
        return set()


def _key(service: str, id_: str) -> bytes:
    return f"{service}/{id_}".encode()


def _names(key: bytes) -> tuple[str, str]:
    service, _, id_ = key.decode().partition("/")
    return service, id_


def _service_of(key: bytes) -> str:
    return _names(key)[0]


def _read(key: bytes, value: bytes) -> tuple[Instance, str]:
    return read(*_names(key), value[: MAX_VALUE + 1])
