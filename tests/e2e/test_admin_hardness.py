"""The admin server of a real proxy, asked by web pages, strangers and those that mean harm."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.origin import Origin
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

NAMED = {"instances": [{"id": "a:b@c~d+e.f-g_h", "address": "127.0.0.1", "port": 1}]}
CONFIG: dict[str, Any] = {"services": {"users": NAMED}, "routes": [{"service": "users"}]}
DRAIN = "/api/v1/services/users/instances/a:b@c~d+e.f-g_h/drain"


@pytest.fixture
async def etcd() -> AsyncIterator[EtcdServer]:
    async with EtcdServer() as server:
        yield server


async def ask(
    proxy: RunningProxy,
    line: str,
    *fields: str,
    body: bytes = b"",
    raw: bytes = b"",
    host: str | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and body of the answer to one raw request; `raw` follows its head as it is."""
    host = f"127.0.0.1:{proxy.admin_port}" if host is None else host
    lines = [line if " HTTP/" in line else f"{line} HTTP/1.1", f"Host: {host}", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.admin_port)
    try:
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body + raw)
        answer = await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    first, *others = head.decode().split("\r\n")
    named = dict(other.split(": ", 1) for other in others)
    return int(first.split()[1]), {name.lower(): value for name, value in named.items()}, rest


async def status(proxy: RunningProxy, line: str, *fields: str, **more: Any) -> int:
    return (await ask(proxy, line, *fields, **more))[0]


async def test_a_page_of_another_origin_reads_and_changes_nothing(tmp_path: Path) -> None:
    async with RunningProxy(CONFIG, tmp_path) as proxy:
        # A name that was made to lead here. Probes call by any name; scrapers by address.
        evil = "evil.example:9900"
        for path in ("/", "/metrics", "/api/v1/services", "/api/v1/events", "/nothing"):
            code, fields, body = await ask(proxy, f"GET {path}", host=evil)
            assert (code, fields["content-type"]) == (421, "application/problem+json"), path
            assert "admin.hosts" in json.loads(body)["detail"]
        assert await status(proxy, f"GET http://evil.example{DRAIN}") == 421
        for path in ("/healthz", "/readyz"):
            assert await status(proxy, f"GET {path}", host=evil) == 200
        for host in ("127.0.0.1", "localhost:1", "[::1]:9900", "10.1.2.3", "a.localhost"):
            assert await status(proxy, "GET /metrics", host=host) == 200
        assert await status(proxy, "GET /metrics", "Host: evil.example") == 400
        assert await status(proxy, "GET /metrics HTTP/1.0", host="evil.example") == 421

        for line in (f"POST {DRAIN}", f"PUT {DRAIN[:-6]}", f"DELETE {DRAIN[:-6]}"):
            for field in (
                "Origin: http://evil.example",
                "Origin: null",
                "Sec-Fetch-Site: same-site",
            ):
                assert await status(proxy, line, field) == 403, (line, field)
        form = ("Content-Type: text/plain",)
        assert await status(proxy, f"POST {DRAIN}", *form, body=b"x") == 403
        _, document = await proxy.get("/api/v1/services/users")
        assert document["instances"][0]["status"] == "ready"
        own = f"Origin: http://127.0.0.1:{proxy.admin_port}"
        assert await status(proxy, f"POST {DRAIN}", own, "Content-Length: 0") == 200
        _, document = await proxy.get("/api/v1/services/users")
        assert document["instances"][0]["status"] == "draining"


def with_admin(tmp_path: Path, host: str, **more: Any) -> RunningProxy:
    """A proxy whose admin server listens on `host`."""
    port = free_port()
    proxy = RunningProxy({**CONFIG, "admin": {"bind": f"{host}:{port}", **more}}, tmp_path)
    proxy.admin_port = port
    return proxy


async def test_tokens_say_who_may_look_and_who_may_change(tmp_path: Path) -> None:
    more = {"token": "all", "read_token": "look", "hosts": ["*.example.com"]}
    async with with_admin(tmp_path, "127.0.0.1", **more) as proxy:
        look, all_ = "Authorization: Bearer look", "Authorization: Bearer all"
        assert await status(proxy, "GET /metrics", look, host="proxy.example.com") == 200
        assert await status(proxy, "GET /metrics", host="proxy.example.com") == 401
        assert await status(proxy, f"POST {DRAIN}", look) == 403
        assert await status(proxy, f"POST {DRAIN}") == 401
        assert await status(proxy, f"POST {DRAIN}", all_) == 200


async def test_without_a_token_only_this_machine_changes_anything(tmp_path: Path) -> None:
    async with with_admin(tmp_path, "0.0.0.0") as proxy:
        assert await status(proxy, "GET /metrics") == 200
        code, _, body = await ask(proxy, f"POST {DRAIN}")
        assert code == 403
        assert "admin.token" in json.loads(body)["detail"]


async def test_methods_and_names(tmp_path: Path) -> None:
    async with RunningProxy(CONFIG, tmp_path) as proxy:
        code, fields, body = await ask(proxy, "HEAD /api/v1/services")
        assert (code, body) == (200, b"")
        assert int(fields["content-length"]) > 100
        assert await status(proxy, "HEAD /api/v1/events") == 200
        code, fields, body = await ask(proxy, "OPTIONS /api/v1/services/users")
        assert (code, fields["allow"], body) == (204, "GET, HEAD, OPTIONS", b"")
        assert "access-control-allow-origin" not in fields
        for method in ("POST", "PATCH", "TRACE", "PROPFIND"):
            code, fields, _ = await ask(proxy, f"{method} /api/v1/services")
            assert (code, fields["allow"]) == (405, "GET, HEAD, OPTIONS"), method
        for path in ("/api/v1/services/%FF", "/api/v1/services/a%", "/api/v1/services/%C3%28"):
            code, fields, _ = await ask(proxy, f"GET {path}")
            assert (code, fields["content-type"]) == (400, "application/problem+json"), path
        for path in ("/api/v1/services/", "/api/v1/services//", "/api/v1/x", "/healthz/", "//"):
            assert await status(proxy, f"GET {path}") == 404, path
        assert (await ask(proxy, "OPTIONS *"))[1]["allow"] == "OPTIONS"
        assert await status(proxy, "GET / HTTP/2.0") == 505
        for line in ("GET /nonsense HTTP/9", "GET / HTTP/1.1\r\nno field", "nonsense"):
            code, fields, body = await ask(proxy, line)
            assert (code, fields["content-type"]) == (400, "application/problem+json"), line
            assert json.loads(body)["detail"], line


async def test_bodies(etcd: EtcdServer, tmp_path: Path) -> None:
    config = {"registry": {"type": "etcd", "endpoints": [etcd.url]}, "routes": [{"service": "a"}]}
    async with RunningProxy(config, tmp_path) as proxy:
        path = "/api/v1/services/users/instances"
        good = b'{"address": "127.0.0.1", "port": 1}'
        for name in ("a%FFb", "a%00b", "a%2Fb", "%C3", "%"):
            assert await status(proxy, f"PUT {path}/{name}", body=good) == 400, name
        assert (await proxy.get("/api/v1/registrations"))[1] == {"registrations": []}
        curls_own = "Content-Type: application/x-www-form-urlencoded"
        for name in ("gr%C3%B6%C3%9Fe", "a%25b", "%7Bid%7D", "..", "a:b@c"):
            assert await status(proxy, f"PUT {path}/{name}", curls_own, body=good) == 201, name
            assert await status(proxy, f"POST {path}/{name}/heartbeat") == 200, name
        known = (await proxy.get("/api/v1/registrations"))[1]["registrations"]
        assert {row["id"] for row in known} == {"größe", "a%b", "{id}", "..", "a:b@c"}
        # One byte too many, told by the length and in chunks; and what waits to be asked for.
        assert await status(proxy, f"PUT {path}/x", body=b" " * (16 * 1024 + 1)) == 413
        chunks = b"4001\r\n" + b" " * 0x4001 + b"\r\n0\r\n\r\n"
        chunked = "Transfer-Encoding: chunked"
        assert await status(proxy, f"PUT {path}/x", chunked, raw=chunks) == 413
        assert await status(proxy, f"PUT {path}/x", chunked, raw=b"23\r\n" + good + b"\r\nx") == 400
        code, _, body = await ask(proxy, f"PUT {path}/x", "Expect: 100-continue", body=good)
        assert (code, body[:12]) == (100, b"HTTP/1.1 201")
        assert await status(proxy, f"PUT {path}/x", "Content-Encoding: gzip", body=good) == 415


@pytest.mark.timeout(120)
async def test_half_heads_hold_neither_the_server_nor_the_registry(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    config = {
        "registry": {"type": "etcd", "endpoints": [etcd.url]},
        "routes": [{"path_prefix": "/{service}", "strip_prefix": True}],
    }
    held: list[asyncio.StreamWriter] = []
    async with Origin() as origin, RunningProxy(config, tmp_path, open_files=256) as proxy:
        try:
            for _ in range(400):
                _, writer = await asyncio.open_connection("127.0.0.1", proxy.admin_port)
                writer.write(b"GET /healthz HTT")
                held.append(writer)
            assert (await proxy.get("/healthz"))[0] == 200
            assert len(os.listdir(f"/proc/{proxy.control}/fd")) < 128
            await etcd.kill()
            await etcd.start()
            async with EtcdClient(etcd.url) as client:
                record = {"address": "127.0.0.1", "port": origin.port}
                await client.put("/services/fresh/1", json.dumps(record))

            async def served() -> bool:
                reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
                writer.write(b"GET /fresh/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                answer = await reader.read()
                writer.close()
                return b" 200 " in answer[:20]

            await eventually(served, 30, "an instance that came after etcd was back")
            assert (await proxy.get("/healthz"))[0] == 200
            _, text = await proxy.get("/metrics")
            assert 'fairlead_admin_connections_closed_total{reason="made_room"}' in text
            await proxy.logs('"admin_connection_closed"')
        finally:
            for writer in held:
                writer.close()
