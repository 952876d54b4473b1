"""Requests through the real proxy: where they go, what arrives, what comes back."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from proxy.errors import FAULTS
from tests.e2e.origin import Call, Origin, echo
from tests.e2e.raw_http import Answer, Client, ask, request
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = ("users", "orders", "wild", "inner", "other", "beta")

ROUTES: list[dict[str, Any]] = [
    {"host": "users.example.com", "service": "users"},
    {"host": "*.example.com", "service": "wild"},
    {"host": "*.inner.example.com", "service": "inner"},
    {"host": "{service}.svc.local"},
    {"path_prefix": "/svc/{service}", "strip_prefix": True},
    {"path_prefix": "/api", "service": "other"},
    {"path_prefix": "/api/v2", "service": "beta"},
    {"path_prefix": "/write", "methods": ["POST", "PUT"], "service": "orders"},
    {"path_prefix": "/write", "service": "other"},
    {"path_prefix": "/flag", "headers": {"X-Beta": "1"}, "service": "beta"},
    {"path_prefix": "/flag", "service": "other"},
    {"path_prefix": "/strip", "strip_prefix": True, "service": "other"},
    {"path_prefix": "/old", "rewrite_prefix": "/new", "service": "other"},
    {"path_prefix": "/hosted", "set_host": "upstream.internal", "service": "other"},
    {"path_prefix": "/dead", "service": "dead"},
    {"path_prefix": "/nobody", "service": "nobody"},
]


@dataclass
class Site:
    """A running proxy with one origin for each service."""

    proxy: RunningProxy
    origins: dict[str, Origin]
    small: int
    """Port of the listener with small limits."""

    @property
    def port(self) -> int:
        return self.proxy.port

    def latest(self) -> Call:
        """The call that some origin got last; forgets it."""
        [call] = [call for origin in self.origins.values() for call in origin.calls]
        self.forget()
        return call

    def forget(self) -> None:
        for origin in self.origins.values():
            origin.calls.clear()
            origin.script = echo


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        origins = {name: await stack.enter_async_context(Origin(name)) for name in NAMES}
        services = {name: {"instances": [origins[name].instance]} for name in NAMES}
        dead = {"id": "dead", "address": "127.0.0.1", "port": free_port()}
        web, small = free_port(), free_port()
        limits = {"head": "4KiB", "target": "1KiB", "body": "10KiB", "fields": 20}
        proxy = RunningProxy(
            {
                "listeners": [
                    {"name": "web", "bind": f"127.0.0.1:{web}"},
                    {"name": "small", "bind": f"127.0.0.1:{small}", "limits": limits},
                ],
                "services": {**services, "dead": {"instances": [dead]}},
                "routes": ROUTES,
            },
            tmp_path_factory.mktemp("proxy"),
        )
        proxy.port = web
        await stack.enter_async_context(proxy)
        yield Site(proxy, origins, small)


@pytest.fixture
def site(running: Site) -> Site:
    running.forget()
    return running


# -- routing


@pytest.mark.parametrize(
    ("host", "method", "target", "fields", "service", "arrives"),
    [
        ("users.example.com", "GET", "/a/b?c=d", (), "users", "/a/b?c=d"),
        ("USERS.example.com:8080", "GET", "/", (), "users", "/"),
        ("users.example.com.", "GET", "/", (), "users", "/"),
        ("x.example.com", "GET", "/", (), "wild", "/"),
        ("y.x.example.com", "GET", "/", (), "wild", "/"),
        ("x.inner.example.com", "GET", "/", (), "inner", "/"),
        ("orders.svc.local", "GET", "/1", (), "orders", "/1"),
        ("beta.svc.local", "GET", "/1", (), "beta", "/1"),
        ("test", "GET", "/svc/users/7?x=1", (), "users", "/7?x=1"),
        ("test", "GET", "/svc/orders", (), "orders", "/"),
        ("test", "GET", "/api/v1", (), "other", "/api/v1"),
        ("test", "GET", "/api/v2/x", (), "beta", "/api/v2/x"),
        ("test", "GET", "/api/v22", (), "other", "/api/v22"),
        ("test", "GET", "/api/v1/../v2/x", (), "beta", "/api/v2/x"),
        ("test", "GET", "/%61pi/v2", (), "beta", "/api/v2"),
        ("test", "POST", "/write/1", (), "orders", "/write/1"),
        ("test", "PUT", "/write/1", (), "orders", "/write/1"),
        ("test", "GET", "/write/1", (), "other", "/write/1"),
        ("test", "GET", "/flag", (("X-Beta", "1"),), "beta", "/flag"),
        ("test", "GET", "/flag", (("x-beta", "2"),), "other", "/flag"),
        ("test", "GET", "/flag", (), "other", "/flag"),
        ("test", "GET", "/strip/a", (), "other", "/a"),
        ("test", "GET", "/strip", (), "other", "/"),
        ("test", "GET", "/strip?q=1", (), "other", "/?q=1"),
        ("test", "GET", "/old/a?b=c", (), "other", "/new/a?b=c"),
        ("test", "GET", "/old", (), "other", "/new"),
    ],
)
async def test_a_request_meets_its_route(
    site: Site,
    host: str,
    method: str,
    target: str,
    fields: tuple[tuple[str, str], ...],
    service: str,
    arrives: str,
) -> None:
    answer = await ask(site.port, method, target, fields, host=host)
    assert answer.status == 200, answer.body
    assert answer["X-Origin"] == service
    call = site.latest()
    assert (call.method, call.target, call.head.get("Host")) == (method, arrives, host)


async def test_a_route_may_set_the_host(site: Site) -> None:
    assert (await ask(site.port, "GET", "/hosted/1", host="shop.test:81")).status == 200
    call = site.latest()
    assert call.head.get("Host") == "upstream.internal"
    assert call.head.get("X-Forwarded-Host") == "shop.test:81"


# -- what arrives and what comes back


async def test_the_instance_gets_clean_fields_and_the_forwarding_ones(site: Site) -> None:
    fields = (
        ("User-Agent", "test"),
        ("Connection", "keep-alive, X-Private"),
        ("X-Private", "for you only"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("TE", "trailers"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("Forwarded", "for=6.6.6.6"),
        ("X-Real-IP", "6.6.6.6"),
        ("X_Forwarded_For", "6.6.6.6"),
        ("X-Request-ID", "mine-1"),
    )
    answer = await ask(site.port, "GET", "/api/1", fields, host="shop.test")
    assert answer.status == 200
    assert answer["Via"] == "1.1 fairlead"
    head = site.latest().head
    for gone in ("X-Private", "Keep-Alive", "Proxy-Authorization", "Forwarded", "X-Real-IP"):
        assert head.all(gone) == [], head.raw
    assert head.all("X_Forwarded_For") == []
    assert head.get("User-Agent") == "test"
    assert head.get("X-Forwarded-For") == "127.0.0.1"
    assert head.get("X-Forwarded-Proto") == "http"
    assert head.get("X-Forwarded-Host") == "shop.test"
    assert head.get("X-Forwarded-Port") == str(site.port)
    assert head.get("X-Request-ID") == "mine-1"
    assert (head.get("Via") or "").startswith("1.1 fairlead (")


async def test_a_field_that_is_left_out_for_its_underscore_is_named_once(site: Site) -> None:
    for _ in range(3):
        answer = await ask(site.port, "GET", "/api/1", (("Odd_Name", "1"), ("Usual", "1")))
        assert answer.status == 200
        assert site.latest().head.get("Usual") == "1"
    lines = await eventually(
        lambda: [line for line in site.proxy.log().splitlines() if "odd_name" in line],
        5.0,
        "a line about the field",
    )
    assert [json.loads(line)["event"] for line in lines] == ["field_dropped"]
    async with (
        aiohttp.ClientSession() as session,
        session.get(site.proxy.admin + "/metrics") as answer,
    ):
        metrics = await answer.text()
    counted = re.search(r"^fairlead_fields_dropped_total (\S+)", metrics, re.MULTILINE)
    assert counted is not None
    assert float(counted[1]) >= 3


async def test_the_client_gets_no_hop_by_hop_field_of_the_instance(site: Site) -> None:
    async def answer(call: Call) -> None:
        fields = (("Connection", "X-Inner"), ("X-Inner", "1"), ("Keep-Alive", "timeout=9"))
        await call.reply(b"ok", fields=(*fields, ("X-Outer", "2")))

    site.origins["other"].script = answer
    got = await ask(site.port, "GET", "/api/1")
    assert got.body == b"ok"
    assert got["X-Outer"] == "2"
    assert (got["X-Inner"], got["Keep-Alive"]) == (None, None)


async def test_answers_without_a_body_are_framed_without_one(site: Site) -> None:
    async def answer(call: Call) -> None:
        status = int(call.tail) if call.tail.isdigit() else 200
        await call.reply(b"" if status in (204, 304) else b"12345", status)

    site.origins["other"].script = answer
    async with await Client.connect(site.port) as client:
        head = await client.ask("HEAD", "/api/x")
        assert (head.status, head["Content-Length"], head.body) == (200, "5", b"")
        for status in (204, 304):
            assert (await client.ask("GET", f"/api/{status}")).status == status
        # Had one of them been given a body, this answer would not stand where it should.
        assert (await client.ask("GET", "/api/x")).body == b"12345"


async def test_an_interim_answer_is_relayed_and_the_body_waits_for_it(site: Site) -> None:
    before = asyncio.Event()

    async def answer(call: Call) -> None:
        before.set()
        await call.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await echo(call)

    site.origins["orders"].script = answer
    async with await Client.connect(site.port) as client:
        fields = (("Expect", "100-continue"), ("Content-Length", "5"))
        await client.send(request("POST", "/write/1", fields))
        head = await client.read_head()
        assert head.start[1] == "100"
        assert before.is_set()
        await client.send(b"hello")
        assert (await client.answer()).body == b"hello"


async def test_a_loop_is_detected_by_the_proxys_own_mark(site: Site) -> None:
    await ask(site.port, "GET", "/api/1")
    mark = site.latest().head.get("Via")
    assert mark is not None
    refused = await ask(site.port, "GET", "/api/1", [("Via", mark)])
    assert_problem(refused, 502, "loop")
    # Another proxy of the same make is no loop.
    assert (await ask(site.port, "GET", "/api/1", [("Via", "1.1 fairlead (abc)")])).status == 200


# -- connections


async def test_connections_are_kept_on_both_sides(site: Site) -> None:
    origin = site.origins["users"]
    async with await Client.connect(site.port) as client:
        await client.ask("GET", "/svc/users/0")
        before = origin.connections
        for number in range(1, 50):
            body = b"%d" % number
            answer = await client.ask("POST", f"/svc/users/{number}", body=body)
            assert (answer.status, answer.body) == (200, body)
        assert origin.connections == before
        assert len({call.connection for call in origin.calls}) == 1


async def test_a_hundred_requests_in_one_segment_are_answered_in_order(site: Site) -> None:
    async def uneven(call: Call) -> None:
        await call.reply(call.target.encode())

    site.origins["users"].script = uneven
    site.origins["orders"].script = uneven
    targets = [f"/svc/{('users', 'orders', 'ghost')[n % 3]}/{n}" for n in range(100)]
    async with await Client.connect(site.port) as client:
        await client.send(b"".join(request("GET", target) for target in targets))
        for number, target in enumerate(targets):
            answer = await client.answer()
            if "ghost" in target:
                assert_problem(answer, 404, "unknown_service")
            else:
                assert answer.body == b"/%d" % number
        assert not client.reader.at_eof()


async def test_requests_behind_a_body_are_answered_too(site: Site) -> None:
    chunked = (("Transfer-Encoding", "chunked"),)
    stream = b"".join(
        (
            request("POST", "/write/1", body=b"first"),
            request("POST", "/write/2", chunked) + b"3\r\nsec\r\n3;x=y\r\nond\r\n0\r\n\r\n",
            request("GET", "/api/3"),
        )
    )
    for size in (len(stream), 7):
        async with await Client.connect(site.port) as client:
            for at in range(0, len(stream), size):
                await client.send(stream[at : at + size])
            bodies = [(await client.answer()).body for _ in range(3)]
        assert bodies == [b"first", b"second", b""]


async def test_a_1_0_client_is_served(site: Site) -> None:
    async def chunked(call: Call) -> None:
        await call.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await call.write(b"5\r\nhello\r\n0\r\n\r\n")

    site.origins["beta"].script = chunked
    async with await Client.connect(site.port) as client:
        await client.send(b"GET /api/v2 HTTP/1.0\r\nHost: test\r\n\r\n")
        answer = await client.answer()
        assert (answer.body, answer["Transfer-Encoding"]) == (b"hello", None)
        assert answer.closes
        assert await client.is_closed()
    async with await Client.connect(site.port) as client:
        for _ in range(3):
            await client.send(
                b"GET /api/1 HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n"
            )
            answer = await client.answer()
            assert (answer.status, answer["Connection"]) == (200, "keep-alive")


async def test_an_answer_that_ends_with_its_connection_is_relayed_in_chunks(site: Site) -> None:
    async def until_close(call: Call) -> None:
        call.closing = True
        await call.write(b"HTTP/1.1 200 OK\r\n\r\nhello")

    site.origins["other"].script = until_close
    async with await Client.connect(site.port) as client:
        for _ in range(3):
            answer = await client.ask("GET", "/api/1")
            assert (answer["Transfer-Encoding"], answer.body) == ("chunked", b"hello")


async def test_a_truncated_answer_looks_truncated(site: Site) -> None:
    async def half(call: Call) -> None:
        call.closing = True
        length = b"Content-Length: 10" if call.tail == "length" else b"Transfer-Encoding: chunked"
        await call.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n5\r\nhello\r\n"[:-3] % length)

    site.origins["other"].script = half
    for framing in ("length", "chunks"):
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await ask(site.port, "GET", f"/api/{framing}")


# -- other people's clients


async def test_curl(site: Site, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(range(256)) * 4096)
    process = await asyncio.create_subprocess_exec(
        curl, "-sS", "--max-time", "20", "--http1.1", "-o", str(tmp_path / "1"),
        "-T", str(upload), site.proxy.url + "/write/1",
        "-H", "Transfer-Encoding: chunked", "-w", "%{http_code} ",
        "--next", "-sS", "-o", str(tmp_path / "2"),
        "--data-binary", f"@{upload}", site.proxy.url + "/write/2", "-w", "%{http_code}",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert output == b"200 200"
    for number in ("1", "2"):
        assert (tmp_path / number).read_bytes() == upload.read_bytes()


async def test_http_client_of_the_standard_library(site: Site) -> None:
    def talk() -> list[tuple[int, bytes]]:
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
        results = []
        for number in range(10):
            connection.request("POST", f"/write/{number}", body=iter([b"a", b"b%d" % number]))
            answer = connection.getresponse()
            results.append((answer.status, answer.read()))
        connection.close()
        return results

    assert await asyncio.to_thread(talk) == [(200, b"ab%d" % n) for n in range(10)]


async def test_aiohttp(site: Site) -> None:
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(site.proxy.url, timeout=timeout) as session:

        async def one(number: int) -> bytes:
            async with session.put(f"/write/{number}", data=b"x" * number) as answer:
                assert answer.status == 200
                return await answer.read()

        bodies = await asyncio.gather(*(one(number) for number in range(200)))
    assert [len(body) for body in bodies] == list(range(200))


# -- what the proxy answers itself


def assert_problem(answer: Answer, status: int, code: str) -> None:
    assert answer.status == status, answer
    assert answer["Content-Type"] == "application/problem+json"
    assert answer["Proxy-Status"] == proxy_status(code)
    assert answer["Via"] == "1.1 fairlead"
    problem = json.loads(answer.body)
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["error"] == FAULTS[code].error
    assert problem["detail"]
    assert problem["request_id"]
    assert (answer["Retry-After"] is not None) == (status == 503)


def proxy_status(code: str) -> str:
    return f'fairlead; error={FAULTS[code].error}; details="{code}"'


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/unknown", 404, "no_route"),
        ("/svc/ghost/1", 404, "unknown_service"),
        ("/nobody/1", 503, "no_instance"),
        ("/dead/1", 502, "connect_refused"),
    ],
)
async def test_requests_that_cannot_be_forwarded_leave_the_connection_usable(
    site: Site, target: str, status: int, code: str
) -> None:
    async with await Client.connect(site.port) as client:
        for method in ("GET", "POST", "HEAD"):
            body = b"body" if method == "POST" else b""
            answer = await client.ask(method, target, body=body)
            if method == "HEAD":
                assert answer.status == status
                assert answer["Proxy-Status"] == proxy_status(code)
            else:
                assert_problem(answer, status, code)
            assert not answer.closes
        assert (await client.ask("GET", "/api/1")).status == 200


BOTH = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"


REFUSALS = {
    400: "bad_request", 405: "method_not_allowed", 413: "body_too_large", 414: "target_too_long",
    417: "expectation_failed", 431: "head_too_large", 501: "coding_not_supported",
    505: "version_not_supported",
}  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / /HTTP/1.1\r\n\r\n", 400),
        (b"GET /api HTTP/1.1\r\n\r\n", 400),
        (b"GET /api HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /api HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET /api HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"POST /api HTTP/1.1\r\nHost: a\r\n" + BOTH + b"\r\n0\r\n\r\n", 400),
        (b"POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", 400),
        (b"POST /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"GET /api HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405),
        (b"GET /api HTTP/1.1\r\nHost: a\r\nExpect: a miracle\r\n\r\n", 417),
        (b"GET /api HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5000 + b"\r\n\r\n", 431),
        (b"GET /api HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 30 + b"\r\n", 431),
        (b"GET /api/" + b"x" * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /api/" + b"x" * 6000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20000, 413),
        (
            b"POST /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"4e20\r\n" + b"x" * 20000 + b"\r\n0\r\n\r\n",
            413,
        ),
    ],
)
async def test_requests_that_are_refused(site: Site, raw: bytes, status: int) -> None:
    async with await Client.connect(site.small) as client:
        await client.send(raw)
        answer = await client.answer()
        assert_problem(answer, status, REFUSALS[status])
        assert answer.closes
        client.half_close()
        assert await client.is_closed()
    if status == 405:
        assert "GET" in (answer["Allow"] or "")
    assert not any(origin.calls for origin in site.origins.values())
    assert (await ask(site.small, "GET", "/api/next")).status == 200
