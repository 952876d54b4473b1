"""The Consul provider: a request for each service that is held until something changes.

The life of a session with one agent:

    who are the servers?  and read the catalogue and every service in it
    follow ┬─ the catalogue: services that come and go
           ├─ up to `streams` services, by a held request each
           ├─ the others in turn
           └─ supervise: every 4 s read the catalogue again

Requests are answered by whichever server the agent asks (`stale`), so that proxies are no load for
the leader; an answer older than what is known is asked of the leader, and one that lacks what was
known is believed only if Consul says that something changed (`_believe`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Mapping
from functools import partial
from hashlib import blake2b
from typing import ClassVar, Final, Unpack
from zlib import crc32

import structlog

from proxy.membership import Departure
from proxy.registry.base import Refused, RegistryError
from proxy.registry.consul import answers
from proxy.registry.consul.agent import Agent, Ask, Listed, newest
from proxy.registry.consul.options import Options
from proxy.registry.consul.pace import GAP, GAP_LIMIT, Pace
from proxy.registry.followed import Followed, Means, Resync, Timing, first_to_end
from proxy.registry.records import read_named, service_of
from proxy.registry.rest import Secret, was_refused, was_reset
from proxy.registry.roster import Entry, Roster, differences, single
from proxy.waiting import ended, together

log = structlog.get_logger()

TIMING: Final = Timing(hold=75.0)
"""After a loss of the servers' data agents register their services again, once a minute."""

AT_A_TIME: Final = 16
"""Lists under way while everything is read: an agent answers some hundred a second."""

SLICE: Final = 200
"""Instances read at a stretch: some milliseconds, then other tasks get their turn."""

IN_TURN: Final = 0.1
"""Seconds between two requests for services that have no request held for them: ten a second are
little to an agent, and a hundred of such services are ten seconds behind."""

MAX_NODES: Final = 20_000
"""Names of nodes that are remembered, for questions about departures of the last minutes, and not
those of weeks of autoscaling."""

FEWEST: Final = 16
"""Streams that are kept, however often the agent hangs up."""
STEADY: Final = 600.0
"""Seconds that a session must have lasted for all streams to be tried again after it."""

_REPLACED: Final = frozenset({"store_went_back", "cluster_changed", "reconcile"})
"""Reasons which say that this is not the catalogue that we knew, so what it lacks is retained."""

_EMPTY: Final = (
    "the catalogue is empty, and there is none without Consul's own servers: the token may not read"
    ' services (service_prefix "" and node_prefix "" need the policy read)'
)


class ConsulProvider(Followed[Agent]):
    """Owns what is known of one datacenter of Consul, and the requests that follow it."""

    name: ClassVar[str] = "consul"

    def __init__(self, options: Options, **means: Unpack[Means]) -> None:
        means.setdefault("timing", TIMING)
        token = Secret(options.token, options.token_file)
        super().__init__(
            [Agent(url, options, token) for url in options.endpoints],
            Roster(single(read_named), service_of),
            **means,
        )
        self._options = options
        self._streams = options.streams
        self._crowded = False
        """The agent hung up, and was not gone since: it may have no room for so many."""
        self._names: frozenset[str] = frozenset()
        self._renamed = asyncio.Event()
        """Set when `_names` may be other ones."""
        self._index = 0
        """Of the catalogue that `_names` are from."""
        self._indexes: dict[str, int] = {}
        """Service → index of the list that was taken last."""
        self._servers: frozenset[str] = frozenset()
        """Ids of Consul's servers; empty = they cannot be seen."""
        self._nodes: dict[int, str] = {}
        """The nodes behind `Departure.lease`."""
        self._lists: dict[str, dict[bytes, tuple[answers.Registered, bytes]]] = {}
        """Service → digest of an instance in the last answer → what was read there."""

    async def expired(self, departure: Departure) -> bool | None:
        """A service that went while its node's agent is well was deregistered by it; of one that
        went with its node nobody can say."""
        node = self._nodes.get(departure.lease)
        for agent in self._connections:
            try:
                checks = await agent.node(node or "", timeout=self._timing.probe_limit)
                return False if node and answers.agent_is_well(checks) else None
            except RegistryError:
                continue
        return None

    # ---------------------------------------------------------------------- one session

    async def _session(self, agent: Agent) -> None:
        """Ends only by an exception. An agent takes so many connections from one address, and hangs
        up on further ones without a word."""
        begun = self._clock()
        try:
            await self._list_and_follow(agent)
        except RegistryError as error:
            self._crowded = was_reset(error) or (self._crowded and not was_refused(error))
            if self._clock() - begun > STEADY:
                self._streams = self._options.streams
            raise

    async def _list_and_follow(self, agent: Agent) -> None:
        reason = self._list_for
        replaced = reason in _REPLACED
        servers = answers.servers((await agent.health(answers.SERVERS)).body)
        if self._crowded and self._streams > FEWEST:
            self._streams = max(FEWEST, self._streams // 2)
            log.warning(
                "registry_streams_reduced",
                endpoint=agent.url,
                streams=self._streams,
                because="the agent hangs up; http_max_conns_per_client says how many it takes",
            )
        self._crowded = False
        if replaced:
            self._index = 0
            self._indexes.clear()
        elif self._servers and servers and not self._servers & servers:
            raise Resync("cluster_changed", "none of the servers is one of those before")
        listed = await self._newest(agent.catalogue, self._index, "the catalogue")
        names = _names(listed)
        found = await self._read_all(agent, names)
        if not replaced:
            for service, (one, entries) in found.items():
                await self._believe(agent, service, one, entries.keys())
        self._servers = servers or self._servers
        self._names, self._index = names, listed.index
        adopt = partial(self._adopt, found, replaced)
        if reason is not None:
            self._listed(agent, reason, adopt)
        elif adopt():
            self._changed.set()
        await first_to_end(self._follow(agent), self._turns(agent), self._supervise(agent))

    async def _read_all(
        self, agent: Agent, names: Iterable[str]
    ) -> Mapping[str, tuple[Listed, dict[bytes, Entry]]]:
        """Lists of all services, also of those that are known and not in the catalogue."""

        async def one(service: str) -> tuple[Listed, dict[bytes, Entry]]:
            listed = await self._newest(
                partial(agent.health, service), self._indexes.get(service, 0), service
            )
            self._heard()
            return listed, await self._entries(service, listed)

        services = sorted({*names, *map(service_of, self._roster.entries)})
        lists = await together(AT_A_TIME, [partial(one, service) for service in services])
        return dict(zip(services, lists, strict=True))

    def _adopt(self, found: Mapping[str, tuple[Listed, dict[bytes, Entry]]], replaced: bool) -> int:
        entries = {key: entry for _, known in found.values() for key, entry in known.items()}
        for service, (listed, _) in found.items():
            self._indexes[service] = listed.index
        return self._roster.replace(entries, self._index, retain=replaced)

    async def _follow(self, agent: Agent) -> None:
        """A task for the catalogue, and one for each of the services that have a request held."""
        streams = {"": asyncio.create_task(self._follow_names(agent))}  # ≤ options.streams + 1
        try:
            while True:
                self._renamed.clear()
                wanted = sorted(self._names)[: self._streams]
                for service in streams.keys() - {"", *wanted}:
                    streams.pop(service).cancel()
                for service in wanted:
                    if service not in streams:
                        stream = asyncio.create_task(self._follow_service(agent, service))
                        streams[service] = stream
                renamed = asyncio.create_task(self._renamed.wait())
                try:
                    over, _ = await asyncio.wait(
                        [renamed, *streams.values()], return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    renamed.cancel()
                for task in over:
                    task.result()
        finally:
            await ended(*streams.values())

    async def _follow_names(self, agent: Agent) -> None:
        while True:
            listed = await agent.catalogue(index=self._index)
            if listed.index < self._index:
                listed = await self._newest(agent.catalogue, self._index, "the catalogue")
            names = _names(listed)
            gone = self._names - names
            self._names, self._index = names, listed.index
            self._renamed.set()
            for service in gone:
                await self._take(agent, service, await agent.health(service))
            await asyncio.sleep(GAP_LIMIT if not gone else GAP)

    async def _follow_service(self, agent: Agent, service: str) -> None:
        pace = Pace(self._clock())
        while True:
            known, asked = self._indexes.get(service, 0), self._clock()
            listed = await agent.health(service, index=known)
            held = listed.index != known or self._clock() - asked > GAP_LIMIT
            if listed.index < known:
                listed = await self._newest(partial(agent.health, service), known, service)
            begun = self._clock()
            await self._take(agent, service, listed)
            await asyncio.sleep(pace.gap(begun, self._clock(), held=held))

    async def _turns(self, agent: Agent) -> None:
        """Ask for the services that have no request held, one after the other."""
        while True:
            for service in sorted(self._names)[self._streams :]:
                await self._take(agent, service, await agent.health(service))
                await asyncio.sleep(IN_TURN)
            await asyncio.sleep(IN_TURN)

    # ------------------------------------------------------------------------- answers

    async def _take(self, agent: Agent, service: str, listed: Listed) -> None:
        """Take over a list of a service, unless a newer one was taken meanwhile."""
        self._heard()
        entries = await self._entries(service, listed)
        if listed.index >= self._indexes.get(service, 0):
            await self._believe(agent, service, listed, entries.keys())
        if listed.index < self._indexes.get(service, 0):
            return
        self._indexes[service] = listed.index
        revision = max(self._roster.revision, listed.index)
        if self._roster.replace(entries, revision, among=self._keys(service)):
            self._changed.set()

    async def _entries(self, service: str, listed: Listed) -> dict[bytes, Entry]:
        entries: dict[bytes, Entry] = {}
        if service == answers.SERVERS:
            return entries
        # One change of many is a list of all: what was read before is not read again.
        before, found = self._lists.get(service, {}), {}
        for number, piece in enumerate(answers.pieces(listed.body), 1):
            digest = blake2b(piece, digest_size=16).digest()
            if (known := before.get(digest)) is None:
                one = answers.registered(piece)
                known = one, answers.record(one, self._options)
            found[digest] = known  # ≤ the instances in an answer
            if number % SLICE == 0:
                await asyncio.sleep(0)
        self._lists[service] = found  # ≤ the services in the catalogue
        ids = answers.ids([one for one, _ in found.values()])
        for number, ((one, record), id_) in enumerate(zip(found.values(), ids, strict=True), 1):
            if self._options.tag and self._options.tag not in (one.service.tags or ()):
                continue
            key = f"{service}/{id_}".encode()
            lease = crc32(one.node.node.encode()) + 1
            if len(self._nodes) >= MAX_NODES:
                self._nodes.clear()
            self._nodes[lease] = one.node.node  # ≤ MAX_NODES
            entries[key] = self._roster.entry(key, record, 0, lease)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        if not found:
            del self._lists[service]
        return entries

    async def _believe(
        self, agent: Agent, service: str, listed: Listed, keys: Iterable[bytes]
    ) -> None:
        """Refused for a list that lacks instances because the token may not see them: Consul
        answers as if there were none. Who deregisters changes the index of the service."""
        lacking = self._keys(service) - set(keys)
        if not lacking:
            return
        words = (
            f"the list of {service} lacks {len(lacking)} of {len(self._keys(service))} instances"
        )
        if listed.hides:
            raise Refused(f"{words}, which the token may not see")
        if listed.index == self._indexes.get(service):
            raise Refused(f"{words}, and nothing has changed: the token may not see them any more")
        if answers.pieces(listed.body):
            return
        if service in _names(await agent.catalogue(leader=True)):
            raise Refused(f"{words}, and the catalogue has it: the token may not read its nodes")

    async def _newest(self, ask: Ask, known: int, what: str) -> Listed:
        """An answer that is not older than what is known: from the agent's server, or else from the
        leader; Resync when that is older as well."""
        listed = await newest(ask, known)
        if listed.index < known:
            raise Resync("store_went_back", f"{what}: from index {known} to {listed.index}")
        return listed

    # ------------------------------------------------------------------------- questions

    async def _ask(self, agent: Agent) -> None:
        _names(await agent.catalogue(timeout=self._timing.probe_limit))

    async def _confirm(self, agent: Agent) -> None:
        ask = partial(agent.catalogue, timeout=self._timing.probe_limit)
        listed = await self._newest(ask, self._index, "the catalogue")
        self._heard()
        names = _names(listed)
        if names != self._names:
            await asyncio.sleep(self._timing.catch_up)
            if names != self._names and self._index < listed.index:
                raise Resync("behind", f"at {self._index}, catalogue at {listed.index}")

    async def _compare(self, agent: Agent) -> frozenset[tuple[bytes, Hashable]]:
        found = await self._read_all(agent, _names(await agent.catalogue()))
        for service, (listed, entries) in found.items():
            await self._believe(agent, service, listed, entries.keys())
        known = {key: one.value for key, one in self._roster.entries.items()}
        held = {key: one.value for _, entries in found.values() for key, one in entries.items()}
        return differences(held, known)

    def _keys(self, service: str) -> set[bytes]:
        prefix = f"{service}/".encode()
        return {key for key in self._roster.entries if key.startswith(prefix)}


def _names(listed: Listed) -> frozenset[str]:
    """Services in the catalogue; Refused when it has none."""
    names = answers.names(listed.body)
    if not names:
        raise Refused(_EMPTY)
    # No route can name a service with a slash, and keys would have two meanings.
    return frozenset(name for name in names if "/" not in name and name != answers.SERVERS)
