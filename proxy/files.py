"""Opening files under names that somebody else may have prepared.

Logs and snapshots may be in a directory where others may write: /tmp, a volume, one that was given
to another service. Who may write there can put a link in the place of the file, and has what we
write, with our rights, put into any other; or a named pipe, which holds up whoever opens it. So
paths are walked one name at a time, and no opening waits. Why these rules:
docs/decisions/0015-files.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Collection, Iterator
from typing import NamedTuple

MAX_LINKS = 40
"""On one path; the kernel's own limit (path_resolution(7))."""

REGULAR = (stat.S_IFREG,)

_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILES = re.compile(r"/proc/([0-9]+)(?:/task/[0-9]+)?/fd")
"""Where names stand for what a process has open (proc(5))."""

_WORDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a device",
}


class Refused(OSError):
    """A file that is not opened; `strerror` says why."""

    def __init__(self, words: str) -> None:
        super().__init__(errno.EINVAL, words)


class Place(NamedTuple):
    """Where a path leads to."""

    directory: int
    """A descriptor of the directory, good for names in it only."""
    name: str
    """A name there, of no link when it was looked at."""
    found: os.stat_result | None
    """File that the name stood for; None = there was none."""
    exposed: bool
    """Whether users other than root and us may put something there."""
    given: int | None = None
    """Descriptor of ours, 1 or 2, whose open file the name stands for; None = it stands for no such
    file."""


@contextlib.contextmanager
def locate(path: str) -> Iterator[Place]:
    """The directory and the name that a path leads to. A link, at its end or on the way, is
    followed only if root or us has put it there: it belongs to one of them and so does its
    directory, in which not everybody may write. OSError; Refused for any other link."""
    walk = _Walk(path)
    try:
        yield walk.end()
    finally:
        walk.close()


def open_at(place: Place, flags: int, mode: int = 0o600, kinds: Collection[int] = REGULAR) -> int:
    """A descriptor, not blocking, of what is at a place; of another kind than these (`S_IFREG`
    and so on) it is refused. In an exposed place a file is one that nobody else can have put
    there: with one name, and of root or us if it is to be read or the directory is sticky, where
    only its owner may remove it. OSError."""
    if place.given is not None:
        return os.dup(place.given)
    if place.found is not None:
        _check_kind(place.found, kinds)
    try:
        fd = os.open(place.name, flags | _SAFELY, mode, dir_fd=place.directory)
    except OSError as error:
        if error.errno == errno.ENXIO and place.found is not None:
            raise Refused("is a named pipe that nobody reads") from None
        raise
    try:
        found = os.fstat(fd)
        _check_kind(found, kinds)
        if place.exposed and stat.S_ISREG(found.st_mode):
            _check_exposed(found, place.directory, flags)
    except OSError:
        os.close(fd)
        raise
    return fd


def read(path: str, limit: int) -> bytes:
    """The bytes of a regular file, one more than `limit` at most, whoever owns it: for what an
    operator names to be read. A pipe is read, too, if it was open when this process began, as in
    `-c /dev/stdin`. OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise Refused("is a socket") from None
        raise
    try:
        if _OPEN_FILES.fullmatch(os.path.dirname(os.path.realpath(path))):
            os.set_blocking(fd, True)
        else:
            _check_kind(os.fstat(fd), REGULAR)
    except OSError:
        os.close(fd)
        raise
    with open(fd, "rb") as file:
        # Nothing, if there could be more and one would have to wait for it.
        return file.read(limit + 1) or b""


def replace(path: str, content: bytes) -> None:
    """Put a new file, readable for its owner only, in the place of the one at a path: who reads it
    gets the old or the new one whole. OSError; Refused where others may put files, too."""
    with locate(path) as place:
        if place.exposed:
            raise Refused("is in a directory that others may write to")
        new = f".{place.name}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        fd = os.open(new, flags | _SAFELY, 0o600, dir_fd=place.directory)
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.replace(new, place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)


def _check_kind(found: os.stat_result, kinds: Collection[int]) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind not in kinds:
        raise Refused(f"is {_WORDS.get(kind, 'a link')}")


def _check_exposed(found: os.stat_result, directory: int, flags: int) -> None:
    if found.st_nlink > 1:
        raise Refused("has another name, and others may write to its directory")
    sticky = os.stat(directory).st_mode & stat.S_ISVTX
    if not _is_ours(found) and (sticky or flags & os.O_ACCMODE != os.O_WRONLY):
        raise Refused(f"belongs to user {found.st_uid}, and others may write to its directory")


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid in (0, os.geteuid())


class _Walk:
    """Owns a descriptor of the directory that was reached."""

    def __init__(self, path: str) -> None:
        self._links = 0
        self._left = _names(path)
        self._at = "/" if path.startswith("/") else "."
        self._directory = os.open(self._at, _DIRECTORY)

    def close(self) -> None:
        os.close(self._directory)

    def end(self) -> Place:
        """Where the last name is."""
        while self._left:  # ≤ thread
            name = self._left.pop()
            try:
                found = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
            except FileNotFoundError:
                found = None
            if found is not None and stat.S_ISLNK(found.st_mode):
                open_file = _OPEN_FILES.fullmatch(self._at)
                if open_file is not None and not self._left:
                    return self._place(name, found, _standard(int(open_file[1]), name))
                self._follow(name, found)
            elif self._left:
                self._enter(name)
            else:
                return self._place(name, found)
        raise Refused("is a directory")

    def _place(self, name: str, found: os.stat_result | None, given: int | None = None) -> Place:
        exposed = _exposes(os.stat(self._directory)) != ""
        return Place(self._directory, name, found, exposed, given)

    def _enter(self, name: str) -> None:
        """Into a directory of this one, or to the root."""
        directory = os.open(name, _DIRECTORY, dir_fd=self._directory)
        self.close()
        self._directory = directory
        self._at = os.path.join(self._at, name)

    def _follow(self, name: str, link: os.stat_result) -> None:
        self._links += 1
        if self._links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        whose = f" of user {link.st_uid}" if not _is_ours(link) else ""
        where = _exposes(os.stat(self._directory))
        if whose or where:
            at = os.path.join(self._at, name)
            raise Refused(f"{at} is a link{whose}{where}, which is not followed")
        target = os.readlink(name, dir_fd=self._directory)
        if target.startswith("/"):
            self._enter("/")
        self._left += _names(target)


def _names(path: str) -> list[str]:
    """The last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _exposes(directory: os.stat_result) -> str:
    """The reason why users other than root and us may put something into a directory; "" = none.
    Its group is trusted: a file that it could put there belongs to neither."""
    if not _is_ours(directory):
        return f" in a directory of user {directory.st_uid}"
    if directory.st_mode & stat.S_IWOTH:
        return " in a directory that everybody may write to"
    return ""


def _standard(process: int, name: str) -> int:
    """The number of one of our descriptors, as /dev/stdout is 1. Raises `Refused` unless it is 1 or
    2."""
    if process != os.getpid() or name not in ("1", "2"):
        raise Refused("is a descriptor other than /dev/stdout and /dev/stderr")
    return int(name)
