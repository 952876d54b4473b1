"""The table of raw bytes against the real process, over sockets. One proxy for all cases.

The origin reads as strictly as `tests/support/strict_http.py` does and records what reached it
whole. Behind every request another is sent: it is served as what it is, or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.running import RunningProxy
from tests.support.processes import free_port
from tests.support.raw_cases import NEXT, QUESTIONS, REPLIES, Arrival, Question, Reply
from tests.support.strict_http import Message, Violation, read_answers, read_requests

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
GOOD_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
PATIENCE = 20.0
HASTY = 0.2
"""Seconds that the second listener waits for a request: cases without an end take that long."""


class Recorder(asyncio.Protocol):
    """One connection of the origin."""

    def __init__(self, origin: RecordingOrigin) -> None:
        self.origin = origin
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.origin.open.add(self)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while self._unread:
            try:
                requests, self._unread = read_requests(self._unread)
            except Violation as violation:
                self.origin.violations.append(str(violation))
                self.transport.abort()
                return
            if not requests:
                return
            for request in requests:
                self.origin.requests.append(request)
                self._answer(request)

    def _answer(self, request: Message) -> None:
        reply, self.origin.reply = self.origin.reply, None
        if reply is None:
            self.transport.write(GOOD_HEAD if request.start[0] == b"HEAD" else GOOD)
            return
        self.transport.write(reply.raw)
        if reply.ends:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.origin.open.discard(self)


class RecordingOrigin:
    """Owns what reached the instance, and the answer that it gives next."""

    def __init__(self) -> None:
        self.requests: list[Message] = []
        self.violations: list[str] = []
        self.open: set[Recorder] = set()
        self.reply: Reply | None = None
        """The next request gets this, those after it a good answer."""

    def taken(self) -> list[Message]:
        """The requests since the last look."""
        requests, self.requests = self.requests, []
        assert self.violations == []
        return requests


@dataclass
class Site:
    """A running proxy in front of the recording origin."""

    origin: RecordingOrigin
    web: int
    hasty: int


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    origin = RecordingOrigin()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Recorder(origin), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    web, hasty = free_port(), free_port()
    config: dict[str, Any] = {
        "listeners": [
            {"name": "web", "bind": f"127.0.0.1:{web}", "http2": False},
            {
                "name": "hasty",
                "bind": f"127.0.0.1:{hasty}",
                "http2": False,
                "timeouts": {"head": f"{HASTY}s", "body": f"{HASTY}s"},
            },
        ],
        "services": {"s": {"instances": [{"id": "one", "address": "127.0.0.1", "port": port}]}},
        "routes": [{"path_prefix": "/", "service": "s"}],
    }
    proxy = RunningProxy(config, tmp_path_factory.mktemp("bytes"))
    proxy.port = web
    async with proxy:
        yield Site(origin, web, hasty)
    server.close()
    for recorder in list(origin.open):
        recorder.transport.abort()
    await server.wait_closed()


async def exchange(
    port: int, raw: bytes, methods: Sequence[bytes], wanted: int, to_end: bool
) -> tuple[list[Message], bytes, bool]:
    """Send `raw` and read `wanted` final answers, or (`to_end`) until we are closed. Returns
    the answers, what follows them, and whether the connection ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got, ended = b"", False
    try:
        async with asyncio.timeout(PATIENCE):
            writer.write(raw)
            while True:
                answers, rest = read_answers(got, methods, ended=ended)
                final = [answer for answer in answers if answer.start[0] >= b"200"]
                if ended or (not to_end and len(final) >= wanted):
                    return answers, rest, ended
                try:
                    data = await reader.read(1 << 16)
                except ConnectionResetError:
                    data = b""
                got += data
                ended = data == b""
    finally:
        writer.transport.abort()


def same(got: Sequence[Message], wanted: Sequence[Arrival]) -> None:
    """The origin understood exactly these requests."""
    assert [(m.start, m.body) for m in got] == [((w.method, w.target), w.body) for w in wanted]
    for message, arrival in zip(got, wanted, strict=True):
        for name, value in arrival.has:
            assert message.all(name) == [value], name
        for name in arrival.lacks:
            assert message.all(name) == [], name
        assert message.trailers == arrival.trailers


OF_NEXT = Arrival(b"GET", b"/next", has=((b"host", b"next"),))
FOREIGN = {"our own Via"}
"""Cases about the mark of the proxy in memory, which another process does not know."""


@pytest.mark.parametrize("case", QUESTIONS, ids=lambda case: case.name)
async def test_a_request(site: Site, case: Question) -> None:
    if case.name in FOREIGN:
        case = Question(case.name, case.clause, case.raw, (Arrival(),), (200,))
    goes_on = not case.closes
    arrives = (*case.arrives, OF_NEXT) if goes_on else case.arrives
    statuses = [*case.statuses, 200] if goes_on else list(case.statuses)
    answers, rest, ended = await exchange(
        site.hasty if case.late else site.web,
        case.raw if case.late else case.raw + NEXT,
        [arrival.method for arrival in case.arrives],
        len(statuses),
        case.closes,
    )
    same(site.origin.taken(), arrives)
    assert [int(answer.start[0]) for answer in answers] == statuses
    assert rest == b""
    assert ended == case.closes


@pytest.mark.parametrize("case", REPLIES, ids=lambda case: case.name)
async def test_an_answer(site: Site, case: Reply) -> None:
    site.origin.reply = case
    method, _, line = case.asked.partition(b" ")
    answers, rest, ended = await exchange(site.web, case.asked, [method], 1, False)
    assert len(site.origin.taken()) == 1
    final = [answer for answer in answers if answer.start[0] >= b"200"]
    assert tuple(int(a.start[0]) for a in answers if a not in final) == case.interim
    if case.cut:
        # All of it in one read is refused before anything is relayed. To a 1.0 client it is the
        # reset that says that the end is none; a stream reader hides it.
        assert [a.start for a in final] == [(b"502",)] or ended
        assert final == [] or final[0].start == (b"502",) or b"HTTP/1.0" in line
    else:
        [answer] = final
        assert (int(answer.start[0]), rest) == (case.status, b"")
        if case.status != 502:
            assert answer.body == case.body
            assert answer.trailers == case.trailers
        for name, value in case.has:
            assert answer.all(name) == [value], name
        for name in case.lacks:
            assert answer.all(name) == [], name
    # Whatever that was, the next client gets its own answer.
    [after], rest, ended = await exchange(site.web, NEXT, [b"GET"], 1, False)
    assert (after.start, after.body, rest, ended) == ((b"200",), b"hi", b"", False)
    same(site.origin.taken(), [OF_NEXT])
