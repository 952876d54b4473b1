"""Filters of tests: each does what its settings say."""

from __future__ import annotations

import asyncio
from typing import Any

from proxy.errors import DENIED, Refused
from proxy.filters import Context, Filter, Request, Response
from proxy.settings.filters import FilterSpec

HEARD: list[str] = []
"""What all filters of the test under way have met, in order."""


def spec(kind: str, name: str = "", **settings: Any) -> FilterSpec:
    """A filter as a worker is told of it; a class of this module by its name alone."""
    if kind[0].isupper():
        kind = f"tests.support.filters:{kind}"
    return FilterSpec(name=name or kind.rpartition(":")[2], kind=kind, settings=settings)


class Scripted(Filter):
    """A filter that notes its hooks, and in one of them raises, waits, hangs or answers; `asks` and
    `answers`: in a change of content, at its end."""

    def __init__(self, *, says: str = "", at: str = "", does: str = "", limit: float = 2.0) -> None:
        self.says, self.at, self.does = says, at, does
        self.time_limit = limit

    def open(self, context: Context) -> None:
        if self.at == "open":
            raise RuntimeError("cannot open")

    def close(self) -> None:
        if self.at in ("open", "close"):
            HEARD.append(f"{self.says}.close")

    def _meet(self, hook: str) -> Any:
        HEARD.append(f"{self.says}.{hook}")
        if hook != self.at:
            return None
        if self.does == "raise":
            raise RuntimeError("no good")
        if self.does == "refuse":
            raise Refused(DENIED, "not you")
        if self.does == "wrong":
            return 7
        return self._wait(hook) if self.does in ("hang", "wait", "fail") else None

    async def _wait(self, hook: str) -> None:
        try:
            await asyncio.sleep(3600 if self.does == "hang" else 1)
            if self.does == "fail":
                raise RuntimeError("no good after a while")
        except asyncio.CancelledError:
            HEARD.append(f"{self.says}.{hook} cancelled")
            raise
        HEARD.append(f"{self.says}.{hook} done")

    def _change(self, data: bytes, last: bool) -> bytes:
        if last:
            self._meet(self.at)
        return data

    def on_request(self, request: Request) -> Any:
        if self.at == "asks":
            request.transform(self._change)
        if self.at == "request" and self.does == "answer":
            HEARD.append(f"{self.says}.request")
            return Response(299, "by a filter", {"X-By": self.says})
        return self._meet("request")

    def on_response(self, request: Request, response: Response) -> Any:
        if self.at == "answers":
            response.transform(self._change)
        return self._meet("response")

    def on_end(self, request: Request, outcome: str) -> Any:
        HEARD.append(f"{self.says}.outcome {outcome}")
        return self._meet("end")


class Rewriting(Filter):
    """A filter that changes method, path and query, and the content both ways."""

    def __init__(
        self, *, method: str = "", path: str = "", query: str = "", shout: bool = False
    ) -> None:
        self.method, self.path, self.query, self.shout = method, path, query, shout

    def on_request(self, request: Request) -> None:
        request.method = self.method or request.method
        request.path = self.path or request.path
        request.query = self.query or request.query
        if self.shout:
            request.transform(lambda data, last: data.upper() + (b"!" if last else b""))

    def on_response(self, request: Request, response: Response) -> None:
        if self.shout:
            response.transform(lambda data, last: data.upper() + (b"?" if last else b""))


class Odd(Filter):
    """A filter that answers, or changes an answer, as no filter may: `does` names how."""

    def __init__(self, *, does: str) -> None:
        self.does = does

    def on_request(self, request: Request) -> Any:
        status: Any = {"early": 199, "text": "200", "late": 1000, "bare": 204}.get(self.does)
        if status is not None:
            return Response(status, "content")
        if self.does == "own":
            response = Response(200, "content")
            response.transform(self._change)
            return response
        if self.does == "request":
            request.transform(self._change)
        return None

    def on_response(self, request: Request, response: Response) -> None:
        status: Any = {"to bare": 204, "to early": 103, "to text": "200"}.get(self.does)
        if status is not None:
            response.status = status
        if self.does == "content":
            response.content = b"other"
        if self.does == "answer":
            response.transform(self._change)
        if self.does == "longer":
            response.transform(lambda data, last: data + b"!", keeps_length=True)

    def _change(self, data: bytes, last: bool) -> Any:
        return data.decode()


class Telling(Filter):
    """A filter that tells the instance what it sees."""

    def on_request(self, request: Request) -> None:
        request.headers.set("X-Path", request.path)
