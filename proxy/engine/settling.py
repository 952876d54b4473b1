"""Work that a balancer puts off, done a little at a time while the worker serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from balancers.base import Balancer

_PAUSE: Final = 0.001
"""Seconds in which others have their turn, after at most half of that."""
_FIRST: Final = 4
"""Steps when something has changed: with a few instances that is all, and nobody sees the half."""


class Settling:
    """Owns which balancer of a pool is to go on, and when."""

    __slots__ = ("_balancer", "_later", "_raised", "_waits")

    def __init__(
        self,
        later: Callable[[float, Callable[[], None]], object],
        raised: Callable[[Exception], None],
    ) -> None:
        """`later`: calls something after so many seconds; `raised`: hears of what was raised."""
        self._later = later
        self._raised = raised
        self._balancer: Balancer | None = None
        """The one that has more to do, as far as is known."""
        self._waits = False

    def begin(self, balancer: Balancer) -> None:
        """Begin to settle this balancer, which has changed, instead of any other."""
        self._balancer = balancer
        if not self._waits:
            for _ in range(_FIRST - 1):  # ≤ _FIRST
                if not self._step():
                    return
            self._go_on()

    def _go_on(self) -> None:
        self._waits = False
        if self._step():
            self._waits = True
            self._later(_PAUSE, self._go_on)

    def finish(self) -> None:
        """Do all that is left, while nobody waits."""
        while self._step():  # ≤ instances
            pass

    def _step(self) -> bool:
        balancer = self._balancer
        try:
            if balancer is not None and balancer.settle():
                return True
        except Exception as error:
            self._raised(error)
        self._balancer = None
        return False
