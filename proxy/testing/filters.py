"""The contract of filters: `FilterContract`, and requests and answers to try them on.

class TestStamp(FilterContract):
    filter = Stamp
    given = {"value": "7"}

    def test_it_says_so(self) -> None:
        answer = an_answer()
        self.make().on_response(a_request(), answer)
        assert answer.headers.get("X-Stamp") == "7"
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from proxy.engine.filters import make
from proxy.engine.http1.parser import parse_request, parse_response
from proxy.engine.resilience.limits import SIZE, BucketTable
from proxy.errors import LOOP, Refused
from proxy.filters import Context, Filter, Request, Response
from proxy.http.forwarding import ClientFacts
from proxy.http.messages import OwnAnswer

HOOKS = ("on_request", "on_response", "on_end")
LONGEST = 60.0
"""Seconds that a hook may say it takes: a filter is closed that long after its last request."""


def a_request(
    method: str = "GET",
    target: str = "/x",
    fields: Mapping[str, str] | None = None,
    client: str = "192.0.2.7",
) -> Request:
    """A request as a filter of a route sees it."""
    lines = [f"{method} {target} HTTP/1.1", "Host: example.com"]
    lines += [f"{name}: {value}" for name, value in (fields or {}).items()]
    head = parse_request(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), 100)
    facts = ClientFacts(client, 8080, None, b"Via: 1.1 fairlead (test)\r\n")
    path, mark, query = target.partition("?")
    request = Request(head, path, (mark + query).encode("latin-1"), facts, False)
    request.service, request.target_of_instance, request.id = "users", target, "r1"
    return request


def an_answer(status: int = 200, fields: Mapping[str, str] | None = None) -> Response:
    """The head of an instance's answer, of a small text unless the fields say otherwise."""
    given = fields or {"Content-Type": "text/plain", "Content-Length": "2"}
    lines = [f"HTTP/1.1 {status} ", *(f"{name}: {value}" for name, value in given.items())]
    head = parse_response(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    return Response.of_instance(head)


def own_answer(status: int = 502) -> Response:
    """An answer of the proxy's own."""
    fields = ((b"Content-Type", b"application/problem+json"),)
    return Response.of_proxy(OwnAnswer(status, "", fields, b"{}"), LOOP)


@asynccontextmanager
async def opened(one: Filter) -> AsyncIterator[Filter]:
    """A filter in use, as a worker has it."""
    loop = asyncio.get_running_loop()
    buckets = BucketTable(memoryview(bytearray(SIZE)))
    claims: list[bytes] = []
    one.name = "under-test"
    one.open(Context(loop, time.monotonic, buckets, claims.append, asyncio.to_thread, time.time))
    try:
        yield one
    finally:
        one.close()


async def answer_of(one: Filter, request: Request) -> Response | None:
    """The answer of a filter to a request, waited for; None = it goes on. Raises `Refused`."""
    result = one.on_request(request)
    if inspect.isawaitable(result):
        result = await result
    assert result is None or isinstance(result, Response), f"on_request returned {result!r}"
    return result


class FilterContract:
    """Laws of every filter. Where it asks somebody over the network, nobody need be there."""

    filter: ClassVar[type[Filter]]
    """The one under test."""
    given: ClassVar[Mapping[str, Any]] = {}
    """Settings, as the file has them."""

    def make(self) -> Filter:
        """Build it, as `fairlead check` does."""
        return make(self.filter, dict(self.given))

    def test_a_filter_is_made_outside_of_a_loop_and_has_a_hook(self) -> None:
        one = self.make()
        assert [hook for hook in HOOKS if getattr(type(one), hook) is not getattr(Filter, hook)]
        assert 0 < one.time_limit <= LONGEST
        assert 0 < one.block_limit <= LONGEST

    @pytest.mark.asyncio
    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
    async def test_a_request_goes_on_or_is_answered(self, method: str) -> None:
        async with opened(self.make()) as one:
            for fields in ({}, {"Authorization": "Bearer x", "Origin": "https://a.example"}):
                request = a_request(method, "/a/b?c=d", fields)
                try:
                    answer = await asyncio.wait_for(answer_of(one, request), one.time_limit)
                except Refused:
                    continue
                if answer is None:
                    request.taken_over()
                else:
                    assert 200 <= answer.status < 600
                    answer.own_answer()

    @pytest.mark.asyncio
    @pytest.mark.parametrize("status", [200, 204, 304, 404, 503])
    async def test_an_answer_of_an_instance_stays_one(self, status: int) -> None:
        async with opened(self.make()) as one:
            for request in (a_request(), a_request("HEAD")):
                answer = an_answer(status)
                await self._look_back(one, request, answer)
                head = answer.head()
                assert 200 <= head.status < 600
                assert not answer.changes or answer.keeps_length or head.fields.length is None
                for change in answer.changes:
                    assert isinstance(change(b"hi", True), bytes)

    @pytest.mark.asyncio
    async def test_an_answer_of_the_proxy_is_looked_at_as_well(self) -> None:
        async with opened(self.make()) as one:
            answer = own_answer()
            await self._look_back(one, a_request(), answer)
            assert isinstance(answer.own_answer().content, bytes)

    @pytest.mark.asyncio
    async def test_requests_at_the_same_time_do_not_meet(self) -> None:
        async with opened(self.make()) as one:
            requests = [a_request(target=f"/{number}") for number in range(10)]
            asked = (self._asked(one, request) for request in requests)
            kinds = await asyncio.gather(*asked)
            alone = await self._asked(one, a_request(target="/alone"))
            assert kinds.count(alone) >= 1, (
                "what becomes of a request depends on how many there are"
            )

    @pytest.mark.asyncio
    async def test_the_end_is_heard_whatever_came_of_it(self) -> None:
        async with opened(self.make()) as one:
            for outcome in ("ok", "503", "client_gone", "filter_timeout"):
                result = one.on_end(a_request(), outcome)
                if inspect.isawaitable(result):
                    await result

    @pytest.mark.asyncio
    async def test_nothing_is_left_of_a_filter_that_is_closed(self) -> None:
        before = asyncio.all_tasks()
        async with opened(self.make()) as one:
            await self._asked(one, a_request())
        one.close()  # As after a start that failed.
        for _ in range(20):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - before
        assert not left, left

    async def _asked(self, one: Filter, request: Request) -> str:
        """The end of a request, in a word."""
        try:
            answer = await asyncio.wait_for(answer_of(one, request), one.time_limit)
        except Refused as refusal:
            return refusal.fault.code
        return "goes on" if answer is None else str(answer.status)

    async def _look_back(self, one: Filter, request: Request, answer: Response) -> None:
        await self._asked(one, request)
        result = one.on_response(request, answer)
        if inspect.isawaitable(result):
            await asyncio.wait_for(result, one.time_limit)
