"""Other people's clients, through the real proxy, at an origin that reads strictly.

What is asked of each: bodies both ways whole and in pieces, a stream that arrives as it is
written, one connection for many requests, and a time-out that harms nobody else.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import httpx
import pytest
import pytest_asyncio
import requests
import urllib3

from tests.e2e.origin import Call, Gate, Origin
from tests.e2e.programs import NODE, need, output
from tests.e2e.raw_http import socket_buffers
from tests.e2e.running import RunningProxy
from tests.e2e.tcp_fault import TcpFault
from tests.support.processes import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
PAGE = hashlib.shake_128(b"page").digest(100_000)
PIECES = [hashlib.shake_128(b"%d" % number).digest(10_000) for number in range(100)]
DIGEST = hashlib.sha256(b"".join(PIECES)).hexdigest()


class Books:
    """The origin's script: a small web site, by the last segment of the path."""

    def __init__(self) -> None:
        self.gate = Gate()
        """`held` waits for it, and so does the second half of `halves`."""
        self.more = asyncio.Event()

    async def __call__(self, call: Call) -> None:
        await getattr(self, call.tail)(call)

    async def page(self, call: Call) -> None:
        """A resource with a validator, ranges and a compressed form."""
        fields = [("ETag", '"1"'), ("Accept-Ranges", "bytes"), ("Vary", "Accept-Encoding")]
        if call.head.get("If-None-Match") == '"1"':
            await call.reply(status=304, fields=fields)
        elif asked := call.head.get("Range"):
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
            assert found is not None, asked
            first, last = int(found[1]), int(found[2])
            fields.append(("Content-Range", f"bytes {first}-{last}/{len(PAGE)}"))
            await call.reply(PAGE[first : last + 1], 206, fields)
        elif "gzip" in (call.head.get("Accept-Encoding") or ""):
            await call.reply(gzip.compress(PAGE), fields=[*fields, ("Content-Encoding", "gzip")])
        else:
            await call.reply(PAGE, fields=fields)

    async def digest(self, call: Call) -> None:
        """The request as it arrived, in JSON."""
        if call.head.get("Expect") == "100-continue":
            await call.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await call.read()
        seen = {
            "method": call.method,
            "size": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
            "chunked": call.head.chunked,
            "expect": call.head.get("Expect"),
            "type": call.head.get("Content-Type"),
        }
        await call.reply(json.dumps(seen).encode(), fields=[("Content-Type", "application/json")])

    async def no(self, call: Call) -> None:
        """A final answer in place of the 100 that the client asks for."""
        call.closing = True
        await call.write(
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
        )

    async def pieces(self, call: Call) -> None:
        """An answer in chunks."""
        await call.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in PIECES:
            await call.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await call.write(b"0\r\n\r\n")

    async def halves(self, call: Call) -> None:
        """One piece, and the second one when the client has seen the first."""
        await call.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await self.more.wait()
        await call.write(b"7\r\n second\r\n0\r\n\r\n")

    async def held(self, call: Call) -> None:
        """Silence while the gate is shut."""
        await self.gate(call)


@dataclass
class Site:
    proxy: RunningProxy
    origin: Origin
    counted: TcpFault
    """A way to the proxy that counts connections."""
    books: Books

    def url(self, name: str) -> str:
        return f"{self.proxy.url}/books/{name}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin())
        config = {
            "services": {"books": {"instances": [origin.instance]}},
            "routes": [{"path_prefix": "/{service}", "strip_prefix": True}],
        }
        proxy = RunningProxy(config, tmp_path_factory.mktemp("proxy"))
        await stack.enter_async_context(proxy)
        counted = await stack.enter_async_context(TcpFault(proxy.port))
        yield Site(proxy, origin, counted, Books())


@pytest_asyncio.fixture(loop_scope="module")
async def site(running: Site) -> AsyncIterator[Site]:
    running.origin.calls.clear()
    running.books = Books()
    running.origin.script = running.books
    running.counted.accepted = 0
    yield running
    running.books.gate.open()
    running.books.more.set()
    await eventually(lambda: running.origin.in_flight == 0, 10, "the end of all calls")


# -- curl


async def curl(*arguments: str, stdin: bytes | None = None) -> bytes:
    command = (need("curl"), "--disable", "-sS", "--noproxy", "*", "--max-time", "20")
    return await output(*command, *arguments, stdin=stdin)


async def test_curl_waits_for_the_100_of_the_origin(site: Site, tmp_path: Path) -> None:
    body = hashlib.shake_128(b"5 MB").digest(5_000_000)
    upload = tmp_path / "upload"
    upload.write_bytes(body)
    # Without a 100 it would wait for a minute, and be stopped after 20 s.
    seen = json.loads(
        await curl(
            *("-H", "Expect: 100-continue", "--expect100-timeout", "60"),
            *("--data-binary", f"@{upload}", site.url("digest")),
        )
    )
    assert seen["sha256"] == hashlib.sha256(body).hexdigest()
    assert (seen["method"], seen["size"], seen["chunked"]) == ("POST", len(body), False)
    assert seen["expect"] == "100-continue"


async def test_curl_does_not_send_what_is_refused(site: Site, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(5_000_000))
    answer = await curl(
        *("-H", "Expect: 100-continue", "--expect100-timeout", "60"),
        *("-w", " %{http_code} %{size_upload}", "--data-binary", f"@{upload}", site.url("no")),
    )
    assert answer == b"no 403 0"


async def test_curl_uploads_from_a_pipe_in_chunks(site: Site) -> None:
    body = b"".join(PIECES)
    seen = json.loads(await curl("-T", "-", site.url("digest"), stdin=body))
    assert (seen["method"], seen["chunked"], seen["sha256"]) == ("PUT", True, DIGEST)


@pytest.mark.parametrize("name", ["page", "pieces"])
async def test_curl_speaks_1_0(site: Site, name: str) -> None:
    body = await curl("--http1.0", "-w", " %{http_version}", site.url(name))
    assert body == (PAGE if name == "page" else b"".join(PIECES)) + b" 1.1"


async def test_curl_fetches_two_pages_over_one_connection(site: Site) -> None:
    written = ("-w", "%{http_code} %{num_connects};", "-o", "/dev/null")
    said = await curl(*written, site.url("page"), "--next", "-sS", *written, site.url("pieces"))
    assert said == b"200 1;200 0;"


async def test_curl_asks_for_the_head_a_range_and_a_changed_page(site: Site) -> None:
    head = (await curl("-I", site.url("page"))).decode().lower()
    assert head.startswith("http/1.1 200")
    assert f"content-length: {len(PAGE)}\r\n" in head
    assert await curl("-r", "100-299", site.url("page")) == PAGE[100:300]
    condition = ("-H", 'If-None-Match: "1"', "-w", "%{http_code} %{size_download}")
    assert await curl(*condition, site.url("page")) == b"304 0"
    assert await curl("--compressed", site.url("page")) == PAGE


# -- Python's clients


@dataclass(frozen=True)
class Reply:
    status: int
    fields: dict[str, str]
    """By their names in small letters."""
    body: bytes


class Asking(ABC):
    """One client library, with a session that keeps its connections."""

    @abstractmethod
    async def ask(
        self, method: str, url: str, body: bytes | list[bytes] = b"", timeout: float = 20
    ) -> Reply:
        """One request; a list is a body that comes in pieces, without a length. TimeoutError
        when there is no answer for `timeout` seconds."""

    @abstractmethod
    async def download(self, url: str, first: Callable[[], None]) -> bytes:
        """A body read piece by piece; `first` is called after the first one."""

    @abstractmethod
    async def close(self) -> None:
        """Close all connections."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()


def in_pieces(body: list[bytes]) -> Iterator[bytes]:
    yield from body


class AskingRequests(Asking):
    def __init__(self) -> None:
        self._session = requests.Session()
        self._session.trust_env = False

    async def ask(
        self, method: str, url: str, body: bytes | list[bytes] = b"", timeout: float = 20
    ) -> Reply:
        content = in_pieces(body) if isinstance(body, list) else body
        try:
            answer = await asyncio.to_thread(
                self._session.request, method, url, data=content, timeout=timeout
            )
        except requests.Timeout:
            raise TimeoutError from None
        fields = {name.lower(): value for name, value in answer.headers.items()}
        return Reply(answer.status_code, fields, answer.content)

    async def download(self, url: str, first: Callable[[], None]) -> bytes:
        def read() -> bytes:
            with self._session.get(url, stream=True, timeout=20) as answer:
                pieces = answer.iter_content(None)
                beginning: bytes = next(pieces)
                first()
                return beginning + b"".join(pieces)

        return await asyncio.to_thread(read)

    async def close(self) -> None:
        self._session.close()


class AskingUrllib3(Asking):
    def __init__(self) -> None:
        self._pool = urllib3.PoolManager(retries=False)

    async def ask(
        self, method: str, url: str, body: bytes | list[bytes] = b"", timeout: float = 20
    ) -> Reply:
        content = in_pieces(body) if isinstance(body, list) else body
        try:
            answer = await asyncio.to_thread(
                self._pool.request, method, url, body=content, timeout=timeout
            )
        except urllib3.exceptions.TimeoutError:
            raise TimeoutError from None
        fields = {name.lower(): value for name, value in answer.headers.items()}
        return Reply(answer.status, fields, answer.data)

    async def download(self, url: str, first: Callable[[], None]) -> bytes:
        def read() -> bytes:
            answer = self._pool.request("GET", url, preload_content=False, timeout=20)
            pieces = answer.stream(None)
            beginning = next(pieces)
            first()
            whole = beginning + b"".join(pieces)
            answer.release_conn()
            return whole

        return await asyncio.to_thread(read)

    async def close(self) -> None:
        self._pool.clear()


class AskingHttpx(Asking):
    def __init__(self) -> None:
        self._session = httpx.AsyncClient(trust_env=False)

    async def ask(
        self, method: str, url: str, body: bytes | list[bytes] = b"", timeout: float = 20
    ) -> Reply:
        async def pieces() -> AsyncIterator[bytes]:
            for piece in body:
                assert isinstance(piece, bytes)
                yield piece

        content = pieces() if isinstance(body, list) else body
        try:
            answer = await self._session.request(method, url, content=content, timeout=timeout)
        except httpx.TimeoutException:
            raise TimeoutError from None
        return Reply(answer.status_code, dict(answer.headers), answer.content)

    async def download(self, url: str, first: Callable[[], None]) -> bytes:
        whole = b""
        async with self._session.stream("GET", url, timeout=20) as answer:
            async for piece in answer.aiter_raw():
                if not whole:
                    first()
                whole += piece
        return whole

    async def close(self) -> None:
        await self._session.aclose()


class AskingAiohttp(Asking):
    def __init__(self) -> None:
        self._session = aiohttp.ClientSession()

    async def ask(
        self, method: str, url: str, body: bytes | list[bytes] = b"", timeout: float = 20
    ) -> Reply:
        async def pieces() -> AsyncIterator[bytes]:
            for piece in body:
                assert isinstance(piece, bytes)
                yield piece

        content = pieces() if isinstance(body, list) else body
        limit = aiohttp.ClientTimeout(total=timeout)
        async with self._session.request(method, url, data=content, timeout=limit) as answer:
            fields = {name.lower(): value for name, value in answer.headers.items()}
            return Reply(answer.status, fields, await answer.read())

    async def download(self, url: str, first: Callable[[], None]) -> bytes:
        whole = b""
        limit = aiohttp.ClientTimeout(total=20)
        async with self._session.get(url, timeout=limit) as answer:
            async for piece in answer.content.iter_any():
                if not whole:
                    first()
                whole += piece
        return whole

    async def close(self) -> None:
        await self._session.close()


CLIENTS: dict[str, type[Asking]] = {
    "requests": AskingRequests,
    "urllib3": AskingUrllib3,
    "httpx": AskingHttpx,
    "aiohttp": AskingAiohttp,
}
each_client = pytest.mark.parametrize("library", CLIENTS.values(), ids=CLIENTS)


@each_client
async def test_bodies_of_every_kind_over_one_connection(site: Site, library: type[Asking]) -> None:
    base = f"{site.counted.url}/books/"
    async with library() as client:
        page = await client.ask("GET", base + "page")
        assert (page.status, page.body) == (200, PAGE)
        head = await client.ask("HEAD", base + "page")
        assert (head.status, head.body, head.fields["etag"]) == (200, b"", '"1"')
        pieces = await client.ask("GET", base + "pieces")
        assert pieces.body == b"".join(PIECES)
        assert "transfer-encoding" in pieces.fields
        for method in ("POST", "PUT", "PATCH"):
            for body, size in ((b"x" * MIB, MIB), (PIECES, 1_000_000), (b"", 0)):
                reply = await client.ask(method, base + "digest", body)
                assert reply.status == 200, reply
                seen = json.loads(reply.body)
                assert (seen["method"], seen["size"]) == (method, size)
                assert seen["chunked"] == isinstance(body, list)
                if body is PIECES:
                    assert seen["sha256"] == DIGEST
        deleted = await client.ask("DELETE", base + "digest")
        assert json.loads(deleted.body)["method"] == "DELETE"
    assert site.counted.accepted == 1
    assert len({call.connection for call in site.origin.calls}) == 1


@each_client
async def test_a_piece_arrives_before_the_next_is_written(
    site: Site, library: type[Asking]
) -> None:
    loop = asyncio.get_running_loop()

    def first() -> None:
        # Some clients read in a thread of their own.
        loop.call_soon_threadsafe(site.books.more.set)

    async with library() as client:
        assert await client.download(site.url("halves"), first) == b"first second"


@each_client
async def test_many_at_once(site: Site, library: type[Asking]) -> None:
    async with library() as client:

        async def talk(number: int) -> None:
            body = hashlib.shake_128(b"%d" % number).digest(number * 300)
            for _ in range(4):
                reply = await client.ask("POST", site.url("digest"), body)
                assert json.loads(reply.body)["sha256"] == hashlib.sha256(body).hexdigest()

        await asyncio.gather(*(talk(number) for number in range(25)))
    assert len(site.origin.calls) == 100


@each_client
async def test_a_client_that_gives_up_harms_nobody(site: Site, library: type[Asking]) -> None:
    """What the instance says in the end, if it goes on, must not become the answer to anything
    else."""
    async with library() as client:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await client.ask("GET", site.url("held"), timeout=0.2)
            reply = await client.ask("POST", site.url("digest"), b"and now")
            assert json.loads(reply.body)["size"] == 7
        site.books.gate.open()
        for number in range(20):
            reply = await client.ask("POST", site.url("digest"), b"x" * number)
            assert json.loads(reply.body)["size"] == number

    async def nothing_is_left() -> bool:
        _, service = await site.proxy.get("/api/v1/services/books")
        idle: bool = service["instances"][0]["inflight"] == 0
        return idle

    await eventually(nothing_is_left, 10, "no request in flight")


async def test_requests_stops_in_the_middle_of_a_download(site: Site) -> None:
    """Closing an answer that is half read leaves nothing behind."""
    size = socket_buffers() + 8 * MIB

    async def flood(call: Call) -> None:
        await call.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // MIB):
            await call.write(bytes(MIB))

    site.origin.script = flood
    enough = threading.Event()

    def read() -> int:
        with requests.get(site.url("flood"), stream=True, timeout=20) as answer:
            got = len(next(answer.iter_content(64 * 1024)))
            enough.set()
            return got

    assert await asyncio.to_thread(read) > 0
    assert enough.is_set()
    await eventually(lambda: site.origin.in_flight == 0, 10, "the origin is stopped")
    assert site.origin.calls[-1].sent < size


# -- Node


async def node(script: str, *arguments: str) -> dict[str, object]:
    """What a script under `node/` says, in JSON."""
    said = await output(need("node"), str(NODE / script), *arguments)
    result: dict[str, object] = json.loads(said)
    return result


async def test_fetch_of_node(site: Site) -> None:
    base = f"{site.counted.url}/books/"
    found = await node("fetch.mjs", base)
    digest = hashlib.sha256(PAGE).hexdigest()
    assert found == {
        "page": [200, digest],
        "head": [200, str(len(PAGE)), 0],
        "range": [206, hashlib.sha256(PAGE[100:300]).hexdigest()],
        "unchanged": [304, 0],
        "pieces": [200, DIGEST],
        "post": ["POST", MIB, False],
        "stream": ["PUT", 1_000_000, True],
        "many": [200] * 40,
        "timeout": "TimeoutError",
        "after": 200,
    }


async def test_the_keep_alive_agent_of_node(site: Site) -> None:
    found = await node("agent.mjs", f"{site.counted.url}/books/")
    assert found == {
        "statuses": [200] * 50,
        "reused": 49,
        "pieces": [200, DIGEST],
        "expected": ["continued", "POST", 5 * MIB],
        "refused": [403, "not continued"],
        "head": [200, str(len(PAGE))],
    }
    # One for the agent; the refused one closes and may cost another.
    assert site.counted.accepted <= 2


# -- load


async def test_wrk_sees_no_error(site: Site) -> None:
    said = (await output(need("wrk"), "-t1", "-c16", "-d2s", site.url("page"))).decode()
    found = re.search(r"(\d+) requests in", said)
    assert found is not None, said
    print(said)  # noqa: T201
    assert int(found[1]) > 100
    assert "Non-2xx" not in said
    assert "Socket errors" not in said
    status, metrics = await site.proxy.get("/metrics")
    assert status == 200
    assert not re.search(r'fairlead_requests_total\{[^}]*code="5', metrics), metrics
