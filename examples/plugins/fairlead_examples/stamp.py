"""A filter that says in a field of each answer who has served it."""

from __future__ import annotations

from proxy.filters import Filter, Request, Response


class Stamp(Filter):
    """Owns the text that it puts into a field."""

    def __init__(self, *, value: str, field: str = "X-Stamp") -> None:
        self._field, self._value = field, value

    def on_request(self, request: Request) -> None:
        """Let no client say it."""
        request.headers.remove(self._field)

    def on_response(self, request: Request, response: Response) -> None:
        response.headers.set(self._field, self._value)
