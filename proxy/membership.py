"""Registered instances, as a registry states them.

Frozen, like everything that is passed between the parts of the program.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Instance(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One registered instance, as the registry states it. Nothing measured is in here."""

    service: str
    id: str
    address: str
    port: int
    weight: int = 1
    """`metadata.weight` as a positive integer, else 1; 0 = drained by weight."""
    version: str = ""
    metadata: dict[str, str] = {}
    health: str = "healthy"
    """`healthy` is served, `draining` finishes what is in flight, anything else is not served."""
    health_message: str = ""
    origin: str = ""
    """Where the instance is known from, as far as there is a choice: name of the registry, form of
    its record, or both with a slash between them."""

    @property
    def key(self) -> str:
        """The identity that live numbers hang on: the same id on a new endpoint is a new node."""
        return f"{self.id}@{self.address}:{self.port}"


class Departure(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One registration that ended."""

    service: str
    id: str
    health: str = "healthy"
    """The last statement; one that was draining had announced that it goes."""
    lease: int = 0
    """Lease that the registration hung on, which may have ended as well; 0 = none, so it was
    deleted."""
    revision: int = 0
    """When; 0 = not known, because it was found missing and not seen to go."""


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """All registered instances at one revision. Providers yield these, never deltas.

    A service whose instances did not change since the provider's previous membership is the
    identical tuple object, so a reader finds what changed by `is`, without comparing members.
    """

    services: Mapping[str, tuple[Instance, ...]]
    revision: int = 0
    departures: tuple[Departure, ...] = ()
    """Registrations that ended since the provider's previous membership, as far as it can tell
    how."""
