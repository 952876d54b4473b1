"""Backends of registries that know neither leases nor guards: Consul, Eureka, Nacos.

Each name is kept by beats of its own. The lease is a number of ours, in the metadata of what is
written under it. A write is preceded by a look, and two programs that write the same name in the
same milliseconds are told apart by the look after the next renewal.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from proxy.register.backend import Found, Lease, Outcome, RegistrationBackend, Write
from proxy.register.record import Name
from proxy.registry.own import decoded


class There(msgspec.Struct, frozen=True):
    """An entry of the registry, as a look found it."""

    record: dict[str, Any]
    """The record that was written, or one like it for an entry of somebody else."""
    lease: int
    """Lease of the one who wrote; 0 = somebody else did."""
    revision: int
    """`revision_of` what stands there."""

    def found(self) -> Found:
        """Itself, as the keeper has it."""
        return Found(msgspec.json.encode(self.record), self.revision, self.lease)


class BeatingBackend(RegistrationBackend):
    """Owns the connections to one endpoint of such a registry."""

    def key(self, name: Name) -> str:
        """See `RegistrationBackend`. At an agent of Consul ids of all services are one
        name-space."""
        return f"{name[0]}/{name[1]}"

    @abstractmethod
    async def _answers(self) -> None:
        """Ask for something: whoever answers takes registrations."""

    @abstractmethod
    async def _look(self, names: Collection[Name]) -> Mapping[Name, There]:
        """Entries of those `names` that are there."""

    @abstractmethod
    async def _put(
        self, lease: Lease, name: Name, record: dict[str, Any], there: There | None
    ) -> int:
        """State a record in the place of what is `there`; its revision."""

    @abstractmethod
    async def _remove(self, name: Name, there: There) -> None:
        """Deregister; what is gone already is no error."""

    @abstractmethod
    async def _beat(self, name: Name, there: There) -> None:
        """Say that the instance lives. One that the registry has forgotten meanwhile is no error:
        the next look does not find it."""

    async def grant(self, ttl: float) -> Lease:
        """See `RegistrationBackend`."""
        await self._answers()
        return Lease(random.getrandbits(62) + 1, ttl)

    async def renew(self, lease: Lease, names: Collection[Name]) -> float:
        """See `RegistrationBackend`."""
        for name, there in (await self._ours(lease, names)).items():
            await self._beat(name, there)
        return lease.ttl

    async def owned(self, lease: Lease, names: Collection[Name]) -> Collection[Name]:
        """See `RegistrationBackend`."""
        return (await self._ours(lease, names)).keys()

    async def find(self, names: Sequence[Name]) -> Sequence[Found | None]:
        """See `RegistrationBackend`."""
        known = await self._look(names)
        return [known[name].found() if name in known else None for name in names]

    async def write(self, lease: Lease, writes: Sequence[Write]) -> Sequence[Outcome]:
        """See `RegistrationBackend`. They are done one by one."""
        known = await self._look([write.name for write in writes])
        return [await self._do(lease, write, known.get(write.name)) for write in writes]

    async def revoke(self, lease: Lease, names: Collection[Name]) -> None:
        """See `RegistrationBackend`."""
        for name, there in (await self._ours(lease, names)).items():
            await self._remove(name, there)

    async def _ours(self, lease: Lease, names: Collection[Name]) -> dict[Name, There]:
        known = await self._look(names)
        return {name: there for name, there in known.items() if there.lease == lease.id}

    async def _do(self, lease: Lease, write: Write, there: There | None) -> Outcome:
        if (there.revision if there else 0) != write.revision:
            return Outcome(False, found=there.found() if there else None)
        if write.value is not None:
            record = decoded(write.value)
            return Outcome(True, await self._put(lease, write.name, record, there))
        if there is not None:
            await self._remove(write.name, there)
        return Outcome(True)


def revision_of(address: object, port: object, metadata: Mapping[str, Any]) -> int:
    """Revision of an entry with this endpoint and metadata, as they are written or read."""
    seen = msgspec.json.encode((address, port, sorted(metadata.items())))
    return int.from_bytes(blake2b(seen, digest_size=7).digest()) + 1
