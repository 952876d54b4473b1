"""Objects that the garbage collector need not look at, although they live: decision 7."""

from __future__ import annotations

import gc
from typing import Final

_LEAST: Final = 1000
"""Connections of which the collector may look at all: below a millisecond."""


class Collector:
    """Owns how many connections there were when what exists was frozen last.

    CPython walks all containers that came since, each time that these are a quarter more. With ten
    thousand connections that is 7 % of a worker's time, and what it finds is that they live.
    """

    __slots__ = ("_own", "_seen")

    def __init__(self, own: bool = True) -> None:
        """`own`: the process is the worker's. A program that it lives in goes on making cycles of
        what is there, which nobody would collect any more."""
        self._own = own
        self._seen = 0

    def spare(self, collect: bool) -> None:
        """Freeze what exists now, since it lives as long as the process. `collect`: first all that
        does not, which holds up whoever is served."""
        if self._own:
            if collect:
                gc.collect()
            gc.freeze()

    def look(self, connections: int) -> None:
        """Freeze again where there are twice as many connections as then. What is young is
        collected first; what is not was looked at before."""
        if connections >= 2 * max(self._seen, _LEAST // 2):
            self._seen = connections
            if self._own:
                gc.collect(1)
                gc.freeze()
        elif connections < self._seen // 4:
            self._seen = connections
