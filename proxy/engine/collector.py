"""When the garbage collector looks at what a worker has, and at how much of it: decision 7."""

from __future__ import annotations

import gc
import sys
from typing import Final

_LEAST: Final = 1000
"""Connections of which the collector may look at all: some milliseconds."""
_NEVER: Final = 1 << 30
_THRESHOLDS: Final = (100, 5, _NEVER)
"""Objects made, less those gone, until what is young is looked at, and such looks until what has
survived one is. With thousands of requests under way as many end as begin: the difference of 700
would come about once in a second, with all of them young, 16 ms of looking."""
_LOOKS: Final = 60
"""Looks of the worker from one collection of everything to the next, and ten times as many while it
has `_LEAST` connections. None happens by itself: with ten thousand it may take 30 ms."""
_GROWTH: Final = 2.0
"""Times the memory in use after which the next one is due at once. Connections that have not
doubled do not double it, nor do requests on all of them."""


class Collector:
    """Owns how many connections there were when what exists was frozen last, and when everything is
    collected next.

    CPython walks all containers that came since, each time that these are a quarter more. With ten
    thousand connections that is 7 % of a worker's time, and what it finds is that they live.
    """

    __slots__ = ("_least", "_looks", "_own", "_seen", "_thaw")

    def __init__(self, own: bool = True) -> None:
        """`own`: the process is the worker's. A program that it lives in goes on making cycles of
        what is there, which nobody would collect any more."""
        self._own = own
        self._seen = 0
        self._thaw = False
        """Cycles of connections that have gone, which were most, may be among what is frozen."""
        self._looks = 0
        """Since everything was collected."""
        self._least = 0
        """Blocks of memory, the fewest seen since then."""

    def spare(self, collect: bool) -> None:
        """Freeze what exists now, since it lives as long as the process. `collect`: first all that
        does not, which holds up whoever is served."""
        if self._own:
            if collect:
                gc.unfreeze()  # A worker of this process that was there before may be among it.
                gc.collect()
            gc.freeze()
            gc.set_threshold(*_THRESHOLDS)
            self._least = sys.getallocatedblocks()

    def look(self, connections: int) -> None:
        """Freeze again where there are twice as many connections as then. What is young is
        collected first; what is not was looked at before, or is when everything is."""
        if not self._own:
            return
        many = connections >= _LEAST
        self._looks += 1
        blocks = sys.getallocatedblocks()
        if connections >= 2 * max(self._seen, _LEAST // 2):
            self._seen = connections
            gc.collect(1)
            gc.freeze()
            self._least = blocks
        elif self._looks >= (10 * _LOOKS if many else _LOOKS) or blocks > _GROWTH * self._least:
            self._collect(many)
        else:
            self._least = min(self._least, blocks)
        if connections < self._seen // 4:
            self._seen = connections
            self._thaw = True

    def _collect(self, many: bool) -> None:
        thaw = self._thaw and not many
        if thaw:
            self._thaw = False
            gc.unfreeze()
        gc.collect()
        if thaw:
            gc.freeze()
        self._looks = 0
        self._least = sys.getallocatedblocks()
