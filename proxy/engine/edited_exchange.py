"""Requests whose filters do no more than edit fields: nothing is made for filters to look at.

What an edit makes of a block of fields is remembered (`Edit`), as the block itself is, so that most
messages are edited by a look-up.
"""

from __future__ import annotations

from proxy.engine.exchange import Exchange
from proxy.engine.filters import Links
from proxy.http.messages import RequestHead, ResponseHead


class EditedExchange(Exchange):
    """Owns one request whose fields, and those of its answer, may be edited."""

    edited: Links = ()
    """The filters that have edited the request, and none of whose hooks was called."""
    original: RequestHead | None = None
    """The head as it came, for logs and counts."""

    def _edit(self, links: Links) -> bool:
        """Edit the request as these filters do. False: one of them has to be asked."""
        head, facts = self.request, self.client.facts
        for link in links:  # ≤ 256
            if link.guard is not None or not link.filter.edits_only(head, facts):
                return False
        fields = head.fields
        for link in links:  # ≤ 256
            edit = link.filter.request_edit
            if edit is not None:
                fields = edit.of_request(fields)
        if fields is not head.fields:
            self.request = RequestHead(head.method, head.target, head.minor, fields)
        self.edited, self.original = links, head
        self.has_extras = True
        self._on_edited()
        return True

    def _on_edited(self) -> None:
        """The request has been edited: what was read of it may say something else now."""

    def _take_to_filters(
        self, response: ResponseHead, pieces: list[bytes], done: bool, trailers: bytes
    ) -> bool:
        """See `Exchange`."""
        if not self.edited:
            return False
        fields = response.fields
        for link in self.edited[::-1]:  # ≤ 256
            edit = link.filter.response_edit(self.request)
            if edit is not None:
                fields = edit.of_response(fields)
        if fields is not response.fields:
            response = ResponseHead(response.status, response.status_line, response.minor, fields)
        self.whole = False
        self.body = None
        self._relay(response, pieces, done, trailers)
        return True

    def _relay(self, head: ResponseHead, pieces: list[bytes], done: bool, trailers: bytes) -> None:
        """Relay an answer, as `on_answer` does where nobody looks at it."""
        self.status = head.status
        client = self.client
        client.answer(head, self.id_line, pieces, done, trailers)
        if done:
            self._complete(self.services.now())
        elif client.full:
            self.on_client_full()
        elif self.upstream is not None:
            self.upstream.resume_reading()

    def _finish(self, outcome: str, now: float) -> None:
        """See `Exchange`."""
        if self.original is not None:
            self.request = self.original
        super()._finish(outcome, now)
