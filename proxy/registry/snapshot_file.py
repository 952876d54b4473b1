"""The last known pools in a file, for a start while no registry answers.

    {"format": 1, "saved_at": 1795344000.0, "checksum": "sha256 of the bytes of `services`",
     "services": {"users": [{...}]}}

It is written to a file beside it, synchronised and renamed, so there always is a whole one. All of
that is done in threads that nobody waits for at the end: a file system may never answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import msgspec
import structlog

from proxy import files
from proxy.membership import Instance, Membership
from proxy.registry.base import Provider
from proxy.registry.decorators.base import Decorator, OnEvent, to_nobody
from proxy.statuses import RegistryStatus, SnapshotStatus
from proxy.threads import in_thread

T = TypeVar("T")

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


SLOW = 10.0
"""Seconds after which a file system that does not answer is told of."""

LAST_WRITE = 1.0
"""Seconds at the end for a write that has begun. Whoever stops us waits, and the file that is there
is a whole one."""


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


class SnapshotFile:
    """Owns the lock on the file: of several proxies that have it in their settings one writes it.

    The file itself is locked (flock(2)), and its successor before that takes its place, so there
    is no lock to be left behind. Where the file system has no locks the last one to write wins.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._held = -1
        """The descriptor that holds the lock; -1 = we do not have it."""
        self._swept = False

    def close(self) -> None:
        """Let others write it."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def load(self) -> Snapshot | None:
        """None if there is no file. SnapshotError if it cannot be used."""
        try:
            with files.locate(self._path) as place:
                if place.found is None:
                    return None
                with open(files.open_at(place, os.O_RDONLY), "rb") as file:
                    content = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SnapshotError(f"cannot be read ({error.strerror})") from None
        if len(content) > MAX_FILE:
            raise SnapshotError(f"is larger than {MAX_FILE} bytes")
        return decode(content)

    def save(self, membership: Membership, saved_at: float) -> None:
        """Write a new file in place of the old one. SnapshotError, and the old one stays."""
        try:
            with files.locate(self._path) as place:
                self._claim(place)
                directory = os.open(".", _READABLE, dir_fd=place.directory)
                try:
                    if not self._swept:
                        self._swept = True
                        _sweep(place, directory)
                    self._replace(place, encode(membership, saved_at))
                    os.fsync(directory)
                finally:
                    os.close(directory)
        except OSError as error:
            raise SnapshotError(f"cannot be written ({error.strerror})") from None

    def _claim(self, place: files.Place) -> None:
        """OSError if the file is no file of ours to replace, or another proxy writes it."""
        if place.given is not None or (
            place.found is not None and not stat.S_ISREG(place.found.st_mode)
        ):
            raise files.Refused("is no regular file")
        if place.found is None or (
            self._held >= 0 and os.path.samestat(os.fstat(self._held), place.found)
        ):
            return
        try:
            fd = files.open_at(place, os.O_RDWR)  # Over NFS a lock takes the right to write.
        except PermissionError:
            return  # Who may write to the directory may replace it all the same.
        if not _lock(fd) or not os.path.samestat(os.fstat(fd), _named(place)):
            os.close(fd)
            raise OSError(errno.EBUSY, "another proxy writes it")
        self.close()
        self._held = fd

    def _replace(self, place: files.Place, content: bytes) -> None:
        name = f"{_beside(place)}{secrets.token_hex(8)}"
        # Readable for its owner only: metadata of services is nobody else's business.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=place.directory)
        try:
            _lock(fd)
            with open(fd, "wb", closefd=False) as file:
                file.write(content)
            os.fsync(fd)
            os.replace(name, place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=place.directory)
            raise
        self.close()
        self._held = fd


_READABLE = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def _beside(place: files.Place) -> str:
    """What the names of new files begin with, until they take the place of the old one."""
    return f".{place.name}.new."


def _named(place: files.Place) -> os.stat_result:
    return os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)


def _lock(fd: int) -> bool:
    """False if another process has the lock; True also where there are none to be had."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _sweep(place: files.Place, directory: int) -> None:
    """Remove what proxies that were killed in the middle of writing have left: those that write
    at this moment hold a lock on it."""
    for name in os.listdir(directory):
        if not name.startswith(_beside(place)):
            continue
        with contextlib.suppress(OSError):
            left = place._replace(name=name, found=None)
            with open(files.open_at(left, os.O_RDWR), "rb") as file:
                if _lock(file.fileno()):
                    os.unlink(name, dir_fd=directory)


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
        aside: Callable[[Callable[[], Any], str], asyncio.Future[Any]] = in_thread,
    ) -> None:
        """`on_event(kind, **fields)` hears when the file is used. `wall_clock`: since 1970.
        `aside` does what may never end."""
        super().__init__(inner, on_event)
        self._path = path
        self._file = SnapshotFile(path)
        self._busy: asyncio.Future[Any] | None = None
        """What is done with the file at this moment; it may never be over."""
        self._wall_clock = wall_clock
        self._aside = aside
        self._membership: Membership | None = None
        self._in_use = False
        self._saved_at: float | None = None
        self._error: str | None = None
        self._failures = 0
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
                path=self._path,
                in_use=self._in_use,
                age=None if age is None else round(age, 3),
                error=self._error,
                failures=self._failures,
            ),
        )

    async def close(self) -> None:
        if self._busy is not None:
            # What is written completely by then need not be swept up by the next one.
            await asyncio.wait([self._busy], timeout=LAST_WRITE)
        if self._busy is None or self._busy.done():
            self._file.close()
        await super().close()

    def _work(self) -> Sequence[Coroutine[Any, Any, None]]:
        return (self._follow(), self._recall(), self._remember())

    def _current(self) -> Membership | None:
        return self._membership

    async def _follow(self) -> None:
        async for membership in self._inner.watch():
            self._membership = membership
            if self._in_use:
                self._in_use = False
                log.info("snapshot_replaced", path=self._path)
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
            snapshot = await self._done(self._file.load, "snapshot_ignored", "read")
        except SnapshotError as error:
            self._failed("snapshot_ignored", str(error))
            return
        if snapshot is None or self._heard.is_set():
            return
        self._membership = snapshot.membership
        self._saved_at = snapshot.saved_at
        self._in_use = True
        age = max(0.0, self._wall_clock() - snapshot.saved_at)
        instances = sum(map(len, snapshot.membership.services.values()))
        log.warning("snapshot_used", path=self._path, age=round(age, 1), instances=instances)
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
            save = partial(self._file.save, membership, now)
            try:
                await self._done(save, "snapshot_not_written", "written")
            except SnapshotError as error:
                self._failed("snapshot_not_written", str(error))
                continue
            if self._error is not None:
                log.info("snapshot_written_again", path=self._path)
            self._saved_at, self._error = now, None

    async def _done(self, work: Callable[[], T], event: str, how: str) -> T:
        """Do something with the file, however long it takes: the next thing could only hang, too.
        But say so."""
        busy: asyncio.Future[T] = self._aside(work, "snapshot file")
        self._busy = busy
        done, _ = await asyncio.wait([busy], timeout=SLOW)
        if not done:
            self._failed(event, f"is not {how} after {SLOW:g} s")
        return await asyncio.shield(busy)

    def _failed(self, event: str, error: str) -> None:
        """Once for each reason, since it is tried again all the time."""
        self._failures += 1
        if self._error != error:
            log.error(event, path=self._path, error=error)
        self._error = error


def _refused(status: RegistryStatus) -> bool:
    """The registry has given an error instead of an answer, and so have its backups."""
    if status.sources:
        return all(source.alive is False for source in status.sources)
    return not status.connected and status.last_error is not None
