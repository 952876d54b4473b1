"""The conversations of HTTP/2 over real sockets, each between good requests, whole, in two, and
byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import hpack
import pytest
import pytest_asyncio

from proxy.http2.frame_list import FrameList
from tests.e2e.origin import Call, Origin
from tests.e2e.running import RunningProxy
from tests.support.frame_cases import START, frame
from tests.support.h2_peer import head, reset
from tests.support.session_cases import ASKED, CONVERSATIONS, SessionCase

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The origin reads no trailers.
CASES = [one for one in CONVERSATIONS if not (one.answered and one.name.startswith("trailers"))]
PATIENCE = 30.0
STREAM_CLOSED = 5
AT_A_TIME = 20
LONGEST = 1000
"""Bytes of a case that is said byte by byte."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[RunningProxy, Origin]]:
    async def script(call: Call) -> None:
        await call.read()
        await call.reply(b"hi")

    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin(script=script))
        config: dict[str, Any] = {
            "services": {"s": {"instances": [origin.instance]}},
            "routes": [{"path_prefix": "/", "service": "s"}],
        }
        running = RunningProxy(config, tmp_path_factory.mktemp("proxy"))
        yield await stack.enter_async_context(running), origin


class Conversation:
    """A client's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._heard = FrameList(False, 1 << 20)
        self._decoder = hpack.Decoder()
        self.statuses: dict[int, str] = {}
        self.resets: list[tuple[int, int]] = []
        self.goaways: list[int] = []
        self.ended: set[int] = set()

    async def hear(self, stream: int) -> None:
        """Until the answer of a stream is whole, or the connection is closed."""
        async with asyncio.timeout(PATIENCE):
            while stream not in self.ended and (data := await self._reader.read(65536)):
                self._heard.feed(data)
                while self._heard.behind:
                    self._heard.feed(b"")
                for one in self._heard.frames:
                    self._note(one)
                self._heard.frames.clear()

    def _note(self, one: tuple[Any, ...]) -> None:
        if one[0] == "head":
            pairs = self._decoder.decode(one[2], raw=True)
            self.statuses[one[1]] = dict(pairs).get(b":status", b"").decode()  # type: ignore[arg-type]
        if one[0] == "reset":
            self.resets.append(one[1:])
        elif one[0] == "goaway":
            self.goaways.append(one[2])
        elif one[0] in ("head", "data") and one[-1]:
            self.ended.add(one[1])


async def play(port: int, case: SessionCase, pieces: list[bytes]) -> None:
    talk = Conversation(*await asyncio.open_connection("127.0.0.1", port))
    writer = talk.writer
    try:
        writer.write(START + frame(4, 1) + head(1))
        await talk.hear(1)
        assert talk.statuses == {1: "200"}
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if case.ends < 0:
            if not case.answered and case.resets < 0 and not case.status:
                writer.write(reset(3))
            elif case.answered or case.status:
                await talk.hear(3)
            writer.write(head(11))
        await talk.hear(11)
    finally:
        writer.transport.abort()
    assert talk.goaways == ([case.ends] if case.ends >= 0 else [])
    assert talk.resets == ([(3, case.resets)] if case.resets >= 0 else [])
    told = {"200" if case.answered else case.status}
    if case.reaches == ASKED:
        told.add("200")  # The instance may be quicker than what comes behind a whole request.
    assert talk.statuses.get(3, "") in told
    assert (talk.statuses.get(11) == "200") is (case.ends < 0)


def cuts(case: SessionCase) -> list[list[bytes]]:
    raw = case.raw
    half = len(raw) // 2
    # What comes behind the end of a request is of another stream once that is answered.
    slow = len(raw) <= LONGEST and case.resets != STREAM_CLOSED
    single = [raw[at : at + 1] for at in range(len(raw))]
    return [[raw], [raw[:half], raw[half:]], *([single] if slow else [])]


async def test_conversations_end_as_they_must(site: tuple[RunningProxy, Origin]) -> None:
    assert len(CASES) >= 150
    proxy, origin = site
    room = asyncio.Semaphore(AT_A_TIME)

    async def one(case: SessionCase) -> str:
        async with room:
            try:
                for pieces in cuts(case):
                    await play(proxy.port, case, pieces)
            except (AssertionError, TimeoutError, OSError) as error:
                return f"{case.name}: {error!r}"
            return ""

    failures = await asyncio.gather(*(one(case) for case in CASES))
    assert [failure for failure in failures if failure] == []
    # The instance reads strictly, and has seen no bodies to their ends but those that it may see.
    posted = [case for case in CASES if case.reaches.startswith(b"POST ")]
    whole = sum(len(cuts(case)) for case in posted if case.answered)
    late = sum(len(cuts(case)) for case in posted if case.resets == STREAM_CLOSED)
    seen = sum(call.method == "POST" and call.sent > 0 for call in origin.calls)
    assert whole <= seen <= whole + late
