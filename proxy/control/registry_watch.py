"""The registry in use, and the one that is to take its place.

    build ─▶ followed ─▶ its first full set: in use ─▶ another one has given its first: closed
                │ fails: built anew

Until the next one has given its first full set, the one before is followed and served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from proxy.membership import Membership
from proxy.registry.base import Provider
from proxy.settings.registry import Registry
from proxy.statuses import RegistryStatus

log = structlog.get_logger()

PROVIDER_PAUSE = 1.0
"""Seconds between the failure of a provider and the next one. Providers handle outages
themselves; this is for their bugs."""

CLOSE_LIMIT = 5.0
"""Seconds for a provider to release what it has: a snapshot that is being written has one of them,
and a connection whose peer is gone is closed without it."""

Build = Callable[[Registry], Provider]
"""Builds a provider; `ProviderError`."""
Own = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
"""Runs work; the process stops if it fails."""


class Source:
    """Owns the providers of one registry, one after the other, and the task that follows them."""

    def __init__(
        self,
        registry: Registry,
        provider: Provider,
        build: Build,
        on_membership: Callable[[Source, Membership], None],
        own: Own,
    ) -> None:
        self.provider = provider
        self.registry = registry
        self._build = build
        self._on_membership = on_membership
        self._task = own(self._run(), "registry watch")

    @property
    def is_final(self) -> bool:
        """Whether there is no registry, so that knowing nobody is no reason to doubt it."""
        return not self.registry.options.addresses

    async def end(self) -> None:
        """Stop following, and release the provider."""
        self._task.cancel()
        await asyncio.wait([self._task], timeout=CLOSE_LIMIT)
        await close_provider(self.provider)

    async def _run(self) -> None:
        """Follow the registry until cancelled, or until a membership is final."""
        while True:
            provider = self.provider
            try:
                async for membership in provider.watch():
                    self._on_membership(self, membership)
                # A provider whose membership is final has said it.
                return
            except Exception:
                log.exception("provider_failed", provider=provider.name)
            self.provider = await self._next(provider)

    async def _next(self, failed: Provider) -> Provider:
        """Close a provider that failed, and build the next. The reason of the failure may keep both
        from succeeding: no descriptor, say. That is no reason to stop serving what is known."""
        await close_provider(failed)
        while True:
            await asyncio.sleep(PROVIDER_PAUSE)
            try:
                return self._build(self.registry)
            except Exception:
                log.exception("provider_not_built", provider=failed.name)


async def close_provider(provider: Provider) -> None:
    """Release a provider, or say that it could not be."""
    try:
        async with asyncio.timeout(CLOSE_LIMIT):
            await provider.close()
    except Exception:
        log.exception("provider_not_closed", provider=provider.name)


class RegistryWatch:
    """Owns the registry whose memberships are served, and the one that is to take its place. What
    the first yields goes to `on_membership`."""

    def __init__(self, build: Build, on_membership: Callable[[Membership], None], own: Own) -> None:
        self.build = build
        self._on_membership = on_membership
        self._own = own
        self._served: Source | None = None
        self._next: Source | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._knows_somebody = False
        """The registry that is served has named an instance."""

    def follow(self, registry: Registry, provider: Provider) -> None:
        """Serve what `provider` says as soon as it has said all, and what is served until then.
        Takes the place of a registry that has not said anything yet."""
        source = Source(registry, provider, self.build, self._take, self._own)
        if self._served is None:
            self._served = source
            return
        given_up, self._next = self._next, source
        if given_up is not None:
            self._end(given_up)

    async def close(self) -> None:
        """Stop following, and release the providers."""
        for source in (self._next, self._served):
            if source is not None:
                self._end(source)
        await asyncio.gather(*self._ending)

    @property
    def in_use(self) -> Provider | None:
        """The provider whose memberships are served, if there is one yet."""
        return None if self._served is None else self._served.provider

    @property
    def awaited(self) -> bool:
        """Whether the registry that the settings name has yet to tell all."""
        return self._next is not None

    @property
    def status(self) -> RegistryStatus:
        """The state of the registry that the settings name, as its provider tells it."""
        source = self._next or self._served
        assert source is not None, "before follow()"
        return source.provider.status()

    def _take(self, source: Source, membership: Membership) -> None:
        instances = sum(map(len, membership.services.values()))
        if source is self._next:
            addresses = list(source.registry.options.addresses)
            retained = len(source.provider.status().retained)
            if self._knows_somebody and instances == retained and not source.is_final:
                # A prefix that is misspelt, or a registry that is about to be filled.
                effect = "the instances of the one before are served until it names somebody"
                log.warning("registry_empty", endpoints=addresses, effect=effect)
                return
            old, self._served, self._next = self._served, source, None
            assert old is not None
            self._end(old)
            log.info("registry_replaced", endpoints=addresses, instances=instances)
        elif source is not self._served:
            return  # It has been given up.
        self._knows_somebody = instances > 0
        self._on_membership(membership)

    def _end(self, source: Source) -> None:
        task = asyncio.get_running_loop().create_task(source.end(), name="end of a registry")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
