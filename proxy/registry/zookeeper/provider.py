"""The ZooKeeper provider: one watch over the whole tree, and what it mentions is read again.

The life of a session with one server:

    connect, as one who has seen the newest zxid: a server that is behind hangs up
    watch everything below the prefix, then list it: what changes meanwhile is read once more
    settle ─ read what notifications mention
    supervise ─ every 4 s ask for the prefix behind a `sync`: it is still the same node
    keep ─ ping

Replies and notifications of one server come in order, so what a reply behind a `sync` shows has
been notified before. Notifications missed without a connection are lost: each session begins with a
list, which is applied as a difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import ClassVar, Final, Unpack

from proxy.membership import Departure
from proxy.registry.base import RegistryError
from proxy.registry.followed import Followed, Means, Resync, Timing, first_to_end
from proxy.registry.formats.layout import is_record, read_any, service_at
from proxy.registry.roster import Entry, Roster
from proxy.registry.zookeeper import wire
from proxy.registry.zookeeper.link import Link, TurnedAway
from proxy.registry.zookeeper.options import Options
from proxy.registry.zookeeper.wire import CREATED, DELETED, NO_NODE, Event, Failed, Op, Stat

TIMING: Final = Timing(hold=15.0)
"""Clients find out that a store was replaced by losing their sessions, which they made with up to
10 s, and register again."""

SLICE: Final = 200
"""Requests that are sent together: some milliseconds of answers, then other tasks may run."""

_REPLACED: Final = frozenset({"store_went_back", "reconcile"})
"""Reasons which say that this is not the store that we knew, so what it lacks is retained."""

ROUNDS: Final = 3
"""Times that every server must turn us away, until one is asked as by somebody who knows nothing:
all are behind what we know only if the store was replaced."""


class ZooKeeperProvider(Followed[Link]):
    """Owns what is known of one ensemble's instances, and of the place where they are."""

    name: ClassVar[str] = "zookeeper"

    def __init__(self, options: Options, **means: Unpack[Means]) -> None:
        means.setdefault("timing", TIMING)
        self._link = partial(Link, options=options, timeout=options.session_timeout)
        self._prefix = options.prefix
        prefix = f"{options.prefix}/".encode()
        roster = Roster(
            partial(read_any, prefix=prefix, form=options.format),
            partial(service_at, prefix=prefix, form=options.format),
        )
        links = [self._link(url) for url in options.endpoints]
        super().__init__(links, roster, **means)
        self._dirty: dict[str, int] = {}  # ≤ nodes that change until they are read
        """Paths of instances to read, each with the zxid of its last change, 0 = not known."""
        self._mentioned = asyncio.Event()
        self._created = 0
        """Zxid at which the prefix was; 0 = it is not there."""
        self._turned_away = 0
        """Times in a row."""

    async def expired(self, departure: Departure) -> bool | None:
        """A session takes all its nodes along when it ends, so a node that went while another of
        the same session stands was deleted. Nobody tells how long others' sessions live."""
        known = self._roster.entries.items()
        siblings = [key.decode() for key, one in known if one.lease == departure.lease]
        for link in self._connections if siblings and departure.lease else ():
            try:
                found = await self._read_nodes(link, siblings[:SLICE], Op.EXISTS)
            except RegistryError:
                continue
            owners = [reply.stat().owner for reply in found if reply is not None]
            return False if departure.lease in owners else None
        return None if departure.lease else False

    # ---------------------------------------------------------------------- one session

    async def _session(self, link: Link) -> None:
        """Ends only by an exception."""
        self._dirty.clear()
        link.on_event = self._note
        try:
            await self._connect(link)
            await link.call(Op.ADD_WATCH, wire.watch(self._prefix), self._prefix)
            await self._list(link, self._list_for)
            await first_to_end(self._settle(link), self._supervise(link), link.keep(), link.ended())
        finally:
            await link.disconnect()

    async def _connect(self, link: Link) -> None:
        unknown = self._turned_away >= ROUNDS * len(self._connections)
        unknown = unknown or self._list_for in _REPLACED
        try:
            await link.connect(0 if unknown else self._roster.revision)
        except TurnedAway:
            self._turned_away += 1
            raise
        self._turned_away = 0

    async def _list(self, link: Link, reason: str | None) -> None:
        """Read everything, and apply the difference."""
        replaced = reason in _REPLACED
        created = await self._top_of(link)
        if not replaced:
            self._check(created, link)
        entries = await self._read_all(link)
        self._created = created
        adopt = partial(self._roster.replace, entries, link.zxid, retain=replaced)
        if reason is not None:
            self._listed(link, reason, adopt)
        elif adopt():
            self._changed.set()

    async def _top_of(self, link: Link) -> int:
        """Zxid at which the prefix was created, as of now; 0 = there is no such node. Asks for its
        children, which takes the right to read."""
        body, path = wire.read(self._prefix), self._prefix
        _, found = await link.outcomes(
            [(Op.SYNC, wire.text(path), path), (Op.GET_CHILDREN, body, path)],
            self._timing.probe_limit,
        )
        self._heard()
        if isinstance(found, Failed) and found.code == NO_NODE:
            return 0
        if isinstance(found, Failed):
            raise found
        found.texts()
        return found.stat().czxid

    def _check(self, created: int, link: Link) -> None:
        """Resync when this is not the store, or not the prefix, that we know."""
        known = self._roster.revision
        if link.zxid < known:
            raise Resync("store_went_back", f"from zxid {known:#x} to {link.zxid:#x}")
        if self._created and created != self._created:
            raise Resync("store_went_back", f"{self._prefix} is not the node that was there")
        self._created = created

    async def _read_all(self, link: Link) -> dict[bytes, Entry]:
        """All records: of nodes that have others below them it is those."""
        entries: dict[bytes, Entry] = {}
        parents = [self._prefix]
        while parents:
            paths, above, parents = [], parents, []
            for some in _slices(above):
                replies = await self._read_nodes(link, some, Op.GET_CHILDREN)
                for parent, reply in zip(some, replies, strict=True):
                    paths += [f"{parent}/{name}" for name in (reply.texts() if reply else ())]
            for some in _slices(paths):
                replies = await self._read_nodes(link, some, Op.GET_DATA)
                for path, reply in zip(some, replies, strict=True):
                    if reply is None:
                        continue
                    value, stat = reply.buffer(), reply.stat()
                    if stat.children:
                        parents.append(path)
                    elif (entry := self._entry(path, value, stat)) is not None:
                        entries[entry.key] = entry
        return entries

    async def _read_nodes(
        self, link: Link, paths: Iterable[str], op: Op
    ) -> list[wire.Reader | None]:
        """Replies for nodes; None = it is gone."""
        found = await link.outcomes([(op, wire.read(path), path) for path in paths])
        self._heard()
        for one in found:
            if isinstance(one, Failed) and one.code != NO_NODE:
                raise one
        return [None if isinstance(one, Failed) else one for one in found]

    def _entry(self, path: str, value: bytes, stat: Stat) -> Entry | None:
        """The record of a node; None = it is a directory."""
        key = path.encode()
        if stat.children or not (is_record(key, value) or key in self._roster.entries):
            return None
        return self._roster.entry(key, value, stat.mzxid, stat.owner)

    # -------------------------------------------------------------------- notifications

    def _note(self, event: Event) -> None:
        """Of whatever happens to a node there is a notification of its own; it may turn the one
        above into a directory, or a directory into a record."""
        parent = event.path.rpartition("/")[0]
        if len(parent) < len(self._prefix):
            return
        self._dirty[event.path] = event.zxid
        if event.kind in (CREATED, DELETED) and parent != self._prefix:
            self._dirty.setdefault(parent, event.zxid)
        self._mentioned.set()

    async def _settle(self, link: Link) -> None:
        """Read what notifications mention, for ever."""
        while True:
            await self._mentioned.wait()
            self._mentioned.clear()
            dirty, self._dirty = self._dirty, {}
            for some in _slices(sorted(dirty)):
                replies = await self._read_nodes(link, some, Op.GET_DATA)
                for path, reply in zip(some, replies, strict=True):
                    entry = None
                    if reply is not None:
                        entry = self._entry(path, reply.buffer(), reply.stat())
                    if entry is None:
                        self._roster.remove(path.encode(), dirty[path])
                    else:
                        self._roster.put(entry)
                self._roster.revision = max(self._roster.revision, link.zxid)
                self._changed.set()

    # ------------------------------------------------------------------------- questions

    async def _ask(self, link: Link) -> None:
        """A link that is not followed is asked on another connection."""
        if link.accepted.timeout:
            await self._top_of(link)
            return
        asking = self._link(link.url)
        try:
            await asking.connect(0)
            await self._top_of(asking)
        finally:
            await asking.disconnect()

    async def _confirm(self, link: Link) -> None:
        self._check(await self._top_of(link), link)
        self._roster.revision = max(self._roster.revision, link.zxid)

    async def _compare(self, link: Link) -> frozenset[tuple[bytes, Hashable]]:
        found = await self._read_all(link)
        return self._roster.unlike(found)


def _slices(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(paths), SLICE):
        yield paths[start : start + SLICE]
