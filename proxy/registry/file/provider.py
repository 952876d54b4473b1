"""The file provider: looks at files again and again, and believes what they say."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, TypeVar

from proxy.registry.base import RegistryError
from proxy.registry.belief import Answer
from proxy.registry.file.look import Seen, joined, look
from proxy.registry.file.options import Options
from proxy.registry.followed import Timing
from proxy.registry.lists import read_record
from proxy.registry.polled import Polled
from proxy.registry.records import service_of
from proxy.registry.roster import Roster
from proxy.threads import in_thread

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

    def __init__(
        self,
        options: Options,
        *,
        timing: Timing | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            [Place(options.path)],
            Roster(read_record, partial(service_of, prefix=b"")),
            timing=timing or Timing(probe=options.interval),
            rng=rng,
            clock=clock,
        )
        self._seen: Mapping[str, Seen] = {}
        self._thread: asyncio.Future[object] | None = None
        """The last one, which may hang; there is never a second."""

    async def _poll(self, connection: Place) -> Answer | None:
        before = self._seen
        for _ in range(LOOKS):
            self._seen = await self._within(partial(look, connection.url, self._seen))
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
