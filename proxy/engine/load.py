"""Requests in flight per instance, across worker processes.

The board is one shared anonymous file: a row per worker process, a column ("slot") per instance,
32-bit counters. A worker writes only its own row, so no lock and no atomic operation is
needed: its own counts are exact, the others' are as old as its last look. Rows and slots are
assigned by the control process (`control/slots.py`); slot 0 belongs to nobody, so instances
beyond the board's capacity write there harmlessly and are counted within one worker only. There
are more rows than workers, since one that finishes and its successor count at the same time;
those in which nobody counts are looked at by nobody.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence

from proxy.engine.resilience import limits

SLOTS = 1 << 16
"""Columns: more instances than one proxy is asked to hold (the plan's scale is 20,000), at
256 KiB per worker, of which only touched pages cost memory."""

ROWS = 1 << 10
"""Four times the most workers that may be configured: each may have a predecessor that finishes,
and those that a reload took away may do so, too."""

_ITEM = 4
_LEAF = 32
"""Bytes, eight slots: below this a loop over the counters is quicker than halving again."""


class Board:
    """Owns the mapping of the shared file. Rows are memoryviews of signed 32-bit counters."""

    def __init__(self, fd: int, rows: int) -> None:
        self.fd = fd
        self.alive: Sequence[int] = range(rows)  # ≤ 64 B per worker
        """Rows in which somebody may count."""
        rows *= SLOTS * _ITEM
        self._map = mmap.mmap(fd, rows + limits.SIZE)
        self._memory = memoryview(self._map)
        self._bytes = self._memory[:rows]
        self._cells = self._bytes.cast("i")
        self.buckets = self._memory[rows:]
        """Room for the rate limits, which workers share like the board."""

    @classmethod
    def create(cls, rows: int) -> Board:
        """A new board, all zero but for a new secret of the rate limits. The file has no name and
        goes with its last user."""
        fd = os.memfd_create("fairlead-load", os.MFD_CLOEXEC)
        os.ftruncate(fd, rows * SLOTS * _ITEM + limits.SIZE)
        board = cls(fd, rows)
        board.buckets[: limits.SECRET] = os.urandom(limits.SECRET)
        return board

    def row(self, row: int) -> memoryview[int]:
        """The counters of one worker; only that worker may write to them."""
        return self._cells[row * SLOTS : (row + 1) * SLOTS]

    def row_bytes(self, row: int) -> memoryview[int]:
        """The same row as raw bytes, for cheap comparison."""
        return self._bytes[row * SLOTS * _ITEM : (row + 1) * SLOTS * _ITEM]

    def total(self, slot: int) -> int:
        """In flight on one instance in all workers."""
        cells = self._cells
        return sum([cells[slot + row * SLOTS] for row in self.alive])

    def idle(self, slot: int) -> bool:
        """No worker counts anything in this column, so it may go to another instance."""
        cells = self._cells
        return all(cells[slot + row * SLOTS] == 0 for row in self.alive)

    def clear_row(self, row: int) -> None:
        """Forget what a dead worker had in flight, and give its memory back."""
        self._map.madvise(mmap.MADV_REMOVE, row * SLOTS * _ITEM, SLOTS * _ITEM)

    def close(self) -> None:
        """Unmap and close. The board must not be used afterwards."""
        self._cells.release()
        self._bytes.release()
        self.buckets.release()
        self._memory.release()
        self._map.close()
        os.close(self.fd)


class OtherRows:
    """Owns this worker's copy of the other workers' rows and reports what changed in them.

    `refresh` compares the copy with the board. It is called for each pick of a balancer that
    looks at load, and in all but huge installations it does look each time: two workers that
    see each other's counts a millisecond late fill the same gap twice, and least-connections
    then misses its promise (a difference of 2 at most).
    """

    _PAUSE = 5e-9
    """Seconds until the next look for each byte compared. A large row is copied and compared at
    a quarter of a nanosecond for each byte, so looking takes a twentieth of the time at most:
    with 20,000 instances the copy may be 0.4 ms old, with a hundred 2 µs."""

    def __init__(self, board: Board, own: int, changed: Callable[[int, int], None]) -> None:
        """`own`: this worker's row; `changed(slot, delta)` hears by how much the other workers' sum
        moved."""
        self._board = board
        self._own = own
        self._numbers: list[int] = []  # ≤ 1 KiB per worker
        self._rows: list[memoryview[int]] = []  # ≤ 1 KiB per worker
        self._copies: list[bytes] = []  # ≤ 512 KiB per worker
        """The rows as last seen. A part behind the end of a copy counts as 0."""
        self._changed = changed
        self._due = 0.0
        self.looks = 0
        """How often the rows were looked at."""
        self.used = 0
        """Bytes of each row that are in use; the engine raises it as slots come up."""
        self.follow(board.alive)

    def follow(self, alive: Sequence[int]) -> None:
        """From here on these rows are looked at. What those counted that are gone is over."""
        copies = dict(zip(self._numbers, self._copies, strict=True))
        self._board.alive = alive
        self._numbers = [row for row in alive if row != self._own]
        self._rows = [self._board.row_bytes(row) for row in self._numbers]
        self._copies = [copies.pop(row, b"") for row in self._numbers]
        for copy in copies.values():  # ≤ workers
            self._report(copy, bytes(len(copy)), 0)

    def refresh(self, now: float) -> None:
        """Bring the copy up to date, unless that was done a moment ago."""
        if now < self._due:
            return
        self.looks += 1
        used = self.used
        copies = self._copies
        for index, row in enumerate(self._rows):  # ≤ workers
            # One copy and one comparison in C, whatever the size.
            seen = bytes(row[:used])
            if seen != copies[index]:
                before = copies[index].ljust(used, b"\0")
                copies[index] = seen
                self._report(before, seen, 0)
        self._due = now + used * len(copies) * self._PAUSE

    def _report(self, before: bytes, after: bytes, start: int) -> None:
        """Say which counters differ. Few do, so halves that are equal are left out at once;
        `start` is where in the row the two stand."""
        if len(after) > _LEAF:
            half = len(after) // (2 * _ITEM) * _ITEM
            for part in (slice(half), slice(half, None)):
                if before[part] != after[part]:
                    self._report(before[part], after[part], start + (part.start or 0))
            return
        pairs = zip(memoryview(before).cast("i"), memoryview(after).cast("i"), strict=True)
        for slot, (old, new) in enumerate(pairs, start // _ITEM):  # ≤ instances
            if old != new:
                self._changed(slot, new - old)

    def known(self, slot: int) -> int:
        """The others' sum for one slot as of the last look: where a new node starts from."""
        at = slot * _ITEM
        return sum(
            int.from_bytes(copy[at : at + _ITEM], "little", signed=True) for copy in self._copies
        )
