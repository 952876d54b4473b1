"""Registration in Consul's keys: those that a session holds, and takes along when it ends, written
in guarded transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final
from uuid import UUID

import msgspec

from proxy.register.backend import Found, Lease, Outcome, Write
from proxy.register.foreign import KeyedBackend
from proxy.register.record import Name
from proxy.registry.base import BadReply, LeaseLost, Refused, RegistryError
from proxy.registry.consul.agent import Agent
from proxy.registry.consul.answers import decode
from proxy.registry.consul_kv.options import Options
from proxy.registry.consul_kv.pairs import Pair
from proxy.registry.rest import Answered, Secret

_SHORTEST: Final = 10.0
"""Seconds that a session has at least, unless the servers are told otherwise."""
_LARGEST: Final = 64
"""Operations in one transaction."""


class Fault(msgspec.Struct, frozen=True, rename="pascal"):
    """Why an operation keeps its transaction from being done."""

    op_index: int
    what: str


class Done(msgspec.Struct, frozen=True, rename="upper"):
    """The result of an operation."""

    kv: Pair


class Transaction(msgspec.Struct, frozen=True, rename="pascal"):
    """An answer about a transaction."""

    results: tuple[Done, ...] | None = None
    errors: tuple[Fault, ...] | None = None


class Session(msgspec.Struct, frozen=True, rename="upper"):
    """An answer about a session that has begun."""

    id: UUID


class ConsulKvBackend(KeyedBackend):
    """Owns the connections to one agent, any of the datacenter."""

    name: ClassVar[str] = "consul-kv"
    batch: ClassVar[int] = 5
    """Consul takes 512 KiB in one transaction; records have at most 64 KiB, in base64."""

    def __init__(self, options: Options, url: str, limit: float) -> None:
        super().__init__(options, url, limit)
        self._agent = Agent(url, options, Secret(options.token, options.token_file))

    @property
    def remedy(self) -> str:
        return (
            f'check the token, which needs the policy write for key_prefix "{self._prefix}" and'
            " for the session of the agent's node, and the TLS files"
        )

    async def grant(self, ttl: float) -> Lease:
        """See `RegistrationBackend`. The session hangs on its time alone: not on the agent, whose
        restart harms no instance, and nobody has to wait for a key that it held."""
        ttl = max(ttl, _SHORTEST)
        asked = {"Name": "fairlead", "TTL": f"{ttl:g}s", "Behavior": "delete"}
        body = {**asked, "LockDelay": "0s", "NodeChecks": []}
        answer = decode(await self._put("/v1/session/create", body), Session)
        return Lease(answer.id.int, ttl)

    async def renew(self, lease: Lease, names: Collection[Name]) -> float:
        try:
            await self._put(f"/v1/session/renew/{_session(lease)}")
        except Answered as error:
            if error.status == 404:
                raise LeaseLost(str(error)) from None
            raise
        return lease.ttl  # Consul waits for twice as long.

    async def owned(self, lease: Lease, names: Collection[Name]) -> Collection[Name]:
        asked, owned = list(names), {*self._form.withheld(names)}
        async with self._in_time():
            for start in range(0, len(asked), _LARGEST):
                some = asked[start : start + _LARGEST]
                about = {"Verb": "check-session", "Session": _session(lease)}
                told = await self._transact({**about, "Key": self.key(name)} for name in some)
                others = {fault.op_index for fault in told.errors or ()}
                owned.update(name for number, name in enumerate(some) if number not in others)
        return owned

    async def find(self, names: Sequence[Name]) -> Sequence[Found | None]:
        found: list[Found | None] = []
        async with self._in_time():
            for name in names:
                listed = await self._agent.key(self.key(name), timeout=self._limit)
                found.append(next(map(self._found, decode(listed.body, list[Pair])), None))
        return found

    async def write(self, lease: Lease, writes: Sequence[Write]) -> Sequence[Outcome]:
        async with self._in_time():
            return await self._write(lease, writes)

    async def revoke(self, lease: Lease, names: Collection[Name]) -> None:
        await self._put(f"/v1/session/destroy/{_session(lease)}")

    async def close(self) -> None:
        await self._agent.disconnect()

    # ------------------------------------------------------------------------- private

    def _found(self, one: Pair) -> Found:
        return Found(self._form.found(one.value or b""), one.modify_index, one.lease)

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Bound several calls in time as one is. RegistryError beyond that."""
        try:
            async with asyncio.timeout(self._limit):
                yield
        except TimeoutError:
            raise RegistryError(f"no answers within {self._limit:g} s") from None

    async def _write(self, lease: Lease, writes: Sequence[Write]) -> Sequence[Outcome]:
        told = await self._transact(op for write in writes for op in self._ops(lease, write))
        revisions = [self._form.revision(write) for write in writes]
        for write in writes:
            self._form.wrote(write, not told.errors)
        if not told.errors:
            revision = max((done.kv.modify_index for done in told.results or ()), default=0)
            return [Outcome(True, revision)] * len(writes)
        found = await self.find([write.name for write in writes])
        if revisions == [one.revision if one else 0 for one in found]:
            await self.renew(lease, ())  # Or else it is the session that is not there.
            raise BadReply(f"/v1/txn: {told.errors[0].what}")
        return [Outcome(False, found=one) for one in found]

    def _ops(self, lease: Lease, write: Write) -> Iterable[Mapping[str, Any]]:
        """A key that another session holds, which may be a former one of the same program, cannot
        be locked, so it is made anew."""
        key, revision = {"Key": self.key(write.name)}, self._form.revision(write)
        if revision:
            yield {"Verb": "check-index", "Index": revision, **key}
            yield {"Verb": "delete", **key}
        else:
            yield {"Verb": "check-not-exists", **key}
        if (value := self._form.value(write)) is not None:
            yield {"Verb": "lock", "Value": value, "Session": _session(lease), **key}

    async def _transact(self, ops: Iterable[Mapping[str, Any]]) -> Transaction:
        """Carry out all of them, or none."""
        try:
            answer = await self._put("/v1/txn", [{"KV": op} for op in ops])
        except Answered as error:
            if error.status != 409:
                raise
            answer = error.body
        told = decode(answer, Transaction)
        for fault in told.errors or ():
            if "Permission denied" in fault.what:
                raise Refused(f"/v1/txn: {fault.what}")
        return told

    async def _put(self, path: str, body: object = None) -> bytes:
        sent = None if body is None else msgspec.json.encode(body)
        query = self._agent.query
        return (await self._agent.call("PUT", path, query, sent, timeout=self._limit)).body


def _session(lease: Lease) -> str:
    return str(UUID(int=lease.id))
