"""A registry in memory that takes registrations, in both ways that registries have of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

from proxy.register.backend import Found, Lease, Outcome, RegistrationBackend, Write
from proxy.register.record import Name
from proxy.registry.base import LeaseLost, Refused, RegistryError
from proxy.settings.registry import RemoteOptions

DELAY = 0.001
"""Seconds for each call."""


class MemoryRegistry:
    """Owns what is registered, and until when.

    With `beats` each name has to be renewed by itself, writes are done one by one, and there is
    nothing that a lease could be looked up in (as Consul, Eureka and Nacos have it); otherwise a
    lease ends for all of its names at once, and writes are done together or not at all (etcd).
    """

    def __init__(self, clock: Callable[[], float], *, beats: bool = False) -> None:
        self.beats = beats
        self.names: dict[Name, Found] = {}
        self.down: set[str] = set()
        """Endpoints that do not answer."""
        self.refuses = False
        self.on_write: Callable[[], object] = lambda: None
        """Called when a write arrives, before it is done."""
        self._clock = clock
        self._ttl: dict[int, float] = {}
        self._ends: dict[int | Name, float] = {}
        """When a lease ends, or a name that is not renewed."""
        self._revision = 0

    def backend(self, url: str = "memory://a") -> MemoryBackend:
        return MemoryBackend(self, url)

    def put(self, name: Name, value: bytes, lease: int) -> int:
        """Write as somebody else does, who asks for no revision. The new one."""
        self._revision += 1
        self.names[name] = Found(value, self._revision, lease)
        self._ends[name] = self._clock() + self._ttl.get(lease, 0.0)
        return self._revision

    def forget(self, *names: Name) -> None:
        for name in names:
            self.names.pop(name, None)

    def wipe(self) -> None:
        """Lose everything, leases included."""
        self.names.clear()
        self._ends.clear()

    def grant(self, ttl: float) -> Lease:
        lease = Lease(len(self._ttl) + 1, ttl)
        self._ttl[lease.id] = ttl
        self._ends[lease.id] = self._clock() + ttl
        return lease

    def renew(self, key: int | Name, lease: Lease) -> None:
        self._ends[key] = self._clock() + lease.ttl

    def end(self, lease: Lease) -> None:
        del self._ends[lease.id]
        self.expire()

    def known(self, lease: Lease) -> bool:
        return lease.id in self._ends

    def expire(self) -> None:
        """What is over by now goes."""
        now = self._clock()
        self._ends = {key: at for key, at in self._ends.items() if at > now}
        for name, found in list(self.names.items()):
            key = name if self.beats else found.lease
            if found.lease and key not in self._ends:
                del self.names[name]


class MemoryBackend(RegistrationBackend):
    """One endpoint of a `MemoryRegistry`."""

    name: ClassVar[str] = "memory"
    batch: ClassVar[int] = 3

    def __init__(self, registry: MemoryRegistry, url: str) -> None:
        super().__init__(RemoteOptions(endpoints=(url,)), url, 1.0)
        self._registry = registry

    @property
    def remedy(self) -> str:
        return "check the memory"

    def key(self, name: Name) -> str:
        return "/".join(name)

    async def grant(self, ttl: float) -> Lease:
        return (await self._asked()).grant(ttl)

    async def renew(self, lease: Lease, names: Collection[Name]) -> float:
        registry = await self._asked(lease)
        for key in self._owned(lease, names) if registry.beats else [lease.id]:
            registry.renew(key, lease)
        return lease.ttl

    async def owned(self, lease: Lease, names: Collection[Name]) -> Collection[Name]:
        await self._asked(lease)
        return self._owned(lease, names)

    async def find(self, names: Sequence[Name]) -> Sequence[Found | None]:
        assert len(names) <= self.batch
        registry = await self._asked()
        return [registry.names.get(name) for name in names]

    async def write(self, lease: Lease, writes: Sequence[Write]) -> Sequence[Outcome]:
        assert len(writes) <= self.batch
        registry = await self._asked()
        registry.on_write()
        found = [registry.names.get(write.name) for write in writes]
        free = [
            (one.revision if one else 0) == write.revision
            for one, write in zip(found, writes, strict=True)
        ]
        if not registry.beats:
            free = [all(free)] * len(writes)
        return [
            self._do(lease, write) if done else Outcome(False, found=one)
            for write, one, done in zip(writes, found, free, strict=True)
        ]

    async def revoke(self, lease: Lease, names: Collection[Name]) -> None:
        registry = await self._asked(lease)
        if registry.beats:
            registry.forget(*self._owned(lease, names))
        else:
            registry.end(lease)

    async def close(self) -> None:
        pass

    async def _asked(self, lease: Lease | None = None) -> MemoryRegistry:
        await asyncio.sleep(DELAY)
        if self.url in self._registry.down:
            raise RegistryError("no answer")
        if self._registry.refuses:
            raise Refused("not you")
        self._registry.expire()
        if lease is not None and not self._registry.beats and not self._registry.known(lease):
            raise LeaseLost("no such lease")
        return self._registry

    def _owned(self, lease: Lease, names: Collection[Name]) -> list[Name]:
        found = self._registry.names
        return [name for name in names if name in found and found[name].lease == lease.id]

    def _do(self, lease: Lease, write: Write) -> Outcome:
        if write.value is None:
            self._registry.names.pop(write.name, None)
            return Outcome(True)
        return Outcome(True, self._registry.put(write.name, write.value, lease.id))
