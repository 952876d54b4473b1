"""Certificates of ACME that a fleet has together, in etcd, sealed with a key from a local file.

    account              the account's key
    certificates/NAME    a certificate with its key
    standing/NAME        when an order for the name failed, and when the next may be made
    challenges           what all proxies answer just now
    taken/ID             the challenges that the proxy of this id answers
    lock                 the proxy that orders, under a lease

Whoever may write these keys but has no file can take things away, and nothing else: a value that
does not open with the key, or stands in another place than it was sealed for, counts as none, and a
certificate is taken only if it is for its name and lasts longer than the one that is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog

from proxy import files
from proxy.control.acme_turns import Busy, Challenges, Failure
from proxy.fleet.presence import listed
from proxy.fleet.store import Store
from proxy.registry.base import RegistryError
from proxy.registry.etcd.gateway import Gateway, delete_op, prefix_end, put_op, revision_is
from proxy.registry.etcd.options import Options
from proxy.registry.etcd.wire import KeyValue
from proxy.settings.acme import AcmeSettings
from proxy.settings.process import LARGEST_KEY
from proxy.tls.acme import Seal, Unsealed
from proxy.waiting import ended

log = structlog.get_logger()

PREFIX = "/fairlead/acme/"
LEASE = 60
"""Seconds for which a proxy that ended has the lock; it is renewed all the time."""
RENEW = LEASE / 4
TAKEN_LIMIT = 10.0
"""Seconds for all proxies on the list to answer a challenge. One that does not in that time may
fail the order, which is made again."""
LOOK_EVERY = 0.2
"""Seconds between two looks at whether they do."""

NONE: Challenges = ({}, {})


class AcmeFleet:
    """Owns this proxy's way to what the fleet has in common."""

    def __init__(self, settings: AcmeSettings, options: Options, id_: str) -> None:
        self._base = f"{PREFIX}{settings.place.name}/"
        self._file = settings.storage.key_file
        self._store = Store(options)
        self._follower = Store(options)
        self._id = id_
        self._seal: Seal
        self._lease = 0

    def open(self) -> None:
        """Read the key. Raises OSError, ValueError."""
        self._seal = Seal(files.read(self._file, LARGEST_KEY).strip())

    async def account(self, own: bytes) -> bytes:
        """The key of the fleet's account, which is `own` if there is none yet. RegistryError."""
        name = self._base + "account"
        put = put_op(name.encode(), self._seal.close(name, own), 0)
        compare = [revision_is(name.encode(), 0)]
        await self._store.call(lambda gateway: gateway.txn(compare, [put]))
        return await self._read("account") or own

    async def certificate(self, domain: str) -> bytes | None:
        """The certificate of a name with its key, if there is one. RegistryError."""
        return await self._read(f"certificates/{domain}")

    async def failure(self, domain: str) -> Failure | None:
        """The last order for a name, if it failed. RegistryError."""
        value = await self._read(f"standing/{domain}")
        return None if value is None else msgspec.json.decode(value, type=Failure)

    async def put_certificate(self, domain: str, content: bytes) -> None:
        """Give a certificate to all. RegistryError; Busy if the lock was lost meanwhile."""
        gone = delete_op(f"{self._base}standing/{domain}".encode())
        await self._write([self._put(f"certificates/{domain}", content), gone])

    async def put_failure(self, domain: str, failure: Failure) -> None:
        """Tell all that an order has failed. RegistryError, Busy."""
        await self._write([self._put(f"standing/{domain}", msgspec.json.encode(failure))])

    async def put_challenges(self, challenges: Challenges) -> None:
        """Have all proxies answer these, and wait until they do. RegistryError, Busy."""
        content = msgspec.json.encode(challenges)
        revision = await self._write([self._put("challenges", content, self._lease)])
        if challenges == NONE:
            return
        prefix = f"{self._base}taken/".encode()
        try:
            async with asyncio.timeout(TAKEN_LIMIT):
                while True:
                    here = {one["id"] for one in await listed(self._store) if one.get("ready")}
                    taken = await self._store.read(prefix, prefix_end(prefix))
                    done = {
                        key.removeprefix(prefix).decode(errors="replace")
                        for key, kv in taken.items()
                        if kv.value.isdigit() and int(kv.value) >= revision
                    }
                    if here - {self._id} <= done:
                        return
                    await asyncio.sleep(LOOK_EVERY)
        except TimeoutError:
            log.warning("acme_challenge_not_taken", by=sorted(here - done - {self._id}))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold the lock. Busy while another proxy has it; RegistryError."""
        key = f"{self._base}lock".encode()
        lease = (await self._store.call(lambda gateway: gateway.grant(LEASE))).id
        keeping: asyncio.Task[None] | None = None
        try:
            put = put_op(key, self._id.encode(), lease)
            compare = [revision_is(key, 0)]
            reply = await self._store.call(lambda gateway: gateway.txn(compare, [put]))
            if not reply.succeeded:
                raise Busy
            self._lease = lease
            keeping = asyncio.create_task(self._keep(lease))
            yield
        finally:
            self._lease = 0
            await ended(keeping)
            try:
                await self._store.call(lambda gateway: gateway.revoke(lease))
            except RegistryError as error:
                log.info("acme_lock_left_to_its_lease", error=str(error))

    async def follow(
        self,
        on_certificate: Callable[[str, bytes], Awaitable[None]],
        on_challenges: Callable[[Challenges], Awaitable[bool]],
    ) -> None:
        """Tell of what other proxies obtain, and are asked, until cancelled."""
        start = self._base.encode()
        held: Mapping[bytes, KeyValue] = {}
        changed = asyncio.Event()

        def take(found: Mapping[bytes, KeyValue]) -> None:
            nonlocal held
            held = dict(found)
            changed.set()

        async def tell() -> None:
            seen: dict[bytes, int] = {}
            while True:
                await changed.wait()
                changed.clear()
                before, now = seen, dict(held)
                seen = {key: kv.mod_revision for key, kv in now.items()}
                challenges = start + b"challenges"
                if before.get(challenges) != seen.get(challenges) and not self._lease:
                    await self._answer(now.get(challenges), on_challenges)
                for key, kv in now.items():
                    name = key.decode(errors="replace").removeprefix(self._base)
                    if not name.startswith("certificates/") or before.get(key) == seen[key]:
                        continue
                    if content := self._opened(name, kv.value):
                        await on_certificate(name.partition("/")[2], content)

        def lost(error: str) -> None:
            if error:
                log.warning("acme_fleet_lost", error=error)

        telling = asyncio.create_task(tell(), name="what the fleet obtains")
        try:
            await self._follower.follow(start, prefix_end(start), take, lost)
        finally:
            await ended(telling)

    async def close(self) -> None:
        """Close all connections."""
        await self._store.close()
        await self._follower.close()

    # ------------------------------------------------------------------------- private

    async def _answer(
        self, kv: KeyValue | None, on_challenges: Callable[[Challenges], Awaitable[bool]]
    ) -> None:
        """Have what another proxy is asked answered here, and say so."""
        challenges: Challenges = NONE
        content = None if kv is None else self._opened("challenges", kv.value)
        if content is not None:
            try:
                challenges = msgspec.json.decode(content, type=Challenges)
            except (ValueError, RecursionError) as error:
                log.warning("acme_value_refused", name="challenges", reason=str(error))
        if await on_challenges(challenges) and kv is not None and challenges != NONE:
            await self._took(kv.mod_revision)

    async def _took(self, revision: int) -> None:
        key = f"{self._base}taken/{self._id}".encode()
        put = put_op(key, str(revision).encode(), 0)
        try:
            await self._store.call(lambda gateway: gateway.txn((), [put]))
        except RegistryError as error:
            log.warning("acme_challenge_not_told", error=str(error))

    async def _keep(self, lease: int) -> None:
        while True:
            await asyncio.sleep(RENEW)
            try:
                await self._store.call(lambda gateway: gateway.keep_alive(lease))
            except RegistryError as error:
                log.warning("acme_lock_not_renewed", error=str(error))

    def _put(self, name: str, content: bytes, lease: int = 0) -> Mapping[str, Any]:
        place = self._base + name
        return put_op(place.encode(), self._seal.close(place, content), lease)

    async def _write(self, success: list[Mapping[str, Any]]) -> int:
        """Write while the lock is ours; the revision."""
        key, lease = f"{self._base}lock".encode(), self._lease
        holds = {"key": key, "target": "LEASE", "result": "EQUAL", "lease": lease}

        async def write(gateway: Gateway) -> Any:
            return await gateway.txn([holds], success)

        reply = await self._store.call(write)
        if not reply.succeeded:
            raise Busy
        revision: int = reply.header.revision
        return revision

    async def _read(self, name: str) -> bytes | None:
        key = (self._base + name).encode()
        found = (await self._store.read(key, key + b"\0")).get(key)
        return None if found is None else self._opened(name, found.value)

    def _opened(self, name: str, value: bytes) -> bytes | None:
        try:
            return self._seal.open(self._base + name, value)
        except Unsealed:
            log.warning("acme_value_refused", name=name, reason="it does not open with the key")
            return None
