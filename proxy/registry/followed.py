"""`Followed`: a provider that follows its registry through one connection after another.

A session with one connection ends by an error (the next connection, nothing is forgotten) or by a
`Resync` (list again, apply the difference). Neither takes anything out of the roster, so an outage
of any length leaves the last known membership in service.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Generic, Protocol, TypedDict, TypeVar

import msgspec
import structlog

from proxy.membership import Membership
from proxy.registry.base import Provider, RegistryError
from proxy.registry.complaints import Complaints
from proxy.registry.roster import Roster
from proxy.registry.rotation import Rotation
from proxy.statuses import RegistryStatus, RetainedInstance
from proxy.waiting import ended

log = structlog.get_logger()


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how long, in seconds."""

    probe: float = 4.0
    """Between proofs that the roster follows, ± 10 %. With `probe_limit` it bounds how long a
    member that stopped, or lost its leader, goes unnoticed: 6 s. What registries say by themselves
    comes every 10 minutes (etcd) and proves nothing in between."""
    probe_limit: float = 2.0
    """For one probe: an election takes one to two seconds, and one missed probe costs no more
    than a new connection."""
    catch_up: float = 1.0
    """How long the roster may stand still behind the registry before it is listed again. Members
    of etcd deliver to late watchers every 0.1 s."""
    reconcile: float = 300.0
    """Between full comparisons, ± 20 %. Should never find anything; see `differences`."""
    recheck: float = 2.0
    """After an outage a full comparison comes within this time, spread over the fleet: a registry
    that was replaced meanwhile can pass every quick check, and the roster is to be right 10 s
    after the return, of which up to 5 s may be back-off."""
    hold: float = 4.0
    """How long instances are retained that a registry which went back no longer knows. Registrars
    renew a lease every third of its TTL, so those with the usual 10 s are back by then, and
    an operator who emptied the registry on purpose sees that within 10 s of its return."""
    coalesce: float = 0.05
    """At most one membership in this time: a roll-out of a thousand instances becomes a few
    snapshots, and a single change is still out at once."""
    relist: float = 1.0
    """Between two lists for a doubt each. A registry whose lists and proofs are well, and whose
    watches say at once that they cannot go on, would be listed without end."""
    backoff_first: float = 0.02
    backoff_limit: float = 5.0
    """Full jitter between attempts, so that a fleet of proxies does not come back in step. The
    limit is for registries that answer; `rotation.ROUND` holds while they do not."""


class Means(TypedDict, total=False):
    """Means of a provider that tests replace: its timing, chance and time."""

    timing: Timing
    rng: random.Random
    clock: Callable[[], float]


class Resync(Exception):
    """The roster may have missed something: list again, for this reason; with `elsewhere`, through
    the next connection."""

    def __init__(self, reason: str, detail: str = "", *, elsewhere: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.elsewhere = elsewhere


class Connection(Protocol):
    """An endpoint of a registry."""

    @property
    def url(self) -> str: ...

    async def disconnect(self) -> None: ...


C = TypeVar("C", bound=Connection)


class Followed(Provider, Generic[C]):
    """Owns the connections to one registry, and the task that keeps the roster current.

    Whatever is wrong with a registry is an outage: it is retried, shown in `status()`, and logged
    once when it begins and once when it is over. A subclass says how a session goes (`_session`),
    how the registry is asked whether the roster follows (`_confirm`), and how all of it is compared
    (`_compare`).
    """

    def __init__(
        self,
        connections: Sequence[C],
        roster: Roster,
        *,
        timing: Timing | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`timing`, `rng`, `clock`: see `Means`; any other word is an error."""
        self._timing = timing or Timing()
        self._rng = rng or random.Random()
        self._clock = clock
        # For the provider's life.
        self._roster = roster
        self._complaints = Complaints()
        self._connections = connections
        self._rotation = Rotation(
            len(connections), self._rng, self._timing.backoff_first, self._timing.backoff_limit
        )
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._changed = asyncio.Event()
        """Set when there may be another membership."""
        # What is known of the registry.
        self._list_for: str | None = "start"
        """Why the next session begins with a list; None = it need not."""
        self._hold_until = math.inf
        self._held_at = 0.0
        self._held_for = ""
        """When instances were last retained, and why."""
        self._reconcile_at = math.inf
        self._in_doubt = False
        """There was a `Resync` since the roster was last proved."""
        self._list_at = 0.0
        """When a doubt may be answered by a list again."""
        self._cluster_id = ""
        """The registry's id of its store, "" where it has none."""
        # What is told of it.
        self._endpoint: str | None = None
        self._contact: float | None = None
        self._lost_at: float | None = None
        self._last_error: str | None = None
        self._resyncs: dict[str, int] = {}
        self._differences = 0
        self._sessions = 0
        self._connects = 0
        self._answers = 0
        self._errors = 0

    # --------------------------------------------------------------- what a registry adds

    @abstractmethod
    async def _session(self, connection: C) -> None:
        """Follow the registry through this connection. Ends only by an exception: a RegistryError
        is an outage, a `Resync` asks for a list, anything else is a fault of ours."""

    @abstractmethod
    async def _confirm(self, connection: C) -> None:
        """Prove that the roster has everything that the registry had a moment ago; `Resync` when
        it stands still without it."""

    @abstractmethod
    async def _compare(self, connection: C) -> AbstractSet[tuple[bytes, Hashable]]:
        """Where the roster and the whole registry differ: the keys, each with what the registry
        holds."""

    @abstractmethod
    async def _ask(self, connection: C) -> object:
        """Ask the registry something that only one that works can answer; RegistryError."""

    # --------------------------------------------------------------------- the interface

    async def watch(self) -> AsyncIterator[Membership]:
        if self._task is not None:
            raise RuntimeError("watch() may be called once in a provider's life")
        self._task = asyncio.create_task(self._run(), name=f"{self.name}-provider")
        try:
            current: Membership | None = None
            earliest = 0.0
            while not self._closed:
                await self._changed.wait()
                await asyncio.sleep(max(0.0, earliest - self._clock()))
                self._changed.clear()
                self._complaints.tell(self._roster.news(), self._clock())
                membership = self._roster.membership()
                if membership is not current and not self._closed:
                    current = membership
                    earliest = self._clock() + self._timing.coalesce
                    yield membership
        finally:
            await self.close()

    def status(self) -> RegistryStatus:
        return RegistryStatus(
            provider=self.name,
            connected=self._endpoint is not None,
            endpoint=self._endpoint,
            revision=self._roster.revision,
            cluster=self._cluster_id,
            age=None if self._contact is None else max(0.0, self._clock() - self._contact),
            instances=self._roster.instances,
            sessions=self._sessions,
            connects=self._connects,
            answers=self._answers,
            errors=self._errors,
            formats=self._roster.origins(),
            invalid=self._roster.invalid(),
            odd=self._roster.odd(),
            resyncs=dict(self._resyncs),
            differences=self._differences,
            last_error=self._last_error,
            retained=tuple(
                RetainedInstance(
                    service=one.service,
                    id=one.id,
                    why=f"the registry lacks it, and that is not believed yet ({self._held_for})",
                    age=round(self._clock() - self._held_at, 3),
                )
                for one in self._roster.held()
            ),
        )

    async def alive(self) -> bool:
        """Asks all connections: one that hangs holds up no other. The limit of a probe holds here,
        too: none is followed that is slower."""

        async def answers(connection: C) -> bool:
            try:
                await self._ask(connection)
            except RegistryError:
                return False
            return True

        asked = [asyncio.create_task(answers(connection)) for connection in self._connections]
        try:
            for answer in asyncio.as_completed(asked):
                if await answer:
                    return True
            return False
        finally:
            await ended(*asked)

    async def close(self) -> None:
        self._closed = True
        self._changed.set()
        await ended(self._task)
        self._endpoint = None
        for connection in self._connections:
            await connection.disconnect()

    # --------------------------------------------------------------------- the sessions

    async def _run(self) -> None:
        """Session after session, for ever."""
        while True:
            connection = self._connections[self._rotation.current]
            self._sessions += 1
            heard, answered = self._answers, True
            try:
                await self._session(connection)
            except Resync as resync:
                self._list_for = resync.reason
                log.info("registry_resync", endpoint=connection.url, reason=str(resync))
                if resync.elsewhere:
                    self._rotation.advance()
                first, self._in_doubt = not self._in_doubt, True
                # The registry is there and answers. Only if the list did not help, wait.
                await asyncio.sleep(max(0.0, self._list_at - self._clock()))
                self._list_at = self._clock() + self._timing.relist
                if first:
                    continue
            except RegistryError as error:
                answered = error.answered or self._answers > heard
                await self._leave(connection, error)
            except Exception as error:
                # A fault of ours must not end discovery for the life of the process: say it
                # loudly, start over from a fresh list, keep serving what is known.
                log.exception("registry_fault", endpoint=connection.url)
                self._list_for = "fault"
                await self._leave(connection, error)
            await asyncio.sleep(self._rotation.delay(answered=answered))

    async def _leave(self, connection: C, error: Exception) -> None:
        self._lost(connection, error)
        self._rotation.advance()
        await connection.disconnect()

    async def _supervise(self, connection: C) -> None:
        """Prove over and over that the roster follows; do what is due by the clock."""
        proved = False
        while True:
            await self._confirm(connection)
            if proved:
                # Not by the first proof: who is well and whose watches end at once, say since they
                # are not permitted, would be asked without end.
                self._rotation.progress()
            proved = True
            self._in_doubt = False
            self._found(connection)
            now = self._clock()
            if now >= self._hold_until:
                # Only right after a proof: what the registry lacks now, it lacks for good.
                log.info("registry_released", instances=self._roster.retained)
                self._roster.release()
                self._hold_until = math.inf
                self._changed.set()
            if now >= self._reconcile_at:
                await self._reconcile(connection)
                self._reconcile_in(0.8, 1.2)
            probe_at = now + self._timing.probe * self._rng.uniform(0.9, 1.1)
            next_at = min(probe_at, self._hold_until, self._reconcile_at)
            await self._rest(max(0.0, next_at - self._clock()))

    async def _rest(self, seconds: float) -> None:
        """Wait between two proofs; shorter if the next one is known to bring something."""
        await asyncio.sleep(seconds)

    async def _reconcile(self, connection: C) -> None:
        """Compare everything. Twice if need be: one comparison proves nothing while changes are on
        their way. What two comparisons a moment apart have in common was missed."""
        found = await self._compare(connection)
        if found:
            await asyncio.sleep(self._timing.catch_up)
            found &= await self._compare(connection)
        if found:
            self._differences += len(found)
            keys = sorted(key.decode(errors="replace") for key, _ in found)
            log.error("registry_differences", count=len(found), keys=keys[:10])
            raise Resync("reconcile", f"{len(found)} differences")

    def _reconcile_in(self, low: float, high: float) -> None:
        self._reconcile_at = self._clock() + self._timing.reconcile * self._rng.uniform(low, high)

    # --------------------------------------------------------------------------- telling

    def _heard(self) -> None:
        """The registry answered something."""
        self._contact = self._clock()
        self._answers += 1

    def _listed(self, connection: C, reason: str, adopt: Callable[[], int]) -> None:
        """Take over a list that is here whole: `adopt` does it, and says how much was different."""
        retained = self._roster.retained
        different = adopt()
        if self._roster.retained > retained:
            self._held_at, self._held_for = self._clock(), reason
            self._hold_until = self._held_at + self._timing.hold
            log.warning(
                "registry_store_replaced",
                endpoint=connection.url,
                reason=reason,
                held=self._roster.retained,
            )
        if reason == "start":
            self._reconcile_in(0.8, 1.2)
        else:
            self._resyncs[reason] = self._resyncs.get(reason, 0) + 1
            log.info("registry_listed", reason=reason, different=different)
        self._list_for = None
        self._changed.set()

    def _found(self, connection: C) -> None:
        known, self._endpoint = self._endpoint, connection.url
        if known is not None:
            return
        self._connects += 1
        outage = None if self._lost_at is None else round(self._clock() - self._lost_at, 3)
        self._lost_at = None
        self._last_error = None
        log.info(
            "registry_connected",
            endpoint=connection.url,
            outage=outage,
            revision=self._roster.revision,
            instances=self._roster.instances,
        )
        if outage is not None:
            soon = self._clock() + self._timing.recheck * self._rng.uniform(0.0, 1.0)
            self._reconcile_at = min(self._reconcile_at, soon)

    def _lost(self, connection: C, error: Exception) -> None:
        """Log a line when an outage begins; the attempts after it go to debug."""
        self._endpoint = None
        self._errors += 1
        self._last_error = f"{connection.url}: {error}"
        if self._lost_at is not None:
            log.debug("registry_attempt_failed", endpoint=connection.url, error=str(error))
            return
        self._lost_at = self._clock()
        log.warning(
            "registry_lost",
            endpoint=connection.url,
            error=str(error),
            serving=self._roster.instances,
        )


async def first_to_end(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends, which it does by an exception; the others are gone by then."""
    tasks: Sequence[asyncio.Task[None]] = [asyncio.create_task(each) for each in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await ended(*tasks)
