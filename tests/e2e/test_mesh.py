"""Services that call each other through their side-cars, with real etcd; and whoever tries to get
round them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.processes import cpu_ns
from tests.e2e.beside import DOMAIN, PATIENCE, Beside
from tests.e2e.certificates import Authority
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.h2_origin import H2Origin
from tests.e2e.origin import Origin
from tests.e2e.raw_http import Client
from tests.e2e.secure import SecureClient
from tests.e2e.test_idle_connections import memory
from tests.support.processes import alive, children, eventually, free_port

SOON = ("--drain-wait", "300ms")
READY = 1.5
"""CPU seconds: one, where it is measured (`bench mesh --memory`); a machine with much to do makes
each longer."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Mesh:
    directory: Path
    authority: Authority
    etcd: EtcdServer
    users: Beside
    program: Origin
    """Of `users`."""
    web: Beside
    """May call `users`, and may reach nobody else."""
    other: Beside
    """May not call `users`."""

    async def call(self, side: Beside, host: str, path: str = "/x", **more: str) -> tuple[int, str]:
        """Status and body of a call that the program beside `side` makes."""
        url = f"http://127.0.0.1:{side.outbound}{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, headers={"Host": host, **more}) as answer,
        ):
            return answer.status, await answer.text()

    async def claim(self, name: str, port: int) -> None:
        """Have the registry say that an instance of a service is on this port, in clear text."""
        record = {"address": "127.0.0.1", "port": port, "metadata": {"scheme": "http"}}
        async with EtcdClient(self.etcd.url) as client:
            await client.put(f"/services/{name}/false", json.dumps(record))
        await self.other.knows(name)

    async def refuses(self, context: ssl.SSLContext) -> bool:
        """Whether the inbound listener of `users` gives no answer to a client with this context."""
        try:
            async with await SecureClient.connect_to(self.users.inbound, context) as client:
                answer = await client.ask("GET", "/x", host="users")
        except (ssl.SSLError, ConnectionError):
            return True
        return answer.status == 403


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    directory = tmp_path_factory.mktemp("mesh")
    authority = Authority(directory, "mesh")
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(EtcdServer())
        program = await stack.enter_async_context(Origin("users"))
        idle = await stack.enter_async_context(Origin("idle"))
        port, nobody = program.instance["port"], idle.instance["port"]
        sides = [
            Beside("users", port, directory, authority, etcd.url, "--callers", "web"),
            Beside("web", nobody, directory, authority, etcd.url, "--to", "users,other"),
            Beside(
                *("other", nobody, directory, authority, etcd.url),
                names=[f"spiffe://{DOMAIN}/other"],
            ),
        ]
        for side in sides:
            side.launch()
            stack.push_async_callback(side.stop)
        for side in sides:
            await eventually(side._there, 90.0, side.log)
        for side in sides[1:]:
            await side.knows("users")
        yield Mesh(directory, authority, etcd, sides[0], program, *sides[1:])


# -- calls


@pytest.mark.parametrize("host", ["users", "users:15001", "USERS.localhost", "users.mesh.local"])
async def test_a_call_goes_to_the_service_that_is_the_first_label(mesh: Mesh, host: str) -> None:
    assert (await mesh.call(mesh.web, host))[0] == 200
    assert mesh.program.calls[-1].head.get("Host") == host


async def test_a_program_may_call_its_own_service_and_pass_fields_on(mesh: Mesh) -> None:
    await mesh.other.knows("other")
    assert (await mesh.call(mesh.other, "other"))[0] == 200
    assert (await mesh.call(mesh.web, "users"))[0] == 200
    seen = mesh.program.calls[-1].head.all("Via")
    assert (await mesh.call(mesh.web, "users", Via=", ".join(seen)))[0] == 200


async def test_a_websocket_goes_through_both(mesh: Mesh) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        async for message in answer:
            await answer.send_str(message.data.upper())
        return answer

    program = web.Application()
    program.router.add_get("/chat", echo)
    async with TestServer(program) as server:
        port = server.port or 0
        async with (
            Beside("chat", port, mesh.directory, mesh.authority, mesh.etcd.url, *SOON),
            aiohttp.ClientSession() as session,
        ):
            await mesh.other.knows("chat")
            url = f"http://127.0.0.1:{mesh.other.outbound}/chat"
            async with session.ws_connect(url, headers={"Host": "chat"}) as socket_:
                await socket_.send_str("hello")
                assert await socket_.receive_str(timeout=5) == "HELLO"


async def test_http2_goes_through_both(mesh: Mesh) -> None:
    async with H2Origin("h2") as program:
        side = Beside(
            *("h2", program.instance["port"], mesh.directory, mesh.authority, mesh.etcd.url),
            *("--protocol", "h2c", "--callers", "other", *SOON),
        )
        async with side:
            await mesh.other.knows("h2")
            assert (await mesh.call(mesh.other, "h2"))[0] == 200


async def test_a_caller_that_is_not_allowed_is_told_so(mesh: Mesh) -> None:
    before = len(mesh.program.calls)
    status, body = await mesh.call(mesh.other, "users")
    problem = json.loads(body)
    assert (status, problem["code"]) == (403, "caller_denied")
    assert problem["detail"] == "callers of users:inbound: other is not among them"
    assert len(mesh.program.calls) == before


async def test_a_file_says_more_and_traces_span_both_side_cars(mesh: Mesh) -> None:
    """Callers by method and path, and where spans go."""
    spans: list[dict[str, Any]] = []

    async def collect(request: web.Request) -> web.Response:
        (resource,) = (await request.json())["resourceSpans"]
        spans.extend(one for scope in resource["scopeSpans"] for one in scope["spans"])
        return web.json_response({})

    collector = web.Application()
    collector.router.add_post("/v1/traces", collect)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(TestServer(collector))
        entry = {"service": "front", "methods": ["GET"], "path_prefixes": ["/open"]}
        file = mesh.directory / "mesh.yaml"
        config = {
            "registry": {"type": "etcd", "endpoints": [mesh.etcd.url]},
            "services": {"back": {"callers": {"allow": [entry]}}},
            "tracing": {"endpoint": f"http://127.0.0.1:{server.port}/v1/traces", "sample": 0.0},
            "routes": [{"path": "/", "respond": 204}],
        }
        file.write_text(json.dumps(config))
        sides = []
        for service in ("back", "front"):
            program = await stack.enter_async_context(Origin(service))
            port = program.instance["port"]
            side = Beside(
                *(service, port, mesh.directory, mesh.authority, mesh.etcd.url),
                *("-c", str(file), *SOON),
            )
            sides.append(await stack.enter_async_context(side))
        back, front = sides
        await front.knows("back")
        trace = "0af7651916cd43dd8448eb211c80319c"
        parent = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        assert (await mesh.call(front, "back", "/open/x", **parent))[0] == 200
        status, body = await mesh.call(front, "back", "/closed")
        rule = "callers of back:inbound: front is not allowed GET /closed"
        assert (status, json.loads(body)["detail"]) == (403, rule)
        for path in ("/open/../closed", "/open%2F..%2Fclosed"):
            assert (await mesh.call(front, "back", path))[0] in (400, 403)
        await eventually(lambda: len(spans) == 4, 20.0, lambda: str(spans))
        assert {one["traceId"] for one in spans} == {trace}
        ids = {one["spanId"]: one.get("parentSpanId") for one in spans}
        # Request and attempt, in one side-car and then in the other: a chain of four.
        assert len(set(ids.values()) - set(ids)) == 1

        async def counted() -> bool:
            _, page = await back.ask_admin("/metrics")
            name = (
                'fairlead_caller_requests_total{service="back:inbound",caller="front",code="200"}'
            )
            return f"{name} 1" in page and 'code="400"' in page

        await eventually(counted, 10.0)


async def test_a_shared_configuration_says_who_may_call(mesh: Mesh) -> None:
    async def share(client: EtcdClient, *callers: str) -> None:
        services = {"ledger": {"callers": {"allow": list(callers)}}}
        routes = [{"path": "/", "respond": 204}]
        text = json.dumps({"services": services, "routes": routes})
        await client.put("/fairlead/config/main", text)

    async def becomes(status: int) -> None:
        async def is_so() -> bool:
            return (await mesh.call(mesh.other, "ledger"))[0] == status

        await eventually(is_so, 10.0)

    file = mesh.directory / "shared.yaml"
    registry = {"type": "etcd", "endpoints": [mesh.etcd.url]}
    file.write_text(json.dumps({"registry": registry, "config": {"source": "etcd"}}))
    async with Origin("ledger") as program, EtcdClient(mesh.etcd.url) as client:
        await share(client, "other")
        port = program.instance["port"]
        more = ("-c", str(file), *SOON)
        async with Beside("ledger", port, mesh.directory, mesh.authority, mesh.etcd.url, *more):
            await mesh.other.knows("ledger")
            await becomes(200)
            await share(client, "web")
            await becomes(403)
            await share(client, "web", "other")
            await becomes(200)


# -- attacks


async def test_a_client_without_a_certificate_is_refused(mesh: Mesh) -> None:
    assert await mesh.refuses(_unnamed(mesh.authority))


async def test_a_client_of_another_authority_is_refused(mesh: Mesh, tmp_path: Path) -> None:
    foreign = Authority(tmp_path, "foreign").issue(f"web.{DOMAIN}")
    assert await mesh.refuses(_unnamed(mesh.authority, *foreign))


@pytest.mark.parametrize(
    "names",
    [
        (f"other.{DOMAIN}",),
        ("web.elsewhere.local",),
        (f"*.{DOMAIN}",),
        (f"web.{DOMAIN}", f"users.{DOMAIN}"),
        ("web",),
    ],
)
async def test_a_client_of_another_name_is_refused(mesh: Mesh, names: tuple[str, ...]) -> None:
    assert await mesh.refuses(_unnamed(mesh.authority, *mesh.authority.issue(*names)))
    right = mesh.authority.issue(f"web.{DOMAIN}")
    assert not await mesh.refuses(_unnamed(mesh.authority, *right))


async def test_a_client_whose_certificate_has_expired_is_refused(mesh: Mesh) -> None:
    expired = mesh.authority.issue(f"web.{DOMAIN}", days=-1, stem="expired")
    assert await mesh.refuses(_unnamed(mesh.authority, *expired))


async def test_a_client_of_an_older_tls_is_refused(mesh: Mesh) -> None:
    context = _unnamed(mesh.authority, *mesh.authority.issue(f"web.{DOMAIN}"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert await mesh.refuses(context)


async def test_a_record_that_leads_to_another_service_is_not_believed(mesh: Mesh) -> None:
    await mesh.claim("bank", mesh.users.inbound)
    before = len(mesh.program.calls)
    status, body = await mesh.call(mesh.other, "bank")
    assert (status, json.loads(body)["error"]) == (502, "tls_certificate_error")
    assert len(mesh.program.calls) == before


async def test_a_record_in_clear_text_is_called_under_tls_or_not_at_all(mesh: Mesh) -> None:
    async with Origin("plain") as plain:
        await mesh.claim("plain", plain.instance["port"])
        status, body = await mesh.call(mesh.other, "plain")
        # Its server waits for the end of a line that never comes.
        assert json.loads(body)["code"] in ("tls_failed", "connect_timeout"), status
        assert plain.calls == []
        plain.violations.clear()  # A hello of TLS is half a head of HTTP.


async def test_clear_text_on_the_inbound_port_gets_nothing(mesh: Mesh) -> None:
    before = len(mesh.program.calls)
    async with await Client.connect(mesh.users.inbound) as client:
        await client.send(b"GET /x HTTP/1.1\r\nHost: users\r\n\r\n")
        assert b"200" not in await client.reader.read(1 << 16)
    assert len(mesh.program.calls) == before


@pytest.mark.parametrize("kind", ["foreign", "expired", "other"])
async def test_a_process_that_has_taken_an_inbound_port_is_not_believed(
    mesh: Mesh, kind: str, tmp_path: Path
) -> None:
    """A local process in the place of a side-car that is gone, with a certificate of its own: of
    another authority, or that of the service, which has expired, or that of another service."""
    authority = Authority(tmp_path, "foreign") if kind == "foreign" else mesh.authority
    service = f"vault-{kind}"
    name = f"{'other' if kind == 'other' else service}.{DOMAIN}"
    shown = authority.server(name, stem=f"{kind}-local", days=-1 if kind == "expired" else 1)
    async with Origin("local", tls=shown) as local:
        await mesh.claim(service, local.instance["port"])
        status, body = await mesh.call(mesh.other, service)
        assert (status, json.loads(body)["error"]) == (502, "tls_certificate_error")
        assert local.calls == []


@pytest.mark.parametrize("host", ["web", "WEB.mesh.local"])
async def test_a_service_that_is_not_among_to_is_not_reached(mesh: Mesh, host: str) -> None:
    await mesh.web.knows("web")
    status, body = await mesh.call(mesh.web, host)
    assert (status, json.loads(body)["code"]) == (404, "unknown_service")


async def test_an_outbound_address_that_others_reach_is_refused(mesh: Mesh) -> None:
    side = Beside(
        "web", 1, mesh.directory, mesh.authority, mesh.etcd.url, "--outbound", "0.0.0.0:1"
    )
    side.launch()
    assert await side.wait(60.0) == 2
    assert "--outbound: 0.0.0.0 is not this machine alone" in side.log()


# -- the command


PROGRAM = """
import http.server, signal, sys
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers()
        self.wfile.write(b"ok")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
signal.signal(signal.SIGUSR1, lambda *_: print("told", flush=True))
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


async def test_a_command_gets_signals_and_its_exit_code_is_ours(mesh: Mesh) -> None:
    port = free_port()
    side = Beside(
        *("shop", port, mesh.directory, mesh.authority, mesh.etcd.url, *SOON),
        command=(sys.executable, "-c", PROGRAM, str(port)),
    )
    async with side:
        await mesh.other.knows("shop")
        assert (await mesh.call(mesh.other, "shop"))[0] == 200
        side.signal(signal.SIGUSR1)
        await eventually(lambda: "told" in side.log(), what=side.log)
        below = children(side.pid)
        assert await side.stop() == 7
    assert not any(map(alive, below))
    events = [json.loads(one)["event"] for one in side.log().splitlines() if one[:1] == "{"]
    order = ["worker_accepting", "command_started", "registered", "draining", "deregistered"]
    assert [one for one in events if one in order] == order
    assert events.index("deregistered") < events.index("worker_stopped")


async def test_a_sidecar_that_is_told_leaves_and_goes_on(mesh: Mesh) -> None:
    async with Origin("brief") as program:
        port = program.instance["port"]
        side = Beside("brief", port, mesh.directory, mesh.authority, mesh.etcd.url, *SOON)
        async with side:
            side.signal(signal.SIGUSR1)
            await eventually(lambda: '"deregistered"' in side.log(), what=side.log)

            async def gone() -> bool:
                return (await mesh.call(side, "brief"))[0] in (404, 503)

            await eventually(gone, 10.0, side.log)
            assert side.returncode is None
            assert await side.stop() == 0


def boards(pid: int) -> int:
    """Descriptors by which a process has what workers share."""
    found = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            found += "memfd" in os.readlink(f"/proc/{pid}/fd/{name}")
    return found


async def test_a_worker_is_replaced_by_another_thread(mesh: Mesh) -> None:
    """While calls go through it; what had it not ended is ended by the end of the process. Of those
    that ended nothing stays but the latest one's board, until the next one's start."""
    async with Origin("renewed") as program, AsyncExitStack() as stack:
        port = program.instance["port"]
        side = Beside("renewed", port, mesh.directory, mesh.authority, mesh.etcd.url, *SOON)
        await stack.enter_async_context(side)
        await mesh.other.knows("renewed")
        over = asyncio.Event()

        async def call() -> set[int]:
            found = set()
            while not over.is_set():
                found.add((await mesh.call(mesh.other, "renewed"))[0])
                found.add((await mesh.call(side, "renewed"))[0])
            return found

        calls = asyncio.create_task(call())
        for number in range(1, 5):
            url = f"http://127.0.0.1:{side.admin_port}/api/v1/restart-workers"
            async with aiohttp.ClientSession() as session, session.post(url) as answer:
                assert answer.status == 200, await answer.text()
            await eventually(lambda n=number: side.log().count("worker_accepting") == n + 1)
            await eventually(lambda n=number: side.log().count("worker_stopped") == n, 20.0)
        assert boards(side.pid) <= 4
        over.set()
        assert await calls == {200}
        assert children(side.pid) == []


async def test_with_a_known_seed_for_hashes_the_worker_is_a_process(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that dies is replaced."""

    def workers() -> list[int]:
        return children(side.pid)

    async def served() -> bool:
        return (await mesh.call(mesh.other, "mortal"))[0] == 200

    async with Origin("mortal") as program:
        port = program.instance["port"]
        monkeypatch.setenv("PYTHONHASHSEED", "0")
        side = Beside("mortal", port, mesh.directory, mesh.authority, mesh.etcd.url, *SOON)
        async with side:
            await mesh.other.knows("mortal")
            await eventually(served)
            (first,) = workers()
            os.kill(first, signal.SIGKILL)
            await eventually(lambda: workers() not in ([first], []), 20.0, side.log)
            await eventually(served, 20.0, side.log)
            assert "signal SIGKILL" in side.log()


async def test_a_side_car_is_ready_in_a_second(mesh: Mesh) -> None:
    """Of CPU time, up to the first answer."""
    async with Origin("quick") as program:
        port = program.instance["port"]
        side = Beside("quick", port, mesh.directory, mesh.authority, mesh.etcd.url, *SOON)
        side.launch()
        try:
            await eventually(side.answers, PATIENCE, side.log)
            spent = cpu_ns(side.pid) / 1e9
        finally:
            await side.stop()
    assert spent < READY


async def test_a_side_car_is_small(mesh: Mesh) -> None:
    """One process, after thousands of requests: 60 MB, files that others use as well included."""
    async with Origin("small") as program:
        port = program.instance["port"]
        side = Beside("small", port, mesh.directory, mesh.authority, mesh.etcd.url, *SOON)
        async with side, aiohttp.ClientSession() as session:
            await side.knows("small")

            async def call() -> None:
                for _ in range(1000):
                    url = f"http://127.0.0.1:{side.outbound}/x"
                    async with session.get(url, headers={"Host": "small"}) as answer:
                        assert answer.status == 200

            await call()
            assert "fairlead_requests_total" in (await side.ask_admin("/metrics"))[1]
            assert children(side.pid) == []

            def small() -> bool:
                """It is, once what the start has left behind is given back."""
                return memory([side.pid], "Rss") <= 60

            await eventually(small, 20.0, side.log)
            await call()
            assert small()


async def test_a_proxy_that_cannot_start_is_said_in_one_line(mesh: Mesh) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        side = Beside("web", 1, mesh.directory, mesh.authority, mesh.etcd.url, "--outbound", bind)
        side.launch()
        assert await side.wait(60.0) == 1
    assert "Traceback" not in side.log()
    assert f"Error: listener outbound: cannot listen on {bind}" in side.log()


def _unnamed(authority: Authority, *shown: Path) -> ssl.SSLContext:
    """A client's context that does not care which service it reaches."""
    return authority.client(*shown, check_hostname=False)
