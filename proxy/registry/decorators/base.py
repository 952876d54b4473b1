"""Parts that providers made of other providers have in common."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from proxy.membership import Departure, Membership
from proxy.registry.base import Provider
from proxy.waiting import ended

OnEvent = Callable[..., None]
"""`on_event(kind, **fields)`."""


def to_nobody(kind: str, /, **fields: object) -> None:
    """The `OnEvent` of those who want to hear of nothing."""


class Composed(Provider):
    """Owns the tasks that follow the parts, while it is watched.

    It yields `_current()` whenever a task has set `_changed` and it is another object than
    before. A task that fails fails the watch.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._closed = False
        self._failure: BaseException | None = None

    @abstractmethod
    def _work(self) -> Sequence[Coroutine[Any, Any, None]]:
        """Coroutines that run while this provider is watched."""

    @abstractmethod
    def _current(self) -> Membership | None:
        """Membership to be served; None = not known yet."""

    async def watch(self) -> AsyncIterator[Membership]:
        tasks = [asyncio.create_task(work) for work in self._work()]
        for task in tasks:
            task.add_done_callback(self._work_done)
        try:
            known: Membership | None = None
            while True:
                await self._changed.wait()
                self._changed.clear()
                if self._failure is not None:
                    raise self._failure
                if self._closed:
                    return
                membership = self._current()
                if membership is not None and membership is not known:
                    known = membership
                    yield membership
        finally:
            await ended(*tasks)
            await self.close()

    async def close(self) -> None:
        self._closed = True
        self._changed.set()

    def _work_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self._changed.set()


class Decorator(Composed):
    """Owns the provider inside, which answers for whatever the one around it does not change."""

    def __init__(self, inner: Provider, on_event: OnEvent) -> None:
        super().__init__()
        self._inner = inner
        self._on_event = on_event

    async def alive(self) -> bool:
        return await self._inner.alive()

    async def expired(self, departure: Departure) -> bool | None:
        return await self._inner.expired(departure)

    async def close(self) -> None:
        await super().close()
        await self._inner.close()
