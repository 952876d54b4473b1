"""The life of one request. Read this file first; `docs/request.md` tells the same on one page.

    start ─▶ prepare ─▶ _attempt ─▶ on_connected ─▶ _send ─▶ on_answer ─▶ on_body … ─▶ _complete
                          ▲  │ no connection, no answer, or one that is kept in reserve
                          └──┘ _retry

The steps up to `_send` and `_retry` are in the base class (`attempts.py`). Which instance a first
attempt gets is the balancer's choice, unless that is full, on probation or unreachable; a second
attempt gets one that was not tried before and has room, and only after a kept connection turned
out to be closed, and if there is no such other one, the same instance anew: `selection.py` has
both as tables. Whether there is a further attempt is `next_attempt.py`.

An exchange is driven by callbacks of its client's stream, of its upstream stream, of the connector
and of the queue; it has no task, and its limits are alarms on the worker's wheel. Whatever
happens, it ends exactly once: in `_complete` (the answer was relayed), `_reply` (the proxy
answered), `_break_off` (the answer was cut), `on_client_gone`, `_on_tunnel_closed`, or, if one of
these raised, `fail_inside`; each goes through `_finish`, where all is given back that is still
counted: the request in flight (`_release`), and in `_release_rest` the probe, the answer in
reserve, the place in the queue, the total limit and what the breaker waits to hear. An instance is
released earlier where its attempt ended earlier: in `_on_attempt_failed`, `_retry` or
`on_total_timeout`.

Versions of HTTP differ behind the two streams (`streams.py`), and in where an attempt comes by its
stream (`Attempts._send_once`).
"""

from __future__ import annotations

from typing import Final

from proxy.engine.attempts import Attempts
from proxy.engine.beside import Beside
from proxy.engine.deadlines import Alarm
from proxy.engine.grpc import hundreds_of
from proxy.engine.hedge import new_hedge
from proxy.engine.held_response import HeldResponse
from proxy.engine.own_answers import answer_for_us, problem
from proxy.engine.preparation import prepare
from proxy.engine.resilience.policies import BAD_STATUSES
from proxy.engine.services import Services
from proxy.engine.streams import ClientStream, Loss, StreamEvents, UpstreamStream
from proxy.engine.telemetry import ServiceCounters
from proxy.engine.upgrade import open_tunnel
from proxy.errors import (
    BAD_ANSWER,
    CLIENT_GONE,
    INTERNAL,
    TOTAL_TIMEOUT,
    Fault,
    Refused,
    Side,
)
from proxy.http.forwarding import accepts_offer
from proxy.http.messages import OwnAnswer, RequestHead, ResponseHead
from proxy.messages import UNROUTED

_INSIDE: Final = "an error inside the proxy ended this request"
"""The detail that a client learns; the log has the traceback."""
_TOO_LONG: Final = "the request took longer than its total limit"


class Exchange(Attempts):
    """Owns one request from its head to the last byte of its answer."""

    held: HeldResponse | None = None
    total: Alarm | None = None
    """The deadline over all attempts."""
    beside: Beside | None = None
    """A second attempt beside the first, or the wait for one; None = there is none."""

    def __repr__(self) -> str:
        return f"<Exchange {self.request!r} node={self.node!r} status={self.status}>"

    # -- from the request to an instance

    def start(self, body_done: bool) -> None:
        """See `StreamEvents`."""
        self.body_done = body_done
        fields = self.request.fields
        if fields.unusual:
            if fields.underscored:
                self.services.on_underscored(fields.underscored)
            answer = answer_for_us(self.request)
            if answer is not None:
                self.name()
                self._reply(answer, "ok", closes=False)
                return
        try:
            answer = prepare(self, self.services)
        except Refused as refusal:
            self._answer_fault(
                refusal.fault, refusal.detail, refusal.retry_after, closes=refusal.closes
            )
            return
        if answer is not None:
            self.name()
            self._reply(answer, "ok", closes=False)
            return
        if self.terms.has_extras:
            self._begin_extras()
        self._attempt(self.began)

    def _begin_extras(self) -> None:
        """Begin what only some requests have: a limit over all attempts, a copy, a hedge."""
        limit, services = self.terms.total, self.services
        if limit:
            self.total = Alarm(self.on_total_timeout)
            services.deadlines.arm(self.total, self.began + limit)
            self.has_extras = True
        self._begin_tap()
        self.beside = new_hedge(self)
        self.has_extras = self.has_extras or self.beside is not None

    # -- the answer

    def on_interim(self, response: ResponseHead) -> None:
        """See `StreamEvents`."""
        self._keep_no_body()  # The instance has begun to act on the request: no other one gets it.
        if response.status == 101:
            self._switch(response)
        else:
            self.client.inform(response)
        if response.status == 100:
            self.client.expect_body()
            if self.upstream is not None:
                self._set_clock(self.upstream)

    def on_answer(
        self, response: ResponseHead, pieces: list[bytes], done: bool, trailers: bytes
    ) -> None:
        """See `StreamEvents`."""
        now = self.services.now()
        if self.recorder is not None:
            self.recorder.on_answer(now, pieces)
        node, upstream = self.node, self.upstream
        if node is not None and upstream is not None:  # Else it is the reserve, relayed.
            node.count_answer(now - upstream.asked)
        status = response.status
        if status in BAD_STATUSES:
            if self._set_aside(response, pieces, done, trailers):
                return
            self.outcome = str(status)
        if self.has_extras:
            self._drop_held()
            if self.beside is not None:
                self.beside.on_answer(now)
            if self.way_back is not None:
                response = self.way_back.answer(response)
            if self.admission is not None:
                self.admission.report(status in BAD_STATUSES, now)
                if status not in BAD_STATUSES:
                    self.admission.pass_probe()
        if self.pool.follows_answers and node is not None and upstream is not None:
            self.pool.note_answer(node, now - upstream.asked, now)
            sticky = self.pool.sticky
            if sticky is not None:
                balancer = self.pool.balancer
                scheme = self.client.facts.scheme_of(self.request.fields)
                response = sticky.answer(balancer, self.key, node, scheme, response)
        if self.has_extras and self._take_to_filters(response, pieces, done, trailers):
            return
        self.whole = False
        self.body = None
        self.status = status
        client = self.client
        client.answer(response, self.id_line, pieces, done, trailers)
        if done:
            self._complete(now)
        elif client.full:
            self.on_client_full()

    def _take_to_filters(
        self, response: ResponseHead, pieces: list[bytes], done: bool, trailers: bytes
    ) -> bool:
        """Whether filters look at the answer first, and it is theirs to relay."""
        return False

    def on_body(self, pieces: list[bytes], done: bool, trailers: bytes) -> None:
        """See `StreamEvents`."""
        if self.recorder is not None:
            self.recorder.on_body(pieces)
        self.client.send(pieces, done, trailers)
        if done:
            self._complete(self.services.now())

    def _set_aside(
        self, response: ResponseHead, pieces: list[bytes], done: bool, trailers: bytes
    ) -> bool:
        """An answer that speaks against its instance: if the service wants that, ask another
        one, and keep this answer in case no better one comes. False: relay it."""
        if response.status not in self.terms.retry_statuses:
            return False
        if not self.terms.may_repeat_answer(self.request.method, self.replayable):
            return False
        return self._ask_another(str(response.status), response, pieces, done, trailers)

    def _ask_another(
        self,
        reason: str,
        response: ResponseHead,
        pieces: list[bytes],
        done: bool,
        trailers: bytes,
    ) -> bool:
        """See `_set_aside`; the service wants that."""
        upstream = self.upstream
        if self.node is None or upstream is None:
            return False  # The instance was released before: this is the reserve, relayed.
        if not self.body_done:
            return False  # The connection still expects the rest, which only one can get.
        self.upstream = None  # The next attempt sets its own.
        if self.beside is not None and self.beside.takes_over(reason):
            pass
        elif not self._retry(reason, answered=True):
            self.upstream = upstream
            return False
        if self.admission is not None:
            self.admission.end_probe()
        self._drop_held()
        self.has_extras = True
        self.held = HeldResponse(upstream, response, pieces, done, trailers)
        if done:
            upstream.release(self.services.now())
        else:
            upstream.pause_reading()
        if self.recorder is not None:
            self.recorder.on_reserve()
        return True

    def _relay_held(self) -> None:
        """No better answer came: the last real one is what the client gets."""
        held = self.held
        assert held is not None
        self.held = None
        self.upstream = held.upstream
        self.on_answer(held.response, held.pieces, held.done, held.trailers)
        if self.upstream is not None and not self.client.full:
            self.upstream.resume_reading()

    def _drop_held(self) -> None:
        if self.held is not None:
            self.held.discard()
            self.held = None

    def on_client_full(self) -> None:
        """See `StreamEvents`."""
        if self.upstream is not None:
            self.upstream.pause_reading()

    def on_client_drained(self) -> None:
        """See `StreamEvents`."""
        if self.upstream is not None:
            self.upstream.resume_reading()

    def _switch(self, response: ResponseHead) -> None:
        upstream = self.upstream
        assert upstream is not None
        offered = self.upgrade
        if (
            offered is None
            or not accepts_offer(offered, response.fields.upgrade)
            or not self.client.may_switch(response)
        ):
            upstream.abort()
            self.on_upstream_failed(upstream, Loss(BAD_ANSWER, "a 101 that nobody asked for"))
            return
        self.status = 101
        self.upstream = None
        now = self.services.now()
        if self.recorder is not None:
            self.recorder.on_answer(now, [])
        if self.total is not None:
            self.services.deadlines.forget(self.total)  # It is over requests, not over tunnels.
        if self.admission is not None:
            self.admission.report(False, now)
            self.admission.pass_probe()
        open_tunnel(self, self.services, upstream, response, self._on_tunnel_closed)

    def _on_tunnel_closed(self) -> None:
        assert self.tunnel is not None
        self.services.connections.on_tunnel_closed(self.tunnel)
        try:
            self._finish("ok", self.services.now())
        except Exception as error:
            self.fail_inside(error)

    # -- failures

    def on_upstream_failed(self, upstream: UpstreamStream, loss: Loss) -> None:
        """See `StreamEvents`."""
        if self.held is not None and upstream is self.held.upstream:
            self.held = None  # Only the answer in reserve; another attempt is under way.
            return
        self.upstream = None
        self._on_attempt_failed(loss)

    def _on_attempt_failed(self, loss: Loss) -> None:
        """Decide: once more, an error, or (too late for either) a cut."""
        fault, detail, stale, unsent, against = loss
        if self.total is not None and self.total.deadline <= self.services.now():
            # The wheel has not looked yet. An instance that knows the limit has given up for it.
            fault, detail, stale, unsent = TOTAL_TIMEOUT, _TOO_LONG, False, False
        self._release(fault.code, against)
        if self.admission is not None:
            self.admission.end_probe()
        if self.status:
            self._break_off(fault, detail)
            return
        if self.beside is not None and self.beside.takes_over(fault.code):
            return
        method = self.request.method
        unsent = unsent and self.whole
        may = self.terms.may_repeat(fault, method, stale, unsent, self.replayable)
        if may and self._retry(fault.code, stale):
            return
        if self.held is not None:
            self._relay_held()
        else:
            self._answer_fault(fault, detail)

    def _answer_fault(
        self, fault: Fault, detail: str, retry_after: float = 1.0, closes: bool = True
    ) -> None:
        """The proxy answers itself. `retry_after`: seconds, where the status has such a field;
        `closes`: as the fault has it, unless it is known that nothing is in doubt."""
        self._counters().failed(fault.code)
        if self.attempts and fault.side is Side.UPSTREAM and self.admission is not None:
            self.admission.report(True, self.services.now())
        self._drop_upstream()
        if self.beside is not None:
            self.beside.end()
        self.name()
        self.services.faults.request(fault, detail, self)
        answer = self._own_answer(fault, detail, retry_after)
        self._reply(answer, fault.code, closes and fault.closes)

    def _own_answer(self, fault: Fault, detail: str, retry_after: float) -> OwnAnswer:
        request_id = self.request_id.decode("ascii")
        return problem(fault, detail, request_id, retry_after, self.trace_id)

    def _reply(self, answer: OwnAnswer, outcome: str, closes: bool) -> None:
        """A whole answer that no instance gave."""
        client = self.client
        self.status = answer.status
        size = client.reply(answer, self.id_line, closes)
        if self.recorder is not None:
            self.recorder.on_own_answer(size)
        now = self.services.now()
        self._finish(outcome, now)
        client.finish(self, now)

    def _break_off(self, fault: Fault, detail: str) -> None:
        """The answer was under way: all that is left is to make the client see that it is not
        complete, by an end without the last chunk or short of the length (RFC 9112 §8)."""
        self._counters().failed(fault.code)
        self.services.faults.request(fault, detail, self)
        self._drop_upstream()
        self._cut(fault, detail)
        self._finish(fault.code, self.services.now())

    def _cut(self, fault: Fault, detail: str) -> None:
        """End an answer that is under way, for a fault."""
        self.client.cut()

    def fail_inside(self, error: Exception) -> None:
        """See `StreamEvents`. The request ends here, whatever it was in, and no other with it."""
        self.failure = error
        now = self.services.now()
        try:
            if self.finished:
                self._counters().failed(INTERNAL.code)
                self.services.faults.request(INTERNAL, _INSIDE, self)
            elif self.status:
                self._break_off(INTERNAL, _INSIDE)
            else:
                self._answer_fault(INTERNAL, _INSIDE)
        except Exception:
            pass  # The same once more, mostly; what was raised first is in the log.
        try:
            if not self.finished:
                self.client.cut()
                self._drop_upstream()
                self._finish(INTERNAL.code, now)
            elif self.tunnel is None:
                # Unless it has heard that already: all is said, and only what follows failed.
                self.client.finish(self, now)
        except Exception:
            self.client.cut()

    def on_bad_body(self, fault: Fault, detail: str) -> None:
        """See `StreamEvents`."""
        self.body_done = False
        if self.status:
            self._break_off(fault, detail)
        else:
            self._answer_fault(fault, detail)

    def on_total_timeout(self, now: float) -> None:
        """`timeouts.total` has passed."""
        try:
            if self.client.owes:
                # It is not the instance that we wait for.
                self._release(CLIENT_GONE.code)
                if self.admission is not None:
                    self.admission.abandon(self.services.now())
            if self.status:
                self._break_off(TOTAL_TIMEOUT, _TOO_LONG)
            elif self.held is not None and self.held.done:
                self._release(TOTAL_TIMEOUT.code)
                self._drop_upstream()
                self.replying = True
                self._relay_held()
            else:
                self._answer_fault(TOTAL_TIMEOUT, _TOO_LONG)
        except Exception as error:
            self.fail_inside(error)

    def on_client_gone(self) -> None:
        """See `StreamEvents`."""
        if self.finished or self.tunnel is not None:
            return
        if not self.status:
            self.status = CLIENT_GONE.status
        self._drop_upstream()
        self._finish(CLIENT_GONE.code, self.services.now())

    # -- the end

    def _complete(self, now: float) -> None:
        """The answer is relayed whole."""
        upstream = self.upstream
        if upstream is not None:
            self.upstream = None
            if self.body_done:
                upstream.release(now)
            else:
                upstream.abort()  # It still expects the rest of a body that is not coming.
        self._finish(self.outcome, now)
        self.client.finish(self, now)

    def _finish(self, outcome: str, now: float) -> None:
        """Give back everything that was counted. Runs exactly once."""
        assert not self.finished, self
        self.finished = True
        self._release(outcome)
        if self.has_extras:
            self._release_rest()
        if self.tunnel is None:
            # How long a tunnel stays open is not how long its request took.
            counters = self.pool.counters if self.routed else self._counters()
            counters.answered(self.request.method, self.status, now - self.began)
            if caller := self.client.facts.caller:
                call = self.grpc_status >= 0
                status = hundreds_of(self.grpc_status) if call else self.status
                counters.called_by(caller, status, now - self.began)
        if self.recorder is not None:
            self.recorder.on_finished(self, outcome, now)

    def _release_rest(self) -> None:
        """Give back what only some requests take."""
        if self.admission is not None:
            self.admission.end_probe()
        self._drop_held()
        if self.beside is not None:
            self.beside.end()
        if self.tap is not None:
            self.tap.end()
            self.tap = None
        if self.waiting is not None:
            self.pool.policies.queue.leave(self)
            self._end_waiting()
        if self.total is not None:
            self.services.deadlines.forget(self.total)
            self.total = None  # It calls this exchange: else only the collector would free both.
        if self.admission is not None:
            # Unless it has heard: the client left or is at fault, or no instance was asked.
            self.admission.abandon(self.services.now())

    def _counters(self) -> ServiceCounters:
        return self.pool.counters if self.routed else self.services.counters.service(UNROUTED)


def new_exchange(services: Services, client: ClientStream, request: RequestHead) -> StreamEvents:
    """The exchange of a request. Behind a reference a class is twice as dear to call as this."""
    return Exchange(services, client, request)
