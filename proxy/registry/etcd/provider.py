"""The etcd provider: list once, watch from there on, and never believe silence.

The life of a session with one endpoint:

    list (only when there is no view, or a reason to doubt it)
      or ask: is this still the store we know?
    watch from the resume point ┬─ read: apply frames to the view
                                └─ supervise: every 4 s compare the view with a linearizable read

A session ends by an error (next endpoint, same resume point, no new list) or by a `Resync`
(list again, apply the difference). Neither takes anything out of the view, so an outage of any
length leaves the last known membership in service.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, ClassVar

import msgspec
import structlog

from proxy.membership import Departure, Membership
from proxy.registry.base import Provider
from proxy.registry.complaints import Complaints
from proxy.registry.etcd.gateway import Gateway, Watch, prefix_end
from proxy.registry.etcd.view import Draft, View
from proxy.registry.etcd.wire import (
    Compacted,
    EtcdError,
    Header,
    KeyValue,
    LeaseNotFound,
    RangeReply,
    error_named,
)
from proxy.registry.rotation import Rotation
from proxy.settings.registry import RegistrySettings
from proxy.statuses import RegistryStatus

log = structlog.get_logger()


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how long, in seconds."""

    probe: float = 4.0
    """Between liveness probes, ± 10 %. With `probe_limit` it bounds how long a member that
    stopped, or lost its leader, goes unnoticed: 6 s. etcd's own progress notifications come
    every 10 minutes and prove nothing in between."""
    probe_limit: float = 2.0
    """For one probe: an election takes one to two seconds, and one missed probe costs no more
    than a new connection."""
    catch_up: float = 1.0
    """How long the view may stand still behind the store before it is listed again. Members
    deliver to late watchers every 0.1 s."""
    reconcile: float = 300.0
    """Between full comparisons, ± 20 %. Should never find anything; see `differences`."""
    recheck: float = 2.0
    """After an outage a full comparison comes within this time, spread over the fleet: a store
    that was replaced meanwhile can pass every quick check, and the view is to be right 10 s after
    the return, of which up to 5 s may be back-off."""
    hold: float = 4.0
    """How long instances are retained that a store which went back no longer knows. Registrars
    renew a lease every third of its TTL, so those with the usual 10 s are back by then, and
    an operator who emptied the store on purpose sees that within 10 s of its return."""
    coalesce: float = 0.05
    """At most one membership in this time: a roll-out of a thousand instances becomes a few
    snapshots, and a single change is still out at once."""
    backoff_first: float = 0.02
    backoff_limit: float = 5.0
    """Full jitter between attempts, so that a fleet of proxies does not come back in step."""


class Resync(Exception):
    """The view may have missed something: list again, for this reason."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


_REPLACED = frozenset({"store_went_back", "cluster_changed", "reconcile"})
"""Reasons which say that this is not the store whose leases we knew. Differences that only a full
comparison finds are of that kind: a watch of the same store would have brought them."""


class EtcdProvider(Provider):
    """Owns the view of one etcd cluster and the task that keeps it current.

    ValueError from the constructor for an endpoint that is no URL; anything else that can be
    wrong with a registry (down, wrong password, no gateway, unreadable certificate) is an
    outage: it is retried, shown in `status()`, and logged once when it begins and once when it
    is over.
    """

    name: ClassVar[str] = "etcd"

    def __init__(
        self,
        settings: RegistrySettings,
        *,
        timing: Timing | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not settings.endpoints:
            raise ValueError("registry.endpoints: none given; allowed are http[s]://host[:port]")
        prefix = settings.prefix if settings.prefix.endswith("/") else settings.prefix + "/"
        self._timing = timing or Timing()
        self._rng = rng or random.Random()
        self._clock = clock
        # For the provider's life.
        self._view = View(prefix)
        self._complaints = Complaints()
        self._range = (self._view.prefix, prefix_end(self._view.prefix))
        self._gateways = [
            Gateway(url, tls=settings.tls, username=settings.username, password=settings.password)
            for url in settings.endpoints
        ]
        self._rotation = Rotation(
            len(self._gateways), self._rng, self._timing.backoff_first, self._timing.backoff_limit
        )
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._changed = asyncio.Event()
        self._applied = asyncio.Event()
        # What is known of the store.
        self._cluster: int | None = None
        self._list_for: str | None = "start"
        self._hold_until = math.inf
        self._reconcile_at = math.inf
        self._in_doubt = False
        """There was a `Resync` since the view was last proved."""
        # What is told of it.
        self._endpoint: str | None = None
        self._contact: float | None = None
        self._lost_at: float | None = None
        self._last_error: str | None = None
        self._resyncs: dict[str, int] = {}
        self._differences = 0

    # --------------------------------------------------------------------- the interface

    async def watch(self) -> AsyncIterator[Membership]:
        if self._task is not None:
            raise RuntimeError("watch() may be called once in a provider's life")
        self._task = asyncio.create_task(self._run(), name="etcd-provider")
        try:
            current: Membership | None = None
            earliest = 0.0
            while not self._closed:
                await self._changed.wait()
                await asyncio.sleep(max(0.0, earliest - self._clock()))
                self._changed.clear()
                self._complaints.tell(self._view.news(), self._clock())
                membership = self._view.membership()
                if membership is not current and not self._closed:
                    current = membership
                    earliest = self._clock() + self._timing.coalesce
                    yield membership
        finally:
            await self.close()

    def status(self) -> RegistryStatus:
        return RegistryStatus(
            provider=self.name,
            connected=self._endpoint is not None,
            endpoint=self._endpoint,
            revision=self._view.revision,
            age=None if self._contact is None else max(0.0, self._clock() - self._contact),
            instances=self._view.instances,
            invalid=self._view.invalid(),
            odd=self._view.odd(),
            resyncs=dict(self._resyncs),
            differences=self._differences,
            last_error=self._last_error,
        )

    async def alive(self) -> bool:
        """One linearizable read, from any endpoint: one that hangs holds up no other. The limit
        of a probe holds here, too: a watch is not kept on a member that is slower."""

        async def answers(gateway: Gateway) -> bool:
            try:
                await gateway.range(*self._range, limit=1, timeout=self._timing.probe_limit)
            except EtcdError:
                return False
            return True

        asked = [asyncio.create_task(answers(gateway)) for gateway in self._gateways]
        try:
            for answer in asyncio.as_completed(asked):
                if await answer:
                    return True
            return False
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def expired(self, departure: Departure) -> bool | None:
        """A lease takes all its keys along when it ends; a key that went while its lease lives
        was deleted. A revoked lease looks like one that ran out."""
        if not departure.lease:
            return False
        for gateway in self._gateways:
            try:
                left = await gateway.time_to_live(departure.lease, timeout=self._timing.probe_limit)
            except LeaseNotFound:
                return True
            except EtcdError:
                continue
            return left.ttl <= 0
        return None

    async def close(self) -> None:
        self._closed = True
        self._changed.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._endpoint = None
        for gateway in self._gateways:
            await gateway.disconnect()

    # ---------------------------------------------------------------------- one session

    async def _run(self) -> None:
        """Session after session, for ever."""
        while True:
            gateway = self._gateways[self._rotation.current]
            try:
                await self._session(gateway)
            except Resync as resync:
                self._list_for = resync.reason
                log.info("registry_resync", endpoint=gateway.url, reason=str(resync))
                if resync.reason == "canceled":
                    self._rotation.advance()
                if not self._in_doubt:
                    # The store is there and answers. Only if the list did not help, wait.
                    self._in_doubt = True
                    continue
            except EtcdError as error:
                self._lost(gateway, error)
                self._rotation.advance()
                await gateway.disconnect()
            except Exception as error:
                # A fault of ours must not end discovery for the life of the process: say it
                # loudly, start over from a fresh list, keep serving what is known.
                log.exception("registry_fault", endpoint=gateway.url)
                self._lost(gateway, error)
                self._list_for = "fault"
                self._rotation.advance()
                await gateway.disconnect()
            await asyncio.sleep(self._rotation.delay())

    async def _session(self, gateway: Gateway) -> None:
        """Ends only by an exception."""
        if self._list_for is None:
            reply = await self._ask(gateway)
            if reply.header.revision > self._view.revision:
                await self._look_back(gateway)
        else:
            await self._list(gateway, self._list_for)
        async with gateway.watch(*self._range, self._view.resume) as watch:
            await _first_to_end(self._read(watch), self._supervise(gateway))

    async def _list(self, gateway: Gateway, reason: str) -> None:
        """Take over the store's state, by its difference to the view."""
        draft: Draft | None = None
        async with aclosing(gateway.pages(*self._range)) as pages:
            async for page in pages:
                self._heard()
                if draft is None:
                    replaced = reason in _REPLACED or self._is_new_cluster(page.header)
                    draft = self._view.draft(page.header.revision)
                    cluster = page.header.cluster_id
                draft.add(page.kvs)
        if draft is None:
            raise EtcdError("list without a page")
        self._cluster = cluster
        retained = self._view.retained
        different = self._view.adopt(draft, went_back=replaced)
        if self._view.retained > retained:
            self._hold_until = self._clock() + self._timing.hold
            log.warning("registry_store_replaced", endpoint=gateway.url, held=self._view.retained)
        if reason == "start":
            self._reconcile_in(0.8, 1.2)
        else:
            self._resyncs[reason] = self._resyncs.get(reason, 0) + 1
            log.info("registry_listed", reason=reason, different=different)
        self._list_for = None
        self._changed.set()

    async def _read(self, watch: Watch) -> None:
        """Apply frames until one says that the watch is over."""
        async for frame in watch:
            self._heard()
            if frame.compact_revision:
                raise Resync("compacted", f"up to {frame.compact_revision}")
            if frame.canceled:
                # The stream stays open, and for ever silent, after this.
                error = error_named(frame.cancel_reason or "watch canceled without a reason")
                if isinstance(error, Compacted):
                    raise Resync("compacted", str(error))
                if type(error) is EtcdError:
                    raise Resync("canceled", str(error))
                raise error
            if frame.events:
                before = self._view.revision
                self._view.apply(frame.events)
                if self._view.revision > before:
                    self._rotation.progress()  # a long replay may take several connections
            elif frame.bookmark:
                self._view.bookmark(frame.header.revision)
            self._applied.set()
            self._changed.set()

    async def _supervise(self, gateway: Gateway) -> None:
        """Prove over and over that the view follows the store; do what is due by the clock."""
        while True:
            await self._confirm(gateway)
            self._rotation.progress()
            self._in_doubt = False
            self._found(gateway)
            now = self._clock()
            if now >= self._hold_until:
                # Only right after a proof: what the store lacks now, it lacks for good.
                log.info("registry_released", instances=self._view.retained)
                self._view.release()
                self._hold_until = math.inf
                self._changed.set()
            if now >= self._reconcile_at:
                await self._reconcile(gateway)
                self._reconcile_in(0.8, 1.2)
            probe_at = now + self._timing.probe * self._rng.uniform(0.9, 1.1)
            next_at = min(probe_at, self._hold_until, self._reconcile_at)
            await asyncio.sleep(max(0.0, next_at - self._clock()))

    # ------------------------------------------------------------------------- questions

    async def _ask(self, gateway: Gateway) -> RangeReply:
        """The store's most recently written key and its number of keys, by a linearizable
        read; Resync when it is not the store that the view was taken from."""
        known = self._view.revision
        reply = await gateway.range(
            *self._range, limit=1, newest_first=True, timeout=self._timing.probe_limit
        )
        self._heard()
        if self._is_new_cluster(reply.header):
            raise Resync("cluster_changed", f"from {self._cluster} to {reply.header.cluster_id}")
        revision = reply.header.revision
        if revision < known:
            raise Resync("store_went_back", f"from revision {known} to {revision}")
        if revision == known == self._view.revision and not self._agrees(reply):
            # No event is on its way at the same revision: another history got equally far.
            raise Resync("store_went_back", f"other contents at revision {known}")
        return reply

    async def _look_back(self, gateway: Gateway) -> None:
        """The store, which went on without us, still says of the view's revision what the view
        says; Resync when it does not. One that was wiped and has got further meanwhile passes
        every comparison with the present, and its emptiness would be believed at once."""
        known = self._view.revision
        try:
            reply = await gateway.range(
                *self._range,
                limit=1,
                newest_first=True,
                revision=known,
                timeout=self._timing.probe_limit,
            )
        except Compacted as error:
            raise Resync("compacted", str(error)) from None
        if not self._agrees(reply):
            raise Resync("store_went_back", f"other contents at revision {known}")

    async def _confirm(self, gateway: Gateway) -> None:
        """The view has everything the store had a moment ago; Resync when it stands still
        without it."""
        reply = await self._ask(gateway)
        while self._view.revision <= reply.header.revision and not self._agrees(reply):
            self._applied.clear()
            try:
                async with asyncio.timeout(self._timing.catch_up):
                    await self._applied.wait()
            except TimeoutError:
                raise Resync(
                    "behind", f"at {self._view.revision}, store at {reply.header.revision}"
                ) from None

    def _agrees(self, reply: RangeReply) -> bool:
        return self._view.agrees(reply.kvs[0] if reply.kvs else None, reply.count)

    async def _reconcile(self, gateway: Gateway) -> None:
        """Compare everything. Twice if need be: see `View.differences`."""
        found = await self._compare(gateway)
        if found:
            await asyncio.sleep(self._timing.catch_up)
            found &= await self._compare(gateway)
        if found:
            self._differences += len(found)
            keys = sorted(key.decode(errors="replace") for key, _ in found)
            log.error("registry_differences", count=len(found), keys=keys[:10])
            raise Resync("reconcile", f"{len(found)} differences")

    async def _compare(self, gateway: Gateway) -> set[tuple[bytes, KeyValue | None]]:
        kvs: dict[bytes, KeyValue] = {}
        revision = 0
        async with aclosing(gateway.pages(*self._range)) as pages:
            async for page in pages:
                self._heard()
                revision = revision or page.header.revision
                kvs.update((kv.key, kv) for kv in page.kvs)
        return self._view.differences(kvs, revision)

    def _is_new_cluster(self, header: Header) -> bool:
        return self._cluster is not None and header.cluster_id != self._cluster

    def _reconcile_in(self, low: float, high: float) -> None:
        self._reconcile_at = self._clock() + self._timing.reconcile * self._rng.uniform(low, high)

    # --------------------------------------------------------------------------- telling

    def _heard(self) -> None:
        self._contact = self._clock()

    def _found(self, gateway: Gateway) -> None:
        if self._endpoint is not None:
            return
        self._endpoint = gateway.url
        outage = None if self._lost_at is None else round(self._clock() - self._lost_at, 3)
        self._lost_at = None
        self._last_error = None
        log.info(
            "registry_connected",
            endpoint=gateway.url,
            outage=outage,
            revision=self._view.revision,
            instances=self._view.instances,
        )
        if outage is not None:
            soon = self._clock() + self._timing.recheck * self._rng.uniform(0.0, 1.0)
            self._reconcile_at = min(self._reconcile_at, soon)

    def _lost(self, gateway: Gateway, error: Exception) -> None:
        """One line when an outage begins; the attempts after it go to debug."""
        self._endpoint = None
        self._last_error = f"{gateway.url}: {error}"
        if self._lost_at is not None:
            log.debug("registry_attempt_failed", endpoint=gateway.url, error=str(error))
            return
        self._lost_at = self._clock()
        log.warning(
            "registry_lost",
            endpoint=gateway.url,
            error=str(error),
            serving=self._view.instances,
        )


async def _first_to_end(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends, which it does by an exception; the others are gone by then."""
    tasks: Sequence[asyncio.Task[None]] = [asyncio.create_task(each) for each in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
