"""The provider over Consul's keys and values: one request for all of them, held until one changes.

The life of a session with one agent:

    may the token read them?  and list them
    follow ┬─ the list, by a held request
           └─ supervise: every 4 s ask whether they may be read, and for the index of the list

The index of a list is that of the newest change in it, deletions included, whatever the token may
see. So a list that merely lacks keys at the index of the one before hides them, and one that says
something else at that index or a lower one is of an earlier state, or of another store; one that
says the same may have a lower index, since Consul forgets deletions after a quarter of an hour.
What a list lacks after an outage may be another store's, too, and is retained for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping
from functools import partial
from typing import ClassVar, Final, Unpack
from uuid import UUID

from proxy.membership import Departure
from proxy.registry.base import Refused, RegistryError
from proxy.registry.consul import answers
from proxy.registry.consul.agent import Agent, Listed, newest
from proxy.registry.consul.pace import GAP_LIMIT, Pace
from proxy.registry.consul_kv.options import Options
from proxy.registry.consul_kv.pairs import Pair
from proxy.registry.followed import Followed, Means, Resync, Timing, first_to_end
from proxy.registry.formats.layout import is_record, literal, read_any, service_at
from proxy.registry.rest import Secret
from proxy.registry.roster import Entry, Roster
from proxy.waiting import set_within

TIMING: Final = Timing(hold=30.0)
"""Sessions have 10 s at least, which Consul doubles; their owners find out that they are gone, and
register again."""

SLICE: Final = 200
"""Keys read at a stretch: some milliseconds, then other tasks get their turn."""

_REPLACED: Final = frozenset({"store_went_back", "returned", "reconcile"})
"""Reasons for which that what a list lacks is retained."""


class ConsulKvProvider(Followed[Agent]):
    """Owns what is known of the keys below one prefix in a datacenter of Consul."""

    name: ClassVar[str] = "consul-kv"

    def __init__(self, options: Options, **means: Unpack[Means]) -> None:
        means.setdefault("timing", TIMING)
        token = Secret(options.token, options.token_file)
        self._prefix = literal(options.prefix)
        prefix = self._prefix.encode()
        super().__init__(
            [Agent(url, options, token) for url in options.endpoints],
            Roster(
                partial(read_any, prefix=prefix, form=options.format),
                partial(service_at, prefix=prefix, form=options.format),
            ),
            **means,
        )
        self._index = 0
        """Of the list that was taken last."""
        self._taken = asyncio.Event()
        """Set when a list was taken."""

    async def expired(self, departure: Departure) -> bool | None:
        """A session takes all its keys along when it ends, and nothing else does: one that went
        while its session lives was deleted. A session that is not shown may be hidden."""
        known = self._roster.entries.values()
        if not departure.lease or any(one.lease == departure.lease for one in known):
            return False
        session = str(UUID(int=departure.lease))
        for agent in self._connections:
            try:
                lives = await agent.lives(session, timeout=self._timing.probe_limit)
                return False if lives else None
            except RegistryError:
                continue
        return None

    # ---------------------------------------------------------------------- one session

    async def _session(self, agent: Agent) -> None:
        """Ends only by an exception."""
        reason = self._list_for
        replaced = reason in _REPLACED
        if replaced:
            self._index = 0
        await agent.may_read(self._prefix)
        listed, entries = await self._read_all(agent)
        if not replaced:
            await self._believe(agent, listed, entries, returned=self._lost_at is not None)
        self._index = listed.index
        adopt = partial(self._roster.replace, entries, listed.index, retain=replaced)
        if reason is not None:
            self._listed(agent, reason, adopt)
        elif adopt():
            self._changed.set()
        await first_to_end(self._follow(agent), self._supervise(agent))

    async def _read_all(self, agent: Agent) -> tuple[Listed, dict[bytes, Entry]]:
        listed = await newest(partial(agent.keys, self._prefix), self._index)
        self._heard()
        return listed, await self._entries(listed)

    async def _follow(self, agent: Agent) -> None:
        pace = Pace(self._clock())
        while True:
            asked = self._clock()
            listed = await agent.keys(self._prefix, index=self._index)
            begun = self._clock()
            held = listed.index != self._index or begun - asked > GAP_LIMIT
            if listed.index < self._index:
                listed, entries = await self._read_all(agent)
            else:
                self._heard()
                entries = await self._entries(listed)
            await self._believe(agent, listed, entries)
            self._index = listed.index
            self._taken.set()
            if self._roster.replace(entries, max(self._roster.revision, listed.index)):
                self._changed.set()
            await asyncio.sleep(pace.gap(begun, self._clock(), held=held))

    async def _entries(self, listed: Listed) -> dict[bytes, Entry]:
        entries: dict[bytes, Entry] = {}
        for number, piece in enumerate(answers.pieces(listed.body), 1):
            pair = answers.decode(piece, Pair)
            key, value = pair.key.encode(), pair.value or b""
            # Consul's own page makes keys that end with a slash, as folders.
            if is_record(key, value) or key in self._roster.entries:
                entries[key] = self._roster.entry(key, value, pair.modify_index, pair.lease)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        return entries

    async def _believe(
        self, agent: Agent, listed: Listed, entries: Mapping[bytes, Entry], returned: bool = False
    ) -> None:
        """Refused for a list that lacks keys because the token may not see them: Consul answers as
        if there were none. `Resync` for one that may be of another store."""
        if not entries:
            await agent.may_read(self._prefix)
        known = self._roster.entries
        lacking = known.keys() - entries.keys()
        words = f"the list of {self._prefix} lacks {len(lacking)} of {len(known)} keys"
        if lacking and listed.hides:
            raise Refused(f"{words}, which the token may not see")
        if listed.index <= self._index and (different := self._roster.unlike(entries)):
            if listed.index == self._index and len(different) == len(lacking):
                why = "nothing has changed: the token may not see them any more"
                raise Refused(f"{words}, and {why}")
            raise Resync("store_went_back", f"from index {self._index} to {listed.index}")
        if lacking and returned:
            raise Resync("returned", words)

    # ------------------------------------------------------------------------- questions

    async def _ask(self, agent: Agent) -> None:
        await agent.may_read(self._prefix, timeout=self._timing.probe_limit)

    async def _confirm(self, agent: Agent) -> None:
        limit = self._timing.probe_limit
        await agent.may_read(self._prefix, timeout=limit)
        known = self._index
        listed = await newest(partial(agent.folders, self._prefix, timeout=limit), known)
        self._heard()
        if listed.index < known:
            whole, entries = await self._read_all(agent)
            if self._index == known:
                await self._believe(agent, whole, entries)
                self._index = min(self._index, whole.index)
        while self._index < listed.index:
            self._taken.clear()
            if not await set_within(self._taken, self._timing.catch_up + GAP_LIMIT):
                raise Resync("behind", f"at {self._index}, store at {listed.index}")

    async def _compare(self, agent: Agent) -> frozenset[tuple[bytes, Hashable]]:
        known = self._index
        listed, entries = await self._read_all(agent)
        if self._index != known:
            return frozenset()  # A change came meanwhile, so nothing is proved.
        await self._believe(agent, listed, entries)
        return self._roster.unlike(entries)
