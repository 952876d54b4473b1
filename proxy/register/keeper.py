"""`Keeper`: one lease, the entries under it, and the task that keeps both as they should be.

What is due is decided by `lease.py`, what to write by `entry.py`; this file does it.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import structlog

from proxy.register.entry import Entry, Write
from proxy.register.errors import InvalidRecord
from proxy.register.lease import LeaseLife, Step
from proxy.registry.base import Refused
from proxy.registry.etcd_gateway import (
    CALL_LIMIT,
    Gateway,
    delete_op,
    put_op,
    range_op,
    revision_is,
)
from proxy.registry.etcd_wire import EtcdError, KeyValue, LeaseNotFound
from proxy.registry.rotation import Rotation
from proxy.settings.registry import RegistrySettings

if TYPE_CHECKING:
    from proxy.register.metrics import RegistrationMetrics

log = structlog.get_logger()

BATCH = 100
"""Keys in one transaction: etcd takes at most 128 operations."""
ROUNDS = 8
"""Tries of one guarded write before other things get their turn. Each failure means that
somebody else's write succeeded meanwhile, so a second failure is rare already."""
BACKOFF_FIRST = 0.05
BACKOFF_LIMIT = 5.0


class Keeper:
    """Owns one lease, the entries under it, and the task that keeps both as they should be."""

    def __init__(self, settings: RegistrySettings, ttl: float) -> None:
        self.ttl = ttl
        self.entries: dict[bytes, Entry] = {}
        self.users = 0
        self.life = LeaseLife(ttl)
        self.connected = False
        self.last_error: str | None = None
        self._gateways = [
            Gateway(url, tls=settings.tls, username=settings.username, password=settings.password)
            for url in settings.endpoints
        ]
        self._faults: dict[str, EtcdError] = {}
        """Endpoint → why it failed last, since it last answered."""
        # A failed call must leave time for another endpoint before the lease ends.
        self._limit = max(0.5, min(CALL_LIMIT, ttl / 6))
        self._rotation = Rotation(
            len(self._gateways), random.Random(), BACKOFF_FIRST, min(BACKOFF_LIMIT, ttl / 3)
        )
        self._metrics: dict[bytes, RegistrationMetrics] = {}
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._down = False
        self._stopped = False

    # ------------------------------------------------------------------- what users ask

    @property
    def gateway(self) -> Gateway:
        return self._gateways[self._rotation.current]

    def add(self, entries: Iterable[Entry], metrics: RegistrationMetrics | None) -> None:
        """Keep these registered from now on."""
        entries = list(entries)
        twice = [e for e in entries if e.key in self.entries and not self.entries[e.key].leaving]
        if twice:
            raise InvalidRecord([f"{e.key.decode()}: is registered here already" for e in twice])
        for entry in entries:
            self.entries[entry.key] = entry
            if metrics is not None:
                self._metrics[entry.key] = metrics
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="registrar")
        self.wake()

    def wake(self) -> None:
        """Something is to be written."""
        self._wake.set()

    async def until(self, condition: Callable[[], bool], limit: float) -> bool:
        """Wait for a condition over entries; False when it does not come true in `limit` s."""
        try:
            async with asyncio.timeout(limit):
                while not condition():
                    await self._changed.wait()
        except TimeoutError:
            return condition()
        return True

    def refusal(self) -> str | None:
        """Why all endpoints refuse, when waiting will not change it."""
        if len(self._faults) < len(self._gateways):
            return None
        if not all(isinstance(fault, Refused) for fault in self._faults.values()):
            return None
        return self.faults()

    def faults(self) -> str:
        return "; ".join(f"{url}: {fault}" for url, fault in self._faults.items())

    def registered(self, entry: Entry) -> bool:
        return entry.present and self.life.alive(time.monotonic())

    async def remove(self, entries: Sequence[Entry], limit: float) -> None:
        """Delete these keys. Those that cannot be deleted in `limit` seconds go later."""
        for entry in entries:
            entry.leave()
        self.wake()
        gone = await self.until(lambda: all(self._is_gone(entry) for entry in entries), limit)
        if not gone:
            log.warning("deregistration_late", keys=len(entries), error=self.last_error)

    def _is_gone(self, entry: Entry) -> bool:
        return self._stopped or self.entries.get(entry.key) is not entry

    async def stop(self, limit: float) -> None:
        """End the task, then the lease, and with it all keys."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        try:
            if limit > 0:
                async with asyncio.timeout(limit):
                    await self._revoke()
        except TimeoutError:
            log.warning("deregistration_failed", reason=f"no answer within {limit:g} s")
        finally:
            self.life.lost(time.monotonic())
            for entry in self.entries.values():
                entry.lost_lease()
            self._stopped = True
            self._tell()
            for gateway in self._gateways:
                await gateway.disconnect()

    async def _revoke(self) -> None:
        lease = self.life.lease
        if lease is None:
            return
        for _ in self._gateways:
            gateway = self.gateway
            try:
                await self._delete_detached(gateway, lease)
                await gateway.revoke(lease, timeout=self._limit)
            except LeaseNotFound:
                pass
            except EtcdError as error:
                log.warning("deregistration_failed", endpoint=gateway.url, reason=str(error))
                self._rotation.advance()
                continue
            log.info("deregistered", keys=len(self.entries))
            return

    async def _delete_detached(self, gateway: Gateway, lease: int) -> None:
        """A key that somebody wrote without our lease would stay for ever."""
        under = set((await gateway.time_to_live(lease, timeout=self._limit)).keys)
        detached = [entry for entry in self.entries.values() if entry.key not in under]
        for batch in _batches(detached):
            await self._read(gateway, batch)
            for entry in batch:
                entry.leave()
            await self._write(gateway, [entry for entry in batch if not entry.taken])

    # ---------------------------------------------------------------------------- the task

    async def _run(self) -> None:
        """Step after step, until cancelled."""
        while True:
            self._wake.clear()
            unsettled = any(not entry.settled for entry in self.entries.values())
            step, at = self.life.next(time.monotonic(), unsettled)
            if step is Step.WAIT:
                await self._wait(at)
                continue
            gateway = self.gateway
            try:
                await self._act(step, gateway)
                self._answered(gateway)
            except LeaseNotFound:
                self._answered(gateway)
                self._lost()
            except EtcdError as error:
                await self._failed(gateway, error)
            except Exception as error:
                # A fault of ours must not end the registration of a service that is well.
                log.exception("registrar_fault", step=step.value)
                await self._failed(gateway, EtcdError(f"{type(error).__name__}: {error}"))
            self._tell()

    async def _wait(self, at: float) -> None:
        """Until then, or until something is to be written; while backing off that only leads
        back here."""
        try:
            async with asyncio.timeout(max(0.0, at - time.monotonic())):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _act(self, step: Step, gateway: Gateway) -> None:
        now = time.monotonic()
        lease = self.life.lease
        if lease is None:
            granted = await gateway.grant(math.ceil(self.ttl), timeout=self._limit)
            if not (granted.id and granted.ttl > 0):
                raise EtcdError(f"/lease/grant: no lease in the answer: {granted}")
            self.life.granted(granted.id, granted.ttl, now)
        elif step is Step.KEEP_ALIVE:
            kept = await gateway.keep_alive(lease, timeout=self._limit)
            if kept.ttl <= 0:
                raise LeaseNotFound("/lease/keepalive: the lease is lost")
            self.life.kept(kept.ttl, now)
        elif step is Step.CHECK:
            await self._check(gateway, lease)
        else:
            await self._settle(gateway)

    async def _check(self, gateway: Gateway, lease: int) -> None:
        """Find keys that are no longer under the lease, by one call whatever their number."""
        reply = await gateway.time_to_live(lease, timeout=self._limit)
        if reply.ttl <= 0:
            raise LeaseNotFound("/lease/timetolive: the lease is lost")
        under = set(reply.keys)
        missing = [
            entry for entry in self.entries.values() if entry.key not in under and not entry.leaving
        ]
        for batch in _batches(missing):
            before = {entry.key for entry in batch if entry.taken}
            await self._read(gateway, batch)
            for entry in batch:
                if entry.key not in before:
                    log.warning(
                        "registration_taken" if entry.taken else "registration_missing",
                        key=entry.key.decode(),
                    )
        self.life.checked()

    async def _read(self, gateway: Gateway, batch: Sequence[Entry]) -> None:
        reads = [range_op(entry.key) for entry in batch]
        reply = await gateway.txn((), reads, timeout=self._limit)
        for entry, page in zip(batch, reply.ranges, strict=True):
            entry.found(page.kvs[0] if page.kvs else None, self.life.was_ours)

    async def _settle(self, gateway: Gateway) -> None:
        unsettled = [entry for entry in self.entries.values() if not entry.settled]
        for batch in _batches(unsettled):
            if not await self._write(gateway, batch, rounds=2):
                # One key that others keep writing must not hold up the rest.
                for entry in batch:
                    if not entry.settled:
                        await self._write(gateway, [entry])
        for entry in unsettled:
            if entry.leaving and entry.settled and self.entries.get(entry.key) is entry:
                del self.entries[entry.key]
                self._metrics.pop(entry.key, None)

    async def _write(self, gateway: Gateway, batch: Sequence[Entry], rounds: int = ROUNDS) -> bool:
        """Write what these entries want, in one transaction, guarded by what was last seen.
        False when others' writes came first each time."""
        for _ in range(rounds):
            plans = [(entry, entry.plan()) for entry in batch if not entry.settled]
            if not plans:
                return True
            reply = await gateway.txn(
                [revision_is(entry.key, write.revision) for entry, write in plans],
                [self._operation(entry, write) for entry, write in plans],
                [range_op(entry.key) for entry, _ in plans],
                timeout=self._limit,
            )
            if reply.succeeded:
                self._wrote(plans, reply.header.revision)
                return all(entry.settled for entry in batch)
            for (entry, write), page in zip(plans, reply.ranges, strict=True):
                seen: KeyValue | None = page.kvs[0] if page.kvs else None
                if (seen.mod_revision if seen else 0) != write.revision:
                    entry.found(seen, self.life.was_ours)
        return all(entry.settled for entry in batch)

    def _operation(self, entry: Entry, write: Write) -> dict[str, object]:
        if write.value is None:
            return delete_op(entry.key)
        return put_op(entry.key, write.value, self.life.lease or 0)

    def _wrote(self, plans: Sequence[tuple[Entry, Write]], revision: int) -> None:
        joined = [entry for entry, write in plans if entry.wrote(write, revision)]
        for entry in joined:
            self._count(entry, "success")
        if joined:
            log.info(
                "registered",
                keys=[entry.key.decode() for entry in joined[:10]],
                number=len(joined),
                lease=self.life.lease,
                revision=revision,
            )

    # ---------------------------------------------------------------------------- results

    def _answered(self, gateway: Gateway) -> None:
        self._rotation.progress()
        self._faults.pop(gateway.url, None)
        self.connected = True
        if self._down:
            self._down = False
            log.info("registrar_connected", endpoint=gateway.url)

    def _lost(self) -> None:
        log.warning("lease_lost", lease=self.life.lease, keys=len(self.entries))
        self.life.lost(time.monotonic())
        for entry in self.entries.values():
            entry.lost_lease()

    async def _failed(self, gateway: Gateway, error: EtcdError) -> None:
        self.connected = False
        self.last_error = f"{gateway.url}: {error}"
        self._faults[gateway.url] = error
        if not self._down:
            self._down = True
            log.warning("registrar_disconnected", endpoint=gateway.url, error=str(error))
        for entry in self.entries.values():
            if not entry.present and not entry.leaving:
                self._count(entry, "failure")
        self._rotation.advance()
        await gateway.disconnect()
        # The next endpoint may be well; only after all of them failed there is time to lose.
        delay = self._rotation.delay() if len(self._faults) >= len(self._gateways) else 0.0
        self.life.failed(time.monotonic(), delay)

    def _count(self, entry: Entry, status: str) -> None:
        metrics = self._metrics.get(entry.key)
        if metrics is not None:
            metrics.registered(
                entry.record.service, "success" if status == "success" else "failure"
            )

    def _tell(self) -> None:
        """Let everyone who waits look again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    rest = iter(entries)
    while batch := list(islice(rest, BATCH)):
        yield batch
