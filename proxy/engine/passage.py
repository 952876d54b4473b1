"""Where one request is among its filters."""

from __future__ import annotations

import asyncio
from typing import Any

from proxy.engine.deadlines import Alarm
from proxy.engine.filters import Link, Links
from proxy.filters import content
from proxy.filters.content import Change
from proxy.filters.message import Request, Response
from proxy.http.messages import OwnAnswer


class HeldAnswer:
    """Owns an answer that filters look at, as far as it is here."""

    __slots__ = ("closes", "done", "outcome", "own", "pieces", "trailers")

    def __init__(
        self,
        own: OwnAnswer | None,
        outcome: str,
        closes: bool,
        pieces: list[bytes],
        done: bool,
        trailers: bytes,
    ) -> None:
        """`own`: of the proxy, with what follows from it; None: an instance's, with the rest."""
        self.own = own
        self.outcome = outcome
        self.closes = closes
        self.pieces = pieces  # ≤ 512 KiB
        self.done = done
        self.trailers = trailers  # ≤ 32 KiB


class Passage:
    """Owns where one request is among its filters, and the hook that it waits for."""

    __slots__ = ("alarm", "answered", "answering", "asked", "begun", "came_at", "content",
                 "current", "held", "keeps_length", "links", "original", "own", "response", "task",
                 "view")  # fmt: skip

    def __init__(self, links: Links, view: Request) -> None:
        self.links = links
        """The filters that concern the request, as far as is known."""
        self.view = view
        self.original = view.head
        """The head as it came, for logs and counts."""
        self.asked = 0
        """How many of them had the request, or have it now."""
        self.answered = len(links)
        """How many of them have yet to see the answer: the first ones."""
        self.answering = False
        """There is an answer, and some have seen it."""
        self.begun = False
        """The request is on its way: all have let it pass."""
        self.current: Link | None = None
        self.task: asyncio.Future[Any] | None = None
        """The hook of the current one, while it waits."""
        self.alarm: Alarm | None = None
        self.own: HeldAnswer | None = None
        """The answer of a route, whose filters are asked first."""
        self.held: HeldAnswer | None = None
        """An answer that is not relayed yet."""
        self.response: Response | None = None
        self.came_at = 0.0
        """When the answer of an instance came."""
        self.content: list[Change] = []  # ≤ 8 KiB
        """Changes of an instance's content."""
        self.keeps_length = True
        """Whether these leave its length."""

    def add(self, links: Links) -> None:
        """Further filters concern the request."""
        self.links += links
        self.answered = len(self.links)

    def of_request(self, pieces: list[bytes], done: bool) -> list[bytes]:
        """A request's content as the filters change it. Raises what they do."""
        return changed(self.view.changes, pieces, done, self.view.keeps_length)

    def of_answer(self, pieces: list[bytes], done: bool) -> list[bytes]:
        """An answer's, behind its first pieces."""
        return changed(self.content, pieces, done, self.keeps_length)

    @property
    def name(self) -> str:
        """Of the filter whose turn it is; empty = it is nobody's."""
        return "" if self.current is None else self.current.name

    @property
    def holds_up(self) -> bool:
        """Whether a filter waits with an answer of an instance."""
        return self.held is not None and self.held.own is None

    def turn_back(self) -> str:
        """The request goes no further than the current filter: those before it see the answer.
        Returns its name."""
        if not self.answering:
            self.answered = self.asked - 1
        return self.name

    def decisions(self, by: str, end: str) -> str:
        """See `RequestState`. `by`: the filter that ended the request, empty = none did."""
        told = []
        for link in self.links[: self.asked][::-1]:  # ≤ 256
            decided = "none" if link is self.current and not self.answering else "pass"
            if link.name == by:
                decided, by = end, ""
            elif link.on_request is None:
                continue
            told.append(f"{link.name}:{decided}")
        return ",".join(reversed(told))


def changed(
    changes: list[Change], pieces: list[bytes], done: bool, keeps_length: bool
) -> list[bytes]:
    """Content with the changes of filters, which are asked about content and about the end. Raises
    what these do."""
    data = b"".join(pieces)
    if not data and not done:
        return []
    data = content.changed(changes, data, done, keeps_length)
    return [data] if data else []
