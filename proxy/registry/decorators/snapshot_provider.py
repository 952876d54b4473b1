"""The last known pools in a file, for a start while no registry answers.

What is done with the file is done in threads that nobody waits for at the end: a file system may
never answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import msgspec
import structlog

from proxy.membership import Membership
from proxy.registry.base import Provider
from proxy.registry.decorators.base import Decorator, OnEvent, to_nobody
from proxy.registry.decorators.snapshot import SnapshotError
from proxy.registry.decorators.snapshot_file import SnapshotFile
from proxy.statuses import RegistryStatus, SnapshotStatus
from proxy.threads import in_thread
from proxy.waiting import set_within

T = TypeVar("T")

log = structlog.get_logger()

PATIENCE = 0.2
"""Seconds in which a registry may answer before the file is used. An answering one takes some
ten milliseconds, and four round trips (TCP, TLS, login, list) of fifty at the worst; a start
must be over within a second, and before this half of one went into loading. One that answers
later replaces what the file said, at once."""

LOOK = 0.02
"""Seconds between two looks at whether all registries have refused already."""

DEBOUNCE = 0.5
"""Seconds from a change to the write, so that a roll-out is a few writes."""

REFRESH = 60.0
"""Seconds after which a file is written again although nothing changed, so that its time says
until when its content was true, and not when it last became so."""

SLOW = 10.0
"""Seconds after which a file system that does not answer is told of."""

LAST_WRITE = 1.0
"""Seconds at the end for a write that has begun. Whoever stops us waits, and the file that is there
is a whole one."""


class SnapshotProvider(Decorator):
    """Owns the file: reads it when the provider inside has nothing to say at the start, and
    writes what that one says from then on."""

    name: ClassVar[str] = "snapshot"

    def __init__(
        self,
        inner: Provider,
        path: str,
        *,
        on_event: OnEvent = to_nobody,
        known: Callable[[], bool] = lambda: False,
        wall_clock: Callable[[], float] = time.time,
        aside: Callable[[Callable[[], Any], str], asyncio.Future[Any]] = in_thread,
    ) -> None:
        """`on_event(kind, **fields)` hears when the file is used. `known`: instances are served
        already, than which the file is older. `wall_clock`: since 1970. `aside` does what may
        never end."""
        super().__init__(inner, on_event)
        self._path = path
        self._file = SnapshotFile(path)
        self._busy: asyncio.Future[Any] | None = None
        """Work on the file at this moment; it may never be over."""
        self._known = known
        self._wall_clock = wall_clock
        self._aside = aside
        self._membership: Membership | None = None
        self._in_use = False
        self._saved_at: float | None = None
        self._error: str | None = None
        self._failures = 0
        self._heard = asyncio.Event()
        self._to_save = asyncio.Event()

    def status(self) -> RegistryStatus:
        status = self._inner.status()
        age = None if self._saved_at is None else max(0.0, self._wall_clock() - self._saved_at)
        return msgspec.structs.replace(
            status,
            # What is served is as old as the file while nobody has said anything newer.
            age=age if self._in_use and status.age is None else status.age,
            snapshot=SnapshotStatus(
                path=self._path,
                in_use=self._in_use,
                age=None if age is None else round(age, 3),
                error=self._error,
                failures=self._failures,
            ),
        )

    async def close(self) -> None:
        if self._busy is not None:
            # What is written completely by then need not be swept up by the next one.
            await asyncio.wait([self._busy], timeout=LAST_WRITE)
        if self._busy is None or self._busy.done():
            self._file.close()
        await super().close()

    def _work(self) -> Sequence[Coroutine[Any, Any, None]]:
        return (self._follow(), self._restore(), self._keep_saving())

    def _current(self) -> Membership | None:
        return self._membership

    async def _follow(self) -> None:
        async for membership in self._inner.watch():
            self._membership = membership
            if self._in_use:
                self._in_use = False
                log.info("snapshot_replaced", path=self._path)
            self._heard.set()
            self._to_save.set()
            self._changed.set()

    async def _restore(self) -> None:
        """Serve what the file holds if nobody has said anything in time."""
        if self._known():
            return
        for _ in range(round(PATIENCE / LOOK)):
            if await set_within(self._heard, LOOK):
                return
            if _refused(self._inner.status()):
                break
        try:
            snapshot = await self._done(self._file.load, "snapshot_ignored", "read")
        except SnapshotError as error:
            self._failed("snapshot_ignored", str(error))
            return
        if snapshot is None or self._heard.is_set():
            return
        self._membership = snapshot.membership
        self._saved_at = snapshot.saved_at
        self._in_use = True
        age = max(0.0, self._wall_clock() - snapshot.saved_at)
        instances = sum(map(len, snapshot.membership.services.values()))
        log.warning("snapshot_used", path=self._path, age=round(age, 1), instances=instances)
        self._on_event("snapshot_used", age=round(age, 1), instances=instances)
        self._changed.set()

    async def _keep_saving(self) -> None:
        await self._heard.wait()
        while True:
            due = await set_within(self._to_save, REFRESH)
            if not due and not self._inner.status().connected:
                continue  # What we know may be old by now; the file says since when.
            await asyncio.sleep(DEBOUNCE)
            self._to_save.clear()
            membership, now = self._membership, self._wall_clock()
            assert membership is not None
            save = partial(self._file.save, membership, now)
            try:
                await self._done(save, "snapshot_not_written", "written")
            except SnapshotError as error:
                self._failed("snapshot_not_written", str(error))
                continue
            if self._error is not None:
                log.info("snapshot_written_again", path=self._path)
            self._saved_at, self._error = now, None

    async def _done(self, work: Callable[[], T], event: str, how: str) -> T:
        """Do something with the file, however long it takes: the next thing could only hang, too.
        But say so."""
        busy: asyncio.Future[T] = self._aside(work, "snapshot file")
        self._busy = busy
        done, _ = await asyncio.wait([busy], timeout=SLOW)
        if not done:
            self._failed(event, f"is not {how} after {SLOW:g} s")
        return await asyncio.shield(busy)

    def _failed(self, event: str, error: str) -> None:
        """Once for each reason, since it is tried again all the time."""
        self._failures += 1
        if self._error != error:
            log.error(event, path=self._path, error=error)
        self._error = error


def _refused(status: RegistryStatus) -> bool:
    """The registry has given an error instead of an answer, and so have its backups."""
    if status.sources:
        return all(source.alive is False for source in status.sources)
    return not status.connected and status.last_error is not None
