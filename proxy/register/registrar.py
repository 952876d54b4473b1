"""`Registrar`: instances registered under a lease, for as long as a block of code runs.

    async with Registrar(Record(service="users", port=8080), endpoints=["http://etcd:2379"]):
        await serve()

There is one `Keeper` for each registry and TTL in an event loop, whatever the number of registrars:
they share a lease, since they live and die in the same process, and one keep-alive serves them all.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self
from weakref import WeakKeyDictionary

import msgspec

from proxy.catalog import registry_options
from proxy.register.address import local_address
from proxy.register.backend import backends
from proxy.register.entry import DRAINING, Entry
from proxy.register.errors import InvalidRecord, RegistryUnavailable
from proxy.register.keeper import Keeper, call_limit
from proxy.register.record import Record, checked
from proxy.register.registration import Registration
from proxy.register.reporter import HealthReporter, counting_on
from proxy.settings.registry import RegistryOptions, RemoteOptions

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from proxy.health.base import Check, Endpoint
    from proxy.register.reporter import Question

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


class RegistrarStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a registrar, as it says itself."""

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


_keepers: WeakKeyDictionary[
    asyncio.AbstractEventLoop, dict[tuple[RegistryOptions, float], Keeper]
] = WeakKeyDictionary()


class Registrar:
    """Owns the registration of instances, from `async with` to its end.

    Entering returns when all are registered. It raises `InvalidRecord` for records that no
    reader would accept, `RegistryRefused` when every endpoint refuses for good, and
    `RegistryUnavailable` when it takes longer than `start_limit` seconds. With `start_limit=0`
    it returns at once, and registers as soon as the registry can be reached: for services that
    must start without it.

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
        registry: RegistryOptions | None = None,
        ttl: float = DEFAULT_TTL,
        start_limit: float = START_LIMIT,
        leave_limit: float = LEAVE_LIMIT,
        check: Question | tuple[Check, Endpoint] | None = None,
        interval: float = 5.0,
        metrics: CollectorRegistry | None = None,
    ) -> None:
        if registry is None:
            etcd: type[RemoteOptions] = registry_options("etcd")
            registry = etcd(endpoints=tuple(endpoints) or (DEFAULT_ENDPOINT,))
        elif endpoints:
            raise ValueError("endpoints and registry: give one of them")
        if not 1 <= ttl <= 86_400:
            raise ValueError(f"ttl: {ttl!r} is not between 1 and 86400 seconds")
        backends(
            registry, call_limit(ttl)
        )  # What is wrong with them is found here, and not in a task.
        self._records = records
        self._registry = registry
        self._ttl = float(ttl)
        self._start_limit = start_limit
        self._leave_limit = leave_limit
        self._keeper: Keeper | None = None
        self._metrics = None if metrics is None else counting_on(metrics)
        self.registrations: tuple[Registration, ...] = ()
        """Registrations, one for each record, in their order, while it is entered."""
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
            found = backends(self._registry, call_limit(self._ttl))
            keeper = keepers[identity] = Keeper(found, self._ttl)
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
        is still going to be written when the registry answers again."""
        self.report(status, message)
        keeper = self._entered()
        if not await keeper.until(lambda: all(r.reported for r in self.registrations), limit):
            raise RegistryUnavailable(
                f"health not written within {limit:g} s, last error: {keeper.last_error};"
                f" it is written when {self._registry.type} answers again"
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
        """Whether all records are in the registry, as far as known."""
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
            lease=keeper.lease,
            endpoint=keeper.backend.url,
            connected=keeper.connected,
            taken=tuple(keeper.key(entry) for entry in mine if entry.taken),
            last_error=keeper.last_error,
        )

    # ------------------------------------------------------------------------------ private

    def _entered(self) -> Keeper:
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
        if len({record.name for record in filled}) < len(filled):
            reasons.append("id: two records have the same service and id")
        if reasons:
            raise InvalidRecord(reasons)
        now = datetime.now(UTC)
        entries = [Entry(record, record.value(now)) for record in filled]
        keeper.add(entries, self._metrics)
        joined = tuple(Registration(keeper, entry) for entry in entries)
        self.registrations += joined
        if limit > 0:
            await keeper.until(
                lambda: all(one.registered for one in joined) or keeper.refusal() is not None,
                limit,
            )
            if not all(one.registered for one in joined):
                raise keeper.failure(limit)
        return joined

    async def _filled(self, records: Sequence[Record]) -> list[Record]:
        address, known = "", self._entered().backends
        if any(not record.address for record in records):
            address = await local_address([one.host for one in known])
        host = socket.gethostname()
        initial = {} if self._reporter is None else _UNCHECKED
        return [
            msgspec.structs.replace(
                record,
                address=record.address or address,
                id=record.id or known[0].id_of(host, record.address or address, record.port),
                **initial,
            )
            for record in records
        ]


_UNCHECKED = {"status": "unhealthy", "message": "not checked yet"}
