"""How much is done in one turn of the loop."""

from __future__ import annotations

from collections.abc import Callable

from proxy.engine.pace import LONG, UNSEEN, Pace

COST = 0.0001
"""Seconds of a request."""


class Turns:
    """Runs what was arranged, a turn at a time. Owns the clock, which requests move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ready: list[Callable[[], None]] = []
        self.pace = Pace(self.ready.append, lambda: self.now)
        self.served: list[int] = []

    def read(self, request: int) -> None:
        """As a client's connection does."""
        pace = self.pace
        pace.left -= 1
        if pace.left < 0 and pace.is_over():
            pace.put_off(lambda: self.serve(request))
        else:
            self.serve(request)

    def serve(self, request: int) -> None:
        self.now += COST
        self.served.append(request)

    def turn(self, *requests: int) -> float:
        """One turn in which these are read. Returns how long it was."""
        began = self.now
        ready = self.ready[:]
        self.ready.clear()
        for call in ready:
            call()
        for request in requests:
            self.read(request)
        return self.now - began


def test_a_turn_is_bounded_and_the_rest_has_the_next_ones_in_order() -> None:
    turns = Turns()
    longest = turns.turn(*range(3000))
    assert len(turns.served) < 3000
    while turns.ready:
        longest = max(longest, turns.turn())
    assert turns.served == list(range(3000))
    assert longest <= LONG + 2 * UNSEEN * COST + 1e-9


def test_later_requests_do_not_overtake_those_put_off() -> None:
    turns = Turns()
    turns.turn(*range(200))
    assert turns.turn(*range(200, 300)) <= LONG + COST + 1e-9
    while turns.ready:
        assert turns.turn() <= LONG + COST + 1e-9
    assert turns.served == list(range(300))


def test_short_turns_put_nothing_off() -> None:
    turns = Turns()
    for number in range(200):
        turns.turn(*range(8 * number, 8 * number + 8))
        assert len(turns.served) == 8 * number + 8


def test_work_that_raises_takes_no_turn_from_the_rest() -> None:
    turns = Turns()
    turns.turn(*range(4 * UNSEEN))
    turns.pace.put_off(lambda: 1 // 0)  # type: ignore[arg-type,return-value]
    turns.pace.put_off(lambda: turns.serve(4 * UNSEEN))
    raised = 0
    while turns.ready:
        try:
            turns.turn()
        except ZeroDivisionError:
            raised += 1
    assert (raised, turns.served) == (1, list(range(4 * UNSEEN + 1)))
