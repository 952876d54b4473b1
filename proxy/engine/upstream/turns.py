"""The connections being made to one instance at a time, and who waits for one.

Thousands of clients in one turn of the loop would else mean as many connections at once: more than
the instance's backlog takes, which then drops them, and most of which nobody needs once the first
requests have been answered. Those beyond `DIALS` wait, for their turn or for a connection that an
exchange leaves behind, whichever is first. Who waits longest is given it: clients that are served
and ask again would else take all connections, and the others none until their time is over.

To wait costs a place in a line and a deadline, no task: ten thousand may do so at a time. What they
wait for comes to them some at a time (`SERVED`, `BEGUN`), so that the loop's turns stay short.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from proxy.engine.deadlines import Timed
from proxy.engine.streams import UpstreamStream

DIALS: Final = 256
"""Connections being made to one instance by one worker. Servers commonly let 511 wait to be
accepted (nginx, Node) or more; and over a path of 100 ms these are 2,560 new connections a
second."""
BEGUN: Final = 16
"""Of these, how many are begun in one turn of the loop: each is some calls to the kernel."""
SERVED: Final = 64
"""Connections left behind that are given away in one turn of the loop. Their requests go out then,
so as many answers come, and as many clients ask again: this is what bounds the turns of a loop for
which thousands wait."""

NO_PORT_PAUSE: Final = 0.1
"""Seconds in which no connection to an instance is tried after there was no local port for one: the
kernel looks through all of them each time, which takes milliseconds."""


class Turn(Timed):
    """A place in the line of those who wait to connect to an instance."""

    __slots__ = ("number", "pooled")

    number: int
    """Place in the order of arrival."""

    def __init__(self, pooled: bool) -> None:
        """`pooled`: a connection that was used before would do."""
        super().__init__()
        self.pooled = pooled

    def on_turn(self) -> None:
        """A connection may be made, and counts as one that is until `Turns.end`."""
        raise NotImplementedError

    def on_given(self, connection: UpstreamStream) -> None:
        """A connection is there, and belongs to who has waited."""
        raise NotImplementedError


class Turns:
    """Owns how many connections are being made to an instance, and who waits to make one."""

    __slots__ = ("_arranged", "_begun", "_given", "_last", "_now", "_own", "_pooled", "_soon",
                 "ports_from", "under_way")  # fmt: skip

    def __init__(self, soon: Callable[..., object], now: Callable[[], float]) -> None:
        """`soon`: calls a function in a turn of the loop to come."""
        self._soon = soon
        self._now = now
        self.under_way = 0
        self.ports_from = 0.0
        """Not before is there a local port, as far as is known."""
        self._begun = 0
        """Connections begun since somebody was served."""
        self._last = 0
        """Number of who came last."""
        self._own: OrderedDict[Turn, None] = OrderedDict()  # ≤ 1 KiB + 400 B per request
        """The line of those who wait for a connection of their own, in the order of arrival."""
        self._pooled: OrderedDict[Turn, None] = OrderedDict()  # ≤ 1 KiB + 400 B per request
        """The line of those for whom any will do."""
        self._given: deque[UpstreamStream] = deque()  # ≤ 1 KiB + 16 B per connection
        """Connections for these, that nobody uses."""
        self._arranged = False

    @property
    def full(self) -> bool:
        """Whether who wants a connection has to wait."""
        return bool(self._pooled or self._own) or self._begun >= BEGUN or self.under_way >= DIALS

    def begin(self) -> None:
        """A connection is being made, until `end`."""
        self.under_way += 1
        self._begun += 1
        self._arrange()

    def end(self) -> None:
        """A connection that was being made is there, or will not be."""
        self.under_way -= 1
        self._arrange()

    def wait(self, turn: Turn) -> None:
        """Call `turn` when a connection may be made, or is there."""
        turn.number = self._last = self._last + 1
        (self._pooled if turn.pooled else self._own)[turn] = None

    def leave(self, turn: Turn) -> None:
        """Drop who does not wait any more."""
        (self._pooled if turn.pooled else self._own).pop(turn, None)

    def give(self, connection: UpstreamStream) -> bool:
        """Keep a connection that nobody uses for those who wait, before others come who would take
        it; False if nobody waits who would. It may close meanwhile."""
        if not self._pooled:
            return False
        self._given.append(connection)
        self._arrange()
        return True

    def _arrange(self) -> None:
        if not self._arranged:
            self._arranged = True
            self._soon(self._serve)

    def _serve(self) -> None:
        """Let those who have waited longest have what there is, some in each turn of the loop."""
        self._arranged = False
        self._begun = 0
        given, pooled = self._given, self._pooled
        try:
            for _ in range(min(SERVED, len(given))):  # ≤ SERVED
                connection = given.popleft()
                if not pooled:
                    connection.park(self._now())  # Nobody waits any more.
                elif connection.is_quiet():
                    pooled.popitem(last=False)[0].on_given(connection)
                else:
                    connection.close()
            while self.under_way < DIALS and self._begun < BEGUN:  # ≤ BEGUN
                turn = self._next()
                if turn is None:
                    break
                self.under_way += 1
                self._begun += 1
                turn.on_turn()
        finally:
            if given:
                self._begun = BEGUN  # Whoever comes until the next turn waits for one of these.
            # One who fails must not take the others' turn with it.
            if self._begun or (self.under_way < DIALS and (pooled or self._own)):
                self._arrange()

    def _next(self) -> Turn | None:
        """Take whoever has waited longest out of the lines. While there are connections for those
        who would take any, it is not for want of them that they wait, and more would be no use."""
        own, line = self._own, self._pooled
        if own and (self._given or not line or next(iter(own)).number < next(iter(line)).number):
            line = own
        elif self._given:
            return None
        return line.popitem(last=False)[0] if line else None
