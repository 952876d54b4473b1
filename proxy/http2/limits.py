"""How much of what costs more than it is worth one peer may do to a connection (RFC 9113 §10.5).

HTTP/2 has a dozen things that are cheap to send and dear to get: each has been an attack with a
name. Fixed numbers for them hit honest peers that work a lot, so most are budgets that work itself
fills: a cancelled request is forgiven by an answered one, a PING by content. An honest peer does
not come near them; one that does nothing else has its burst, and then a trickle.

What is too much raises `GoAway` with ENHANCE_YOUR_CALM and a word of its own. Limits that a single
frame can break are the reader's (`frames`), those of a head are its reader's (`heads`).
"""

from __future__ import annotations

from typing import Final

from proxy.http2.errors import ENHANCE_YOUR_CALM, GoAway

RESETS: Final = 200
RESETS_A_SECOND: Final = 20
"""Streams that end without a whole answer of ours, whoever ends them (CVE-2023-44487, and
CVE-2025-8671, where it is us). A browser that leaves a page of hundreds of pictures stays below;
Envoy gives up at 250."""
_VIOLATION: Final = 10
"""Resets that a violation of the protocol counts for: no correct peer commits any."""
CONTROL: Final = 1000
CONTROL_A_SECOND: Final = 100
"""PING, SETTINGS, PRIORITY, frames that mean nothing, and DATA without content (CVE-2019-9512,
-9513, -9515, -9518), beyond one for each frame of content either way: some clients measure the
round trip with a PING for each."""
UPDATES: Final = 100
UPDATES_EARNED: Final = 10
"""WINDOW_UPDATE frames at first, and for each stream and frame of content that we send
(CVE-2019-9511); Envoy has the latter number."""
_MOST_UPDATES: Final = 10_000
ACKS: Final = 100
"""Acknowledgements that wait for a peer that does not read (CVE-2019-9512): they are the one thing
that we write without being able to wait."""


class Budget:
    """Owns a bucket of tokens that fills with time, and with what deserves it."""

    __slots__ = ("_burst", "_left", "_rate", "_then")

    def __init__(self, burst: float, rate: float, now: float) -> None:
        """`burst`: tokens of a full bucket, which it is at first; `rate`: tokens a second."""
        self._burst = burst
        self._rate = rate
        self._left = burst
        self._then = now

    def spend(self, tokens: float, now: float) -> bool:
        """Whether there were as many."""
        left = min(self._left + (now - self._then) * self._rate, self._burst) - tokens
        self._left = left
        self._then = now
        return left >= 0

    def earn(self, tokens: float) -> None:
        """So many more, as far as the bucket holds them."""
        self._left = min(self._left + tokens, self._burst)


class ConnectionLimits:
    """Owns what one peer has cost so far."""

    __slots__ = ("_acks", "_control", "_resets", "_updates")

    def __init__(self, now: float) -> None:
        self._resets = Budget(RESETS, RESETS_A_SECOND, now)
        self._control = Budget(CONTROL, CONTROL_A_SECOND, now)
        self._updates = UPDATES
        self._acks = 0

    # -- streams

    def begin_stream(self) -> None:
        """The peer has opened a stream."""
        self._earn()

    def end_stream(self) -> None:
        """A stream has ended with a whole answer of ours."""
        self._resets.earn(1)

    def lose_stream(self, now: float) -> None:
        """A stream has ended without one, by a RST_STREAM of either side."""
        self._lose(1, now)

    def note_violation(self, now: float) -> None:
        """A stream has ended because the peer broke the protocol on it."""
        self._lose(_VIOLATION, now)

    def _lose(self, tokens: float, now: float) -> None:
        if not self._resets.spend(tokens, now):
            raise _calm("too many streams end without an answer", "rapid_reset")

    # -- frames

    def note_control(self, now: float) -> None:
        """A frame has come that brings no request on, and is no RST_STREAM or WINDOW_UPDATE."""
        if not self._control.spend(1, now):
            raise _calm("too many frames that bring no request on", "control_flood")

    def note_received(self) -> None:
        """DATA with content have come."""
        self._control.earn(1)

    def note_sent(self) -> None:
        """DATA with content were sent."""
        self._earn()

    def _earn(self) -> None:
        self._control.earn(1)
        self._updates = min(self._updates + UPDATES_EARNED, _MOST_UPDATES)

    def note_update(self) -> None:
        """WINDOW_UPDATE has come."""
        self._updates -= 1
        if self._updates < 0:
            raise _calm("too many WINDOW_UPDATE frames", "window_flood")

    # -- what we write

    def queue_ack(self) -> None:
        """PING or SETTINGS are acknowledged, and the peer may have stopped reading."""
        self._acks += 1
        if self._acks > ACKS:
            raise _calm("acknowledgements are not read", "ack_flood")

    def flush_acks(self) -> None:
        """The peer has been sent all there was."""
        self._acks = 0


def _calm(detail: str, reason: str) -> GoAway:
    return GoAway(ENHANCE_YOUR_CALM, detail, reason)
