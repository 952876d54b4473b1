"""HTTPS through real processes: whatever is said over TCP is said over TLS, too."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from tests.e2e.origin import Call, Origin, echo, websocket
from tests.e2e.raw_http import PATIENCE, Client, request, socket_buffers
from tests.e2e.secure import NAME, SecureClient, SecureProxy
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
LARGE = hashlib.shake_128(b"large").digest(8 * MIB)


@dataclass
class Site:
    proxy: SecureProxy
    origin: Origin
    log: Path

    def lines(self, target: str) -> list[dict[str, Any]]:
        """What the access log has of a target."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["target"] == target]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[2, 4])
async def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("proxy")
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin())
        talk = free_port()
        ws = {"id": "ws", "address": "127.0.0.1", "port": talk}
        config = {
            "workers": request.param,
            "services": {"s": {"instances": [origin.instance]}, "ws": {"instances": [ws]}},
            "routes": [{"path_prefix": "/{service}"}],
            "access_log": {"path": str(directory / "access.log"), "format": "json"},
        }
        more = {"announced": {"proxy_protocol": True}, "small": {"limits": {"body": 1000}}}
        proxy = SecureProxy(config, directory, listeners=more)
        await stack.enter_async_context(proxy)
        await stack.enter_async_context(serve(_repeat, "127.0.0.1", talk, max_size=None))
        yield Site(proxy, origin, directory / "access.log")


@pytest_asyncio.fixture(loop_scope="module")
async def site(running: Site) -> AsyncIterator[Site]:
    running.origin.calls.clear()
    running.origin.script = echo
    yield running


async def _repeat(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def test_a_connection_is_kept(site: Site) -> None:
    async with await site.proxy.secure() as client:
        for number in range(20):
            answer = await client.ask("POST", "/s/x", body=b"%d" % number, host=NAME)
            assert (answer.status, answer.body) == (200, b"%d" % number)
        client.half_close()
        assert await client.said_end()
    heads = [call.head for call in site.origin.calls]
    assert {head.get("X-Forwarded-Proto") for head in heads} == {"https"}
    assert {head.get("X-Forwarded-Port") for head in heads} == {str(site.proxy.https)}
    assert {head.get("X-Forwarded-For") for head in heads} == {"127.0.0.1"}


async def test_large_bodies_are_the_same_on_the_other_side(site: Site) -> None:
    async def exchange(number: int) -> bytes:
        async with await site.proxy.secure() as client:
            body = LARGE[number:]
            sending = asyncio.create_task(client.send(request("POST", "/s/x", body=body)))
            answer = await client.answer()
            await sending
            return body if answer.body == body else answer.body[:100]

    assert await asyncio.gather(*(exchange(number) for number in range(3))) == [
        LARGE[number:] for number in range(3)
    ]


async def test_a_tunnel_carries_bytes_and_ends_both_ways(site: Site) -> None:
    site.origin.script = websocket
    async with await site.proxy.secure() as client:
        upgrade = [("Connection", "Upgrade"), ("Upgrade", "anything")]
        assert (await client.ask("GET", "/s/x", upgrade)).status == 101
        sending = asyncio.create_task(client.send(LARGE[:MIB]))
        assert await client.exactly(MIB) == LARGE[:MIB]
        await sending
        client.half_close()
        assert await client.said_end()


async def test_a_websocket_library_talks(site: Site) -> None:
    url = f"wss://127.0.0.1:{site.proxy.https}/ws/x"
    async with connect(
        url, ssl=site.proxy.authority.client(), server_hostname=NAME, proxy=None, max_size=None
    ) as talk:
        for message in ("text", LARGE[:MIB]):
            await talk.send(message)
            assert await asyncio.wait_for(talk.recv(), PATIENCE) == message


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 192.0.2.9 192.0.2.1 9 443\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x09\xc0\0\x02\x01\0\x09\x01\xbb",
    ],
    ids=["version 1", "version 2"],
)
async def test_the_proxy_protocol_goes_before_tls(site: Site, header: bytes) -> None:
    async with await site.proxy.secure("announced", before=header) as client:
        assert (await client.ask("GET", "/s/x")).status == 200
    [call] = site.origin.calls
    assert call.head.get("X-Forwarded-For") == "192.0.2.9"
    assert call.head.get("X-Forwarded-Proto") == "https"


async def test_an_answer_of_1_0_ends_with_an_end_that_is_said(site: Site) -> None:
    async def until_close(call: Call) -> None:
        await call.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + LARGE[:MIB])
        call.closing = True

    site.origin.script = until_close
    async with await site.proxy.secure() as client:
        await client.send(b"GET /s/x HTTP/1.0\r\nHost: h\r\n\r\n")
        answer = await client.answer()
        assert answer["Content-Length"] is None
        assert answer.body == LARGE[:MIB]
        assert await client.said_end()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_a_body_that_is_too_large_is_answered_while_it_comes(
    site: Site, chunked: bool
) -> None:
    size = socket_buffers() + 4 * MIB  # More than fits anywhere: the proxy has to read on.
    field = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(size))
    piece = b"%x\r\n%b\r\n" % (MIB, bytes(MIB)) if chunked else bytes(MIB)
    async with await site.proxy.secure("small") as client:
        await client.send(request("POST", "/s/x", [field]))
        try:
            for _ in range(size // MIB):
                await client.send(piece)
                if client.reader._buffer:  # type: ignore[attr-defined]
                    break
        except ConnectionError:
            pass  # The answer is here all the same.
        assert (await client.answer()).status == 413


async def test_plain_http_is_told_so(site: Site) -> None:
    async with await Client.connect(site.proxy.https) as client:
        answer = await client.ask("POST", "/s/x", body=bytes(100_000))
        assert answer.status == 400
        assert b"https://" in answer.body
        assert await client.is_closed()
    assert site.origin.calls == []


async def test_the_access_log_has_the_same_of_a_request_over_tls(site: Site) -> None:
    for port, secure in ((site.proxy.port, False), (site.proxy.https, True)):
        client = await (site.proxy.secure() if secure else Client.connect(port))
        async with client:
            assert (await client.ask("POST", "/s/log?q", body=LARGE[:100_000])).status == 200
        wanted = 1 + secure
        await eventually(lambda wanted=wanted: len(site.lines("/s/log?q")) == wanted, what="lines")
    plain, tls = site.lines("/s/log?q")
    for line in (plain, tls):
        for key in ("time", "request_id"):
            assert line.pop(key)
        for key in ("duration_ms", "first_byte_ms"):
            assert line.pop(key) >= 0
    assert tls == plain
    assert (tls["status"], tls["bytes_received"]) == (200, 100_000)


async def test_every_worker_serves(site: Site) -> None:
    workers = len(await site.proxy.workers())
    seen: set[str] = set()

    async def ask() -> bool:
        async with await site.proxy.secure() as client:
            seen.add((await client.ask("GET", "/s/x"))["X-Request-ID"] or "")
        return len({one.partition("-")[0] for one in seen}) == workers

    await eventually(ask, PATIENCE, lambda: seen, every=0)


async def test_a_client_that_does_not_trust_the_certificate_is_in_the_log(site: Site) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await SecureClient.connect_to(site.proxy.https, ssl.create_default_context())
    await eventually(lambda: "unknown ca" in site.proxy.log(), what="the client's alert")
