"""Requests that filters look at, on their way and on their answer's way back.

    start ─▶ filters of the listener ─▶ prepare ─▶ _attempt ─▶ filters of route and service ─▶ …
    client ◀─ filters, the last one first ◀─ _take_to_filters, _reply ◀─ an answer

Where no configuration in force has a filter, requests are plain `Exchange`s, and none of this is
asked. Filters of route and service that only edit fields are not asked either: `EditedExchange`. A
route that answers by itself has filters as well: they are asked before its answer goes out
(`_reply`). What rate limit and breaker of the service refuse comes before filters of route and
service are asked, and goes back through them all.

Hooks are called one after the other. One that returns something to wait for becomes a task; its end
or its limit calls back here, and as long as it waits the client's body is not read, nor the
instance's answer. Whoever ends the request cancels it.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from proxy.engine.deadlines import Alarm
from proxy.engine.edited_exchange import EditedExchange
from proxy.engine.filters import Links
from proxy.engine.passage import HeldAnswer, Passage, changed
from proxy.engine.preparation import early_answer, path_of, prepare
from proxy.engine.replay import ReplayBuffer
from proxy.engine.streams import Loss
from proxy.errors import FAULTS, FILTER_FAILED, FILTER_TIMEOUT, FILTERS_BUSY, Refused
from proxy.filters.message import Request, Response
from proxy.http.messages import OwnAnswer, ResponseHead


class FilteredExchange(EditedExchange):
    """Owns one request that may have filters."""

    passage: Passage | None = None
    """The way through its filters; None = none are known."""
    met = False
    """The filters of route and service are known."""

    # -- the request

    def start(self, body_done: bool) -> None:
        """See `StreamEvents`."""
        links = self.client.counts.filters
        if self.passage is not None or not links:
            super().start(body_done)
            return
        self.body_done = body_done
        try:
            path, query = path_of(self)
            asks = early_answer(self, self.services, path, query) is None
        except Refused:
            path, query, asks = "/", b"", False
        self._meet(links, path, query)
        if asks:
            self._ask()
        else:
            super().start(body_done)  # Which answers, or refuses, by itself.

    def _attempt(self, now: float) -> None:
        """See `Attempts`."""
        if self.replying:
            return
        if not self.met and self._meet_more(True) and self.passage is not None:
            self._ask()
            return
        passage = self.passage
        if passage is not None and not passage.begun:
            passage.begun = True
            if passage.view.changes and self.body is not None:
                try:
                    pieces = passage.of_request(self.body.pieces, self.body_done)
                except Exception as error:
                    self._fail(error)
                    return
                self.body = ReplayBuffer(pieces)
        if self.waiting is None and self.terms.has_extras:
            super()._begin_tap()
        super()._attempt(now)

    def _begin_tap(self) -> None:
        """See `Attempts`. Not before the filters have let the request pass: `_attempt`."""

    def _meet_more(self, unanswered: bool = False) -> bool:
        """The route is known: whether it, or its service, has filters that are to be asked.
        `unanswered`: if they only edit fields, this is done."""
        self.met = True
        assert self.match is not None
        links = self.services.filters.of_route(self.match.position, self.match.service)
        if not links:
            return False
        passage = self.passage
        if unanswered and passage is None and not self.pool.uses_key and self._edit(links):
            return False
        if passage is not None:
            passage.add(links)
            passage.view.route(self.request, *path_of(self), self.is_grpc)
        else:
            passage = self._meet(links, *path_of(self))
        view = passage.view
        view.service = self.match.service
        view.target_of_instance = self.target.decode("ascii")
        self.name()
        view.id = self.request_id.decode("ascii")
        return True

    def _meet(self, links: Links, path: str, query: bytes) -> Passage:
        view = Request(self.request, path, query, self.client.facts, self.is_grpc)
        self.passage = passage = Passage(links, view)
        self.has_extras = True
        return passage

    @property
    def is_grpc(self) -> bool:
        """Whether it is a call of gRPC."""
        return False

    def _ask(self) -> None:
        """Ask the filters that were not asked yet, until one answers or waits."""
        passage = self.passage
        assert passage is not None
        while passage.asked < len(passage.links):  # ≤ 256
            link = passage.current = passage.links[passage.asked]
            passage.asked += 1
            if link.on_request is None:
                continue
            try:
                result = link.on_request(passage.view)
            except Exception as error:
                self._fail(error)
                return
            if result is not None and self._take(result):
                return
        passage.current = None
        self._go_on(passage)

    def _take(self, result: Any) -> bool:
        """Take what `on_request` has returned. True: the next filter is not asked now."""
        if isinstance(result, Response):
            self._answer_for_filter(result)
        elif inspect.isawaitable(result):
            self._await(result)
        else:
            self._fail(TypeError(f"on_request returned {type(result).__name__}, not a Response"))
        return True

    def _go_on(self, passage: Passage) -> None:
        """All filters that are known have let the request pass."""
        if passage.own is not None:
            own, passage.own = passage.own, None
            assert own.own is not None
            self._reply(own.own, own.outcome, own.closes)
            return
        try:
            self._take_changes(passage)
        except Refused as refusal:
            self._answer_fault(
                refusal.fault, refusal.detail, refusal.retry_after, closes=refusal.closes
            )
            return
        except Exception as error:
            self._fail(error)
            return
        if self.met:
            self._attempt(self.services.now())
        else:
            self.start(self.body_done)

    def _take_changes(self, passage: Passage) -> None:
        """Have the instance get what the filters have made of the request. Raises `Refused`."""
        changes = passage.view.taken_over()
        if changes is None:
            return
        self.request, retargeted = changes
        if self.met and (retargeted or self.pool.uses_key):
            before, id_line = self.match, self.id_line
            assert before is not None
            answer = prepare(self, self.services)
            self.id_line = id_line
            after = self.match
            if (
                answer is not None
                or after is None
                or (after.position, after.service) != (before.position, before.service)
            ):
                self.match = before
                raise Refused(FILTER_FAILED, f"{passage.view.path} leads to another route")

    def on_request_body(self, pieces: list[bytes], done: bool) -> None:
        """See `StreamEvents`."""
        passage = self.passage
        # Until all have let it pass, the body is kept as it came: `_attempt` sees to that.
        if passage is not None and passage.begun and passage.view.changes:
            try:
                pieces = passage.of_request(pieces, done)
            except Refused as refusal:
                self.on_bad_body(refusal.fault, refusal.detail)
                return
            except Exception as error:
                self.failure = error
                self.on_bad_body(FILTER_FAILED, "an error in a filter")
                return
        super().on_request_body(pieces, done)

    # -- the answer

    def _answer_for_filter(self, response: Response) -> None:
        """A filter has answered the request: those before it see the answer."""
        passage = self.passage
        assert passage is not None
        fault = response.fault
        try:
            own = self._own_form(response) if fault is None else None
        except Exception as error:
            self._fail(error)
            return
        self.filtered_by = passage.turn_back()
        passage.current = None
        self.name()
        if own is not None:
            self._reply(own, "ok", False)
        elif fault is not None:
            self._counters().failed(fault.code)
            self.services.faults.request(fault, response.detail, self)
            answer = self._own_answer(fault, response.detail, 1.0)
            fields = (*answer.fields, *response.headers.pairs)
            self._reply(answer._replace(fields=fields), fault.code, fault.closes)

    def _own_form(self, response: Response) -> OwnAnswer:
        """The answer of a filter, as this client can read it."""
        return response.own_answer()

    def _reply(self, answer: OwnAnswer, outcome: str, closes: bool) -> None:
        """See `Exchange`."""
        passage = self.passage
        if passage is not None:
            if passage.task is not None:
                passage.turn_back()
            self._drop_hook(passage)
        if not self.met and self.match is not None and self._meet_more():
            passage = self.passage
            assert passage is not None
            if outcome == "ok":
                passage.own = HeldAnswer(answer, outcome, closes, [], True, b"")
                self._ask()
                return
        if passage is None and self.edited:
            passage = self._meet(self.edited, *path_of(self))
            passage.asked = len(self.edited)
            passage.original = self.original or self.request
        if passage is None:
            super()._reply(answer, outcome, closes)
            return
        passage.current = None
        passage.answering = True
        passage.held = HeldAnswer(answer, outcome, closes, [], True, b"")
        passage.response = Response.of_proxy(answer, FAULTS.get(outcome))
        self._show_answer()

    def _take_to_filters(
        self, response: ResponseHead, pieces: list[bytes], done: bool, trailers: bytes
    ) -> bool:
        """See `Exchange`."""
        passage = self.passage
        if passage is None:
            return super()._take_to_filters(response, pieces, done, trailers)
        if not any(link.on_response is not None for link in passage.links):
            return False
        self.whole = False
        self.body = None
        passage.answering = True
        passage.came_at = self.services.now()
        passage.held = HeldAnswer(None, "", False, pieces, done, trailers)
        passage.response = Response.of_instance(response)
        self._show_answer()
        upstream = self.upstream
        if passage.holds_up and upstream is not None:
            # One of them waits: so does the instance, unless it has said all.
            if not done:
                upstream.pause_reading()
            else:
                self.upstream = None
                if self.body_done:
                    upstream.release(self.services.now())
                else:
                    upstream.abort()
        return True

    def _show_answer(self) -> None:
        """Show the answer to the filters that have not seen it yet, the last one first."""
        passage = self.passage
        assert passage is not None
        while passage.answered > 0:  # ≤ 256
            passage.answered -= 1
            link = passage.current = passage.links[passage.answered]
            if link.on_response is None:
                continue
            try:
                result = link.on_response(passage.view, passage.response)
            except Exception as error:
                self._fail(error)
                return
            if result is not None:
                if inspect.isawaitable(result):
                    self._await(result)
                else:
                    self._fail(TypeError(f"on_response returned {type(result).__name__}"))
                return
        passage.current = None
        held, passage.held = passage.held, None
        response, passage.response = passage.response, None
        assert held is not None
        assert response is not None
        try:
            if held.own is not None:
                own = response.own_answer()
            else:
                head, pieces = self._form_of(response, held)
        except Exception as error:
            self._fail(error)
            return
        if held.own is not None:
            super()._reply(own, held.outcome, held.closes)
        else:
            passage.content, passage.keeps_length = response.changes, response.keeps_length
            if self.recorder is not None:
                self.recorder.on_answer(passage.came_at, pieces)  # As the client gets it.
            self._relay(head, pieces, held.done, held.trailers)

    def _form_of(self, response: Response, held: HeldAnswer) -> tuple[ResponseHead, list[bytes]]:
        """Head and content of an instance's answer as the filters have left them. Raises what
        their changes do."""
        head, pieces = response.head(), held.pieces
        bare = self.request.method == b"HEAD" or head.status in (204, 304)
        if response.changes and not bare:
            pieces = changed(response.changes, pieces, held.done, response.keeps_length)
            if held.done and not response.keeps_length and not held.trailers:
                head.fields.length = sum(map(len, pieces))
        return head, pieces

    def on_body(self, pieces: list[bytes], done: bool, trailers: bytes) -> None:
        """See `StreamEvents`."""
        passage = self.passage
        if passage is not None:
            held = passage.held
            if held is not None:
                held.pieces = [*held.pieces, *pieces]
                held.done, held.trailers = done, trailers
                return
            if passage.content:
                try:
                    pieces = passage.of_answer(pieces, done)
                except Exception as error:
                    self._fail(error)
                    return
        super().on_body(pieces, done, trailers)

    def _relay_held(self) -> None:
        """See `Exchange`."""
        super()._relay_held()
        if self.passage is not None and self.passage.held is not None and self.upstream is not None:
            self.upstream.pause_reading()

    def on_client_drained(self) -> None:
        """See `StreamEvents`."""
        if self.passage is None or self.passage.held is None:
            super().on_client_drained()

    # -- hooks that wait

    def _await(self, hook: Any) -> None:
        passage = self.passage
        assert passage is not None
        link = passage.current
        assert link is not None
        task = self.services.filters.spawn(link, hook)
        if task is None:
            self.filtered_by = passage.turn_back()
            self._answer_fault(FILTERS_BUSY, f"the filter {link.name} would have to wait")
            return
        passage.task = task
        if passage.held is not None and passage.held.own is not None:
            self.replying = True
        passage.alarm = Alarm(self.on_hook_timeout)
        now = self.services.now()
        self.services.deadlines.arm(passage.alarm, now + link.filter.time_limit)
        if not self.body_done:
            self.client.hold_body()
        task.add_done_callback(self.on_hook_done)

    def on_hook_done(self, task: asyncio.Future[Any]) -> None:
        """The hook of a filter has ended, or was cancelled."""
        error = None if task.cancelled() else task.exception()
        passage = self.passage
        if passage is None or passage.task is not task:
            return  # It was given up.
        try:
            self._drop_hook(passage)
            if not self.body_done:
                self.client.release_body()
            if task.cancelled():
                self._fail(RuntimeError("the hook was cancelled"))
            elif error is not None:
                self._fail(error)
            elif passage.held is not None:
                self._show_answer()
            else:
                result = task.result()
                if result is None or not self._take(result):
                    self._ask()
        except Exception as failure:
            self.fail_inside(failure)

    def on_hook_timeout(self, now: float) -> None:
        """The time limit of a hook has passed."""
        try:
            passage = self.passage
            assert passage is not None
            link = passage.current
            assert link is not None
            limit = link.filter.time_limit
            self.filtered_by = link.name
            self._answer_fault(FILTER_TIMEOUT, f"the filter {link.name} took over {limit:g} s")
        except Exception as error:
            self.fail_inside(error)

    def _drop_hook(self, passage: Passage) -> None:
        task, passage.task = passage.task, None
        if task is not None:
            task.cancel()
        if passage.alarm is not None:
            self.services.deadlines.forget(passage.alarm)
            passage.alarm = None

    def _fail(self, error: BaseException) -> None:
        """A filter has raised: its own request ends."""
        passage = self.passage
        assert passage is not None
        self.filtered_by = passage.turn_back()
        name = f"the filter {passage.name}" if passage.name else "a filter"
        passage.held = passage.current = None
        fault, detail = FILTER_FAILED, f"{name} failed"
        if isinstance(error, Refused):
            fault, detail = error.fault, error.detail
        elif isinstance(error, Exception):
            self.failure = error
        if self.status:
            self._break_off(fault, detail)
        elif isinstance(error, Refused):
            self._answer_fault(fault, detail, error.retry_after, closes=error.closes)
        else:
            self._answer_fault(fault, detail)

    # -- the end

    def _on_attempt_failed(self, loss: Loss) -> None:
        """See `Attempts`."""
        if self.replying:
            return
        if self.passage is not None and self.passage.held is not None:
            # The head of the answer is here, and the client has nothing of it yet.
            self._release(loss.fault.code, loss.against)
            self._answer_fault(loss.fault, loss.detail)
        else:
            super()._on_attempt_failed(loss)

    def fail_inside(self, error: Exception) -> None:
        """See `StreamEvents`. No filter sees the answer: it must go out now."""
        passage = self.passage
        self.met = True
        self.edited = ()
        if passage is not None:
            self._drop_hook(passage)
            passage.held = None
            passage.answered = 0
            passage.answering = True
        super().fail_inside(error)

    def decisions(self, end: str) -> str:
        """See `RequestState`."""
        if self.passage is not None:
            return self.passage.decisions(self.filtered_by, end)
        asked = (link.name for link in self.edited if link.on_request is not None)
        return ",".join([f"{name}:pass" for name in asked])

    def _finish(self, outcome: str, now: float) -> None:
        """See `Exchange`."""
        passage = self.passage
        if passage is not None:
            self._drop_hook(passage)
            passage.held = None
            self.request = passage.original
            if self.filtered_by:
                self.services.counters.end_at(self.filtered_by, outcome, self.status)
        super()._finish(outcome, now)
        if passage is not None:
            self.services.filters.end(passage.links[: passage.asked], passage.view, outcome)
