"""One registry and its backups as one provider: the first that lives, in order.

All of them are checked regularly, the one in use as well, each by a task of its own: one that
hangs holds up no other. How often, which one is used and what is served over a switch is decided
in `failover.py`. Until the next registry has given its first full
list, the last one's instances are served.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar

import msgspec
import structlog

from proxy.membership import Departure, Membership
from proxy.registry.base import Provider
from proxy.registry.decorators.base import Composed, OnEvent, to_nobody
from proxy.registry.decorators.failover import FailoverPolicy, GracefulSwitch, ProbeSchedule
from proxy.settings.registry import Registry, RegistryOptions
from proxy.statuses import RegistrySource, RegistryStatus
from proxy.waiting import ended, set_within

log = structlog.get_logger()

LOOK = 0.25
"""Seconds between two looks at whether the registry in use has lost its connection, which is
a reason to check at once. It costs nothing; the provider keeps its status anyway."""

IMPATIENT = 1.0
"""Seconds between two checks of a registry while none has answered yet."""


class _Watched:
    """A registry that is watched. Owns the provider and the task that reads from it."""

    def __init__(self, index: int, provider: Provider) -> None:
        self.index = index
        self.provider = provider
        self.task: asyncio.Task[None] | None = None

    async def end(self) -> None:
        await ended(self.task)
        await self.provider.close()


class FailoverProvider(Composed):
    """Owns the providers: one for each registry that is only checked, and one that is watched."""

    name: ClassVar[str] = "failover"

    def __init__(
        self,
        registries: Sequence[RegistryOptions],
        make: Callable[[RegistryOptions], Provider],
        settings: Registry,
        *,
        on_event: OnEvent = to_nobody,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`registries`: in order of preference; `make` builds a provider for one of them, as
        often as it is asked; `on_event(kind, **fields)` hears of each switch."""
        super().__init__()
        self._registries = tuple(registries)
        self._make = make
        self._schedule = ProbeSchedule.within(settings.check_interval, settings.check_timeout)
        self._on_event = on_event
        self._clock = clock
        self._policy = FailoverPolicy(len(registries))
        self._switching = GracefulSwitch()
        self._checked = [make(registry) for registry in registries]
        self._active: _Watched | None = None
        """Registry whose instances are served."""
        self._next: _Watched | None = None
        """Registry that is asked for a first list, to be active then."""
        self._switches = 0
        self._hurry = asyncio.Event()
        """Set, and replaced, when all are to be checked at once."""
        self._checked_one = asyncio.Event()
        self._checked_one.set()  # The preferred one is listed while it is checked.
        self._retained_changed = asyncio.Event()

    # --------------------------------------------------------------------- the interface

    def status(self) -> RegistryStatus:
        followed = self._active or self._next
        return msgspec.structs.replace(
            (self._checked[0] if followed is None else followed.provider).status(),
            sources=tuple(
                RegistrySource(
                    provider=registry.type,
                    endpoints=registry.addresses,
                    active=self._active is not None and index == self._active.index,
                    alive=self._policy.alive[index],
                )
                for index, registry in enumerate(self._registries)
            ),
            switches=self._switches,
        )

    async def alive(self) -> bool:
        return any(self._policy.alive)

    async def expired(self, departure: Departure) -> bool | None:
        return None if self._active is None else await self._active.provider.expired(departure)

    async def close(self) -> None:
        await super().close()
        for followed in (self._next, self._active):
            if followed is not None:
                await followed.end()
        for provider in self._checked:
            await provider.close()

    def _work(self) -> Sequence[Coroutine[Any, Any, None]]:
        checks = map(self._keep_checking, range(len(self._registries)))
        return (self._decide(), self._look(), self._end_grace(), *checks)

    def _current(self) -> Membership | None:
        return self._switching.membership()

    # ------------------------------------------------------------------------ the checks

    async def _keep_checking(self, index: int) -> None:
        while True:
            hurry = self._hurry
            await self._check(index)
            every = self._schedule.every
            if self._active is None:
                every = min(IMPATIENT, every)
            await set_within(hurry, every)

    async def _check(self, index: int) -> None:
        before = self._policy.alive[index]
        try:
            async with asyncio.timeout(self._schedule.limit):
                ok = await self._checked[index].alive()
        except TimeoutError:
            ok = False
        self._policy.checked(index, ok)
        self._checked_one.set()
        if ok != before and before is not None:
            log.info("registry_source_checked", source=index, alive=ok)

    async def _look(self) -> None:
        """Have all of them checked at once when the registry in use loses its connection."""
        was_connected = False
        while True:
            connected = self._connected()
            if was_connected and not connected:
                hurry, self._hurry = self._hurry, asyncio.Event()
                hurry.set()
            was_connected = connected
            await asyncio.sleep(LOOK)

    async def _decide(self) -> None:
        while True:
            await self._checked_one.wait()
            self._checked_one.clear()
            active = None if self._active is None else self._active.index
            wanted = self._policy.choose(active)
            # Nobody answers: wait for the first, unless another one is up before it.
            await self._want(0 if wanted is None else wanted)

    def _connected(self) -> bool:
        return self._active is not None and self._active.provider.status().connected

    # ------------------------------------------------------------------------ the switch

    async def _want(self, index: int) -> None:
        """Use another registry: once it has given a first list, it is."""
        if self._next is not None and self._next.index != index:
            given_up, self._next = self._next, None
            await given_up.end()
        if self._next is None and (self._active is None or self._active.index != index):
            self._next = followed = _Watched(index, self._make(self._registries[index]))
            followed.task = asyncio.create_task(self._follow(followed))
            followed.task.add_done_callback(self._work_done)

    async def _follow(self, followed: _Watched) -> None:
        async for membership in followed.provider.watch():
            if followed is self._active:
                self._switching.update(membership, self._clock())
            else:
                old, self._active, self._next = self._active, followed, None
                self._switch(old, followed, membership)
                if old is not None:
                    await old.end()
            self._retained_changed.set()
            self._changed.set()

    def _switch(self, old: _Watched | None, new: _Watched, membership: Membership) -> None:
        if old is None:
            self._switching.update(membership, self._clock())
            return
        self._switching.begin(membership, self._clock())
        self._switches += 1
        fields = {
            "from_endpoints": list(self._registries[old.index].addresses),
            "to_endpoints": list(self._registries[new.index].addresses),
            "source": new.index,
            "instances": sum(map(len, membership.services.values())),
            "kept": self._switching.retained,
        }
        log.warning("registry_switched", **fields)
        self._on_event("registry_switched", **fields)

    async def _end_grace(self) -> None:
        while True:
            self._retained_changed.clear()
            at = self._switching.next_at
            limit = None if at is None else at - self._clock()
            if await set_within(self._retained_changed, limit):
                continue
            if self._switching.step(self._clock()):
                self._changed.set()
            else:
                # The rest are of services the registry does not know: they stay until it says
                # something.
                await self._retained_changed.wait()
