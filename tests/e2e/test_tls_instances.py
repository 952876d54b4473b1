"""TLS to instances, through the real proxy: who is believed, and when an answer is complete."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.certificates import Authority
from tests.e2e.origin import Call, Origin, echo
from tests.e2e.raw_http import Client, request
from tests.e2e.secure import SecureProxy
from tests.support.processes import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAME = "s.internal"
BODY = bytes(range(256)) * 200
BAD = {
    "wrong": "tls_certificate_error",
    "unknown": "tls_certificate_error",
    "expired": "tls_certificate_error",
    "plain": "tls_protocol_error",
    "alert": "tls_alert_received",
}
"""Instance that is not believed → what is said of it (RFC 9209 section 2.3)."""
SAYS = {
    "plain": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    "alert": b"\x15\x03\x03\0\x02\x02\x46",  # Fatal, protocol_version: RFC 8446 section 6.
}
"""Instance that speaks no TLS → what it says to a hello. asyncio's says nothing."""


MEMBERS = {
    "by-dns": ("by-dns.mesh.local", "127.0.0.1"),
    "by-spiffe": ("spiffe://mesh.local/by-spiffe", "node.internal"),
    "another": ("users.mesh.local",),
    "elsewhere": ("elsewhere.other.local", "spiffe://other.local/elsewhere"),
    "starred": ("*.mesh.local",),
    "double": ("double.mesh.local", "spiffe://mesh.local/users"),
}
"""Service → names in the certificate of its only instance."""


@dataclass
class Site:
    proxy: SecureProxy
    origins: dict[str, Origin]
    heads: list[bytes]
    """PROXY headers that the instance of `announced` got."""

    @property
    def good(self) -> Origin:
        return self.origins["good"]

    async def failed(self, service: str) -> float:
        """Attempts whose handshake failed."""
        _, text = await self.proxy.get("/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "fairlead_upstream_attempts_total"
            and (sample.labels["service"], sample.labels["outcome"]) == (service, "tls_failed")
        )


@asynccontextmanager
async def _saying(words: bytes) -> AsyncIterator[dict[str, Any]]:
    """An instance that says this to whatever comes, and closes."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(words)
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server:
        yield {"id": "saying", "address": "127.0.0.1", "port": server.sockets[0].getsockname()[1]}


@asynccontextmanager
async def _announced(context: ssl.SSLContext) -> AsyncIterator[tuple[dict[str, Any], list[bytes]]]:
    """An instance of HTTPS that wants a PROXY header first, and notes these. In a thread, since
    streams would read the beginning of the handshake with the header."""
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        serving = asyncio.create_task(asyncio.to_thread(_serve_announced, server, context, heads))
        port = server.getsockname()[1]
        yield {"id": "announced", "address": "127.0.0.1", "port": port}, heads
        server.shutdown(socket.SHUT_RDWR)
        await serving


def _serve_announced(server: socket.socket, context: ssl.SSLContext, heads: list[bytes]) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return  # It was shut down.
        with connection:
            connection.settimeout(5)
            try:
                start = connection.recv(16, socket.MSG_WAITALL)
                length = int.from_bytes(start[14:], "big")
                rest = connection.recv(length, socket.MSG_WAITALL) if length else b""
                heads.append(start + rest)
                with context.wrap_socket(connection, server_side=True) as tls:
                    tls.recv(65536)
                    tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            except OSError:
                pass  # The proxy has stopped.


def _contexts(authority: Authority, other: Authority) -> dict[str, ssl.SSLContext]:
    two = authority.server(NAME, stem="two")
    two.maximum_version = ssl.TLSVersion.TLSv1_2
    asking = authority.server(NAME, stem="asking")
    asking.verify_mode = ssl.CERT_REQUIRED
    asking.load_verify_locations(cafile=authority.ca)
    return {
        "good": authority.server(NAME, "127.0.0.1", stem="good"),
        "wrong": authority.server("other.internal"),
        "unknown": other.server(NAME, stem="unknown"),
        "expired": authority.server(NAME, days=-1, stem="expired"),
        "two": two,
        "asking": asking,
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("proxy")
    authority, other = Authority(directory, "internal"), Authority(directory, "other")
    cert, key = authority.issue("proxy.internal")
    async with AsyncExitStack() as stack:
        found = {
            name: await stack.enter_async_context(Origin(name, tls=context))
            for name, context in _contexts(authority, other).items()
        }
        instances = {name: origin.instance for name, origin in found.items()}
        for name, words in SAYS.items():
            instances[name] = await stack.enter_async_context(_saying(words))
        tls = {"ca": str(authority.ca), "server_name": NAME}
        # Whether instances that fail are left out is another matter: here they are asked.
        always = {"ejection": False, "circuit_breaker": False, "tls": tls}
        good = instances["good"]
        services = {name: {**always, "instances": [one]} for name, one in instances.items()}
        for name in BAD:
            services[f"good-or-{name}"] = {**always, "instances": [instances[name], good]}
        services["asking"]["tls"] = {**tls, "cert": str(cert), "key": str(key)}
        services["shy"] = {**always, "instances": [instances["asking"]]}
        context = authority.server(NAME, stem="announced")
        one, heads = await stack.enter_async_context(_announced(context))
        services["announced"] = {
            **always,
            "instances": [one],
            "send_proxy_protocol": "v2",
            "health_check": {"path": "/", "interval": "200ms"},
        }
        https = {**good, "metadata": {"scheme": "https"}}
        services["auto"] = {"instances": [https]}
        member = {"ca": str(authority.ca), "trust_domain": "mesh.local"}
        for service, names in MEMBERS.items():
            context = authority.server(*names, stem=service)
            origin = await stack.enter_async_context(Origin(service, tls=context))
            found[service] = origin
            told = {"server_name": names[0]}  # What a registry says counts for nothing.
            one = {**origin.instance, "metadata": told}
            services[service] = {**always, "tls": member, "instances": [one]}
        proxy = SecureProxy(
            {"services": services, "routes": [{"path_prefix": "/{service}"}]},
            directory,
            environ={"SSL_CERT_FILE": str(authority.ca)},
        )
        yield Site(await stack.enter_async_context(proxy), found, heads)


@pytest_asyncio.fixture(loop_scope="module")
async def site(running: Site) -> AsyncIterator[Site]:
    for origin in running.origins.values():
        origin.calls.clear()
        origin.script = echo
    yield running


async def test_an_instance_is_told_whose_connection_it_is_before_the_handshake(site: Site) -> None:
    async with await site.proxy.secure() as client:
        assert (await client.ask("GET", "/announced")).status == 200
    told = [head for head in site.heads if head[12] == 0x21]
    assert [head[16:20] for head in told] == [bytes((127, 0, 0, 1))]

    async def checked() -> bool:
        _, text = await site.proxy.get("/metrics")
        return 'health_checks_total{service_name="announced",status="passed"}' in text

    await eventually(checked, what="no check of the instance passes")
    assert b"\x20\x00" in {head[12:14] for head in site.heads}


# -- who is believed


@pytest.mark.parametrize("name", BAD)
async def test_an_instance_that_is_not_who_it_should_be_gets_nothing(site: Site, name: str) -> None:
    async with await site.proxy.secure() as client:
        answer = await client.ask("POST", f"/{name}/x", body=b"secret")
    assert answer.status == 502
    assert answer["Proxy-Status"] == f'fairlead; error={BAD[name]}; details="tls_failed"'
    assert name in SAYS or site.origins[name].calls == []


@pytest.mark.parametrize("name", MEMBERS)
async def test_an_instance_in_a_trust_domain_must_be_of_the_service(site: Site, name: str) -> None:
    async with await site.proxy.secure() as client:
        answer = await client.ask("POST", f"/{name}/x", body=b"secret")
    good = name.startswith("by-")
    assert answer.status == (200 if good else 502)
    assert len(site.origins[name].calls) == (1 if good else 0)
    if not good:
        said = 'fairlead; error=tls_certificate_error; details="tls_failed"'
        assert answer["Proxy-Status"] == said


@pytest.mark.parametrize("name", BAD)
async def test_another_instance_is_asked(site: Site, name: str) -> None:
    async with await site.proxy.secure() as client:
        for _ in range(4):
            answer = await client.ask("POST", f"/good-or-{name}/x", body=b"secret")
            assert (answer.status, answer["X-Origin"]) == (200, "good")
    assert await site.failed(f"good-or-{name}") >= 1


async def test_an_instance_is_believed_by_the_systems_authorities(site: Site) -> None:
    async with await site.proxy.secure() as client:
        assert (await client.ask("GET", "/auto/x")).status == 200


async def test_an_instance_that_asks_for_a_certificate_gets_one(site: Site) -> None:
    async with await site.proxy.secure() as client:
        assert (await client.ask("GET", "/asking/x")).status == 200
        assert (await client.ask("GET", "/shy/x")).status == 502
    [call] = site.origins["asking"].calls
    shown = call.writer.get_extra_info("peercert")
    assert shown["subject"] == ((("commonName", "proxy.internal"),),)


@pytest.mark.parametrize(
    "name", ["good", "two", "by-spiffe"], ids=["TLS 1.3", "TLS 1.2", "trust domain"]
)
async def test_sessions_are_resumed(site: Site, name: str) -> None:
    async def once(call: Call) -> None:
        call.closing = True
        await call.reply(await call.read())

    origin = site.origins[name]
    origin.script = once
    before, connections = origin.resumed, origin.connections
    async with await site.proxy.secure() as client:
        for _ in range(20):
            assert (await client.ask("GET", f"/{name}/x")).status == 200
    assert origin.connections - connections >= 19  # One may have been there.
    assert origin.resumed - before >= 18


# -- when an answer is complete


async def _answer(call: Call, said: bool) -> None:
    """An answer of the kind that the path says; `said`: its end is, under TLS."""
    await call.read()
    kind = call.tail
    call.closing = True
    head = b"HTTP/1.1 200 OK\r\n"
    if kind == "length":
        await call.write(head + b"Content-Length: %d\r\n\r\n" % (len(BODY) + 1) + BODY)
    elif kind == "chunks":
        chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY)
        await call.write(head + chunked + BODY + b"\r\n")
    else:
        await call.write(head + b"Connection: close\r\n\r\n" + BODY)
    if not said:
        call.writer.transport.abort()  # A FIN, since nothing is left to be read.


async def _cut(call: Call) -> None:
    await _answer(call, said=False)


async def _said(call: Call) -> None:
    await _answer(call, said=True)


async def _client(site: Site, secure: bool) -> Client:
    return await (site.proxy.secure() if secure else Client.connect(site.proxy.port))


@pytest.mark.parametrize("secure", [False, True], ids=["over TCP", "over TLS"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("kind", ["length", "chunks", "close"])
async def test_an_answer_that_is_cut_short_is_cut_short_for_the_client(
    site: Site, kind: str, version: str, secure: bool
) -> None:
    site.good.script = _cut
    asked = request("GET", f"/good/{kind}").replace(b"HTTP/1.1", f"HTTP/{version}".encode())
    async with await _client(site, secure) as client:
        await client.send(asked)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.answer()
    assert len(site.good.calls) == 1


@pytest.mark.parametrize("secure", [False, True], ids=["over TCP", "over TLS"])
@pytest.mark.parametrize("kind", ["length", "chunks"])
async def test_an_end_that_is_said_too_early_is_none(site: Site, kind: str, secure: bool) -> None:
    site.good.script = _said
    async with await _client(site, secure) as client:
        await client.send(request("GET", f"/good/{kind}"))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.answer()


@pytest.mark.parametrize("secure", [False, True], ids=["over TCP", "over TLS"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_whose_end_is_said_is_complete(
    site: Site, version: str, secure: bool
) -> None:
    site.good.script = _said
    asked = request("GET", "/good/close").replace(b"HTTP/1.1", f"HTTP/{version}".encode())
    async with await _client(site, secure) as client:
        await client.send(asked)
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, BODY)
