"""`Provider`: the seam for registries.

A provider is an async iterator of whole `Membership` values. The first one it yields is the
first full list; each later one replaces the one before. An outage yields nothing: a provider
never yields an empty set because it lost its registry, so whoever iterates keeps serving the
last view for as long as it takes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import ClassVar

from proxy.membership import Departure, Membership
from proxy.statuses import RegistryStatus


class RegistryError(Exception):
    """A call or a stream failed; the registry may be tried again, here or elsewhere."""


class Refused(RegistryError):
    """The registry refuses for a reason that waiting does not change: credentials, rights,
    certificates, an interface that is switched off."""


class LeaseLost(RegistryError):
    """The registry answers, and knows no such lease: it ran out or was ended."""


class Provider(ABC):
    """A registry. Built from its part of the configuration, before any event loop runs: a struct
    of keys, which a provider in a package of its own has as its class attribute `Options`."""

    name: ClassVar[str]

    @abstractmethod
    def watch(self) -> AsyncIterator[Membership]:
        """Yield memberships until cancelled. Bursts are coalesced; nothing is ever cleared
        by an error. May be called once in a provider's life."""

    @abstractmethod
    def status(self) -> RegistryStatus:
        """The provider's own view of its registry, cheap enough for every scrape."""

    async def alive(self) -> bool:
        """Does the registry answer now? Asked of providers that are watched and of those that
        are not; the caller bounds it in time."""
        return self.status().connected

    async def expired(self, departure: Departure) -> bool | None:
        """Did this registration run out (True) or was it ended on purpose (False)? None while
        nobody can say. Bounded by the provider."""
        return False

    @abstractmethod
    async def close(self) -> None:
        """Release connections. Safe to call at any time, more than once."""
