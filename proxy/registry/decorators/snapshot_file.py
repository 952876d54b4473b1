"""The file with a snapshot, which one proxy writes and any may read.

A new one is written beside it, synchronised and renamed, so there always is a whole one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat

from proxy import files
from proxy.membership import Membership
from proxy.registry.decorators.snapshot import Snapshot, SnapshotError, decode, encode

MAX_FILE = 256 * 1024 * 1024
"""Bytes: some 800,000 instances. What is larger was not written by us."""


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
        """Read the file; None if there is none. SnapshotError if it cannot be used."""
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
    """The beginning of the names of new files, until they take the place of the old one."""
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
