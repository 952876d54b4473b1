"""`Registrar`: instances registered under a lease, for as long as a block of code runs.

    async with Registrar(Record(service="users", port=8080), endpoints=["http://etcd:2379"]):
        await serve()

What is due is decided by `lease.py`, what to write by `entry.py`; this file does it. There is
one task for each etcd and TTL in an event loop, whatever the number of registrars: they share a
lease, since they live and die in the same process, and one keep-alive serves them all.
"""

from __future__ import annotations

import asyncio
import math
import random
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import msgspec
import structlog

from proxy.health.base import printable
from proxy.register.entry import DRAINING, Entry, Write
from proxy.register.errors import InvalidRecord, RegistryRefused, RegistryUnavailable
from proxy.register.lease import LeaseLife, Step
from proxy.register.record import Health, Record, checked
from proxy.register.reporter import HealthReporter, counting_on
from proxy.registry.etcd_gateway import (
    CALL_LIMIT,
    Gateway,
    delete_op,
    put_op,
    range_op,
    revision_is,
)
from proxy.registry.etcd_wire import (
    BadCredentials,
    BadTlsFiles,
    EtcdError,
    GatewayOff,
    KeyValue,
    LeaseNotFound,
    TokenRefused,
)
from proxy.registry.rotation import Rotation
from proxy.settings.registry import RegistrySettings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from proxy.health.base import Check, Endpoint
    from proxy.register.metrics import RegistrationMetrics
    from proxy.register.reporter import Question

log = structlog.get_logger()

DEFAULT_ENDPOINT = "http://127.0.0.1:2379"
DEFAULT_TTL = 10.0
"""Seconds until an instance that died without a word is forgotten. Shorter means more
keep-alives and more false alarms from a pause of a few seconds."""
START_LIMIT = 10.0
"""Seconds in which the first registration must succeed; see `Registrar`."""
LEAVE_LIMIT = 3.0
"""Seconds for deregistering. Without an answer the lease ends the rest by itself."""
REPORT_LIMIT = 5.0
"""Seconds for `update_health` to see its statement written."""

BATCH = 100
"""Keys in one transaction: etcd takes at most 128 operations."""
ROUNDS = 8
"""Tries of one guarded write before other things get their turn. Each failure means that
somebody else's write succeeded meanwhile, so a second failure is rare already."""
BACKOFF_FIRST = 0.05
BACKOFF_LIMIT = 5.0

_FINAL = (BadCredentials, BadTlsFiles, GatewayOff, TokenRefused)
"""What waiting does not change."""


class RegistrarStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a registrar says of itself."""

    registered: int
    """Instances that are in the registry, as far as known."""
    total: int
    lease: int | None
    endpoint: str
    """The one in use, or tried next."""
    connected: bool
    """The last call was answered."""
    taken: tuple[str, ...] = ()
    """Keys that a newer process with the same id has."""
    last_error: str | None = None


class _Keeper:
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
        if not all(isinstance(fault, _FINAL) for fault in self._faults.values()):
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


_keepers: WeakKeyDictionary[
    asyncio.AbstractEventLoop, dict[tuple[RegistrySettings, float], _Keeper]
] = WeakKeyDictionary()


class Registration:
    """One registered instance: what its service may say about it. All of it is wanted state,
    said at once and written as soon as etcd takes it; only the latest word is written."""

    def __init__(self, keeper: _Keeper, entry: Entry) -> None:
        self._keeper = keeper
        self._entry = entry

    @property
    def record(self) -> Record:
        """As registered, address and id filled in."""
        return self._entry.record

    @property
    def key(self) -> str:
        return self._entry.key.decode()

    @property
    def registered(self) -> bool:
        """In the registry, as far as known: written, and the lease alive."""
        return self._keeper.registered(self._entry)

    @property
    def taken(self) -> bool:
        """A newer process with the same id has the key. It is left alone; when it goes, this
        one is registered again."""
        return self._entry.taken

    async def wait_registered(self, limit: float) -> bool:
        """Wait until it is; False after `limit` seconds."""
        return await self._keeper.until(lambda: self.registered, limit)

    def report(self, status: str, message: str = "") -> None:
        """State health: `healthy` is served, `draining` gets no new requests, anything else is
        not served. Once `draining`, later statements are ignored."""
        self._say(Health(printable(status) or "unknown", printable(message), datetime.now(UTC)))

    def seen(self) -> None:
        """Health is as it was; renew `last_check`. A status that somebody else wrote stays."""
        self._say(Health(None, "", datetime.now(UTC)))

    def _say(self, health: Health) -> None:
        if self._entry.report(health):
            self._keeper.wake()

    @property
    def reported(self) -> bool:
        """What was said is written, or is not to be written any more."""
        return self._entry.health is None or self._entry.leaving

    def __repr__(self) -> str:
        return f"<Registration {self.key} {'registered' if self.registered else 'not registered'}>"


class Registrar:
    """Owns the registration of instances, from `async with` to its end.

    Entering returns when all are registered. It raises `InvalidRecord` for records that no
    reader would accept, `RegistryRefused` when every endpoint refuses for good, and
    `RegistryUnavailable` when it takes longer than `start_limit` seconds. With `start_limit=0`
    it returns at once, and registers as soon as etcd can be reached: for services that must
    start without it.

    Afterwards nothing raises: a lost lease is granted anew, a deleted key put back, an outage
    waited out, each with a log line. Leaving deregisters, in at most `leave_limit` seconds;
    with `leave_limit=0` it does not, and the lease runs out by itself.

    `registry` has the endpoints, prefix, credentials and TLS files; `endpoints` is the short
    form. With `check` (see `HealthReporter`) the instances start as `unhealthy` and are served
    once the check is good. `metrics` is the Prometheus registry to count on.
    """

    def __init__(
        self,
        *records: Record,
        endpoints: Sequence[str] = (),
        registry: RegistrySettings | None = None,
        ttl: float = DEFAULT_TTL,
        start_limit: float = START_LIMIT,
        leave_limit: float = LEAVE_LIMIT,
        check: Question | tuple[Check, Endpoint] | None = None,
        interval: float = 5.0,
        metrics: CollectorRegistry | None = None,
    ) -> None:
        if registry is None:
            registry = RegistrySettings(
                type="etcd", endpoints=tuple(endpoints) or (DEFAULT_ENDPOINT,)
            )
        elif endpoints:
            raise ValueError("endpoints and registry: give one of them")
        if registry.type != "etcd":
            raise ValueError(f"registry.type: {registry.type!r}; a registrar needs 'etcd'")
        if not registry.endpoints:
            raise ValueError("registry.endpoints: none given; allowed are http[s]://host[:port]")
        if not 1 <= ttl <= 86_400:
            raise ValueError(f"ttl: {ttl!r} is not between 1 and 86400 seconds")
        if not registry.prefix.endswith("/"):
            registry = msgspec.structs.replace(registry, prefix=registry.prefix + "/")
        for url in registry.endpoints:
            Gateway(url)  # ValueError for one that is no URL, here and not in a task
        self._records = records
        self._registry = registry
        self._ttl = float(ttl)
        self._start_limit = start_limit
        self._leave_limit = leave_limit
        self._keeper: _Keeper | None = None
        self._metrics = None if metrics is None else counting_on(metrics)
        self.registrations: tuple[Registration, ...] = ()
        """One for each record, in their order, while it is entered."""
        self._reporter: HealthReporter | None = None
        if check is not None:
            self._reporter = HealthReporter(
                self,
                check,
                interval=interval,
                services=tuple({record.service: None for record in records}),
                metrics=metrics,
            )

    # ----------------------------------------------------------------------------- its life

    async def __aenter__(self) -> Self:
        if self._keeper is not None:
            raise RuntimeError("this registrar is entered already")
        keepers = _keepers.setdefault(asyncio.get_running_loop(), {})
        identity = (self._registry, self._ttl)
        keeper = keepers.get(identity)
        if keeper is None:
            keeper = keepers[identity] = _Keeper(self._registry, self._ttl)
        keeper.users += 1
        self._keeper = keeper
        self.registrations = ()
        try:
            await self._join(self._records, self._start_limit)
            if self._reporter is not None:
                self._reporter.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._reporter is not None:
            await self._reporter.stop()
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        keeper.users -= 1
        if keeper.users:
            await keeper.remove([one._entry for one in self.registrations], self._leave_limit)
        else:
            # From here on nobody may join it; who comes now gets a new one.
            del _keepers[asyncio.get_running_loop()][self._registry, self._ttl]
            await keeper.stop(self._leave_limit)

    async def add(self, *records: Record, limit: float = START_LIMIT) -> tuple[Registration, ...]:
        """Register further instances, on the same lease; raises what entering raises. With
        `limit=0` it returns at once."""
        return await self._join(records, limit)

    async def remove(self, *registrations: Registration, limit: float = LEAVE_LIMIT) -> None:
        """Deregister some. What cannot be done in `limit` seconds is done later."""
        going = set(registrations)
        self.registrations = tuple(one for one in self.registrations if one not in going)
        await self._entered().remove([one._entry for one in registrations], limit)

    def replace(self, registration: Registration, record: Record) -> None:
        """State a registration's whole record anew; service and id stay. InvalidRecord."""
        before = registration.record
        record = msgspec.structs.replace(
            record,
            address=record.address or before.address,
            service=before.service,
            id=before.id,
        )
        registration._entry.replace(checked(record), record.value(datetime.now(UTC)))
        self._entered().wake()

    # ------------------------------------------------------------------------------- health

    def report(self, status: str, message: str = "") -> None:
        """`Registration.report` for all of them."""
        for registration in self.registrations:
            registration.report(status, message)

    def seen(self) -> None:
        """`Registration.seen` for all of them."""
        for registration in self.registrations:
            registration.seen()

    async def update_health(
        self, status: str, message: str = "", *, limit: float = REPORT_LIMIT
    ) -> None:
        """`report`, and wait until it is written. RegistryUnavailable after `limit` seconds: it
        is still going to be written when etcd answers again."""
        self.report(status, message)
        keeper = self._entered()
        if not await keeper.until(lambda: all(r.reported for r in self.registrations), limit):
            raise RegistryUnavailable(
                f"health not written within {limit:g} s, last error: {keeper.last_error};"
                " it is written when etcd answers again"
            )

    async def drain(self, message: str = "draining", *, limit: float = REPORT_LIMIT) -> bool:
        """Mark all as `draining`: no new requests. True when that is written within `limit`."""
        try:
            await self.update_health(DRAINING, message, limit=limit)
        except RegistryUnavailable:
            return False
        return True

    @property
    def registered(self) -> bool:
        """All are in the registry, as far as known."""
        return bool(self.registrations) and all(one.registered for one in self.registrations)

    async def wait_registered(self, limit: float) -> bool:
        """Wait until all are; False after `limit` seconds."""
        return await self._entered().until(lambda: self.registered, limit)

    def status(self) -> RegistrarStatus:
        keeper = self._entered()
        mine = [registration._entry for registration in self.registrations]
        return RegistrarStatus(
            registered=sum(keeper.registered(entry) for entry in mine),
            total=len(mine),
            lease=keeper.life.lease,
            endpoint=keeper.gateway.url,
            connected=keeper.connected,
            taken=tuple(entry.key.decode() for entry in mine if entry.taken),
            last_error=keeper.last_error,
        )

    # ------------------------------------------------------------------------------ private

    def _entered(self) -> _Keeper:
        if self._keeper is None:
            raise RuntimeError("use it inside of 'async with'")
        return self._keeper

    async def _join(self, records: Sequence[Record], limit: float) -> tuple[Registration, ...]:
        keeper = self._entered()
        filled = await self._filled(records)
        reasons: list[str] = []
        for record in filled:
            try:
                checked(record)
            except InvalidRecord as invalid:
                reasons += invalid.reasons
        if len({record.key("") for record in filled}) < len(filled):
            reasons.append("id: two records have the same service and id")
        if reasons:
            raise InvalidRecord(reasons)
        now = datetime.now(UTC)
        entries = [
            Entry(record.key(self._registry.prefix), record, record.value(now)) for record in filled
        ]
        keeper.add(entries, self._metrics)
        joined = tuple(Registration(keeper, entry) for entry in entries)
        self.registrations += joined
        if limit > 0:
            await keeper.until(
                lambda: all(one.registered for one in joined) or keeper.refusal() is not None,
                limit,
            )
            if not all(one.registered for one in joined):
                raise self._why_not(keeper, limit)
        return joined

    def _why_not(self, keeper: _Keeper, limit: float) -> RegistryRefused | RegistryUnavailable:
        refusal = keeper.refusal()
        if refusal is not None:
            return RegistryRefused(
                f"etcd refuses: {refusal}; check the user, its permission to read and write"
                f" {self._registry.prefix}, the TLS files, and that enable-grpc-gateway is on"
            )
        return RegistryUnavailable(
            f"not registered within {limit:g} s: {keeper.faults() or 'no answer yet'}; check that"
            " etcd runs and that the endpoints are right, or pass start_limit=0 to start without"
            " it and register when it answers"
        )

    async def _filled(self, records: Sequence[Record]) -> list[Record]:
        address = ""
        if any(not record.address for record in records):
            address = await local_address(self._registry.endpoints)
        initial = {} if self._reporter is None else _UNCHECKED
        return [
            msgspec.structs.replace(
                record,
                address=record.address or address,
                id=record.id or f"{socket.gethostname()}-{record.port}",
                **initial,
            )
            for record in records
        ]


_UNCHECKED = {"status": "unhealthy", "message": "not checked yet"}

RESOLVE_LIMIT = 2.0
"""Seconds to resolve etcd's host name when looking for our own address."""


async def local_address(endpoints: Sequence[str]) -> str:
    """This machine's address on the way to etcd, which is the one that the others there see;
    when that cannot be found out, the one on the default route. InvalidRecord when there is
    none either. Nothing is sent: a datagram socket is connected, and asked for its end."""
    loop = asyncio.get_running_loop()
    candidates: list[tuple[int, str]] = []
    for url in endpoints:
        try:
            async with asyncio.timeout(RESOLVE_LIMIT):
                found = await loop.getaddrinfo(urlsplit(url).hostname, 0, type=socket.SOCK_DGRAM)
        except (OSError, TimeoutError, UnicodeError):
            continue
        candidates += [(family, str(where[0])) for family, _, _, _, where in found]
    # RFC 5737 and RFC 3849: addresses that nobody has.
    candidates += [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")]
    for family, host in candidates:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((host, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    raise InvalidRecord(["address: none found for this machine; give one"])
