"""Statuses of providers and decorators; read by the admin API and the metrics."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class InvalidRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A registry value that could not be read. It harms no other key."""

    key: str
    reason: str
    kept: bool
    """True when the key's last good value is still served."""
    service: str = ""
    """The service that the key names; "" = it names none."""


class OddRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A registry value that is used, although something in it was not understood."""

    key: str
    reason: str
    service: str


class RegistrySource(msgspec.Struct, frozen=True, kw_only=True):
    """A registry among several, in the order in which they are preferred."""

    name: str = ""
    """In `registries`; "" = there is only one registry, with its backups."""
    provider: str
    endpoints: tuple[str, ...] = ()
    active: bool = False
    """Whether the instances of the registry are served."""
    alive: bool | None = None
    """Result of the last check; None = not checked yet."""


class RetainedInstance(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that is served although the registry does not name it any more."""

    service: str
    id: str
    why: str
    age: float
    """Seconds since the registry last named it."""


class SnapshotStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The file with the last known pools."""

    path: str
    in_use: bool = False
    """Whether what is served comes from the file, because no registry has answered since the
    start."""
    age: float | None = None
    """Seconds since what it holds was true; None = nothing written or read yet."""
    error: str | None = None
    """Why it could not be read or written the last time."""
    failures: int = 0
    """How often it could not be read or written."""


class RegistryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Status of a provider; read by the admin API and the metrics."""

    provider: str
    connected: bool
    endpoint: str | None = None
    revision: int = 0
    cluster: str = ""
    """The registry's id of its store, if it has one."""
    age: float | None = None
    """Seconds since the registry last answered anything; None = never."""
    instances: int = 0
    """Instances that the registry names and whose records can be read."""
    sessions: int = 0
    """Times that following it began: with a list, or a watch of what changes."""
    connects: int = 0
    """Times that it answered after it had not: at the start, and after each outage."""
    answers: int = 0
    """Of all kinds: lists, changes, proofs that nothing changed."""
    errors: int = 0
    """Sessions, and attempts to begin one, that ended by an error."""
    formats: Mapping[str, int] = {}
    """Instances by the form of their records, where there are several forms."""
    invalid: tuple[InvalidRecord, ...] = ()
    odd: tuple[OddRecord, ...] = ()
    resyncs: Mapping[str, int] = {}
    """Full lists after the first, by reason."""
    differences: int = 0
    """Differences that periodic reconciliation found. Should stay 0."""
    last_error: str | None = None
    sources: tuple[RegistrySource, ...] = ()
    """Empty for one registry without backups."""
    switches: int = 0
    """From one source to another."""
    retained: tuple[RetainedInstance, ...] = msgspec.field(default=(), name="held")
    retained_total: int = msgspec.field(default=0, name="held_total")
    """Times an instance was retained."""
    snapshot: SnapshotStatus | None = None
    parts: Mapping[str, RegistryStatus] = {}
    """Of several registries each one's own, by its name in `registries`; empty for one."""
