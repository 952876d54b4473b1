"""Numbers of a listener's connections, and whether it is left."""

from __future__ import annotations

from typing import Final

_GOLDEN: Final = 0.618034
"""Multiples of the golden ratio are spread evenly, however many there are."""


class ListenerCounts:
    """Owns the counts of one listener's connections, whichever configuration they began under."""

    __slots__ = ("_spread", "handshakes", "leaving", "open")

    def __init__(self) -> None:
        self.open = 0
        self.handshakes = 0
        """TLS handshakes under way, which count as open, too."""
        self.leaving = False
        """The worker stops, or the listener is gone: answers end their connections."""
        self._spread = 0.0

    def age(self, limit: float) -> float:
        """How old another connection may become: within a tenth of `limit`, so that those that
        came together do not come again together."""
        self._spread = (self._spread + _GOLDEN) % 1.0
        return limit * (0.9 + 0.2 * self._spread)
