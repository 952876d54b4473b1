"""The last known pools in a file, for a start while no registry answers.

    {"format": 1, "saved_at": 1795344000.0, "checksum": "sha256 of the bytes of `services`",
     "services": {"users": [{...}]}}

It is written to a file beside it, synchronised and renamed, so there always is a whole one.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import structlog

from proxy.membership import Instance, Membership
from proxy.registry.base import Provider
from proxy.registry.decorators.base import Decorator, OnEvent, to_nobody
from proxy.statuses import RegistryStatus, SnapshotStatus

log = structlog.get_logger()

FORMAT = 1

MAX_FILE = 256 * 1024 * 1024
"""Bytes: some 800,000 instances. What is larger was not written by us."""

PATIENCE = 0.2
"""Seconds in which a registry may answer before the file is used. An answering one takes some
ten milliseconds, and four round trips (TCP, TLS, login, list) of fifty at the worst; a start
must be over within a second, and before this half of one went into loading. One that answers
later replaces what the file said, at once."""

LOOK = 0.02
"""Seconds between two looks at whether all registries have refused already."""

DEBOUNCE = 0.5
"""Seconds from a change to the write, so that a roll-out is a few writes."""

REFRESH = 60.0
"""Seconds after which a file is written again although nothing changed, so that its time says
until when its content was true, and not when it last became so."""


class SnapshotError(Exception):
    """The file cannot be used, or not be written. The text says why."""


class _File(msgspec.Struct, frozen=True):
    format: int
    saved_at: float
    checksum: str
    services: msgspec.Raw


class Snapshot(msgspec.Struct, frozen=True):
    """What a file holds."""

    saved_at: float
    """Seconds since 1970."""
    membership: Membership


def encode(membership: Membership, saved_at: float) -> bytes:
    services = msgspec.json.encode(membership.services)
    return msgspec.json.encode(
        _File(FORMAT, saved_at, hashlib.sha256(services).hexdigest(), msgspec.Raw(services))
    )


def decode(content: bytes) -> Snapshot:
    """SnapshotError for anything that was not written by `encode`, whole."""
    try:
        file = msgspec.json.decode(content, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SnapshotError(f"is not a snapshot: {error}") from None
    if file.format != FORMAT:
        raise SnapshotError(f"has format {file.format}; this version reads {FORMAT}")
    if hashlib.sha256(file.services).hexdigest() != file.checksum:
        raise SnapshotError("is damaged: its checksum does not fit")
    try:
        services = msgspec.json.decode(file.services, type=dict[str, tuple[Instance, ...]])
    except msgspec.DecodeError as error:
        raise SnapshotError(f"holds something else than instances: {error}") from None
    return Snapshot(file.saved_at, Membership(services=services))


def load(path: Path) -> Snapshot | None:
    """None if there is no file. SnapshotError if it cannot be used."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise SnapshotError(f"is larger than {MAX_FILE} bytes")
        return decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SnapshotError(f"cannot be read ({error.strerror})") from None


def save(path: Path, membership: Membership, saved_at: float) -> None:
    """Write a new file in place of the old one. SnapshotError, and the old one stays."""
    beside = path.with_name(path.name + ".new")
    try:
        # Readable for its owner only: metadata of services is nobody else's business.
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(handle, "wb") as file:
            file.write(encode(membership, saved_at))
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise SnapshotError(f"cannot be written ({error.strerror})") from None


class RememberedProvider(Decorator):
    """Owns the file: reads it when the provider inside has nothing to say at the start, and
    writes what that one says from then on."""

    name: ClassVar[str] = "remembered"

    def __init__(
        self,
        inner: Provider,
        path: str,
        *,
        on_event: OnEvent = to_nobody,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`on_event(kind, **fields)` hears when the file is used. `wall_clock`: since 1970."""
        super().__init__(inner, on_event)
        self._path = Path(path)
        self._wall_clock = wall_clock
        self._membership: Membership | None = None
        self._in_use = False
        self._saved_at: float | None = None
        self._error: str | None = None
        self._heard = asyncio.Event()
        self._to_save = asyncio.Event()

    def status(self) -> RegistryStatus:
        status = self._inner.status()
        age = None if self._saved_at is None else max(0.0, self._wall_clock() - self._saved_at)
        return msgspec.structs.replace(
            status,
            # What is served is as old as the file while nobody has said anything newer.
            age=age if self._in_use and status.age is None else status.age,
            snapshot=SnapshotStatus(
                path=str(self._path),
                in_use=self._in_use,
                age=None if age is None else round(age, 3),
                error=self._error,
            ),
        )

    def _work(self) -> Sequence[Coroutine[Any, Any, None]]:
        return (self._follow(), self._recall(), self._remember())

    def _current(self) -> Membership | None:
        return self._membership

    async def _follow(self) -> None:
        async for membership in self._inner.watch():
            self._membership = membership
            if self._in_use:
                self._in_use = False
                log.info("snapshot_replaced", path=str(self._path))
            self._heard.set()
            self._to_save.set()
            self._changed.set()

    async def _recall(self) -> None:
        """Serve what the file holds if nobody has said anything in time."""
        for _ in range(round(PATIENCE / LOOK)):
            try:
                async with asyncio.timeout(LOOK):
                    await self._heard.wait()
                    return
            except TimeoutError:
                pass
            if _refused(self._inner.status()):
                break
        try:
            snapshot = await asyncio.to_thread(load, self._path)
        except SnapshotError as error:
            self._error = str(error)
            log.error("snapshot_ignored", path=str(self._path), error=str(error))
            return
        if snapshot is None or self._heard.is_set():
            return
        self._membership = snapshot.membership
        self._saved_at = snapshot.saved_at
        self._in_use = True
        age = max(0.0, self._wall_clock() - snapshot.saved_at)
        instances = sum(map(len, snapshot.membership.services.values()))
        log.warning("snapshot_used", path=str(self._path), age=round(age, 1), instances=instances)
        self._on_event("snapshot_used", age=round(age, 1), instances=instances)
        self._changed.set()

    async def _remember(self) -> None:
        await self._heard.wait()
        while True:
            try:
                async with asyncio.timeout(REFRESH):
                    await self._to_save.wait()
            except TimeoutError:
                if not self._inner.status().connected:
                    continue  # What we know may be old by now; the file says since when.
            await asyncio.sleep(DEBOUNCE)
            self._to_save.clear()
            membership, now = self._membership, self._wall_clock()
            assert membership is not None
            try:
                await asyncio.to_thread(save, self._path, membership, now)
            except SnapshotError as error:
                if self._error != str(error):
                    log.error("snapshot_not_written", path=str(self._path), error=str(error))
                self._error = str(error)
            else:
                self._saved_at, self._error = now, None


def _refused(status: RegistryStatus) -> bool:
    """The registry has given an error instead of an answer, and so have its backups."""
    if status.sources:
        return all(source.alive is False for source in status.sources)
    return not status.connected and status.last_error is not None
