"""The Nacos provider: has a member tell changes, or asks it for all services again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Mapping
from functools import partial
from typing import ClassVar, Final, Unpack

import structlog

from proxy.registry.base import RegistryError
from proxy.registry.belief import Answer
from proxy.registry.followed import Means, Resync, Timing, first_to_end
from proxy.registry.grpc import Leaving
from proxy.registry.nacos.answers import Hosts, records
from proxy.registry.nacos.member import Member
from proxy.registry.nacos.options import Options
from proxy.registry.nacos.push import Push, Starting
from proxy.registry.polled import Polled, aside
from proxy.registry.records import read_below, service_of
from proxy.registry.roster import Roster, differences, single
from proxy.waiting import together

log = structlog.get_logger()

AT_A_TIME: Final = 16
"""Questions under way: a member answers some thousand a second."""

ALL: Final = 60.0
"""Seconds between full comparisons where changes are told, and until a member that did not tell any
is asked to again."""

HOLD: Final = 15.0
"""Seconds for which answers must lack what a pool can hardly lose: instances beat every 5 s, and
register again when a member does not know them."""


class NacosProvider(Polled[Member]):
    """Owns the members of one cluster of Nacos."""

    name: ClassVar[str] = "nacos"
    leased = True
    empty_start = 15.0

    def __init__(self, options: Options, **means: Unpack[Means]) -> None:
        means.setdefault("timing", Timing(probe=options.interval, hold=HOLD, reconcile=ALL))
        super().__init__(
            [Member(url, options) for url in options.endpoints],
            Roster(single(read_below), service_of),
            **means,
        )
        self._options = options
        self._services = options.services
        self._push: Push | None = None
        """Of the session, if the member tells changes."""
        self._taking = asyncio.Lock()
        """Held while an answer is under way: changes that are told meanwhile are newer."""
        self._polled_for = ""
        """Why the member of the last session told nothing."""

    # ----------------------------------------------------------------------- one session

    async def _session(self, connection: Member) -> None:
        """Ends only by an exception."""
        try:
            if not self._options.push:
                await self._supervise(connection)
            self._push = await self._opened(connection)
            if self._push is not None:
                await first_to_end(
                    self._supervise(connection),
                    self._listen(connection, self._push),
                    self._push.ended(),
                )
            await first_to_end(self._supervise(connection), self._try_again(connection))
        except Leaving as error:
            raise Resync("moved", str(error), elsewhere=True) from None
        finally:
            push, self._push = self._push, None
            if push is not None:
                await push.close()

    async def _opened(self, member: Member) -> Push | None:
        """A connection on which a member tells changes; None = it is to be polled."""
        push = Push(member.url, self._options, member.credentials, self._timing.probe_limit)
        try:
            await push.open()
        except BaseException as error:
            await push.close()
            if not isinstance(error, RegistryError) or isinstance(error, Starting):
                raise
            if self._polled_for != str(error):
                self._polled_for = str(error)
                log.info("registry_polled", endpoint=member.url, reason=str(error))
            return None
        self._polled_for = ""
        return push

    async def _try_again(self, member: Member) -> None:
        """End the session once the member tells changes."""
        while True:
            await asyncio.sleep(self._timing.reconcile)
            push = await self._opened(member)
            if push is not None:
                await push.close()
                raise Resync("pushed", "the member tells changes now")

    async def _listen(self, member: Member, push: Push) -> None:
        """Take what is told, for ever."""
        while True:
            await push.mentioned.wait()
            async with self._taking:
                self._heard()
                await self._take(member, await self._answer_of(member, push.taken()))
            await asyncio.sleep(self._timing.coalesce)

    # ------------------------------------------------------------------------- questions

    async def _confirm(self, connection: Member) -> None:
        async with self._taking:
            await super()._confirm(connection)

    async def _poll(self, connection: Member) -> Answer | None:
        push = self._push
        source = push or connection
        names = set(self._services or await source.services())
        if not self._services:
            # The list of names forgets services at times whose instances are there.
            names |= {self._roster.service_of(key) for key in self._before}
        elif push is not None:
            await push.check()
        if push is not None:
            for gone in push.subscribed - names:
                await push.forget(gone)
            if self._list_for is None and not self._roster.retained:
                names -= push.subscribed
                if not names:
                    return None
        return await self._answer_of(connection, await self._lists(source, names))

    async def _compare(self, connection: Member) -> frozenset[tuple[bytes, Hashable]]:
        """Find what should have been told, and was not."""
        if self._push is None:
            return frozenset()
        async with self._taking:
            lists = await self._lists(self._push, self._push.subscribed)
            found = (await self._answer_of(connection, lists)).records
            known = self._before
        return differences(found, known)

    async def _lists(self, source: Push | Member, names: Iterable[str]) -> dict[str, Hosts]:
        asked = sorted(names)
        lists = await together(AT_A_TIME, [partial(source.instances, name) for name in asked])
        return dict(zip(asked, lists, strict=True))

    @property
    def _before(self) -> Mapping[bytes, bytes]:
        return {} if self._answer is None else self._answer.records

    async def _answer_of(self, member: Member, lists: Mapping[str, Hosts]) -> Answer:
        """The records that are known, with these services as they are now."""
        before = self._before

        def joined() -> dict[bytes, bytes]:
            service_of = self._roster.service_of
            found = {key: one for key, one in before.items() if service_of(key) not in lists}
            for name, hosts in lists.items():
                found |= records(name, hosts, before)
            return found

        return Answer(records=await aside(joined), source=member.url)

    async def _ask(self, connection: Member) -> object:
        """See `Followed`."""
        if self._services:
            return await connection.instances(self._services[0])
        try:
            return await connection.services()
        except RegistryError:
            push = await self._opened(connection) if self._options.push else None
            if push is None:
                raise
            await push.close()
            return None
