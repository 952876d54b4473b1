"""Numbers of a listener's connections, and whether it is left."""

from __future__ import annotations


class ListenerCounts:
    """Owns the counts of one listener's connections, whichever configuration they began under."""

    __slots__ = ("handshakes", "leaving", "open")

    def __init__(self) -> None:
        self.open = 0
        self.handshakes = 0
        """TLS handshakes under way, which count as open, too."""
        self.leaving = False
        """The worker stops, or the listener is gone: answers end their connections."""
