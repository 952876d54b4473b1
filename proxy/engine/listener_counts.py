"""Possessions of a listener that its connections share, whichever configuration they began under:
how many they are, whether it is left, and its filters."""

from __future__ import annotations

from typing import Final

from proxy.engine.filters import Links

_GOLDEN: Final = 0.618034
"""Multiples of the golden ratio are spread evenly, however many there are."""


class ListenerCounts:
    """Owns the counts of one listener's connections, whichever configuration they began under."""

    __slots__ = ("_spread", "filters", "handshakes", "leaving", "open")

    def __init__(self) -> None:
        self.open = 0
        self.handshakes = 0
        """TLS handshakes under way, which count as open, too."""
        self.leaving = False
        """The worker stops, or the listener is gone: answers end their connections."""
        self.filters: Links = ()
        """Of the configuration in force."""
        self._spread = 0.0

    def age(self, limit: float) -> float:
        """How old another connection may become: within a tenth of `limit`, so that those that
        came together do not come again together."""
        self._spread = (self._spread + _GOLDEN) % 1.0
        return limit * (0.9 + 0.2 * self._spread)
