"""The contract of health checks, run over the catalogue, and what each kind does beyond it.

`GOOD` makes a check of each kind pass against the origin; a new kind adds its line.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from proxy.catalog import CHECKS, load
from proxy.control.checks import Checks, Contexts, build_check
from proxy.control.events import Events
from proxy.control.pools import PoolRegistry
from proxy.control.reactions import Reactions
from proxy.control.slots import Slots
from proxy.destinations import Destinations
from proxy.health.base import Check, Endpoint, Verdict
from proxy.health.http import HttpCheck
from proxy.http2 import frames
from proxy.membership import Instance
from proxy.settings.health_check import HealthCheckSettings
from proxy.settings.service import PoolSettings
from proxy.settings.upstream_tls import UpstreamTls
from proxy.testing.checks import CheckContract, ConnectingContract, WaitingContract
from proxy.tls.contexts import ServerPolicy, server_context
from tests.e2e.scripted_dns import ScriptedDns
from tests.support.certificates import Authority
from tests.support.grpc_health import NOT_SERVING, SERVING, Answers, HealthService
from tests.support.processes import alive, eventually, free_port

GOOD: dict[str, dict[str, str]] = {
    "http": {"path": "/"},
    "tcp": {},
    "exec": {"command": 'test "$FAIRLEAD_ADDRESS:$FAIRLEAD_PORT" != :'},
    "grpc": {},
}
"""Parameters with which a check of the kind is good about an HTTP server that answers 200."""
STUCK: dict[str, dict[str, str]] = {
    "http": {},
    "exec": {"command": "sleep 60 & sleep 60"},
    "grpc": {},
}
"""Parameters with which it never comes to an end about a server that never answers. For `tcp`
there is no such server on loopback: the kernel makes the connection."""


@pytest.fixture
async def origin() -> AsyncIterator[Endpoint]:
    """Answers 200 to whatever is sent, and in HTTP/2 that all is well."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await reader.readuntil(b"\r\n\r\n")
            if asked.startswith(b"PRI"):
                await HealthService().serve(reader, writer, asked)
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield Endpoint(*server.sockets[0].getsockname())


class TestChecks(CheckContract):
    @pytest.fixture(autouse=True, params=CHECKS)
    def chosen(self, request: pytest.FixtureRequest) -> None:
        self.check, self.good = load(CHECKS, request.param), GOOD[request.param]
        self.kind = request.param

    @pytest.fixture
    def origin(self, origin: Endpoint) -> Endpoint:
        return origin

    def test_a_check_bears_its_catalogue_name(self) -> None:
        assert self.check.name == self.kind


class TestConnectingChecks(ConnectingContract):
    @pytest.fixture(autouse=True, params=["http", "tcp", "grpc"])
    def chosen(self, request: pytest.FixtureRequest) -> None:
        self.check, self.good = load(CHECKS, request.param), GOOD[request.param]


class TestWaitingChecks(WaitingContract):
    @pytest.fixture(autouse=True, params=STUCK)
    def chosen(self, request: pytest.FixtureRequest) -> None:
        self.check, self.stuck = load(CHECKS, request.param), STUCK[request.param]


def make(kind: str, parameters: dict[str, str], timeout: float = 5.0) -> Check:
    check: Check = load(CHECKS, kind)(timeout=timeout, **parameters)
    return check


@pytest.mark.parametrize("kind", CHECKS)
def test_settings_that_were_inherited_from_another_kind_do_not_matter(kind: str) -> None:
    settings = HealthCheckSettings(type=kind, path="/x", host="h", port=81, command="true")
    assert build_check(settings).name == kind


# ------------------------------------------------------------------- what only one kind has


@pytest.mark.parametrize(
    ("expect", "good"),
    [("200-299", True), ("200", True), ("204, 200", True), ("300-399", False), ("201", False)],
)
async def test_http_is_judged_by_status(expect: str, good: bool, origin: Endpoint) -> None:
    check = make("http", {"path": "/", "expect": expect})
    verdict = await check.probe(origin)
    await check.close()
    assert verdict.ok == good
    assert "200" in verdict.message


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"expect": "2xx"}, "expect"),
        ({"expect": ""}, "expect"),
        ({"expect": "299-200"}, "expect"),
        ({"expect": "600"}, "expect"),
        ({"path": "health"}, "path"),
        ({"path": "/a b"}, "path"),
        ({"path": "/\r\nX: y"}, "path"),
    ],
)
def test_http_refuses_what_it_cannot_send(parameters: dict[str, str], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make("http", parameters)


@pytest.mark.parametrize("command", ["", "  ", "a\0b"])
def test_exec_refuses_what_is_no_command(command: str) -> None:
    with pytest.raises(ValueError, match="command"):
        make("exec", {"command": command})


@pytest.mark.parametrize(
    ("command", "good", "message"),
    [
        ("echo all well", True, "all well"),
        ("true", True, "exit 0"),
        ("echo first; echo disk full >&2; exit 3", False, "exit 3: disk full"),
        ("kill -9 $$", False, "killed by signal 9"),
        ("/no/such/thing", False, "exit 127: "),
        ("head -c 300000 /dev/zero | tr '\\0' x; echo; echo end", True, "end"),
        ("printf 'a\\033[31mb\\n'", True, "a�[31mb"),
    ],
)
async def test_exec_is_judged_by_its_code(command: str, good: bool, message: str) -> None:
    verdict = await make("exec", {"command": command}).probe(Endpoint("10.0.0.1", 80))
    assert verdict.ok == good
    assert verdict.message.startswith(message)


async def test_exec_leaves_nothing_behind(tmp_path: Path, origin: Endpoint) -> None:
    note = tmp_path / "pid"
    check = make("exec", {"command": f"sleep 60 & echo $! > {note}"})
    verdict = await check.probe(origin)
    assert verdict.ok
    pid = int(note.read_text())
    await eventually(lambda: not alive(pid), 5, "the end of what the command left behind")


async def test_exec_that_is_cancelled_while_it_starts_leaves_nothing_behind() -> None:
    seconds = f"86.{os.getpid()}"
    check = make("exec", {"command": f"sleep {seconds}; true"})
    for turns in range(12):
        probe = asyncio.create_task(check.probe(Endpoint("10.0.0.1", 80)))
        for _ in range(turns):
            await asyncio.sleep(0)
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
    await eventually(lambda: not running(seconds), 5, "the end of every command")


def running(argument: str) -> list[str]:
    """Processes with this argument."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument in file.read_text():
                found.append(file.parent.name)
        except OSError:
            pass  # It ended meanwhile.
    return found


@pytest.fixture
async def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedDns]:
    """A name server that the checks of this process ask."""
    async with ScriptedDns() as dns:
        for variable, value in dns.environ(tmp_path).items():
            monkeypatch.setenv(variable, value)
        yield dns


@pytest.mark.parametrize("kind", ["http", "tcp", "grpc"])
async def test_names_that_nobody_resolves_hold_up_nobody(
    kind: str, origin: Endpoint, named: ScriptedDns
) -> None:
    names = [f"name{number}.test" for number in range(30)]
    for name in names:
        named.ignores(name)
    named.says("here.test", "127.0.0.1")
    check = make(kind, GOOD[kind], timeout=0.5)
    others = set(threading.enumerate())
    probes = [asyncio.create_task(check.probe(Endpoint(name, origin.port))) for name in names * 2]
    await eventually(lambda: len(named.questions) >= 30, 5, "lookups under way")
    assert (await check.probe(origin)).ok
    assert (await check.probe(Endpoint("here.test", origin.port))).ok
    assert {probe.result().message for probe in probes if probe.done()} == set()
    verdicts = await asyncio.gather(*probes)
    assert not any(verdict.ok for verdict in verdicts)
    assert all("0.5 s" in verdict.message for verdict in verdicts)
    # Python waits for threads that are no daemons before it ends.
    assert all(thread.daemon for thread in threading.enumerate() if thread not in others)
    for name in names:
        named.says(name, "127.0.0.1")
    await check.close()
    assert (await check.probe(Endpoint(names[0], origin.port))).ok
    await check.close()


@pytest.mark.parametrize("kind", ["http", "tcp", "grpc"])
async def test_all_addresses_of_a_name_are_tried(
    kind: str, origin: Endpoint, named: ScriptedDns
) -> None:
    named.says("web.test", "127.0.0.9", "::1", "127.0.0.1")
    check = make(kind, GOOD[kind])
    assert (await check.probe(Endpoint("web.test", origin.port))).ok
    await check.close()


@pytest.mark.parametrize("kind", ["http", "tcp", "grpc"])
async def test_a_registered_endpoint_may_not_lead_anywhere(
    kind: str, origin: Endpoint, named: ScriptedDns
) -> None:
    named.says("web.test", "127.0.0.1")
    check = make(kind, GOOD[kind])
    check.destinations = Destinations(admin_port=origin.port)
    for address in ("127.0.0.1", "web.test", "::ffff:127.0.0.1"):
        verdict = await check.probe(Endpoint(address, origin.port))
        assert not verdict.ok
        assert "registry.allow" in verdict.message
    assert (await check.probe(Endpoint("web.test", origin.port, local=True))).ok
    await check.close()


@pytest.mark.parametrize("kind", ["http", "tcp", "grpc"])
async def test_another_port_of_the_instance_may_be_asked(kind: str, origin: Endpoint) -> None:
    check: Check = load(CHECKS, kind)(port=origin.port, **GOOD[kind])
    assert (await check.probe(Endpoint(origin.address, free_port()))).ok
    check.destinations = Destinations(admin_port=origin.port)
    verdict = await check.probe(Endpoint(origin.address, free_port()))
    assert not verdict.ok
    assert "registry.allow" in verdict.message
    await check.close()
    with pytest.raises(ValueError, match="port"):
        load(CHECKS, kind)(port=65536)


async def test_http_sends_the_host_it_is_told() -> None:
    heads = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        address, port = server.sockets[0].getsockname()
        for host in ("users.internal", ""):
            assert (await HttpCheck(host=host, port=port).probe(Endpoint(address, 1))).ok
    hosts = [head.split(b"\r\n")[1] for head in heads]
    assert hosts == [b"Host: users.internal", b"Host: 127.0.0.1:%d" % port]


# ------------------------------------------------------------------------------------ TLS

AUTHORITY = Authority()
PAIR = AUTHORITY.issue("users.internal", "127.0.0.1")
SHOWN = AUTHORITY.issue("proxy", number=1)
FILES = {"ca": AUTHORITY.ca, "other": Authority("other").ca, "cert": SHOWN.cert, "key": SHOWN.key}


@asynccontextmanager
async def over_tls(**policy: Any) -> AsyncIterator[tuple[Endpoint, list[bytes]]]:
    """Answers 204 under TLS; the heads that came."""
    heads = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    context = server_context([PAIR], ServerPolicy(**policy))
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        yield Endpoint(*server.sockets[0].getsockname()), heads


async def asked(
    endpoint: Endpoint, tls: UpstreamTls, name: str = "users.internal", kind: str = "http"
) -> Verdict:
    check = make(kind, {})
    check.context = partial(Contexts(lambda: FILES).get, tls, check.alpn)
    verdict = await check.probe(endpoint._replace(server_name=name, trust_domain=tls.trust_domain))
    await check.close()
    return verdict


@pytest.mark.parametrize(
    ("tls", "name", "message"),
    [
        ({"ca": "ca"}, "users.internal", "HTTP 204"),
        ({"ca": "ca"}, "127.0.0.1", "HTTP 204"),
        ({"verify": False}, "others.internal", "HTTP 204"),
        ({"ca": "ca"}, "others.internal", "its certificate: Hostname mismatch, certificate is not"),
        ({"ca": "other"}, "users.internal", "its certificate: self-signed certificate in"),
        ({}, "users.internal", "its certificate: "),
        ({"ca": "none"}, "users.internal", "'none'"),
        ({"ca": "ca", "trust_domain": "internal"}, "users.internal", "HTTP 204"),
        (
            {"ca": "ca", "trust_domain": "internal"},
            "others.internal",
            "its certificate: names the service users, not others",
        ),
        (
            {"ca": "ca", "trust_domain": "local"},
            "users.local",
            "its certificate: names no one service of local, not users",
        ),
    ],
)
async def test_http_over_tls_believes_what_requests_do(
    tls: dict[str, Any], name: str, message: str
) -> None:
    async with over_tls() as (endpoint, _):
        verdict = await asked(endpoint, UpstreamTls(mode="on", **tls), name)
    assert verdict.message.startswith(message)
    assert verdict.ok is message.startswith("HTTP")


async def test_http_over_tls_shows_the_certificate_of_the_proxy() -> None:
    shows = UpstreamTls(mode="on", ca="ca", cert="cert", key="key")
    async with over_tls(client_ca=AUTHORITY.ca) as (endpoint, heads):
        assert (await asked(endpoint, shows)).ok
        verdict = await asked(endpoint, UpstreamTls(mode="on", ca="ca"))
    assert not verdict.ok
    assert [head.split(b"\r\n")[1] for head in heads] == [b"Host: %b" % str(endpoint).encode()]


async def test_http_over_tls_finds_out_that_there_is_none() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        endpoint = Endpoint(*server.sockets[0].getsockname())
        verdict = await asked(endpoint, UpstreamTls(mode="on", ca="ca"))
    assert not verdict.ok
    assert verdict.message.startswith("no TLS: ")


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ({"server_name": "users.internal"}, ""),
        ({"server_name": "{instance}.internal"}, "certificate"),
        ({"trust_domain": "internal"}, "certificate"),
    ],
)
async def test_instances_are_checked_under_the_name_that_requests_expect(
    names: dict[str, Any], why: str
) -> None:
    tls = UpstreamTls(mode="on", ca="ca", **names)
    check = HealthCheckSettings(interval=0.05, fall=1, rise=1, timeout=5.0)
    async with over_tls() as (endpoint, heads):
        instance = Instance(service="s", id="x", address=endpoint.address, port=endpoint.port)
        pools = PoolRegistry(
            {"s": (instance,)},
            Slots(8, lambda slot: True),
            0.0,
            settings={"s": PoolSettings(health_check=check, tls=tls)},
        )
        checks = Checks(
            pools,
            Reactions(Events()),
            lambda changes: None,
            lambda service, key, began: None,
            Destinations(),
            lambda: FILES,
            Random(1),
        )
        checks.follow(["s"])
        task = asyncio.create_task(checks.run())
        status = "unhealthy" if why else "ready"
        await eventually(
            lambda: checks.counts.get("s") and pools.by_service["s"].members[0].status == status,
            10,
            "what a check found",
        )
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await checks.close()
    [member] = pools.by_service["s"].members
    assert why in str(member.told(0.0))
    assert bool(heads) is not bool(why)


async def test_contexts_are_made_once_until_a_file_changes() -> None:
    contents = [FILES, {**FILES, "ca": FILES["other"]}]
    contexts = Contexts(lambda: contents[0])
    tls = UpstreamTls(mode="on", ca="ca")
    first, again = await asyncio.gather(contexts.get(tls), contexts.get(tls))
    assert first is again
    assert await contexts.get(UpstreamTls(mode="on", ca="ca", verify=False)) is not first
    del contents[0]
    assert await contexts.get(tls) is not first


@pytest.mark.parametrize(
    ("answer", "good", "message"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True, "HTTP 200"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True, "HTTP 204"),
        (b"HTTP/1.0 200\r\n\r\nuntil the end", True, "HTTP 200"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx", True, "HTTP 200"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", False, "HTTP 101"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", False, "HTTP 503"),
        (b"", False, "connection closed without an answer"),
        (b"HTTP/1.1 200 OK\r\nX: 1\r\n", False, "connection closed in the middle of an answer"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", False, "the answer is not HTTP/1.1"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", False, "the answer is not HTTP/1.1"),
        (b"HTTP/1.1 200 " + b"K" * 1_000_000, False, "no end of the answer's head within 65536"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 90_000, False, "no end of the answer's head"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, False, "more than 10 interim answers"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10_000_000, True, "HTTP 200"),
    ],
)
async def test_http_reads_so_much_and_no_more(answer: bytes, good: bool, message: str) -> None:
    asked = b""
    ended = asyncio.Event()

    async def give(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        try:
            await writer.drain()
            writer.write_eof()
            await reader.read()
        except OSError:
            pass  # The check has gone.
        finally:
            writer.transport.abort()
            ended.set()

    async with await asyncio.start_server(give, "127.0.0.1", 0) as server:
        endpoint = Endpoint(*server.sockets[0].getsockname())
        verdict = await make("http", {"path": "/healthz?deep=1"}).probe(endpoint)
        await asyncio.wait_for(ended.wait(), 10)
    assert verdict.ok is good
    assert verdict.message.startswith(message)
    lines = asked.decode().split("\r\n")
    assert lines[:2] == ["GET /healthz?deep=1 HTTP/1.1", f"Host: {endpoint}"]
    assert "Connection: close" in lines


# ------------------------------------------------------------------------------------ gRPC


@pytest.mark.parametrize(
    ("answers", "service", "message"),
    [
        ({b"": SERVING}, "", "SERVING"),
        ({b"": NOT_SERVING}, "", "NOT_SERVING"),
        ({b"": b""}, "", "UNKNOWN"),
        ({b"": b"\x08\x03"}, "", "SERVICE_UNKNOWN"),
        ({b"": b"\x08\x09"}, "", "an answer of 2 bytes that means nothing"),
        ({b"\x0a\x03a.b": SERVING}, "a.b", "SERVING"),
        ({b"\x0a\xc8\x01" + b"a" * 200: SERVING}, "a" * 200, "SERVING"),
        ({}, "a.b", "grpc-status 5: it does not know this service"),
        ({b"": "12"}, "", "grpc-status 12: it has no health service"),
        ({b"": "14"}, "", "grpc-status 14: no such thing"),
    ],
)
async def test_grpc_is_judged_by_the_health_service(
    answers: Answers, service: str, message: str
) -> None:
    health = HealthService(answers)
    async with health.listening() as endpoint:
        verdict = await make("grpc", {"service": service, "host": "users:1"}).probe(endpoint)
    assert verdict.message == message
    assert verdict.ok is (message == "SERVING")
    [head] = health.heads
    assert head.pop("user-agent").startswith("fairlead-check/")
    assert head == {
        ":method": "POST",
        ":scheme": "http",
        ":authority": "users:1",
        ":path": "/grpc.health.v1.Health/Check",
        "te": "trailers",
        "content-type": "application/grpc",
        "grpc-timeout": "5000m",
    }


@pytest.mark.parametrize(
    ("alpn", "message"),
    [(("h2",), "SERVING"), ((), "no HTTP/2: the instance does not choose it by ALPN")],
)
async def test_grpc_over_tls_asks_for_http2(alpn: tuple[str, ...], message: str) -> None:
    context = server_context([PAIR], ServerPolicy(alpn=alpn))
    health = HealthService()
    async with health.listening(context) as endpoint:
        verdict = await asked(endpoint, UpstreamTls(mode="on", ca="ca"), kind="grpc")
        other = await asked(endpoint, UpstreamTls(mode="on", ca="other"), kind="grpc")
    assert verdict.message == message
    assert other.message.startswith("its certificate: ")
    assert [head[":scheme"] for head in health.heads] == ["https"] * (message == "SERVING")


SETTINGS = b"\0\0\0\4\0\0\0\0\0"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "connection closed without an answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the answer is not HTTP/2: "),
        (SETTINGS + frames.reset(1, 7), "refused, refused_stream"),
        (SETTINGS + frames.goaway(0, 11), "refused, enhance_your_calm"),
        (SETTINGS + frames.head_frames(1, b"\x88", True, 99), "HTTP 200, and not gRPC"),
        (SETTINGS + frames.head_frames(1, b"\xff", True, 99), "the answer is not HTTP/2: "),
        (SETTINGS + frames.ping(bytes(8)) * 3000, "an endless answer"),
        (SETTINGS + (frames.data_header(9000, 1, False) + bytes(9000)) * 4, "an endless answer"),
    ],
)
async def test_grpc_reads_so_much_and_no_more(answer: bytes, message: str) -> None:
    ended = asyncio.Event()

    async def give(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(answer)
            await writer.drain()
            writer.write_eof()
            await reader.read()
        writer.transport.abort()
        ended.set()

    async with await asyncio.start_server(give, "127.0.0.1", 0) as server:
        endpoint = Endpoint(*server.sockets[0].getsockname())
        verdict = await make("grpc", {}).probe(endpoint)
        await asyncio.wait_for(ended.wait(), 10)
    assert verdict.message.startswith(message)
    assert not verdict.ok


def test_grpc_refuses_what_it_cannot_send() -> None:
    with pytest.raises(ValueError, match="host"):
        make("grpc", {"host": "a b"})
