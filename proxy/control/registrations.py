"""Registration over HTTP, for services that cannot reach etcd: the proxy keeps their lease.

A service states its record and repeats a heartbeat; who has been silent for its TTL is
deregistered. What is kept is memory of this process: after a restart nothing is known of it, the
lease runs out by itself, and a service learns from the 404 to its next heartbeat that it has to
register again. So a stop of the proxy deregisters nobody: the lease's time is theirs for that.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from proxy.catalog import REGISTRATION_BACKENDS
from proxy.registry import records
from proxy.settings.registry import RegistryOptions
from proxy.waiting import ended

if TYPE_CHECKING:
    from proxy.register import Record, Registrar, Registration

log = structlog.get_logger()

DEFAULT_TTL = 30.0
"""Seconds without a heartbeat. Heartbeats at a third of it survive two that get lost."""
SHORTEST_TTL = 2.0
LONGEST_TTL = 3600.0
LEASE_TTL = 30.0
"""Seconds that etcd remembers all of them after this process died; within it a service that
sends heartbeats every ten seconds has registered again, with whichever proxy took over."""
CONFIRM = 2.0
"""Seconds a request waits for etcd. After that the answer is 202: known here, not yet there."""
MAX_REGISTRATIONS = 1000
"""Limit of registrations: one lease and a few transactions keep that many without effort; more
services than that should have etcd within reach, and a client that makes up ids must not fill
etcd."""
MAX_BODY = 16 * 1024
"""Bytes. Every proxy holds every record; the usual one has 300."""

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

Name = tuple[str, str]
"""(service, instance id)."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that is wrong with a record, and where: a JSON pointer (RFC 6901) into the body,
    or the part of the path it is about."""

    pointer: str
    detail: str


class Refusal(Exception):
    """A request that cannot be done. `status` is that of the answer; `complaints` are all the
    reasons a record has."""

    def __init__(
        self,
        status: int,
        detail: str,
        complaints: tuple[Complaint, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.complaints = complaints
        self.headers = headers or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The registration that a body asks for."""

    address: str
    port: int
    version: str
    metadata: Mapping[str, str]
    status: str
    message: str
    ttl: float


# ----------------------------------------------------------------------------- the body


def read(name: Name, body: bytes) -> Wanted:
    """The record of contract and its `ttl`. Refusal with every complaint at once. `id` and
    `name` in the body, and fields that nobody knows, are not looked at: the path wins."""
    if len(body) > MAX_BODY:
        raise Refusal(413, f"the body has {len(body)} bytes; at most {MAX_BODY} are allowed")
    complaints = list(_bad_names(name))
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        document, complaints = {}, [*complaints, Complaint("", f"the body is not JSON: {error}")]
    else:
        if isinstance(document, dict):
            complaints += _bad_fields(document)
        else:
            complaints.append(Complaint("", "the body is not a JSON object"))
    if complaints:
        many = f"{len(complaints)} reasons" if len(complaints) > 1 else complaints[0].detail
        raise Refusal(400, f"the record is refused: {many}", tuple(complaints))
    # Whatever was judged above: what is written must be what every reader can read.
    instance, _ = records.read(*name, body)
    return Wanted(
        address=instance.address,
        port=instance.port,
        version=instance.version,
        metadata=instance.metadata,
        status=instance.health,
        message=instance.health_message,
        ttl=_seconds(document.get("ttl", DEFAULT_TTL)) or DEFAULT_TTL,
    )


def _bad_names(name: Name) -> Iterator[Complaint]:
    for what, text in zip(("service", "instance"), name, strict=True):
        if "/" in text or not text.isprintable():
            yield Complaint(what, f"{text[:80]!r}: must be printable and without '/'")
        elif len(text.encode(errors="replace")) > records.MAX_NAME:
            yield Complaint(what, f"longer than {records.MAX_NAME} bytes")


def _bad_fields(document: dict[str, Any]) -> Iterator[Complaint]:
    """Complaints about each field on its own, so that a bad one does not hide the others."""
    address = document.get("address")
    if address is None:
        yield Complaint("/address", "missing; an IP address or a host name is needed")
    elif not isinstance(address, str):
        yield Complaint("/address", f"{_shown(address)}: must be text")
    else:
        yield from _unreadable("/address", {"address": address})
    port = document.get("port")
    if port is None:
        yield Complaint("/port", "missing; a number from 1 to 65535 is needed")
    elif not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        yield Complaint("/port", f"{_shown(port)}: must be a whole number from 1 to 65535")
    if isinstance(document.get("version"), dict | list):
        yield Complaint("/version", "must be text")
    yield from _bad_metadata(document.get("metadata"))
    yield from _bad_health(document.get("health"))
    if "ttl" in document and _seconds(document["ttl"]) is None:
        yield Complaint(
            "/ttl",
            f"{_shown(document['ttl'])}: must be seconds or a duration such as 30s,"
            f" from {SHORTEST_TTL:g}s to {LONGEST_TTL:g}s",
        )


def _bad_metadata(metadata: object) -> Iterator[Complaint]:
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        yield Complaint("/metadata", f"{_shown(metadata)}: must be an object of texts")
        return
    for name, value in metadata.items():
        if isinstance(value, dict | list):
            yield Complaint(f"/metadata/{_escaped(name)}", "must be text, a number or a boolean")
    weight = metadata.get("weight")
    text = weight if isinstance(weight, str) else _shown(weight)
    # Readers take a bad weight for 1; who states one over HTTP can be told.
    if weight is not None and not (
        re.fullmatch("[0-9]{1,6}", text) and int(text) <= records.MAX_WEIGHT
    ):
        yield Complaint(
            "/metadata/weight",
            f"{_shown(weight)}: must be a whole number from 0 (drained) to {records.MAX_WEIGHT}",
        )


def _bad_health(health: object) -> Iterator[Complaint]:
    if health is None:
        return
    if not isinstance(health, dict):
        yield Complaint("/health", f"{_shown(health)}: must be an object with a status")
        return
    status = health.get("status")
    if status is not None and not (isinstance(status, str) and status and status.isprintable()):
        yield Complaint(
            "/health/status", f"{_shown(status)}: must be healthy, draining, or another word"
        )
    if not isinstance(health.get("message"), str | None):
        yield Complaint("/health/message", "must be text")


def _unreadable(pointer: str, fields: dict[str, object]) -> Iterator[Complaint]:
    try:
        records.read("x", "x", msgspec.json.encode({"address": "127.0.0.1", "port": 1} | fields))
    except records.Unreadable as error:
        yield Complaint(pointer, str(error))


def _seconds(ttl: object) -> float | None:
    """30, 2.5 or "30s" → seconds within the bounds, else None."""
    if isinstance(ttl, str) and (match := _DURATION.fullmatch(ttl)):
        seconds = float(match[1]) * _UNITS[match[2]]
    elif isinstance(ttl, int | float) and not isinstance(ttl, bool):
        seconds = float(ttl)
    else:
        return None
    return seconds if SHORTEST_TTL <= seconds <= LONGEST_TTL else None


def _shown(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


# ------------------------------------------------------------------------- the deadlines


class Deadlines:
    """Owns until when each registration holds without a further heartbeat. Pure: `now` is
    monotonic seconds."""

    def __init__(self) -> None:
        self._held: dict[Name, tuple[float, float]] = {}
        """Name → (ttl, deadline)."""

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, name: Name) -> bool:
        return name in self._held

    def __iter__(self) -> Iterator[Name]:
        return iter(sorted(self._held))

    def set(self, name: Name, ttl: float, now: float) -> None:
        self._held[name] = (ttl, now + ttl)

    def renew(self, name: Name, now: float) -> bool:
        """A heartbeat. False when there is no such registration, or none any more."""
        if name not in self._held or self.left(name, now) <= 0:
            return False
        self.set(name, self._held[name][0], now)
        return True

    def drop(self, name: Name) -> None:
        self._held.pop(name, None)

    def ttl(self, name: Name) -> float:
        return self._held[name][0]

    def left(self, name: Name, now: float) -> float:
        """Seconds."""
        return self._held[name][1] - now

    def expired(self, now: float) -> list[Name]:
        return [name for name in self if self.left(name, now) <= 0]

    def next(self) -> float | None:
        """When the next one expires; None = never."""
        return min((deadline for _, deadline in self._held.values()), default=None)


# ---------------------------------------------------------------------- the registrations


class Registrations:
    """Owns the registrations made over HTTP, the registrar that keeps them in etcd, and the
    task that ends those whose service fell silent."""

    def __init__(
        self, registry: RegistryOptions, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start with no registration; no task is started before the first."""
        self._settings = registry
        self._clock = clock
        self._deadlines = Deadlines()
        self._kept: dict[Name, tuple[Wanted, Registration]] = {}
        self._registrar: Registrar | None = None
        self._stating = asyncio.Lock()
        """Held while a record is handed over: one at a time. No wait for etcd is under it."""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.expired = 0
        """Registrations ended because no heartbeat came."""

    async def put(self, name: Name, body: bytes) -> tuple[bool, dict[str, Any]]:
        """Register, or state anew. True if it is a new one; its document. Refusal."""
        if self._settings.type not in REGISTRATION_BACKENDS:
            raise Refusal(
                501,
                f"the registry is {self._settings.type!r}, which takes no registrations;"
                f" it needs registry: {{type: {' | '.join(REGISTRATION_BACKENDS)}}} in proxy.yaml",
            )
        wanted = read(name, body)
        new = name not in self._deadlines
        if new and len(self._deadlines) >= MAX_REGISTRATIONS:
            raise Refusal(
                503,
                f"{MAX_REGISTRATIONS} instances are registered over HTTP here, which is the"
                " limit; deregister some, or register with etcd directly",
            )
        # Before the first wait, so that it is ended in time whatever happens to this request.
        self._deadlines.set(name, wanted.ttl, self._clock())
        self._changed.set()
        try:
            async with self._stating:
                registration = await self._state(name, wanted)
        except BaseException as error:
            if name not in self._kept:
                self._deadlines.drop(name)
            if isinstance(error, ValueError):  # The registrar has the last word on records.
                raise Refusal(400, str(error)) from error
            raise
        log.info("http_registration", service=name[0], instance=name[1], new=new, ttl=wanted.ttl)
        await registration.wait_registered(CONFIRM)
        return new, self._document(name, wanted.ttl, registration)

    def heartbeat(self, name: Name) -> dict[str, Any]:
        """Hold the registration for another TTL; its document. Refusal when there is none."""
        if not self._deadlines.renew(name, self._clock()) or name not in self._kept:
            raise self._unknown(name)
        return self._document(name, self._deadlines.ttl(name), self._kept[name][1])

    async def delete(self, name: Name) -> None:
        """Deregister. Refusal when there is no such registration; an etcd that is down is no
        error: the key goes when it answers again, or with its lease."""
        if name not in self._kept:
            raise self._unknown(name)
        log.info("http_deregistration", service=name[0], instance=name[1], reason="asked")
        await self._end([name])

    def documents(self) -> list[dict[str, Any]]:
        """All registrations as documents, sorted by name."""
        return [
            self._document(name, self._deadlines.ttl(name), self._kept[name][1])
            for name in self._deadlines
            if name in self._kept
        ]

    async def follow(self, registry: RegistryOptions) -> None:
        """Keep all of them in another registry from here on. In the one before they run out by
        themselves, as after a stop: other proxies may still use it."""
        async with self._stating:
            if registry == self._settings:
                return
            self._settings = registry
            before, self._registrar = self._registrar, None
            if before is None:
                return
            try:
                if registry.type in REGISTRATION_BACKENDS:
                    records = [_record(name, wanted) for name, (wanted, _) in self._kept.items()]
                    added = await (await self._running()).add(*records, limit=0)
                    self._kept = {
                        name: (self._kept[name][0], registration)
                        for name, registration in zip(self._kept, added, strict=True)
                    }
                    return
                log.warning("http_registrations_dropped", number=len(self._kept))
                for name in self._kept:
                    self._deadlines.drop(name)
                self._kept.clear()
            finally:
                await before.__aexit__(None, None, None)

    async def close(self) -> None:
        """Stop keeping the lease, without ending it: see the top of this file."""
        await ended(self._task)
        registrar, self._registrar = self._registrar, None
        if registrar is not None:
            await registrar.__aexit__(None, None, None)

    # --------------------------------------------------------------------------- private

    async def _state(self, name: Name, wanted: Wanted) -> Registration:
        """Hand the record to the registrar, which writes it as soon as etcd takes it."""
        registrar = await self._running()
        before = self._kept.get(name)
        if before is None:
            [registration] = await registrar.add(_record(name, wanted), limit=0)
        else:
            known, registration = before
            # Who states it again while a newer process has the key means to have it back.
            if _stated(known) != _stated(wanted) or registration.taken:
                registrar.replace(registration, _record(name, wanted))
        self._kept[name] = (wanted, registration)
        return registration

    async def _running(self) -> Registrar:
        if self._registrar is None:
            # Imported late: it loads the etcd client, which a proxy without etcd never needs.
            from proxy.register import Registrar

            self._registrar = Registrar(
                registry=self._settings, ttl=LEASE_TTL, start_limit=0, leave_limit=0
            )
            await self._registrar.__aenter__()
            if self._task is None:
                self._task = asyncio.create_task(self._expire(), name="http registrations")
        return self._registrar

    async def _expire(self) -> None:
        """End what fell silent, at its time."""
        while True:
            self._changed.clear()
            due = self._deadlines.next()
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - self._clock())):
                    await self._changed.wait()
            except TimeoutError:
                pass
            silent = self._deadlines.expired(self._clock())
            for service, instance in silent:
                self.expired += 1
                log.warning(
                    "http_deregistration", service=service, instance=instance, reason="no heartbeat"
                )
            try:
                await self._end(silent)
            except Exception:
                log.exception("http_deregistration_failed", number=len(silent))

    async def _end(self, names: list[Name]) -> None:
        registrations = [self._kept.pop(name)[1] for name in names if name in self._kept]
        for name in names:
            self._deadlines.drop(name)
        if registrations and self._registrar is not None:
            await self._registrar.remove(*registrations, limit=CONFIRM)

    def _document(self, name: Name, ttl: float, registration: Registration) -> dict[str, Any]:
        state = "registered" if registration.registered else "pending"
        left = self._deadlines.left(name, self._clock()) if name in self._deadlines else 0.0
        return {
            "service": name[0],
            "id": name[1],
            "ttl": ttl,
            "expires_in": round(max(0.0, left), 3),
            "state": "taken" if registration.taken else state,
        }

    def _unknown(self, name: Name) -> Refusal:
        return Refusal(
            404,
            f"{name[0]}/{name[1]} is not registered over HTTP here: it was never, its heartbeat"
            " was late, or this proxy was restarted; register (again) with PUT",
        )


def _stated(wanted: Wanted) -> tuple[object, ...]:
    """The content of a record; the TTL is not in it."""
    return (
        *(wanted.address, wanted.port, wanted.version),
        *(wanted.metadata, wanted.status, wanted.message),
    )


def _record(name: Name, wanted: Wanted) -> Record:
    from proxy.register import Record

    return Record(
        service=name[0],
        id=name[1],
        address=wanted.address,
        port=wanted.port,
        version=wanted.version,
        metadata=wanted.metadata,
        status=wanted.status,
        message=wanted.message,
    )
