"""Other people's servers of HTTP/2 behind the real proxy, and drills with instances that go."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from h2.settings import SettingCodes

from tests.e2e.certificates import Authority
from tests.e2e.h2_origin import H2Origin
from tests.e2e.programs import NODE, Program, need, output
from tests.e2e.raw_http import PATIENCE, Client, request
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
LARGE = (b"large" * MIB)[: 4 * MIB]
NAME = "s.internal"
KINDS = ("node", "node-tls", "nghttpd", "go")
PROGRAMS = {"node-tls": "node"}


async def _command(kind: str, port: int, directory: Path, cert: tuple[Path, Path]) -> list[str]:
    """What starts a server."""
    if kind.startswith("node"):
        tls = [str(file) for file in cert] if kind == "node-tls" else []
        return [need("node"), str(NODE / "h2_server.mjs"), str(port), *tls]
    if kind == "go":
        binary = directory / "h2_server"
        source = Path(__file__).parent / "go" / "h2_server.go"
        try:
            await output(need("go"), "build", "-o", str(binary), str(source), within=120)
        except AssertionError:
            pytest.skip("this Go is older than 1.24, and its net/http speaks no h2c")
        return [str(binary), str(port)]
    root = directory / "www" / kind
    root.mkdir(parents=True)
    (root / "page").write_bytes(b"page")
    (root / "large").write_bytes(LARGE)
    options = ["--no-tls", "--echo-upload", "-d", str(directory / "www"), "--trailer", "x-te: none"]
    return [need("nghttpd"), *options, str(port)]


@dataclass
class Site:
    port: int
    running: set[str]

    def base(self, kind: str) -> str:
        """Of the pages of one of the servers; skips the test where it is not installed."""
        if kind not in self.running:
            pytest.skip(f"{PROGRAMS.get(kind, kind)} is not installed")
        return f"http://127.0.0.1:{self.port}/{kind}/"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    authority = Authority(directory)
    cert = authority.issue(NAME)
    ports = {kind: free_port() for kind in (*KINDS, "web")}
    services: dict[str, Any] = {
        kind: {
            "protocol": "h2c",
            "instances": [{"id": kind, "address": "127.0.0.1", "port": ports[kind]}],
        }
        for kind in KINDS
    }
    services["node-tls"] |= {
        "protocol": "h2",
        "tls": {"ca": str(authority.ca), "server_name": NAME},
    }
    config = {
        "listeners": [{"name": "web", "bind": f"127.0.0.1:{ports['web']}", "http2": True}],
        "workers": 2,
        "routes": [{"path_prefix": "/{service}"}],
        "services": services,
    }
    async with AsyncExitStack() as stack:
        running = set()
        for kind in KINDS:
            try:
                command = await _command(kind, ports[kind], directory, cert)
            except pytest.skip.Exception:
                continue
            log = directory / f"{kind}.log"
            await stack.enter_async_context(Program(command, ports[kind], log, {}))
            running.add(kind)
        await stack.enter_async_context(RunningProxy(config, directory))
        yield Site(ports["web"], running)


@asynccontextmanager
async def client_of(version: int) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=1 if version == 2 else 32)
    async with httpx.AsyncClient(
        http1=version == 1, http2=version == 2, limits=limits, timeout=60
    ) as client:
        yield client


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
async def test_pages_bodies_and_downloads_pass(site: Site, kind: str, version: int) -> None:
    base = site.base(kind)
    body = hashlib.shake_128(b"body").digest(MIB)
    async with client_of(version) as client:
        page = await client.get(base + "page")
        assert (page.status_code, page.content) == (200, b"page")
        if kind != "nghttpd":
            assert page.headers.get_list("set-cookie") == ["a=1", "b=2"]
        assert (await client.post(base + "echo", content=body)).content == body
        assert (await client.get(base + "large")).content == LARGE


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_crowd_shares_sessions(site: Site, kind: str, version: int) -> None:
    base = site.base(kind)
    async with client_of(version) as client:
        answers = await asyncio.gather(
            *(client.post(base + "echo", content=b"%d" % number) for number in range(200))
        )
    assert [answer.content for answer in answers] == [b"%d" % number for number in range(200)]


@pytest.mark.parametrize("kind", ["node", "node-tls", "go"])
async def test_hints_and_trailers_pass_to_a_client_of_http1(site: Site, kind: str) -> None:
    path = site.base(kind).partition(str(site.port))[2] + "trailers"
    async with await Client.connect(site.port) as client:
        await client.send(request("GET", path, [("Connection", "TE"), ("TE", "trailers")]))
        async with asyncio.timeout(PATIENCE):
            said = await client.reader.readuntil(b"0\r\nx-te: trailers\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 103 Early Hints\r\n")
    assert b"\r\nTransfer-Encoding: chunked\r\n" in said


# -- drills

GOING = {"retry": {"max_retries": 2}, "ejection": False, "protocol": "h2c"}


@asynccontextmanager
async def under_load(
    directory: Path, *origins: H2Origin, clients: int = 32, **service: Any
) -> AsyncIterator[tuple[RunningProxy, Counter[str]]]:
    """Clients that ask until the block is over, and what they got."""
    config = {
        "routes": [{"path_prefix": "/", "service": "s"}],
        "services": {"s": {**GOING, "instances": [one.instance for one in origins], **service}},
    }
    answers: Counter[str] = Counter()
    over = asyncio.Event()

    async def ask(client: httpx.AsyncClient, url: str) -> None:
        while not over.is_set():
            try:
                answer = await client.get(url)
                answers[answer.text if answer.status_code == 200 else answer.text[:300]] += 1
            except httpx.HTTPError as error:
                answers[repr(error)] += 1

    async with RunningProxy(config, directory) as proxy, client_of(1) as client:
        tasks = [asyncio.create_task(ask(client, f"{proxy.url}/x")) for _ in range(clients)]
        try:
            yield proxy, answers
        finally:
            over.set()
            await asyncio.gather(*tasks)


async def more(answers: Counter[str], name: str, count: int = 50) -> None:
    """This instance goes on answering."""
    before = answers[name]
    await eventually(lambda: answers[name] > before + count, 30, f"{name} answers")


@pytest.mark.drill
async def test_a_killed_instance_costs_no_repeatable_call(tmp_path: Path) -> None:
    async with H2Origin("a", delay=0.1) as a, H2Origin("b", delay=0.1) as b:
        async with under_load(tmp_path, a, b) as (_, answers):
            for _ in range(3):
                await more(answers, "a")
                await eventually(lambda: a.in_flight > 4, 10, "a is busy")
                a.die()
                await more(answers, "b")
                await a.listen()
        assert set(answers) == {"a", "b"}


@pytest.mark.drill
async def test_an_instance_that_says_goaway_costs_no_call(tmp_path: Path) -> None:
    async with H2Origin("a", delay=0.1) as a:
        async with under_load(tmp_path, a) as (_, answers):
            for _ in range(10):
                await more(answers, "a", 50)
                await eventually(lambda: a.in_flight > 4, 10, "a is busy")
                a.leave()
            await more(answers, "a")
        assert set(answers) == {"a"}
        assert a.made > 10


@pytest.mark.drill
async def test_an_instance_that_allows_fewer_streams_gets_no_more(tmp_path: Path) -> None:
    async with H2Origin("a", delay=0.1) as a:
        async with under_load(tmp_path, a) as (_, answers):
            await more(answers, "a")
            assert (a.made, a.most) == (1, 32)
            a.announce(SettingCodes.MAX_CONCURRENT_STREAMS, 4)
            await more(answers, "a")
            a.most = 0
            await more(answers, "a")
            assert a.most <= 4
        assert set(answers) == {"a"}


@pytest.mark.drill
async def test_an_instance_that_takes_no_content_costs_its_own_calls_alone(tmp_path: Path) -> None:
    async with H2Origin("a") as a, H2Origin("b") as b:
        a.announce(SettingCodes.INITIAL_WINDOW_SIZE, 0)
        balancer = {"type": "consistent_hash", "key": "header:X-Key"}
        timeouts = {"first_byte": "1s"}
        async with under_load(tmp_path, a, b, balancer=balancer, timeouts=timeouts) as (
            proxy,
            answers,
        ):
            async with client_of(1) as client:
                posts = [
                    client.post(f"{proxy.url}/x", content=b"c", headers={"X-Key": f"{number}"})
                    for number in range(20)
                ]
                got = Counter([answer.status_code for answer in await asyncio.gather(*posts)])
            assert set(got) == {200, 504}
            await more(answers, "a" if answers["a"] else "b")
        assert set(answers) <= {"a", "b"}
