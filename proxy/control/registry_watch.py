"""The provider in use: watched until it fails, and then replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from proxy.membership import Membership
from proxy.registry.base import Provider
from proxy.statuses import RegistryStatus

log = structlog.get_logger()

PROVIDER_PAUSE = 1.0
"""Seconds between the failure of a provider and the next one. Providers handle outages
themselves; this is for their bugs."""


class RegistryWatch:
    """Owns the provider. What it yields goes to `on_membership`."""

    def __init__(
        self, build: Callable[[], Provider], on_membership: Callable[[Membership], None]
    ) -> None:
        self._build = build
        self._on_membership = on_membership
        self._provider: Provider | None = None

    def open(self) -> None:
        """Build the first provider; `run` is next."""
        self._provider = self._build()

    async def close(self) -> None:
        """Release the provider. `run` must be over."""
        if self._provider is not None:
            await self._provider.close()

    @property
    def status(self) -> RegistryStatus:
        """The state of the registry as the provider tells it, once there is one."""
        assert self._provider is not None, "before open()"
        return self._provider.status()

    async def run(self) -> None:
        """Follow the registry until cancelled, or until a membership is final."""
        while True:
            provider = self._provider
            assert provider is not None
            try:
                async for membership in provider.watch():
                    self._on_membership(membership)
                # A provider whose membership is final has said it.
                return
            except Exception:
                log.exception("provider_failed", provider=provider.name)
            self._provider = await self._next(provider)

    async def _next(self, failed: Provider) -> Provider:
        """Close a provider that failed, and build the next. The reason of the failure may keep both
        from succeeding: no descriptor, say. That is no reason to stop serving what is known."""
        try:
            await failed.close()
        except Exception:
            log.exception("provider_not_closed", provider=failed.name)
        while True:
            await asyncio.sleep(PROVIDER_PAUSE)
            try:
                return self._build()
            except Exception:
                log.exception("provider_not_built", provider=failed.name)
