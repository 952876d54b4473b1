"""Hedges: a second attempt beside the first, of a request that waits for its answer for too long.

An attempt that has no answer when `hedge.after` has passed is not given up. Another instance is
asked as well, as for a retry: it counts as one, among `retry.max_retries` and in the retry budget,
and has a budget of its own. What comes of the two:

| first event | then |
|---|---|
| the first has an answer | it is relayed, and the second is given up |
| the second has a good answer | the first is given up, and this is relayed |
| the second fails, or has an answer that speaks against its instance | the first goes on alone |
| the first fails, or has an answer that is to be asked again | the second goes on as its retry |

An attempt that is given up closes its connection, or its stream of HTTP/2, counts as `outrun`, and
says nothing for or against its instance, but how long it took at least.
"""

from __future__ import annotations

from typing import Final

from proxy.engine.attempts import Attempts
from proxy.engine.beside import Beside
from proxy.engine.deadlines import NEVER, Alarm
from proxy.engine.next_attempt import next_attempt
from proxy.engine.node import Node
from proxy.engine.resilience.hedging import Hedging
from proxy.engine.resilience.policies import BAD_STATUSES
from proxy.engine.streams import Loss, UpstreamStream
from proxy.http.messages import ResponseHead
from proxy.messages import OUTRUN

_SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))


class Hedge(Beside):
    """Owns the wait until one request is slow, and its second attempt then."""

    __slots__ = ("_alarm", "_first", "_hedging", "_second")

    def __init__(self, first: Attempts, hedging: Hedging) -> None:
        self._first = first
        self._hedging = hedging
        self._alarm = Alarm(self.on_due)
        self._second: SecondAttempt | None = None
        first.services.deadlines.arm(self._alarm, first.began + hedging.delay)

    def on_due(self, now: float) -> None:
        """The request has waited for long enough, if its attempt began when it did itself."""
        try:
            self._look(now)
        except Exception as error:
            self._first.fail_inside(error)

    def _look(self, now: float) -> None:
        first, hedging = self._first, self._hedging
        asked = first.began if first.upstream is None else first.upstream.asked
        if first.node is None:
            asked = now  # It is with a filter, or in the queue.
        if now < asked + hedging.delay:
            first.services.deadlines.arm(self._alarm, asked + hedging.delay)
            return
        pool = first.pool
        if not first.replayable or not hedging.spend(pool.requests):
            return
        assert first.node is not None
        node = next_attempt(
            pool,
            first.key,
            (*first.tried, first.node),
            first.attempts,
            now,
            stale_node=first.stale_node,
            stale=False,
            answered=True,
            limit=first.terms.max_retries,
        )
        if node is not None:
            self._second = SecondAttempt(first, hedging)
            self._second.begin(node)

    def takes_over(self, outcome: str) -> bool:
        """See `Beside`."""
        first, second = self._first, self._second
        if second is None or second.node is None:
            return False
        assert first.last is not None
        first._release(outcome)
        first.tried = (*first.tried, first.last)
        second.take_over()
        return True

    def on_answer(self, now: float) -> None:
        """See `Beside`."""
        upstream = self._first.upstream
        if upstream is not None:
            self._hedging.note(now - upstream.asked)
        self.end()

    def end(self) -> None:
        """See `Beside`."""
        self._first.services.deadlines.forget(self._alarm)
        if self._second is not None:
            self._second.end()


class SecondAttempt(Attempts):
    """Owns the second attempt of one request, until it is the only one."""

    _first: Attempts
    _hedging: Hedging
    _is_own = False
    """Whether the request has no other attempt, and the exchange hears what comes of this one."""

    def __init__(self, first: Attempts, hedging: Hedging) -> None:
        super().__init__(first.services, first.client, first.request)
        self._first, self._hedging = first, hedging
        self.recorder = None
        self.pool, self.terms, self.key = first.pool, first.terms, first.key
        self.target, self.set_host = first.target, first.set_host
        self.prefix, self.id_line = first.prefix, first.id_line

    def begin(self, node: Node) -> None:
        """Ask an instance."""
        self._first.attempts += 1
        self.node = self.last = node
        self.pool.take(node)
        self._send_once(node)

    def take_over(self) -> None:
        """Be the attempt of the request, which has none any more."""
        first = self._first
        first.node = first.last = self.node
        first.upstream, first.dial = self.upstream, self.dial
        self.node = self.upstream = self.dial = None
        self._is_own = True
        self.pool.counters.hedged("won")

    def end(self) -> None:
        """Give up, unless it is the request's own attempt, or over."""
        self.finished = True
        if self.node is not None:
            self._give_up(self)
            self.pool.counters.hedged("lost")

    def _give_up(self, attempt: Attempts) -> None:
        """End one of the two, which the other one has outrun."""
        node, upstream = attempt.node, attempt.upstream
        if upstream is not None:
            now = self.services.now()
            self._hedging.note(now - upstream.asked)
            if self.pool.follows_answers and node is not None:
                self.pool.note_answer(node, now - upstream.asked, now)
        attempt._drop_upstream()
        attempt._release(OUTRUN, against=False)

    def _fail(self, outcome: str, against: bool) -> None:
        """Come to nothing; the first goes on alone."""
        first, node = self._first, self.node
        self.finished = True
        self._release(outcome, against)
        self.pool.counters.hedged("failed")
        if node is not None:
            first.tried = (node, *first.tried)  # The latest one stays the latest.

    # -- what comes of it

    def _send(self, upstream: UpstreamStream, now: float) -> None:
        """See `Attempts`."""
        first = self._first
        node = self.node
        if self._is_own:
            node = first.node
            first.upstream, first.dial = upstream, None
        assert node is not None
        self.request = first.head_beside(node, now)
        super()._send(upstream, now)

    def _release(self, outcome: str, against: bool = True) -> None:
        """See `Attempts`."""
        if self.node is not None:
            self._first.on_end_beside(self.node, outcome)
        super()._release(outcome, against)

    def on_interim(self, response: ResponseHead) -> None:
        """See `StreamEvents`. While there are two, the client hears of neither's plans."""
        if self._is_own:
            self._first.on_interim(response)

    def on_answer(
        self, response: ResponseHead, pieces: list[bytes], done: bool, trailers: bytes
    ) -> None:
        """See `StreamEvents`."""
        first, upstream = self._first, self.upstream
        if not self._is_own:
            assert upstream is not None
            if response.status in BAD_STATUSES:
                self.upstream = None
                if done:
                    upstream.release(self.services.now())
                else:
                    upstream.abort()
                self._fail(str(response.status), against=True)
                return
            if first.admission is not None:
                first.admission.end_probe()
            if first.node is not None:
                first.tried = (*first.tried, first.node)
            self._give_up(first)
            self.take_over()
        first.on_answer(response, pieces, done, trailers)

    def on_body(self, pieces: list[bytes], done: bool, trailers: bytes) -> None:
        """See `StreamEvents`."""
        self._first.on_body(pieces, done, trailers)

    def on_upstream_failed(self, upstream: UpstreamStream, loss: Loss) -> None:
        """See `StreamEvents`."""
        if self._is_own:
            self._first.on_upstream_failed(upstream, loss)
        else:
            self.upstream = None
            self._fail(loss.fault.code, loss.against)

    def _on_attempt_failed(self, loss: Loss) -> None:
        """See `Attempts`."""
        if self._is_own:
            self._first.dial = None
            self._first._on_attempt_failed(loss)
        else:
            self._fail(loss.fault.code, loss.against)

    def fail_inside(self, error: Exception) -> None:
        """See `StreamEvents`."""
        if self.finished and not self._is_own:
            raise error  # It was given up, and the request has no part in this.
        self._first.fail_inside(error)


def new_hedge(first: Attempts) -> Hedge | None:
    """The hedge of a request, if it may come to have one."""
    hedging = first.pool.policies.hedging
    if (
        hedging is None
        or hedging.delay == NEVER
        or not first.terms.max_retries
        or first.request.method not in _SAFE
        or not first.body_done
        or first.body is not None
        or first.upgrade is not None
    ):
        return None
    return Hedge(first, hedging)
