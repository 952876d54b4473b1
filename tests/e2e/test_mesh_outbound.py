"""What a side-car does for calls of its program: zones, further attempts, a breaker; and callers
who are only counted."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.e2e.beside import Beside
from tests.e2e.certificates import Authority
from tests.e2e.etcd_server import EtcdServer
from tests.e2e.origin import Call, Origin
from tests.e2e.tcp_fault import TcpFault
from tests.support.processes import children, eventually, free_port

OUTWARD = {
    "zone": {"prefer": "here"},
    "ejection": False,
    "retry": {"max_retries": 1, "on": ["connect", "reset", "502"], "budget": 1.0},
}
FILE = {
    "services": {
        "users": OUTWARD,
        "vital": OUTWARD,
        "frail": {
            "retry": False,
            "ejection": False,
            "circuit_breaker": {"min_requests": 5, "window": "60s", "open": "60s"},
            "callers": {"allow": ["batch"], "dry_run": True},
        },
    },
    "routes": [{"path": "/", "respond": 204}],
}

PROGRAM = """
import http.server, signal, sys, threading, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("X-Origin", "leaves")
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
server.server_close()
time.sleep(1)
"""
"""Takes nothing more once it is told to end, and is there for a while."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Site:
    stack: AsyncExitStack
    directory: Path
    authority: Authority
    etcd: EtcdServer
    web: Beside
    """In the zone `here`."""

    async def program(self, service: str, name: str, *options: str) -> tuple[Beside, Origin]:
        """A program with its side-car, once `web` knows it."""
        program = await self.stack.enter_async_context(Origin(name))
        words = ("-c", str(self.directory / "mesh.json"), "--drain-wait", "300ms", *options)
        port = program.instance["port"]
        side = Beside(service, port, self.directory, self.authority, self.etcd.url, *words)
        return await self.stack.enter_async_context(side), program

    async def pair(self, service: str) -> tuple[tuple[Beside, Origin], tuple[Beside, Origin]]:
        """One in `web`'s zone, and one in another."""
        near = await self.program(service, "near", "--meta", "zone=here")
        far = await self.program(service, "far", "--meta", "zone=there", "--ttl", "30s")
        await self.web.knows(service, 2)
        return near, far

    async def call(self, service: str, web: Beside | None = None) -> tuple[int, str]:
        """Status, and which program answered or the code of who refused."""
        url = f"http://127.0.0.1:{(web or self.web).outbound}/"
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, headers={"Host": service}) as answer,
        ):
            text = await answer.text()
            by = answer.headers.get("X-Origin") or json.loads(text)["code"]
            return answer.status, by

    async def counted(self, side: Beside, sample: str) -> int:
        """The value of a metric, 0 if there is none."""
        _, page = await side.ask_admin("/metrics")
        found = re.search(rf"^{re.escape(sample)} (\d+)", page, re.MULTILINE)
        return 0 if found is None else int(found[1])


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("mesh")
    authority = Authority(directory, "mesh")
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(EtcdServer())
        registry = {"registry": {"type": "etcd", "endpoints": [etcd.url]}}
        (directory / "mesh.json").write_text(json.dumps({**FILE, **registry}))
        words = ("-c", str(directory / "mesh.json"), "--check", "exec:true")
        web = await stack.enter_async_context(
            Beside("web", 1, directory, authority, etcd.url, *words)
        )
        yield Site(stack, directory, authority, etcd, web)


async def test_the_zone_of_the_caller_is_called_until_nobody_is_left_in_it(site: Site) -> None:
    (near, _), _ = await site.pair("users")
    assert {await site.call("users") for _ in range(10)} == {(200, "near")}
    assert await near.stop() == 0
    assert {await site.call("users") for _ in range(10)} == {(200, "far")}


async def test_a_call_that_fails_is_made_again_elsewhere(site: Site) -> None:
    """Where the program resets the connection, which its side-car says; and where a side-car is
    gone, whose record is still there."""

    async def reset(call: Call) -> None:
        call.abort()

    (near, program), _ = await site.pair("vital")
    program.script = reset
    assert {await site.call("vital") for _ in range(3)} == {(200, "far")}
    assert len(program.calls) == 3
    assert await site.counted(site.web, 'fairlead_retries_total{service="vital",reason="502"}') == 3
    for pid in (near.pid, *children(near.pid)):
        os.kill(pid, signal.SIGKILL)
    await near.wait()
    assert {await site.call("vital") for _ in range(3)} == {(200, "far")}


async def test_a_breaker_keeps_calls_from_a_service_that_fails(site: Site) -> None:
    async def fail(call: Call) -> None:
        await call.reply(status=503)

    side, program = await site.program("frail", "frail")
    await site.web.knows("frail")
    assert await site.call("frail") == (200, "frail")
    program.script = fail
    for _ in range(4):
        assert await site.call("frail") == (503, "frail")
    asked = len(program.calls)
    assert await site.call("frail") == (503, "breaker_open")
    assert len(program.calls) == asked
    # Nobody but `batch` is to call it, some day.
    dry = 'fairlead_limited_total{service="frail:inbound",limit="callers.dry_run"}'

    async def counted() -> bool:
        return await site.counted(side, dry) == asked

    await eventually(counted, what=side.log)


async def test_an_instance_that_leaves_unheard_is_not_called_in_vain(site: Site) -> None:
    """The registry of the caller says nothing more. The side-car that leaves takes no calls when
    its program has ended."""
    way = await site.stack.enter_async_context(TcpFault(site.etcd.client_port))
    web = Beside("web", 1, site.directory, site.authority, way.url, "--check", "exec:true")
    await site.stack.enter_async_context(web)
    await site.program("brief", "stays", "--ttl", "60s")
    port = free_port()
    words = ("--drain-wait", "300ms")
    side = Beside("brief", port, site.directory, site.authority, site.etcd.url, *words)
    side.run_in(site.directory, (sys.executable, "-c", PROGRAM, str(port)))
    await site.stack.enter_async_context(side)
    await web.knows("brief", 2)
    way.freeze()
    assert {await site.call("brief", web) for _ in range(10)} == {(200, "leaves"), (200, "stays")}
    leaving = asyncio.create_task(side.stop(60.0))
    answers = set()
    while not leaving.done():
        answers |= {*await asyncio.gather(*(site.call("brief", web) for _ in range(4)))}
    assert await leaving == 0
    assert answers == {(200, "leaves"), (200, "stays")}
