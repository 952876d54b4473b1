"""`Provider`: the seam for registries.

A provider is an async iterator of whole `Membership` values. The first one it yields is the
first full list; each later one replaces the one before. An outage yields nothing: a provider
never yields an empty set because it lost its registry, so whoever iterates keeps serving the
last view for as long as it takes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import ClassVar, TypeVar

import msgspec

from proxy.membership import Departure, Membership
from proxy.statuses import RegistryStatus

T = TypeVar("T")


class RegistryError(Exception):
    """A call or a stream failed; the registry may be tried again, here or elsewhere."""

    answered: ClassVar[bool] = False
    """Whether somebody is there and said so, who is not to be pressed then."""


class Refused(RegistryError):
    """The registry refuses for a reason that waiting does not change: credentials, rights,
    certificates, an interface that is switched off."""

    answered: ClassVar[bool] = True


class BadReply(RegistryError):
    """The registry answers, and that is of no use, or says that something failed."""

    answered: ClassVar[bool] = True


def decode(whose: str, body: bytes | msgspec.Raw, kind: type[T]) -> T:
    """An answer of this kind, or a part of one; BadReply for anything else."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError) as error:
        said = f"{error}: {bytes(body)[:60]!r}"
        raise BadReply(f"not an answer of {whose}: {said}") from None


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
