"""The provider that follows a relay, which is a proxy that follows the registry itself.

A session is one answer without an end: what has changed since the digest that is known, or a whole
list, then every change. A relay that has nothing to tell says so every second. One that is silent,
or whose registry is an older one than what is known, is left for the next.

That a store has really gone back, as after a restore, is believed when no relay has said anything
else for a while: each proves itself to its registry more often than that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import ClassVar, Final, Unpack

import msgspec
import structlog

from proxy.membership import Instance
from proxy.registry.base import RegistryError
from proxy.registry.followed import Followed, Means, Resync, first_to_end
from proxy.registry.records import MAX_VALUE, names_of, read_named, service_of
from proxy.registry.relay.frames import (
    ALIVE,
    BEAT,
    PATH,
    Digest,
    Frame,
    digest_of,
    key_of,
    part_of,
)
from proxy.registry.relay.options import Options
from proxy.registry.rest import RestEndpoint, Secret
from proxy.registry.roster import Entry, Roster, single
from proxy.waiting import set_within

log = structlog.get_logger()

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

    def __init__(self, options: Options, **means: Unpack[Means]) -> None:
        shown = Secret(options.token, options.token_file).bearer
        super().__init__(
            [RestEndpoint(url, tls=options.tls, fields=shown) for url in options.endpoints],
            Roster(single(_read), service_of),
            **means,
        )
        self._silence = BEAT + self._timing.probe_limit
        self._digest = Digest()
        self._told = asyncio.Event()
        self._older_since: float | None = None
        """When the first of the relays in a row said that its registry is an older one."""

    # ---------------------------------------------------------------------- one session

    async def _session(self, relay: RestEndpoint) -> None:
        """Ends only by an exception."""
        known = {}
        if self._list_for is None:
            known = {"from": str(self._digest), "parts": self._digest.parts}
        async with aclosing(relay.lines(PATH, known, timeout=None)) as lines:
            await self._begin(lines, relay)
            await first_to_end(self._follow(lines), self._supervise(relay))

    async def _begin(self, lines: AsyncGenerator[bytes, None], relay: RestEndpoint) -> None:
        """Take over the list, if the relay gives one, or the parts of it that differ."""
        frame = await self._next(lines)
        self._check(frame)
        if not frame.full and self._list_for is not None:
            raise RegistryError(f"{PATH}: no list, which was asked for")
        if not frame.full and not frame.parts:
            self._apply(frame)
            return
        parts = None if frame.full else frozenset(frame.parts)
        entries: dict[bytes, Entry] = {}
        while True:
            for service, id_, record in frame.put:
                key = key_of(service, id_)
                entries[key] = self._roster.entry(key, bytes(record))
            if not frame.more:
                break
            if len(entries) > MOST_LISTED:
                raise RegistryError(f"{PATH}: a list of more than {MOST_LISTED} instances")
            frame = await self._next(lines)
        if parts is not None:
            known = [key for key in self._roster.entries if part_of(key) in parts]
            self._take(frame, known, entries)
            log.info("registry_parts_listed", endpoint=relay.url, parts=len(parts))
            return
        digest = digest_of((*names_of(key), entry.value) for key, entry in entries.items())
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
        except (ValueError, RecursionError) as error:
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
        entries = {}
        for service, id_, record in frame.put:
            key = key_of(service, id_)
            entries[key] = self._roster.entry(key, bytes(record))
        self._take(frame, [key_of(*name) for name in frame.gone], entries)

    def _take(self, frame: Frame, gone: Sequence[bytes], entries: Mapping[bytes, Entry]) -> None:
        """Take over these in place of those, once the digest says that it is what the relay knows;
        else it is all to be listed."""
        for key in {*gone, *entries}:
            known = self._roster.entries.get(key)
            if known is not None:
                self._digest.remove(*names_of(key), known.value)
        for key, entry in entries.items():
            self._digest.add(*names_of(key), entry.value)
        if str(self._digest) != frame.digest:
            raise Resync("digest", f"at {frame.revision}")
        for key in gone:
            if key not in entries:
                self._roster.remove(key, frame.revision)
        for entry in entries.values():
            self._roster.put(entry)
        self._roster.revision = max(self._roster.revision, frame.revision)
        self._older_since = None
        if gone or entries:
            self._rotation.progress()
            self._changed.set()
        self._told.set()

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
        if str(digest_of((*names_of(key), one.value) for key, one in entries)) != str(self._digest):
            raise Resync("reconcile", "the digest was wrong")
        return set()


def _read(key: bytes, value: bytes) -> tuple[Instance, str]:
    return read_named(key, value[: MAX_VALUE + 1])
