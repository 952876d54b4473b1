"""Recorders of a request as it happens: the access log, and others."""

from __future__ import annotations

from proxy.engine.request_state import RequestState


class Recorder:
    """Hears the facts of one request. Where nobody records there is none, and nothing is asked."""

    __slots__ = ()

    def on_request_body(self, pieces: list[bytes]) -> None:
        """Content of the client passed by."""

    def on_answer(self, now: float, pieces: list[bytes]) -> None:
        """The head of an instance's answer is here, with content; also that of a 101."""

    def on_body(self, pieces: list[bytes]) -> None:
        """Content of the instance passed by."""

    def on_reserve(self) -> None:
        """The answer is kept in reserve: the client may get another one."""

    def on_own_answer(self, size: int) -> None:
        """The proxy has answered itself, with so many bytes of content."""

    def on_finished(self, state: RequestState, outcome: str, now: float) -> None:
        """The request is over; `outcome`: `ok`, the code of a fault, or a status that speaks
        against the instance."""
