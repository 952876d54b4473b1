"""Registration in ZooKeeper: ephemeral nodes of a session.

A node of another session, which may be a former one of the same program, would go when that ends,
so it is made anew and not written to. Each write is guarded by the node's version.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar
from urllib.parse import urlsplit

from proxy.register.backend import Found, Lease, Outcome, Write
from proxy.register.foreign import KeyedBackend
from proxy.register.record import Name
from proxy.registry.base import LeaseLost
from proxy.registry.zookeeper import wire
from proxy.registry.zookeeper.link import Link
from proxy.registry.zookeeper.options import Options
from proxy.registry.zookeeper.wire import Failed, Op, Reader, Stat

_OVERTAKEN = frozenset({wire.NO_NODE, wire.BAD_VERSION, wire.NODE_EXISTS})
"""Errors of a write before which somebody else's came."""


class Session(Lease, frozen=True):
    """A session, and what it takes to go on with it on another connection."""

    password: bytes


class ZooKeeperBackend(KeyedBackend):
    """Owns one `Link`, with the session of the lease that it was last asked about."""

    name: ClassVar[str] = "zookeeper"
    batch: ClassVar[int] = 100
    """Servers refuse frames of more than 1 MiB; records have at most 64 KiB and usually 300 bytes,
    and each has a frame of its own."""

    def __init__(self, options: Options, url: str, limit: float) -> None:
        super().__init__(options, url, limit)
        self._prefix = f"{options.prefix}/"
        self._top = options.prefix
        self._rights = wire.OURS if options.username else wire.ANYBODY
        self._link = Link(url, options, timeout=10.0)

    @property
    def host(self) -> str | None:
        return urlsplit(f"//{self.url.rpartition('/')[2]}").hostname

    @property
    def remedy(self) -> str:
        return f"check the user, the rights to {self._top}, and the TLS files"

    async def grant(self, ttl: float) -> Lease:
        self._link.session_timeout = ttl
        await self._link.connect(0)
        granted = self._link.accepted
        return Session(granted.session, granted.timeout / 1000, granted.password)

    async def renew(self, lease: Lease, names: Collection[Name]) -> float:
        link = await self._at(lease)
        await link.ping(self._limit)
        return link.accepted.timeout / 1000

    async def owned(self, lease: Lease, names: Collection[Name]) -> Collection[Name]:
        link = await self._at(lease)
        stats = await self._stats(link, list(names))
        return {
            name for name, stat in zip(names, stats, strict=True) if stat and stat.owner == lease.id
        } | {*self._form.withheld(names)}

    async def find(self, names: Sequence[Name]) -> Sequence[Found | None]:
        link = self._link
        if not link.accepted.timeout:
            await link.connect(0)
        return await self._find(link, names)

    async def write(self, lease: Lease, writes: Sequence[Write]) -> Sequence[Outcome]:
        link = await self._at(lease)
        stats = await self._stats(link, [write.name for write in writes])
        outcomes = []
        for write, stat in zip(writes, stats, strict=True):
            done = None
            if (stat.mzxid if stat else 0) == self._form.revision(write):
                done = await self._do(link, lease, write, stat)
            self._form.wrote(write, done is not None)
            if done is None:
                [found] = await self._find(link, [write.name])
                done = Outcome(False, found=found)
            outcomes.append(done)
        return outcomes

    async def revoke(self, lease: Lease, names: Collection[Name]) -> None:
        link = await self._at(lease)
        await link.close_session()
        await link.disconnect()

    async def close(self) -> None:
        """See `RegistrationBackend`. The session lives on, until somebody goes on with it or its
        time is over."""
        await self._link.disconnect()

    # ------------------------------------------------------------------------- private

    async def _at(self, lease: Lease) -> Link:
        """The link, with the session of this lease. LeaseLost when that is over."""
        link = self._link
        if not (link.accepted.timeout and link.accepted.session == lease.id):
            if not isinstance(lease, Session):
                await link.connect(0)  # Who answers knows of no such session.
                raise LeaseLost("no session of ZooKeeper")
            known = wire.Accepted(int(lease.ttl * 1000), lease.id, lease.password)
            await link.connect(0, known)
        return link

    async def _stats(self, link: Link, names: Sequence[Name]) -> list[Stat | None]:
        paths = [self.key(name) for name in names]
        found = await self._read(link, [(Op.EXISTS, wire.read(path), path) for path in paths])
        return [None if reply is None else reply.stat() for reply in found]

    async def _find(self, link: Link, names: Sequence[Name]) -> list[Found | None]:
        paths = [self.key(name) for name in names]
        asked = [(Op.GET_DATA, wire.read(path), path) for path in paths]
        replies = await self._read(link, asked)
        return [None if reply is None else self._found(reply) for reply in replies]

    def _found(self, reply: Reader) -> Found:
        value, stat = reply.buffer(), reply.stat()
        return Found(self._form.found(value), stat.mzxid, stat.owner)

    async def _read(
        self, link: Link, requests: Sequence[tuple[Op, bytes, str]]
    ) -> list[Reader | None]:
        """Replies as of now, whatever the server has missed; None = there is no such node."""
        sync = (Op.SYNC, wire.text(self._top), self._top)
        _, *found = await link.outcomes([sync, *requests], self._limit)
        for one in found:
            if isinstance(one, Failed) and one.code != wire.NO_NODE:
                raise one
        return [one if isinstance(one, Reader) else None for one in found]

    async def _do(
        self, link: Link, lease: Lease, write: Write, stat: Stat | None
    ) -> Outcome | None:
        """Carry a write out; None = somebody else's came first."""
        path, value = self.key(write.name), self._form.value(write)
        version = stat.version if stat else -1
        created = wire.create(path, value or b"", self._rights, wire.EPHEMERAL)
        try:
            if value is None:
                if stat is not None:
                    await self._call(link, Op.DELETE, wire.delete(path, version), path)
                return Outcome(True)
            if stat is None:
                reply = await self._create(link, path, created)
            elif stat.owner == lease.id:
                body = wire.write(path, value, version)
                reply = await self._call(link, Op.SET_DATA, body, path)
            else:
                anew = wire.multi((Op.DELETE, wire.delete(path, version)), (Op.CREATE, created))
                reply = await self._call(link, Op.MULTI, anew, path)
                if code := wire.refusal(reply):
                    raise wire.failed(code, path)
        except Failed as error:
            if error.code in _OVERTAKEN:
                return None
            raise
        return Outcome(True, reply.zxid)

    async def _create(self, link: Link, path: str, body: bytes) -> Reader:
        """Create a node, and those above it if they are not there."""
        try:
            return await self._call(link, Op.CREATE, body, path)
        except Failed as error:
            if error.code != wire.NO_NODE:
                raise
        parts = path.split("/")
        for depth in range(2, len(parts)):
            above = "/".join(parts[:depth])
            try:
                await self._call(link, Op.CREATE, wire.create(above, b"", wire.ANYBODY, 0), above)
            except Failed as error:
                if error.code != wire.NODE_EXISTS:
                    raise
        return await self._call(link, Op.CREATE, body, path)

    async def _call(self, link: Link, op: Op, body: bytes, what: str) -> Reader:
        return await link.call(op, body, what, self._limit)
