"""Registration in etcd: keys under one of its leases, written in guarded transactions."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import ClassVar

from proxy.register.backend import Found, Lease, Outcome, RegistrationBackend, Write
from proxy.register.record import Name
from proxy.registry.etcd.gateway import Gateway, delete_op, put_op, range_op, revision_is
from proxy.registry.etcd.options import Options
from proxy.registry.etcd.wire import EtcdError, LeaseNotFound, TxnReply
from proxy.registry.formats.layout import AUTO, literal
from proxy.registry.formats.writing import WRITTEN, written


class EtcdBackend(RegistrationBackend):
    """Owns one `Gateway`. In a format of others an instance that is not healthy has no key."""

    name: ClassVar[str] = "etcd"
    batch: ClassVar[int] = 100
    """etcd takes at most 128 operations in one transaction."""

    def __init__(self, options: Options, url: str, limit: float) -> None:
        super().__init__(options, url, limit)
        self._prefix = literal(options.prefix)
        if options.format not in (AUTO, "fairlead", *WRITTEN):
            words = f"registry.format: {options.format!r} can only be read; allowed: 'fairlead'"
            raise ValueError(f"{words}, {', '.join(map(repr, WRITTEN))}")
        self._form = options.format if options.format in WRITTEN else None
        self._withheld: set[Name] = set()
        """Names without a key because of it."""
        self._gateway = Gateway(
            url,
            tls=options.tls,
            username=options.username,
            password=options.password,
            password_file=options.password_file,
        )

    @property
    def remedy(self) -> str:
        return (
            f"check the user, its permission to read and write {self._prefix}, the TLS"
            " files, and that enable-grpc-gateway is on"
        )

    def key(self, name: Name) -> str:
        return f"{self._prefix}{name[0]}/{name[1]}"

    async def grant(self, ttl: float) -> Lease:
        granted = await self._gateway.grant(math.ceil(ttl), timeout=self._limit)
        if not (granted.id and granted.ttl > 0):
            raise EtcdError(f"/lease/grant: no lease in the answer: {granted}")
        return Lease(granted.id, granted.ttl)

    async def renew(self, lease: Lease, names: Collection[Name]) -> float:
        kept = await self._gateway.keep_alive(lease.id, timeout=self._limit)
        if kept.ttl <= 0:
            raise LeaseNotFound("/lease/keepalive: the lease is lost")
        return kept.ttl

    async def owned(self, lease: Lease, names: Collection[Name]) -> Collection[Name]:
        reply = await self._gateway.time_to_live(lease.id, timeout=self._limit)
        if reply.ttl <= 0:
            raise LeaseNotFound("/lease/timetolive: the lease is lost")
        under = set(reply.keys)
        return {name for name in names if self._key(name) in under or name in self._withheld}

    async def find(self, names: Sequence[Name]) -> Sequence[Found | None]:
        reads = [range_op(self._key(name)) for name in names]
        return self._found(await self._gateway.txn((), reads, timeout=self._limit))

    async def write(self, lease: Lease, writes: Sequence[Write]) -> Sequence[Outcome]:
        keys = [self._key(write.name) for write in writes]
        values = [self._value(write) for write in writes]
        reply = await self._gateway.txn(
            [
                revision_is(key, 0 if write.name in self._withheld else write.revision)
                for key, write in zip(keys, writes, strict=True)
            ],
            [
                delete_op(key) if value is None else put_op(key, value, lease.id)
                for key, value in zip(keys, values, strict=True)
            ],
            [range_op(key) for key in keys],
            timeout=self._limit,
        )
        self._withheld -= {write.name for write in writes}
        if reply.succeeded:
            self._withheld |= {
                write.name
                for write, value in zip(writes, values, strict=True)
                if value is None and write.value is not None
            }
            return [Outcome(True, reply.header.revision)] * len(writes)
        return [Outcome(False, found=found) for found in self._found(reply)]

    async def revoke(self, lease: Lease, names: Collection[Name]) -> None:
        await self._gateway.revoke(lease.id, timeout=self._limit)

    async def close(self) -> None:
        await self._gateway.disconnect()

    def _key(self, name: Name) -> bytes:
        return self.key(name).encode()

    def _value(self, write: Write) -> bytes | None:
        """The value to put; None: delete the key."""
        if self._form is None or write.value is None:
            return write.value
        return written(self._form, write.value)

    def _found(self, reply: TxnReply) -> list[Found | None]:
        """Entries as they stand there. A value in a format of others is no record of ours, which
        could be kept."""
        found: list[Found | None] = []
        for page in reply.ranges:
            found.append(None)
            for kv in page.kvs:
                value = kv.value if self._form is None else b""
                found[-1] = Found(value, kv.mod_revision, kv.lease)
        return found
