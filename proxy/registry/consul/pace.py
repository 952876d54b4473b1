"""How soon the lists of one service are asked for again. Pure: times are arguments, in seconds."""

from __future__ import annotations

from typing import Final

GAP: Final = 0.05
GAP_LIMIT: Final = 1.0
"""Seconds between two requests. A list of a thousand instances has 640 KB, and the next one has all
that changed meanwhile."""
SHARE: Final = 1 / 20
"""Part of a CPU that one service may keep busy for long."""
CREDIT: Final = 1.0
"""Seconds of work that it may have had beyond that: single changes, and a redeployment, are not to
wait for each other."""


class Pace:
    """Owns how much work one service has had beyond its share."""

    def __init__(self, now: float) -> None:
        self._credit = CREDIT
        self._at = now

    def gap(self, began: float, now: float, *, held: bool = True) -> float:
        """Seconds until the next request, behind a list whose work lasted from `began` until
        `now`. Not `held`: it came at once and is the one before, as from something in front of an
        agent that does not pass on what is to be waited for."""
        if not held:
            return GAP_LIMIT
        earned = (began - self._at) * SHARE
        self._credit = min(CREDIT, self._credit + earned) - (now - began)
        self._at = now
        return GAP if self._credit > 0 else min(GAP_LIMIT, max(GAP, (now - began) / SHARE))
