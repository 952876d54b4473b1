"""The circuit breaker of one service in one worker.

    closed ──(failures / requests ≥ ratio, with enough requests)──▶ open
    open ──(`open` seconds have passed)──▶ trying
    trying ──(TRIALS requests succeeded)──▶ closed
    trying ──(one failed)──▶ open

Requests may take longer than it is open. So each belongs to the turn it was admitted in, and what
ends in a later one is old news: it neither fails nor passes a trial that it is none of.

It guards what ejection cannot: a service all of whose instances answer, badly. While it is open,
requests are refused at once, which costs neither side anything.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

TRIALS: Final = 3
"""Requests that must succeed before the service counts as well. One may be luck; many would make
the users of a service that is well wait."""
_SLICES: Final = 10
"""The window is counted in tenths: old failures leave it little by little."""


class State(Enum):
    """The ways of a breaker with requests."""

    CLOSED = "closed"
    OPEN = "open"
    TRYING = "trying"


class Breaker:
    """Owns the recent outcomes of one service's requests and the state that follows."""

    __slots__ = (
        "_failures", "_min_requests", "_open", "_opened", "_ratio", "_requests", "_slice",
        "_succeeded", "_tick", "_trials", "opened", "state",
    )  # fmt: skip

    def __init__(self, ratio: float, min_requests: int, window: float, open: float) -> None:
        """`ratio` of failed requests among at least `min_requests` within `window` seconds
        opens it, for `open` seconds."""
        self._ratio = ratio
        self._min_requests = min_requests
        self._tick = window / _SLICES
        self._open = open
        self._requests = [0] * _SLICES
        self._failures = [0] * _SLICES
        self._slice = 0
        self._opened = 0.0
        self._trials = 0
        self._succeeded = 0
        self.state = State.CLOSED
        self.opened = 0
        """How often it has opened; so also the turn in which requests are admitted now."""

    def resume(self) -> None:
        """Go on where another breaker of the service was open: a few requests will tell."""
        self.state = State.TRYING

    def admit(self, now: float) -> bool:
        """May a request go on? Each True must be followed by one `on_result` or `on_abandoned`,
        with what `opened` is now."""
        if self.state is State.CLOSED:
            return True
        self.tick(now)
        if self.state is State.OPEN:
            return False
        if self._trials >= TRIALS:
            return False
        self._trials += 1
        return True

    def tick(self, now: float) -> None:
        """Do what time alone brings about. To be called now and then, so that whoever looks at
        `state` is not told of a breaker that has long ceased to refuse, for want of a request."""
        if self.state is State.OPEN and now - self._opened >= self._open:
            self.state = State.TRYING
            self._trials = 0
            self._succeeded = 0

    def on_result(self, failed: bool, now: float, turn: int) -> None:
        """An admitted request was answered, or failed; `turn`: that in which it was admitted."""
        if turn != self.opened:
            return
        if self.state is State.TRYING:
            self._on_trial(failed, now)
        elif self.state is State.CLOSED:
            at = self._turn(now)
            self._requests[at] += 1
            self._failures[at] += failed
            if failed:
                requests = sum(self._requests)
                enough = requests >= self._min_requests
                if enough and sum(self._failures) >= self._ratio * requests:
                    self._trip(now)

    def on_abandoned(self, turn: int) -> None:
        """An admitted request ended without saying anything of the service (the client left)."""
        if turn == self.opened and self.state is State.TRYING:
            self._trials -= 1

    def _on_trial(self, failed: bool, now: float) -> None:
        if failed:
            self._trip(now)
            return
        self._succeeded += 1
        if self._succeeded >= TRIALS:
            self.state = State.CLOSED
            self._requests = [0] * _SLICES
            self._failures = [0] * _SLICES

    def _trip(self, now: float) -> None:
        self.state = State.OPEN
        self._opened = now
        self.opened += 1

    def _turn(self, now: float) -> int:
        """The slice for `now`, with those that have left the window emptied."""
        current = int(now / self._tick)
        for stale in range(max(self._slice + 1, current - _SLICES + 1), current + 1):  # ≤ _SLICES
            self._requests[stale % _SLICES] = 0
            self._failures[stale % _SLICES] = 0
        self._slice = max(self._slice, current)
        return self._slice % _SLICES
