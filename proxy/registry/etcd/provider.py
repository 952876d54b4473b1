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
from contextlib import aclosing
from functools import partial
from typing import ClassVar, Unpack

from proxy.membership import Departure
from proxy.registry.etcd.gateway import Gateway, Watch, prefix_end
from proxy.registry.etcd.options import Options
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
from proxy.registry.followed import Followed, Means, Resync, first_to_end
from proxy.registry.formats.layout import literal
from proxy.waiting import set_within

_REPLACED = frozenset({"store_went_back", "cluster_changed", "reconcile"})
"""Reasons which say that this is not the store whose leases we knew. Differences that only a full
comparison finds are of that kind: a watch of the same store would have brought them."""


class EtcdProvider(Followed[Gateway]):
    """Owns the view of one etcd cluster. ValueError from the constructor for an endpoint that is
    no URL; anything else that can be wrong (down, wrong password, no gateway, unreadable
    certificate) is an outage."""

    name: ClassVar[str] = "etcd"

    def __init__(self, options: Options, **means: Unpack[Means]) -> None:
        if not options.endpoints:
            raise ValueError("registry.endpoints: none given; allowed are http[s]://host[:port]")
        self._view = View(literal(options.prefix), options.format)
        super().__init__(
            [Gateway(url, options) for url in options.endpoints],
            self._view,
            **means,
        )
        # No key is empty: the first possible one is a zero byte.
        self._range = (self._view.prefix or b"\0", prefix_end(self._view.prefix))
        self._applied = asyncio.Event()
        self._cluster: int | None = None

    async def expired(self, departure: Departure) -> bool | None:
        """A lease takes all its keys along when it ends; a key that went while its lease lives
        was deleted. A revoked lease looks like one that ran out."""
        if not departure.lease:
            return False
        for gateway in self._connections:
            try:
                left = await gateway.time_to_live(departure.lease, timeout=self._timing.probe_limit)
            except LeaseNotFound:
                return True
            except EtcdError:
                continue
            return left.ttl <= 0
        return None

    # ---------------------------------------------------------------------- one session

    async def _session(self, gateway: Gateway) -> None:
        """Ends only by an exception."""
        if self._list_for is None:
            reply = await self._newest(gateway)
            if reply.header.revision > self._view.revision:
                await self._look_back(gateway)
        else:
            await self._list(gateway, self._list_for)
        async with gateway.watch(*self._range, self._view.resume) as watch:
            await first_to_end(self._read(watch), self._supervise(gateway))

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
        self._cluster, self._cluster_id = cluster, f"{cluster:x}"
        self._listed(gateway, reason, partial(self._view.adopt, draft, went_back=replaced))

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
                    raise Resync("canceled", str(error), elsewhere=True)
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

    # ------------------------------------------------------------------------- questions

    async def _ask(self, gateway: Gateway) -> None:
        """A linearizable read."""
        await gateway.range(*self._range, limit=1, timeout=self._timing.probe_limit)

    async def _newest(self, gateway: Gateway) -> RangeReply:
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
        reply = await self._newest(gateway)
        while self._view.revision <= reply.header.revision and not self._agrees(reply):
            self._applied.clear()
            if not await set_within(self._applied, self._timing.catch_up):
                raise Resync(
                    "behind", f"at {self._view.revision}, store at {reply.header.revision}"
                )

    def _agrees(self, reply: RangeReply) -> bool:
        return self._view.agrees(reply.kvs[0] if reply.kvs else None, reply.count)

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
