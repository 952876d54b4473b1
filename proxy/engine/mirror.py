"""Copies of requests, for a service whose answers nobody waits for.

A copy is an exchange of its own with that service, under its settings: its balancer, time-outs and
further attempts hold, and it counts there. Its client is nobody: answers go nowhere, and a copy
whose instance does not keep up with the body is given up instead of making the original wait. The
body's pieces are shared, not copied.
"""

from __future__ import annotations

from typing import Final

from proxy.engine.exchange import Exchange
from proxy.engine.pool import Pool
from proxy.engine.replay import REPLAY_LIMIT
from proxy.engine.request_state import RequestState
from proxy.engine.services import Services
from proxy.engine.streams import ClientStream, StreamEvents
from proxy.engine.tap import Tap
from proxy.errors import CLIENT_GONE
from proxy.http.messages import OwnAnswer, ResponseHead

MOST: Final = 256
"""Copies that one service of a worker may have under way; further requests have none. A mirror that
hangs must not take the descriptors of those that are waited for."""


class Nobody(ClientStream):
    """The client of a copy: takes everything, and asks for nothing."""

    __slots__ = ("done", "held", "mirror")

    def __init__(self, client: ClientStream, mirror: Mirror) -> None:
        super().__init__()
        self.facts = client.facts
        self.ids = client.ids
        self.counts = client.counts
        self.mirror = mirror
        self.held = False
        """The instance takes no more of the body, or there is none yet."""
        self.done = False

    @property
    def owes_body(self) -> bool:
        return not self.done and not self.held

    @property
    def owes(self) -> bool:
        return self.owes_body

    def inform(self, response: ResponseHead) -> None:
        """See `ClientStream`, as for all of these."""

    def answer(
        self,
        response: ResponseHead,
        id_line: bytes,
        pieces: list[bytes],
        done: bool,
        trailers: bytes,
    ) -> None:
        """See `ClientStream`."""

    def send(self, pieces: list[bytes], done: bool, trailers: bytes) -> None:
        """See `ClientStream`."""

    def reply(self, answer: OwnAnswer, id_line: bytes, closes: bool) -> int:
        """See `ClientStream`."""
        return 0

    def cut(self) -> None:
        """See `ClientStream`."""

    def finish(self, events: StreamEvents, now: float) -> None:
        """See `ClientStream`."""

    def hold_body(self) -> None:
        """See `ClientStream`."""
        self.held = True

    def release_body(self) -> None:
        """See `ClientStream`."""
        self.held = False
        self.mirror.waiting = 0

    def expect_body(self) -> None:
        """See `ClientStream`."""

    def on_deadline(self, now: float) -> None:
        """See `Timed`."""


class Copy(Exchange):
    """Owns one copy: an exchange whose route and service are known."""

    def follow(self, original: RequestState, pool: Pool) -> None:
        """Be what the original is, for another service."""
        self.match = original.match
        self.pool, self.terms = pool, pool.terms
        self.routed = True
        self.target, self.set_host = original.target, original.set_host
        self.prefix, self.id_line = original.prefix, original.id_line
        self.recorder = None

    def _finish(self, outcome: str, now: float) -> None:
        """See `Exchange`."""
        super()._finish(outcome, now)
        self.pool.copies -= 1
        if outcome not in ("ok", CLIENT_GONE.code):
            self.pool.counters.copied("failed")


class Mirror(Tap):
    """Owns one copy until all of its body has come."""

    def __init__(
        self, original: RequestState, services: Services, pool: Pool, pieces: list[bytes]
    ) -> None:
        """`pieces`: what has come of the body."""
        self._original: RequestState | None = original
        self._pool = pool
        self.waiting = 0
        """Bytes of the body that the instance has not taken."""
        self._client = Nobody(original.client, self)
        self._copy = Copy(services, self._client, original.request)
        self._early = list(pieces)  # ≤ REPLAY_LIMIT + 256 KiB
        self._whole = original.body_done
        self._over = False
        """Given up, or all of the body has come."""

    def begin(self) -> None:
        """Go out, now that it is known what instances get of the request."""
        original, copy = self._original, self._copy
        self._original = None
        assert original is not None
        if self._over or original.upgrade is not None or not original.target:
            self._over = True
            return
        copy.follow(original, self._pool)
        copy.body_done = self._whole and not self._early
        self._pool.copies += 1
        self._pool.counters.copied("sent")
        try:
            copy._attempt(copy.services.now())
            early, self._early = self._early, []
            if early:
                self._pass_on(early, self._whole)
        except Exception as error:
            copy.fail_inside(error)

    def feed(self, pieces: list[bytes], done: bool) -> None:
        """See `Tap`."""
        if self._over:
            return
        self._whole = done
        self._client.done = done
        if self._original is not None:
            self._early += pieces
        else:
            self._pass_on(pieces, done)
        if self._client.held:
            self.waiting += sum(map(len, pieces))
            if self.waiting > REPLAY_LIMIT:
                self._give_up()

    def _pass_on(self, pieces: list[bytes], done: bool) -> None:
        copy = self._copy
        if copy.finished:
            self._over = True
            return
        copy.on_request_body(pieces, done)
        self._over = done

    def end(self) -> None:
        """See `Tap`."""
        if not self._whole:
            self._give_up()

    def _give_up(self) -> None:
        self._over = True
        _drop(self._pool)
        if self._original is None:
            self._copy.on_client_gone()


def _drop(pool: Pool) -> None:
    pool.counters.rejected("mirror")
    pool.counters.copied("dropped")


def new_mirror(original: RequestState, services: Services, pieces: list[bytes]) -> Tap | None:
    """The copy of a request, if it is to have one; it goes out in the next turn of the loop, when
    the original has. `pieces`: what has come of the body."""
    settings = original.pool.settings.mirror
    assert settings is not None
    if not services.pools.falls_in(settings.share) or original.request.fields.grpc:
        return None
    pool = services.pools.get(settings.service)
    if pool is None or pool.copies >= MOST:
        _drop(original.pool if pool is None else pool)
        return None
    mirror = Mirror(original, services, pool, pieces)
    services.loop.call_soon(mirror.begin)
    return mirror
