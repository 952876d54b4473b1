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

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen = 0

    def look(self, connections: int) -> None:
        """Freeze again where there are twice as many connections as then. What is young is
        collected first; what is not was looked at before."""
        if connections >= 2 * max(self._seen, _LEAST // 2):
            self._seen = connections
            gc.collect(1)
            gc.freeze()
        elif connections < self._seen // 4:
            self._seen = connections
