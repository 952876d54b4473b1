"""Registration in etcd: keys under one of its leases, written in guarded transactions."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import ClassVar

from proxy.register.backend import Found, Lease, Outcome, Write
from proxy.register.foreign import KeyedBackend
from proxy.register.record import Name
from proxy.registry.etcd.gateway import Gateway, delete_op, put_op, range_op, revision_is
from proxy.registry.etcd.options import Options
from proxy.registry.etcd.wire import EtcdError, KeyValue, LeaseNotFound, TxnReply


class EtcdBackend(KeyedBackend):
    """Owns one `Gateway`."""

    name: ClassVar[str] = "etcd"
    batch: ClassVar[int] = 100
    """etcd takes at most 128 operations in one transaction."""

    def __init__(self, options: Options, url: str, limit: float) -> None:
        super().__init__(options, url, limit)
        self._gateway = Gateway(url, options)

    @property
    def remedy(self) -> str:
        return (
            f"check the user, its permission to read and write {self._prefix}, the TLS"
            " files, and that enable-grpc-gateway is on"
        )

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
        return {name for name in names if self._key(name) in under} | {*self._form.withheld(names)}

    async def find(self, names: Sequence[Name]) -> Sequence[Found | None]:
        reads = [range_op(self._key(name)) for name in names]
        return self._found(await self._gateway.txn((), reads, timeout=self._limit))

    async def write(self, lease: Lease, writes: Sequence[Write]) -> Sequence[Outcome]:
        keys = [self._key(write.name) for write in writes]
        values = [self._form.value(write) for write in writes]
        reply = await self._gateway.txn(
            [
                revision_is(key, self._form.revision(write))
                for key, write in zip(keys, writes, strict=True)
            ],
            [
                delete_op(key) if value is None else put_op(key, value, lease.id)
                for key, value in zip(keys, values, strict=True)
            ],
            [range_op(key) for key in keys],
            timeout=self._limit,
        )
        for write in writes:
            self._form.wrote(write, reply.succeeded)
        if reply.succeeded:
            return [Outcome(True, reply.header.revision)] * len(writes)
        return [Outcome(False, found=found) for found in self._found(reply)]

    async def revoke(self, lease: Lease, names: Collection[Name]) -> None:
        await self._gateway.revoke(lease.id, timeout=self._limit)

    async def close(self) -> None:
        await self._gateway.disconnect()

    def _key(self, name: Name) -> bytes:
        return self.key(name).encode()

    def _found(self, reply: TxnReply) -> list[Found | None]:
        return [next(map(self._read, page.kvs), None) for page in reply.ranges]

    def _read(self, kv: KeyValue) -> Found:
        return Found(self._form.found(kv.value), kv.mod_revision, kv.lease)
