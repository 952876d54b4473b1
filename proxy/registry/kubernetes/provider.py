"""The Kubernetes provider: a list of the slices of a namespace, and a watch from there on.

A watch that ends is opened again where it ended. One whose place the API server has forgotten (410)
is followed by a list, which is applied as a difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import aclosing
from functools import partial
from operator import itemgetter
from typing import ClassVar, Final, Unpack
from urllib.parse import quote

from proxy.membership import Instance
from proxy.registry.base import RegistryError
from proxy.registry.followed import Followed, Means, Resync, first_to_end
from proxy.registry.kubernetes.options import Options
from proxy.registry.kubernetes.slices import Frame, Page, Slice, Status, decode, records, version
from proxy.registry.records import read, service_of
from proxy.registry.rest import Answered, RestEndpoint, Secret
from proxy.registry.roster import Entry, Roster, differences, single

CALL_LIMIT: Final = 10.0
"""Seconds for a page; an API server gives up on etcd after less."""
PAGE: Final = 250
"""Slices of a page, of a hundred endpoints at most each."""
WATCH: Final = 300
"""Seconds after which the API server ends a watch, so that watches spread over its replicas."""

SHORT: Final = 1.0
"""Seconds that a watch lasts at least, or else brings something. One that does not was ended by
something in front of the API server, which would be asked without end."""

_GONE: Final = 410


class KubernetesProvider(Followed[RestEndpoint]):
    """Owns what is known of one namespace's services."""

    name: ClassVar[str] = "kubernetes"

    def __init__(self, options: Options, **means: Unpack[Means]) -> None:
        self._options = options = options.in_place()
        shown = Secret(options.token, options.token_file).bearer
        super().__init__(
            [RestEndpoint(url, tls=options.tls, fields=shown) for url in options.addresses],
            Roster(single(_read), service_of),
            **means,
        )
        namespace = quote(options.namespace, safe="")
        self._path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        self._query = {"labelSelector": options.selector} if options.selector else {}
        self._at = ""
        """Resource version up to which everything is in the roster."""

    # ---------------------------------------------------------------------- one session

    async def _session(self, server: RestEndpoint) -> None:
        """Ends only by an exception."""
        if self._list_for is not None:
            await self._list(server, self._list_for)
        else:
            await self._confirm(server)  # A watch from a future version only says that it fails.
        await first_to_end(self._follow(server), self._supervise(server))

    async def _list(self, server: RestEndpoint, reason: str) -> None:
        found: list[tuple[int, dict[bytes, Entry]]] = []
        at, revision = "", 0
        async for page in self._pages(server):
            at, revision = page.metadata.resource_version, version(page.metadata)
            for one in page.items or ():
                found.append((version(one.metadata), self._entries(one)))
            await asyncio.sleep(0)
        replaced = reason == "reconcile" or 0 < revision < self._roster.revision
        self._at = at
        found.sort(key=itemgetter(0))  # Of an endpoint in two slices the newer one counts.
        entries = {key: entry for _, each in found for key, entry in each.items()}
        adopt = partial(self._roster.replace, entries, revision, retain=replaced)
        self._listed(server, reason, adopt)

    async def _pages(self, server: RestEndpoint, limit: int = PAGE) -> AsyncIterator[Page]:
        """Pages of a list, all of one version; without one in the question the answer is the newest
        that there is."""
        query = self._query | {"limit": str(limit)}
        while True:
            answer = await server.get(self._path, query, timeout=CALL_LIMIT)
            self._heard()
            page = decode(answer.body, Page)
            if not page.metadata.resource_version:
                raise RegistryError(f"{self._path}: a list without a resourceVersion")
            yield page
            if not page.metadata.continue_:
                return
            query["continue"] = page.metadata.continue_

    async def _follow(self, server: RestEndpoint) -> None:
        """Watch after watch."""
        while True:
            query = self._query | {
                "watch": "1",
                "allowWatchBookmarks": "true",
                "resourceVersion": self._at,
                "timeoutSeconds": str(WATCH),
            }
            began, told = self._clock(), False
            try:
                lines = server.lines(self._path, query, timeout=WATCH + CALL_LIMIT)
                async with aclosing(lines):
                    async for line in lines:
                        told = True
                        self._heard()
                        self._apply(decode(line, Frame))
            except Answered as error:
                if error.status == _GONE:
                    raise Resync("gone", str(error)) from None
                raise
            short = not told and self._clock() - began < SHORT
            await asyncio.sleep(SHORT if short else self._timing.coalesce)

    def _apply(self, frame: Frame) -> None:
        if frame.type == "ERROR":
            status = decode(frame.object, Status)
            if status.code == _GONE:
                raise Resync("gone", status.message)
            raise RegistryError(f"the watch failed: {status.code}: {status.message}")
        one = decode(frame.object, Slice)
        if frame.type in ("ADDED", "MODIFIED", "DELETED"):
            entries = {} if frame.type == "DELETED" else self._entries(one)
            revision = max(self._roster.revision, version(one.metadata))
            if self._roster.replace(entries, revision, among=self._keys(one.prefix)):
                self._rotation.progress()
                self._changed.set()
        # Bookmarks have nothing else.
        self._at = one.metadata.resource_version or self._at
        self._roster.revision = max(self._roster.revision, version(one.metadata))

    def _entries(self, one: Slice) -> dict[bytes, Entry]:
        return {key: self._roster.entry(key, value) for key, value in records(one, self._options)}

    def _keys(self, prefix: bytes) -> set[bytes]:
        return {key for key in self._roster.entries if key.startswith(prefix)}

    # ------------------------------------------------------------------------- questions

    async def _ask(self, server: RestEndpoint) -> None:
        await self._newest(server)

    async def _newest(self, server: RestEndpoint) -> int:
        """Resource version of now."""
        query = self._query | {"limit": "1"}
        answer = await server.get(self._path, query, timeout=self._timing.probe_limit)
        return version(decode(answer.body, Page).metadata)

    async def _confirm(self, server: RestEndpoint) -> None:
        """The store is not an earlier one. What the watch has missed only a comparison tells."""
        known = self._roster.revision
        newest = await self._newest(server)
        self._heard()
        if 0 < newest < known:
            raise Resync("store_went_back", f"from version {known} to {newest}")

    async def _compare(self, server: RestEndpoint) -> frozenset[tuple[bytes, Hashable]]:
        held: dict[bytes, bytes] = {}
        async for page in self._pages(server):
            for one in page.items or ():
                held.update(records(one, self._options))
        return differences(held, {key: one.value for key, one in self._roster.entries.items()})


def _read(key: bytes, value: bytes) -> tuple[Instance, str]:
    service, _, instance = key.decode().split("/", 2)
    return read(service, instance, value)
