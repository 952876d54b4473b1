"""`Polled`: a provider that asks its registry for everything, again and again.

An answer is the proof that the roster follows, and brings what is new at the same time. How far it
is believed is decided in `belief.py`.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Hashable
from typing import ClassVar, TypeVar
from zlib import crc32

from proxy.membership import Departure
from proxy.registry.base import Refused, RegistryError
from proxy.registry.belief import Answer, Step, believe
from proxy.registry.followed import C, Followed, Resync
from proxy.registry.roster import Entry
from proxy.threads import in_thread

T = TypeVar("T")

SLICE = 500
"""Records that are read at a stretch: some ten milliseconds, then other tasks get their turn."""

_ASK_ANOTHER = frozenset({"empty", "shrunk"})
"""Doubts that another endpoint can settle: what this one lost, it may have."""


async def aside(work: Callable[[], T]) -> T:
    """The result of `work`, which reads thousands of records at a stretch: in a thread, so that the
    loop gets its turn every 5 ms, where Python changes threads."""
    try:
        return await in_thread(work, "read an answer of a registry")
    except OSError as error:
        raise RegistryError(f"no thread to read the answer in: {error.strerror}") from None


class Polled(Followed[C]):
    """Owns the last answer that was taken. `Timing.probe` is the interval between questions,
    `Timing.hold` how long answers must lack what a pool can hardly lose, before it goes."""

    states_all: ClassVar[bool] = False
    """Whether an answer is a statement of somebody who means all of it, and is never doubted."""

    leased: ClassVar[bool] = False
    """Whether each instance is kept by beats of its own: one that was deregistered and one that
    does not beat go alike, and nobody can say which it was."""

    empty_start: ClassVar[float] = 0.0
    """Seconds for which a first answer without anybody is an outage: the registry may have been
    started together with the proxy, and hear of its instances as they renew."""

    _answer: Answer | None = None
    _asked_at: float | None = None
    """When the first answer without anybody came."""
    _was_lost = False
    """There was an outage since that answer."""

    @abstractmethod
    async def _poll(self, connection: C) -> Answer | None:
        """Ask for all that the registry names now. None, unless `_list_for` asks for a list, when
        it is nothing else than the last time; RegistryError when it cannot be had whole."""

    async def _ask(self, connection: C) -> object:
        """See `Followed`. Nothing is remembered of it."""
        return await self._poll(connection)

    async def expired(self, departure: Departure) -> bool | None:
        """See `Provider`."""
        return None if self.leased else False

    async def _session(self, connection: C) -> None:
        await self._supervise(connection)

    def _lost(self, connection: C, error: Exception) -> None:
        super()._lost(connection, error)
        self._was_lost = True

    async def _confirm(self, connection: C) -> None:
        answer = await self._poll(connection)
        self._heard()
        if answer is None:
            self._was_lost = False
        else:
            await self._take(connection, answer)

    async def _compare(self, connection: C) -> frozenset[tuple[bytes, Hashable]]:
        """Find nothing: each answer is compared whole."""
        return frozenset()

    def _is_early(self) -> bool:
        if self._asked_at is None:
            self._asked_at = self._clock()
        return self._clock() < self._asked_at + self.empty_start

    async def _take(self, connection: C, answer: Answer) -> None:
        step, reason = Step.ADOPT, ""
        if not self.states_all:
            known: Callable[[bytes], str] = self._roster.service_of
            step, reason = believe(
                self._answer,
                answer,
                known,
                asked_again=self._in_doubt,
                returned=self._was_lost,
            )
        if answer.refused:
            raise Refused(answer.refused)
        if self._answer is None and not answer.records and self._is_early():
            raise RegistryError("it knows nobody, as one that has just been started")
        if step is Step.ASK_AGAIN:
            raise Resync(reason, f"from {answer.source}", elsewhere=True)
        entries: dict[bytes, Entry] = {}
        for number, (key, value) in enumerate(answer.records.items(), 1):
            lease = (crc32(key) or 1) if self.leased else 0
            entries[key] = self._roster.entry(key, value, lease=lease)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        self._answer, self._was_lost = answer, False

        def adopt() -> int:
            for key in answer.left:
                self._roster.remove(key)
            retain = step is Step.HOLD
            return len(answer.left) + self._roster.replace(entries, answer.revision, retain=retain)

        if reason or self._list_for is not None:
            self._listed(connection, reason or self._list_for or "start", adopt)
        elif adopt():
            self._changed.set()
        if reason in _ASK_ANOTHER and len(self._connections) > 1 and not self._in_doubt:
            raise Resync(reason, "what another one says", elsewhere=True)
