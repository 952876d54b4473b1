"""A registry provider that says what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

from proxy.membership import Instance, Membership
from proxy.registry.base import Provider
from proxy.registry.decorators.snapshot_file import SnapshotFile
from proxy.settings.registry import RemoteOptions
from proxy.statuses import RegistryStatus


def save_snapshot(path: Path, membership: Membership, saved_at: float) -> None:
    """As a proxy leaves it that has ended."""
    file = SnapshotFile(str(path))
    file.save(membership, saved_at)
    file.close()


class ManualOptions(RemoteOptions, frozen=True, kw_only=True):
    """Keys of a registry that tests make."""

    type: ClassVar[str] = "manual"


class ManualProvider(Provider):
    """Owns a queue of memberships and failures to come.

    Like a real one it yields nothing before it is told something, keeps the tuple of a service
    that did not change, and ends when it is closed.
    """

    name: ClassVar[str] = "manual"

    def __init__(self) -> None:
        self.age: float | None = None
        self.last_error: str | None = None
        self.closed = False
        self._services: dict[str, tuple[Instance, ...]] = {}
        self._queue: asyncio.Queue[Membership | Exception | None] = asyncio.Queue()
        self._revision = 0

    def tell(self, *instances: Instance) -> None:
        """These are all there are."""
        services: dict[str, tuple[Instance, ...]] = {}
        for instance in instances:
            services[instance.service] = (*services.get(instance.service, ()), instance)
        self._services = {
            name: self._services[name] if self._services.get(name) == known else known
            for name, known in services.items()
        }
        self._revision += 1
        self._queue.put_nowait(Membership(services=self._services, revision=self._revision))

    def fail(self, error: Exception) -> None:
        """The provider breaks by a fault of its own."""
        self._queue.put_nowait(error)

    async def watch(self) -> AsyncIterator[Membership]:
        while not self.closed:
            told = await self._queue.get()
            if isinstance(told, Exception):
                raise told
            if told is None:
                return
            self.age = 0.0
            yield told

    def status(self) -> RegistryStatus:
        return RegistryStatus(
            provider=self.name,
            connected=self.age is not None,
            age=self.age,
            last_error=self.last_error,
        )

    async def close(self) -> None:
        self.closed = True
        self._queue.put_nowait(None)


def instance(id_: str, service: str = "users", **fields: Any) -> Instance:
    """`users/a` at 127.0.0.1:80 unless told otherwise."""
    return Instance(**{"service": service, "id": id_, "address": "127.0.0.1", "port": 80, **fields})
