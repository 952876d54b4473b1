"""Chance decides about traces of requests, where no parent of theirs has."""

from __future__ import annotations

from collections.abc import Callable
from math import log1p
from typing import Final

from proxy.http.messages import RequestFields
from proxy.http.trace_context import Propagation

_NEVER: Final = 1 << 60


def gap(share: float, drawn: float) -> int:
    """How many requests in a row chance leaves out, where each is taken with the probability
    `share`: geometrically distributed, for `drawn` evenly from [0, 1). Once for each that is taken,
    it says the same as a number drawn for each request, and costs the others a subtraction."""
    if share >= 1.0:
        return 0
    if share <= 0.0:
        return _NEVER
    return int(min(log1p(-drawn) / log1p(-share), _NEVER))


class Sampling:
    """Owns how many requests chance leaves out before it takes one."""

    __slots__ = ("_draw", "_left", "_share", "propagation")

    def __init__(self, share: float, propagation: Propagation, draw: Callable[[], float]) -> None:
        """`draw`: a number from [0, 1), each as likely as the others."""
        self._share = share
        self.propagation = propagation
        self._draw = draw
        self._left = gap(share, draw())

    def leaves_out(self, fields: RequestFields) -> bool:
        """Whether a request certainly has no trace, as most: its block was seen before, names no
        parent, and chance is against it. Else `takes` is to be asked if it names none."""
        if self._left and fields.orphan is self.propagation:
            self._left -= 1
            return True
        return False

    def takes(self) -> bool:
        """Whether the next request has a trace that chance is to decide about."""
        if self._left:
            self._left -= 1
            return False
        self._left = gap(self._share, self._draw())
        return True
