"""`Keeper`: one lease, the entries under it, and the task that keeps both as they should be.

What is due is decided by `lease.py`, what to write by `entry.py`; this file does it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Literal

import structlog

from proxy.register.backend import Lease, RegistrationBackend, Write
from proxy.register.entry import Entry
from proxy.register.errors import InvalidRecord, RegistryRefused, RegistryUnavailable
from proxy.register.lease import LeaseLife, Step
from proxy.register.record import Name
from proxy.registry.base import BadReply, LeaseLost, Refused, RegistryError
from proxy.registry.rotation import Rotation
from proxy.waiting import ended, set_within

if TYPE_CHECKING:
    from proxy.register.metrics import RegistrationMetrics

log = structlog.get_logger()

CALL_LIMIT = 5.0
"""Seconds for one call at most: who waits for that long is better served by another endpoint."""
ROUNDS = 8
"""Tries of one guarded write before other things get their turn. Each failure means that
somebody else's write succeeded meanwhile, so a second failure is rare already."""
BACKOFF_FIRST = 0.05
BACKOFF_LIMIT = 5.0


def call_limit(ttl: float) -> float:
    """Seconds for one call: one that fails must leave time for another endpoint before a lease of
    `ttl` seconds ends."""
    return max(0.5, min(CALL_LIMIT, ttl / 6))


class Keeper:
    """Owns one lease, the entries under it, and the task that keeps both as they should be."""

    def __init__(
        self,
        backends: Sequence[RegistrationBackend],
        ttl: float,
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`backends`: one for each endpoint of the registry."""
        self.ttl = ttl
        self.entries: dict[Name, Entry] = {}
        self.users = 0
        self.life = LeaseLife(ttl)
        self.connected = False
        self.last_error: str | None = None
        self.backends = backends
        self._clock = clock
        self._faults: dict[str, RegistryError] = {}
        """Endpoint → why it failed last, since it last answered."""
        self._rotation = Rotation(
            len(backends), rng or random.Random(), BACKOFF_FIRST, min(BACKOFF_LIMIT, ttl / 3)
        )
        self._metrics: dict[Name, RegistrationMetrics] = {}
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._down = False
        self._stopped = False

    # ------------------------------------------------------------------- what users ask

    @property
    def lease(self) -> int | None:
        """Id of the lease; None while there is none."""
        return None if self.life.lease is None else self.life.lease.id

    @property
    def backend(self) -> RegistrationBackend:
        """The one in use, or tried next."""
        return self.backends[self._rotation.current]

    def key(self, entry: Entry) -> str:
        """The registry's word for the key of `entry`."""
        return self.backend.key(entry.name)

    def add(self, entries: Iterable[Entry], metrics: RegistrationMetrics | None) -> None:
        """Keep these registered from now on."""
        entries = list(entries)
        known = {name for name, entry in self.entries.items() if not entry.leaving}
        twice = [entry for entry in entries if entry.name in known]
        if twice:
            raise InvalidRecord([f"{self.key(one)}: is registered here already" for one in twice])
        for entry in entries:
            self.entries[entry.name] = entry
            if metrics is not None:
                self._metrics[entry.name] = metrics
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="registrar")
        self.wake()

    def wake(self) -> None:
        """Wake the task: there is an entry to write."""
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
        if len(self._faults) < len(self.backends):
            return None
        if not all(isinstance(fault, Refused) for fault in self._faults.values()):
            return None
        return self._told()

    def failure(self, limit: float) -> RegistryRefused | RegistryUnavailable:
        """Why entries are not registered after `limit` seconds, and what to do about it."""
        kind, refusal = self.backend.name, self.refusal()
        if refusal is not None:
            return RegistryRefused(f"{kind} refuses: {refusal}; {self.backend.remedy}")
        return RegistryUnavailable(
            f"not registered within {limit:g} s: {self._told() or 'no answer yet'}; check that"
            f" {kind} runs and that the endpoints are right, or pass start_limit=0 to start without"
            " it and register when it answers"
        )

    def _told(self) -> str:
        return "; ".join(f"{url}: {fault}" for url, fault in self._faults.items())

    def registered(self, entry: Entry) -> bool:
        return entry.present and self.life.alive(self._clock())

    async def remove(self, entries: Sequence[Entry], limit: float) -> None:
        """Deregister these. Those that cannot be in `limit` seconds go later."""
        for entry in entries:
            entry.leave()
        self.wake()
        gone = await self.until(lambda: all(self._is_gone(entry) for entry in entries), limit)
        if not gone:
            log.warning("deregistration_late", keys=len(entries), error=self.last_error)

    def _is_gone(self, entry: Entry) -> bool:
        return self._stopped or self.entries.get(entry.name) is not entry

    async def stop(self, limit: float) -> None:
        """End the task, then the lease, and with it all that hangs on it."""
        await ended(self._task)
        self._task = None
        try:
            if limit > 0:
                async with asyncio.timeout(limit):
                    await self._revoke()
        except TimeoutError:
            log.warning("deregistration_failed", reason=f"no answer within {limit:g} s")
        finally:
            self.life.lost(self._clock())
            for entry in self.entries.values():
                entry.lost_lease()
            self._stopped = True
            self._tell()
            for backend in self.backends:
                await backend.close()

    async def _revoke(self) -> None:
        lease = self.life.lease
        if lease is None:
            return
        for _ in self.backends:
            backend = self.backend
            try:
                await self._delete_detached(backend, lease)
                await backend.revoke(lease, list(self.entries))
            except LeaseLost:
                pass
            except RegistryError as error:
                log.warning("deregistration_failed", endpoint=backend.url, reason=str(error))
                self._rotation.advance()
                continue
            log.info("deregistered", keys=len(self.entries))
            return

    async def _delete_detached(self, backend: RegistrationBackend, lease: Lease) -> None:
        """A key that somebody wrote without our lease would stay for ever."""
        owned: Collection[Name] = ()
        with suppress(LeaseLost):
            owned = await backend.owned(lease, list(self.entries))
        detached = [entry for name, entry in self.entries.items() if name not in owned]
        for batch in _batches(detached, backend.batch):
            await self._read(backend, batch)
            for entry in batch:
                entry.leave()
            await self._write(backend, lease, [entry for entry in batch if not entry.taken])

    # ---------------------------------------------------------------------------- the task

    async def _run(self) -> None:
        """Step after step, until cancelled."""
        while True:
            self._wake.clear()
            unsettled = any(not entry.settled for entry in self.entries.values())
            step, at = self.life.next(self._clock(), unsettled)
            if step is Step.WAIT:
                # Or until something is to be written; while backing off that only leads back here.
                await set_within(self._wake, at - self._clock())
                continue
            backend = self.backend
            try:
                await self._act(step, backend)
                self._answered(backend)
            except LeaseLost:
                self._answered(backend)
                self._lost()
            except RegistryError as error:
                await self._failed(backend, error)
            except Exception as error:
                # A fault of ours must not end the registration of a service that is well.
                log.exception("registrar_fault", step=step.value)
                await self._failed(backend, BadReply(f"{type(error).__name__}: {error}"))
            self._tell()

    async def _act(self, step: Step, backend: RegistrationBackend) -> None:
        now = self._clock()
        lease = self.life.lease
        if lease is None:
            self.life.granted(await backend.grant(self.ttl), now)
        elif step is Step.KEEP_ALIVE:
            present = [name for name, entry in self.entries.items() if entry.present]
            self.life.kept(await backend.renew(lease, present), now)
        elif step is Step.CHECK:
            await self._check(backend, lease)
        else:
            await self._settle(backend, lease)

    async def _check(self, backend: RegistrationBackend, lease: Lease) -> None:
        """Find out which are no longer under the lease."""
        owned = await backend.owned(lease, list(self.entries))
        missing = [
            entry for name, entry in self.entries.items() if name not in owned and not entry.leaving
        ]
        for batch in _batches(missing, backend.batch):
            before = {entry.name for entry in batch if entry.taken}
            await self._read(backend, batch)
            for entry in batch:
                if entry.name not in before:
                    log.warning(
                        "registration_taken" if entry.taken else "registration_missing",
                        key=self.key(entry),
                    )
        self.life.checked()

    async def _read(self, backend: RegistrationBackend, batch: Sequence[Entry]) -> None:
        found = await backend.find([entry.name for entry in batch])
        for entry, seen in zip(batch, found, strict=True):
            entry.found(seen, self.life.was_ours)

    async def _settle(self, backend: RegistrationBackend, lease: Lease) -> None:
        unsettled = [entry for entry in self.entries.values() if not entry.settled]
        for batch in _batches(unsettled, backend.batch):
            if not await self._write(backend, lease, batch, rounds=2):
                # One key that others keep writing must not hold up the rest.
                for entry in batch:
                    if not entry.settled:
                        await self._write(backend, lease, [entry])
        for entry in unsettled:
            if entry.leaving and entry.settled and self.entries.get(entry.name) is entry:
                del self.entries[entry.name]
                self._metrics.pop(entry.name, None)

    async def _write(
        self,
        backend: RegistrationBackend,
        lease: Lease,
        batch: Sequence[Entry],
        rounds: int = ROUNDS,
    ) -> bool:
        """Write what these entries want, guarded by what was last seen. False when others' writes
        came first each time."""
        for _ in range(rounds):
            plans = [(entry, entry.plan()) for entry in batch if not entry.settled]
            if not plans:
                return True
            outcomes = await backend.write(lease, [write for _, write in plans])
            done: list[tuple[Entry, Write, int]] = []
            for (entry, write), outcome in zip(plans, outcomes, strict=True):
                if outcome.done:
                    done.append((entry, write, outcome.revision))
                elif (outcome.found.revision if outcome.found else 0) != write.revision:
                    entry.found(outcome.found, self.life.was_ours)
            self._wrote(done)
            if len(done) == len(plans):
                break
        return all(entry.settled for entry in batch)

    def _wrote(self, done: Iterable[tuple[Entry, Write, int]]) -> None:
        joined = [
            (entry, revision) for entry, write, revision in done if entry.wrote(write, revision)
        ]
        for entry, _ in joined:
            self._count(entry, "success")
        if joined:
            log.info(
                "registered",
                keys=[self.key(entry) for entry, _ in joined[:10]],
                number=len(joined),
                lease=self.lease,
                revision=max(revision for _, revision in joined),
            )

    # ---------------------------------------------------------------------------- results

    def _answered(self, backend: RegistrationBackend) -> None:
        self._rotation.progress()
        self._faults.pop(backend.url, None)
        self.connected = True
        if self._down:
            self._down = False
            log.info("registrar_connected", endpoint=backend.url)

    def _lost(self) -> None:
        log.warning("lease_lost", lease=self.lease, keys=len(self.entries))
        self.life.lost(self._clock())
        for entry in self.entries.values():
            entry.lost_lease()

    async def _failed(self, backend: RegistrationBackend, error: RegistryError) -> None:
        self.connected = False
        self.last_error = f"{backend.url}: {error}"
        self._faults[backend.url] = error
        if not self._down:
            self._down = True
            log.warning("registrar_disconnected", endpoint=backend.url, error=str(error))
        for entry in self.entries.values():
            if not entry.present and not entry.leaving:
                self._count(entry, "failure")
        self._rotation.advance()
        await backend.close()
        # The next endpoint may be well; only after all of them failed there is time to lose.
        alone = len(self._faults) < len(self.backends)
        delay = 0.0 if alone else self._rotation.delay(answered=error.answered)
        self.life.failed(self._clock(), delay)

    def _count(self, entry: Entry, status: Literal["success", "failure"]) -> None:
        metrics = self._metrics.get(entry.name)
        if metrics is not None:
            metrics.registered(entry.record.service, status)

    def _tell(self) -> None:
        """Let everyone who waits look again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _batches(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    rest = iter(entries)
    while batch := list(islice(rest, size)):
        yield batch
