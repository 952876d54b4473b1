"""Possessions of a listener that its connections share, whichever configuration they began under:
how many they are, whether it is left, and its filters."""

from __future__ import annotations

from typing import Final

from proxy.engine.filters import Links

_GOLDEN: Final = 0.618034
"""Multiples of the golden ratio are spread evenly, however many there are."""


class ListenerCounts:
    """Owns the counts of one listener's connections, whichever configuration they began under."""

    __slots__ = (
        "_by_client", "_spread", "filters", "handshakes", "leaving", "open", "per_client",
    )  # fmt: skip

    def __init__(self) -> None:
        self.open = 0
        self.handshakes = 0
        """TLS handshakes under way, which count as open, too."""
        self.per_client = 0
        """Connections that one client may have; 0 = no limit."""
        self._by_client: dict[bytes, int] = {}  # ≤ 1 KiB + 200 B per connection
        """Address → connections, of those that came while there was a limit."""
        self.leaving = False
        """The worker stops, or the listener is gone: answers end their connections."""
        self.filters: Links = ()
        """Of the configuration in force."""
        self._spread = 0.0

    def enter(self, client: bytes) -> bool:
        """Count one more connection of an address. False: there are more than there may be."""
        count = self._by_client[client] = self._by_client.get(client, 0) + 1
        return count <= self.per_client

    def leave(self, client: bytes) -> None:
        """Count one less, if it was counted."""
        count = self._by_client.pop(client, 0) if self._by_client else 0
        if count > 1:
            self._by_client[client] = count - 1

    def age(self, limit: float) -> float:
        """How old another connection may become: within a tenth of `limit`, so that those that
        came together do not come again together."""
        self._spread = (self._spread + _GOLDEN) % 1.0
        return limit * (0.9 + 0.2 * self._spread)
