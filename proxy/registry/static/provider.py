"""The provider for those who need no registry: it knows nobody and never changes.

Instances that stand in the configuration file are not its business: `control/pools.py` merges
them in, whichever provider is in use.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

from proxy.membership import Membership
from proxy.registry.base import Provider
from proxy.settings.registry import RegistryOptions
from proxy.statuses import RegistryStatus


class StaticProvider(Provider):
    """Yields one empty membership, which here is the truth and not a loss."""

    name: ClassVar[str] = "static"

    def __init__(self, options: RegistryOptions) -> None:
        self._closed = asyncio.Event()

    async def watch(self) -> AsyncIterator[Membership]:
        yield Membership(services={})
        await self._closed.wait()

    def status(self) -> RegistryStatus:
        return RegistryStatus(provider=self.name, connected=True, age=0.0)

    async def close(self) -> None:
        self._closed.set()
