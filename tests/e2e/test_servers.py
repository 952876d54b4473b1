"""Other people's servers behind the real proxy, asked by a client that reads strictly.

All of them serve the site of `served.py`. nginx serves its first page from a file and passes
the rest on to aiohttp, as it is mostly used.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.programs import NODE, Program, need
from tests.e2e.raw_http import Answer, Client, request
from tests.e2e.running import RunningProxy
from tests.e2e.served import HELLO, LARGE, PIECES, REFUSED
from tests.support.processes import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20

IDLE = {
    "aiohttp": 0.2,
    "uvicorn-httptools": 0.2,
    "uvicorn-h11": 0.2,
    "gunicorn-sync": 0.0,
    # It takes whole seconds.
    "gunicorn-gthread": 1.0,
    "node": 0.2,
    "nginx": 0.2,
}
"""Seconds after which each server is told to close an idle connection; gunicorn's sync worker
closes after each answer."""

CARELESS = "-careless"
"""Ends the name of a service that keeps idle connections for longer than its server does. For the
others the proxy is told to give up first, as one should: a POST that meets the server's own close
is lost."""

NEEDS = {"node": "node", "nginx": "nginx"}
"""What is not a Python package that the tests bring along."""

NGINX = """
daemon off;
master_process off;
pid {directory}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 8m;
    keepalive_timeout {idle}ms;
    proxy_buffer_size 32k;
    proxy_buffers 8 32k;
    server {{
        listen 127.0.0.1:{port};
        root {directory}/www;
        location = /hello {{}}
        location = /bare {{}}
        location = /refuse {{ return 403 no; }}
        location / {{
            proxy_pass http://127.0.0.1:{behind};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


def command(kind: str, port: int, behind: int, directory: Path) -> Sequence[str]:
    """What starts a server. `behind`: the port of the aiohttp one."""
    idle = IDLE[kind]
    if kind == "node":
        return [need("node"), str(NODE / "server.mjs"), str(port), str(int(idle * 1000))]
    if kind == "nginx":
        (directory / "www").mkdir()
        for page in ("hello", "bare"):
            (directory / "www" / page).write_bytes(HELLO)
        file = directory / "nginx.conf"
        idle_ms = int(idle * 1000)
        file.write_text(NGINX.format(directory=directory, idle=idle_ms, port=port, behind=behind))
        return [need("nginx"), "-p", str(directory), "-e", "stderr", "-c", str(file)]
    if kind.startswith("gunicorn"):
        options = ["--bind", f"127.0.0.1:{port}", "--worker-class", kind.partition("-")[2]]
        if idle:
            options += ["--keep-alive", str(int(idle)), "--threads", "40"]
        return [sys.executable, "-m", "gunicorn", *options, "tests.e2e.served:wsgi"]
    return [sys.executable, "-m", "tests.e2e.served", kind, str(port), str(idle)]


@dataclass
class Site:
    proxy: RunningProxy
    programs: dict[str, Program] = field(default_factory=dict)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("servers")
    ports = {kind: free_port() for kind in IDLE}
    async with AsyncExitStack() as stack:
        config = {
            "services": {
                f"{kind}{part}": {
                    "instances": [{"id": kind, "address": "127.0.0.1", "port": port}],
                    **({} if part else {"keepalive": {"idle": f"{max(IDLE[kind] / 2, 0.1):g}s"}}),
                }
                for kind, port in ports.items()
                for part in ("", CARELESS)
            },
            "routes": [{"path_prefix": "/{service}", "strip_prefix": True}],
        }
        site = Site(RunningProxy(config, directory))

        async def start(kind: str) -> None:
            own = directory / kind
            own.mkdir()
            line = command(kind, ports[kind], ports["aiohttp"], own)
            # gunicorn puts a control socket into the home directory.
            program = Program(line, ports[kind], own / "log", {"HOME": str(own)})
            site.programs[kind] = await stack.enter_async_context(program)

        present = [kind for kind in IDLE if kind not in NEEDS or shutil.which(NEEDS[kind])]
        async with asyncio.TaskGroup() as starting:
            for kind in present:
                starting.create_task(start(kind))
        await stack.enter_async_context(site.proxy)
        yield site


@pytest.fixture(params=IDLE)
def kind(request: pytest.FixtureRequest) -> str:
    """Each server in turn."""
    name: str = request.param
    if name in NEEDS:
        need(NEEDS[name])
    return name


@pytest_asyncio.fixture(loop_scope="module")
async def client(running: Site) -> AsyncIterator[Client]:
    async with await Client.connect(running.proxy.port) as client:
        yield client


def chunked(target: str, pieces: Sequence[bytes]) -> bytes:
    """A POST with a body in chunks."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return request("POST", target, [("Transfer-Encoding", "chunked")]) + body + b"0\r\n\r\n"


async def test_get_head_and_304(kind: str, client: Client) -> None:
    for _ in range(3):
        page = await client.ask("GET", f"/{kind}/hello")
        assert (page.status, page.body, page.head.length()) == (200, HELLO, len(HELLO))
        head = await client.ask("HEAD", f"/{kind}/hello")
        assert (head.status, head.head.length()) == (200, len(HELLO))
        etag = page["ETag"]
        assert etag is not None
        assert head["ETag"] == etag
        unchanged = await client.ask("GET", f"/{kind}/hello", [("If-None-Match", etag)])
        assert (unchanged.status, unchanged.body) == (304, b"")
        assert unchanged["ETag"] == etag


async def test_a_megabyte_there_and_back(kind: str, client: Client) -> None:
    body = hashlib.shake_128(kind.encode()).digest(MIB)
    for _ in range(2):
        sending = asyncio.create_task(client.send(request("POST", f"/{kind}/echo", (), body)))
        answer = await client.answer("POST")
        await sending
        assert answer.status == 200
        assert answer.body == body
        pieces = [body[start : start + 50_000] for start in range(0, MIB, 50_000)]
        sending = asyncio.create_task(client.send(chunked(f"/{kind}/echo", pieces)))
        answer = await client.answer("POST")
        await sending
        assert answer.status == 200
        assert answer.body == body


async def test_an_answer_in_pieces(kind: str, client: Client) -> None:
    for _ in range(3):
        answer = await client.ask("GET", f"/{kind}/pieces")
        assert (answer.status, answer.head.chunked) == (200, True)
        assert answer.body == b"".join(PIECES)


async def test_an_answer_in_pieces_for_a_1_0_client(kind: str, client: Client) -> None:
    await client.send(f"GET /{kind}/pieces HTTP/1.0\r\nHost: test\r\n\r\n".encode())
    answer = await client.answer()
    assert (answer.status, answer.head.chunked, answer.head.length()) == (200, False, None)
    assert answer.body == b"".join(PIECES)
    assert answer.closes


async def test_the_server_asks_for_the_body(kind: str, client: Client) -> None:
    body = b"x" * 100_000
    fields = [("Expect", "100-continue"), ("Content-Length", str(len(body)))]
    for _ in range(2):
        await client.send(request("POST", f"/{kind}/echo", fields))
        # Nothing of the body is sent before.
        assert (await client.read_head()).start[1] == "100"
        await client.send(body)
        answer = await client.answer("POST")
        assert (answer.status, answer.body, answer.interim) == (200, body, ())


async def test_a_refusal_in_the_middle_of_an_upload_arrives(kind: str, running: Site) -> None:
    """Most servers answer at once and close, some of them with a reset, while the rest of the
    body is on its way. The client gets that answer, and not one of the proxy's own."""
    upload = request("POST", f"/{kind}/refuse", (), bytes(8 * MIB))
    answers = []
    for _ in range(5):
        async with await Client.connect(running.proxy.port) as client:
            sending = asyncio.create_task(client.send(upload))
            answer = await client.answer("POST")
            sending.cancel()
            await asyncio.wait([sending])
        answers.append((answer.status, answer.body))
    # A reset may overtake the answer in front of it, and takes it along then: once in hundreds.
    assert answers.count((403, REFUSED)) >= 4


async def test_large_fields_both_ways(kind: str, client: Client) -> None:
    # What every server takes by its defaults: 8 KB in one field, 16 KB in all.
    fields = [("X-Sent-Large", "s" * 6000), *((f"X-Sent-{n}", "n" * 100) for n in range(50))]
    for _ in range(2):
        answer = await client.ask("GET", f"/{kind}/fields", fields)
        assert (answer.status, answer.body) == (200, b"11000")
        for name, value in LARGE.items():
            assert answer[name] == value


async def test_idle_connections_that_the_server_closes_cost_no_request(
    kind: str, running: Site
) -> None:
    """200 GETs in waves; between two waves all connections are idle for about as long as the
    server keeps them, so it closes some while the next request is on its way.

    The pauses are what is tested; nothing is waited for in them.
    """
    rounds, width = (10, 20) if IDLE[kind] < 1 else (5, 40)
    rng = random.Random(1)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(await Client.connect(running.proxy.port))
            for _ in range(width)
        ]

        async def late(client: Client, by: float) -> Answer:
            await asyncio.sleep(by)
            return await client.ask("GET", f"/{kind}{CARELESS}/bare")

        statuses: Counter[int] = Counter()
        for _ in range(rounds):
            # Spread over 20 ms before and after the limit.
            answers = await asyncio.gather(*(late(c, rng.uniform(0, 0.04)) for c in clients))
            statuses.update(answer.status for answer in answers)
            await asyncio.sleep(max(0.0, IDLE[kind] - 0.03))
        assert statuses == {200: 200}
