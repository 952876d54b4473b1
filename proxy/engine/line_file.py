"""Lines appended to a file, to the standard output or to standard error, by a thread.

A disk may be slow, the reader of a pipe may have stopped, and neither may ever keep a request
waiting: so the loop only hands lines over, and the thread does the waiting. What it cannot get rid
of is dropped and counted.
"""

from __future__ import annotations

import os
import select
import stat
import threading
from collections.abc import Iterator
from enum import Enum
from queue import SimpleQueue
from select import PIPE_BUF
from time import monotonic

import structlog

from proxy import files

_log = structlog.get_logger()

STDOUT = "-"
STDERR = "2>"
MAX_WAITING = 4 * 1024 * 1024
"""Bytes handed over and not written: some ten thousand lines, the time in which a disk that is
busy for a second recovers; more would only make a worker large."""
_EACH = 512
"""Bytes that lines which are handed over together take besides themselves."""
TRY_AGAIN = 1.0
"""Seconds between two attempts to open a file that could not be opened."""
PATIENCE = 1.0
"""Seconds for a reader that has made its pipe non-blocking to take more."""
MODE = 0o640
"""Of a new file: addresses of clients are not for everybody."""


class _Order(Enum):
    REOPEN = "reopen"
    END = "end"


def open_for_append(path: str) -> int:
    """A descriptor that every write of which goes behind what others wrote. OSError when there is
    none to be had, also for a named pipe that nobody reads, for a disk, and for a link that
    others may have put there."""
    with files.locate(path) as place:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        fd = files.open_at(place, flags, MODE, (stat.S_IFREG, stat.S_IFIFO, stat.S_IFCHR))
    if place.given is None:
        os.set_blocking(fd, True)  # Only the opening was not to wait.
    return fd


class LineFile:
    """Owns the descriptor, the thread that writes to it, and what waits to be written.

    Each line is written whole, or at least ends before the next one begins, also when several
    processes write to the same place: a file takes any write in one piece at its end, a pipe takes
    up to PIPE_BUF bytes in one piece.
    """

    def __init__(self, path: str) -> None:
        """`path`: a file, which is tried again if it cannot be opened, or `STDOUT` or `STDERR`,
        which are open already and are not closed."""
        self._path = path
        self._given = {STDOUT: 1, STDERR: 2}.get(path)
        self._fd = -1
        self._in_one_piece = False
        self._torn = False
        """The last line in the file has no end."""
        self._retry_at = 0.0
        self.error = ""
        """The latest failure to write or open; "" = none."""
        # Written by the loop only:
        self._handed_over = 0
        self._refused = 0
        # Written by the thread only:
        self._disposed = 0
        self._lost = 0
        self._orders: SimpleQueue[tuple[memoryview, int] | _Order] = (
            SimpleQueue()
        )  # ≤ MAX_WAITING + 512 KiB
        # A daemon: one that hangs in a write does not keep the process.
        self._thread = threading.Thread(target=self._run, name="line file", daemon=True)
        self._thread.start()

    # -- the loop's side

    @property
    def dropped(self) -> int:
        """Lines that were not written."""
        return self._refused + self._lost

    def put(self, lines: memoryview, count: int) -> None:
        """Hand over so many whole lines. The bytes belong to the file from here on."""
        if self._handed_over - self._disposed > MAX_WAITING:
            self._refused += count
            self.error = self.error or "lines come faster than they are taken"
            return
        self._handed_over += len(lines) + _EACH
        self._orders.put((lines, count))

    def reopen(self) -> None:
        """Write the lines handed over from now on to the file that the path names then."""
        self._orders.put(_Order.REOPEN)

    def close(self, patience: float) -> None:
        """Write what was handed over, within so many seconds, and no more after that."""
        self._orders.put(_Order.END)
        if patience:
            self._thread.join(patience)

    # -- the thread's side

    def _run(self) -> None:
        self._open()
        while (order := self._orders.get()) is not _Order.END:  # ≤ thread
            if order is _Order.REOPEN:
                self._reopen()
            elif not isinstance(order, _Order):
                lines, count = order
                self._write(lines, count)
                self._disposed += len(lines) + _EACH
        self._end()

    def _end(self) -> None:
        if self._fd >= 0 and self._given is None:
            os.close(self._fd)

    def _open(self) -> bool:
        if self._fd >= 0:
            return True
        now = monotonic()
        if now < self._retry_at:
            return False
        try:
            self._use(open_for_append(self._path) if self._given is None else self._given)
        except OSError as error:
            self._retry_at = now + TRY_AGAIN
            self.error = f"cannot open {self._path}: {error.strerror or error}"
            if self._path != STDERR:  # Where that would be said.
                _log.error("access_log_not_opened", path=self._path, error=error.strerror)
            return False
        return True

    def _reopen(self) -> None:
        if self._given is not None:
            return
        try:
            new = open_for_append(self._path)
        except OSError as error:
            # The file that is open still takes lines, whatever it is called by now.
            self.error = f"cannot open {self._path}: {error.strerror or error}"
            _log.error("access_log_not_reopened", path=self._path, error=error.strerror)
            return
        if self._fd >= 0:
            os.close(self._fd)
        self._use(new)
        _log.info("access_log_reopened", path=self._path)

    def _use(self, fd: int) -> None:
        self._in_one_piece = stat.S_ISREG(os.fstat(fd).st_mode)
        self._fd = fd
        self._torn = False

    def _write(self, lines: memoryview, count: int) -> None:
        if not self._open():
            self._lost += count
            return
        for data in [lines] if self._in_one_piece else _pieces(bytes(lines)):  # ≤ thread
            self._append(data)

    def _append(self, data: memoryview) -> None:
        """Write one piece. What of it cannot be written is lost."""
        at = 0
        try:
            if self._torn:
                data = memoryview(b"\n" + data)
            while at < len(data):  # ≤ thread
                try:
                    at += os.write(self._fd, data[at:])
                except BlockingIOError:
                    self._await_room()
        except OSError as error:
            self.error = error.strerror or str(error)
            rest = bytes(data[at:])
            self._lost += rest.count(b"\n") - (self._torn and not at)
        if at:
            self._torn = data[at - 1] != ord("\n")

    def _await_room(self) -> None:
        """Wait for room in a descriptor that another process, which may share it, has made
        non-blocking. Raises `TimeoutError`."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(PATIENCE * 1000):
            raise TimeoutError("nobody reads")


def _pieces(lines: bytes) -> Iterator[memoryview]:
    """Whole lines, as many as a pipe takes at once."""
    view = memoryview(lines)
    at = 0
    while at < len(lines):  # ≤ thread
        end = lines.rfind(b"\n", at, at + PIPE_BUF) + 1
        if end <= at:  # A line that is longer.
            end = (lines.find(b"\n", at) + 1) or len(lines)
        yield view[at:end]
        at = end
