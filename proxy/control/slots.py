"""The columns of the in-flight board, by instance, and its rows. Pure: `now` is an argument."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from typing import NamedTuple

from proxy.engine.load import Board
from proxy.membership import Instance

SLOT_REST = 5.0
"""Seconds a freed board column stays unused. A worker that has not applied the removal yet may
still pick the old instance; that takes milliseconds, or a worker is about to be replaced."""

_SLOT_LOOKS = 8
"""Resting columns looked at for each new instance, so that a mass registration while thousands
of tunnels hold their columns stays cheap."""

_LEFT = 1000
"""Instances that left and are told of until their last request ends: a rolling deployment of a
large service, and more than anybody reads."""


class Left(NamedTuple):
    """An instance that left while something may be in flight on it."""

    instance: Instance
    slot: int
    since: float


class Slots:
    """Owns the columns of the in-flight board: which instance counts where.

    Column 0 belongs to nobody; an instance gets it when all others are taken, and is then
    counted within each worker only.
    """

    def __init__(self, capacity: int, idle: Callable[[int], bool]) -> None:
        """`capacity`: columns of the board, column 0 included; `idle`: is it zero in all rows?"""
        self._capacity = capacity
        self._idle = idle
        self._held: dict[tuple[str, str], int] = {}
        self._resting: dict[tuple[str, str], tuple[int, float]] = {}
        """In the order they were freed."""
        self._fresh = 1
        self._left: dict[tuple[str, str], Left] = {}  # ≤ 2 * _LEFT * 1024

    def take(self, service: str, key: str, now: float) -> int:
        """The column of this instance. One that comes back gets the column it had, because
        requests from before it left may still count there."""
        name = (service, key)
        if name in self._held:
            return self._held[name]
        if name in self._resting:
            slot, _ = self._resting.pop(name)
            self._left.pop(name, None)
        else:
            slot = self._reusable(now)
            if not slot and self._fresh < self._capacity:
                slot = self._fresh
                self._fresh += 1
        if slot:
            self._held[name] = slot
        return slot

    def _reusable(self, now: float) -> int:
        # Old columns before new ones: workers compare the board up to the highest in use.
        for name, (slot, since) in list(itertools.islice(self._resting.items(), _SLOT_LOOKS)):
            if now - since < SLOT_REST:
                break
            del self._resting[name]
            if self._idle(slot):
                self._left.pop(name, None)
                return slot
            self._resting[name] = (slot, now)
        return 0

    def free(self, service: str, instance: Instance, now: float) -> None:
        """The instance left. Its column rests until nothing counts in it any more."""
        name = (service, instance.key)
        slot = self._held.pop(name, 0)
        if slot:
            self._resting[name] = (slot, now)
            self._left[name] = Left(instance, slot, now)
            if len(self._left) >= 2 * _LEFT:
                self._left = dict([*self.left().items()][-_LEFT:])

    def left(self) -> dict[tuple[str, str], Left]:
        """Instances that left and have something in flight still, by service and key."""
        return {name: one for name, one in self._left.items() if not self._idle(one.slot)}


class Rows:
    """Owns which rows of the board are in use: each worker process has one to itself, from before
    its start until it is gone."""

    def __init__(self, board: Board, changed: Callable[[], None]) -> None:
        """`changed` is called whenever `board.alive` is another one."""
        self._board = board
        self._capacity = len(board.alive)
        self._changed = changed
        board.alive = ()

    def take(self) -> int:
        """A row for a process that is about to start. OSError when there is none."""
        alive = self._board.alive
        row = next((row for row in range(self._capacity) if row not in alive), None)
        if row is None:
            raise OSError(errno.EAGAIN, f"{self._capacity} workers run or finish already")
        self._use((*alive, row))
        return row

    def free(self, row: int) -> None:
        """The process is gone, and whatever it had in flight."""
        self._board.clear_row(row)
        self._use(tuple(one for one in self._board.alive if one != row))

    def _use(self, alive: tuple[int, ...]) -> None:
        self._board.alive = alive
        self._changed()
