"""The file provider: looks at files again and again, and believes what they say."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeVar, Unpack

import structlog

from proxy.registry.base import RegistryError
from proxy.registry.belief import Answer
from proxy.registry.file.look import Seen, joined, look
from proxy.registry.file.notify import Notify
from proxy.registry.file.options import Options
from proxy.registry.followed import Means, Timing
from proxy.registry.lists import read_record
from proxy.registry.polled import Polled
from proxy.registry.records import service_of
from proxy.registry.roster import Roster, single
from proxy.threads import in_thread
from proxy.waiting import set_within

log = structlog.get_logger()

T = TypeVar("T")

SETTLE = 0.1
"""Seconds between two looks at a file that changed: whoever writes one in place is done by then."""
LOOKS = 20
"""Looks in a row; a file that is still being written after these is read when it is not."""
LIMIT = 5.0
"""Seconds for a look. A file system whose server is gone does not answer for hours."""


class Place:
    """The path, as a `Connection`."""

    def __init__(self, path: str) -> None:
        self.url = path

    async def disconnect(self) -> None:
        """Do nothing: no file stays open."""


class FileProvider(Polled[Place]):
    """Owns what was last read of each file. What they say is meant, so it counts at once; a file
    that cannot be read, or is gone altogether, says nothing."""

    name: ClassVar[str] = "file"
    states_all = True

    def __init__(self, options: Options, **means: Unpack[Means]) -> None:
        means.setdefault("timing", Timing(probe=options.interval))
        super().__init__(
            [Place(options.path)],
            Roster(single(read_record), service_of),
            **means,
        )
        self._seen: Mapping[str, Seen] = {}
        self._thread: asyncio.Future[object] | None = None
        """The last one, which may hang; there is never a second."""
        self._notify: Notify | None = None

    async def _session(self, connection: Place) -> None:
        try:
            self._notify = Notify()
        except OSError as error:
            log.info("registry_changes_not_told", endpoint=connection.url, reason=error.strerror)
        try:
            await super()._session(connection)
        finally:
            if self._notify is not None:
                self._notify.close()
                self._notify = None

    async def _rest(self, seconds: float) -> None:
        """See `Followed`. Who writes is noticed at once where the kernel tells; other machines'
        changes to a shared file system are found by looking."""
        await super()._rest(min(SETTLE, seconds))  # Looks at busy directories have a limit.
        if self._notify is None:
            await super()._rest(seconds - SETTLE)
        else:
            await set_within(self._notify.changed, seconds - SETTLE)

    async def _poll(self, connection: Place) -> Answer | None:
        before = self._seen
        if self._notify is not None:
            self._notify.changed.clear()
        for _ in range(LOOKS):
            self._seen = await self._within(partial(self._look, connection.url))
            if all(seen.settled for seen in self._seen.values()):
                break
            await asyncio.sleep(SETTLE)
        if self._list_for is None and self._seen == before:
            return None
        return Answer(records=joined(self._seen), source=connection.url)

    async def _ask(self, connection: Place) -> object:
        """See `Followed`."""
        try:
            return await self._within(partial(os.stat, connection.url))
        except OSError as error:
            raise RegistryError(f"{connection.url}: {error.strerror}") from None

    def _look(self, path: str) -> Mapping[str, Seen]:
        """Look, and see to it that what changes from here on is told. Blocks."""
        if (notify := self._notify) is not None:
            links = [each for each in (path, *map(str, Path(path).parents)) if os.path.islink(each)]
            for place in (path, *map(os.path.dirname, (path, os.path.realpath(path), *links))):
                notify.watch(place)
        return look(path, self._seen)

    async def _within(self, work: Callable[[], T]) -> T:
        """The result of work in a thread, if it comes in time."""
        if self._thread is not None and not self._thread.done():
            await asyncio.wait([self._thread], timeout=LIMIT)
        else:
            future = in_thread(work, "file-provider")
            self._thread = future  # type: ignore[assignment]  # of whatever type its result is
            done, _ = await asyncio.wait([future], timeout=LIMIT)
            if done:
                return future.result()
        raise RegistryError(f"no answer of the file system within {LIMIT:g} s")
