"""docs/migrate: each page's configuration of another proxy, and ours, run on the same instances.

A product that this machine does not have is skipped; ours is run all the same.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.test_cli import fairlead
from tests.support.processes import AwaitedProcess, eventually, free_port
from tests.support.shown import blocks

PAGES = sorted((Path(__file__).parents[2] / "docs/migrate").glob("*.md"))

PRODUCTS = {
    "nginx": "nginx -p . -c ./nginx.conf -e stderr -g 'daemon off; master_process off; pid pid;'",
    "haproxy": "haproxy -db -f haproxy.cfg",
    "traefik": "traefik --configFile=traefik.yaml",
    "caddy": "caddy run --config Caddyfile --adapter caddyfile",
    "envoy": "envoy -c envoy.yaml --concurrency 1 --disable-hot-restart --log-level error",
    "apisix": "apisix",
}
PATH = ":".join(("/opt/peers/bin", "/usr/sbin", "/usr/local/bin", "/usr/bin", "/bin"))

Answer = tuple[int, str, str, str]

QUESTIONS = [
    ("GET", "users.example.com", "/42?x=1"),
    ("POST", "users.example.com", "/"),
    ("GET", "www.example.com", "/orders/7"),
    ("GET", "users.example.com", "/orders/7"),
    ("GET", "www.example.com", "/old"),
    ("GET", "www.example.com", "/nowhere"),
]


@contextmanager
def instance(name: str) -> Iterator[int]:
    """The port of a server that says what it was asked, and by whom."""

    class Says(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            whose = self.headers.get("X-Forwarded-For")
            said = f"{name} {self.command} {self.path} {body.decode()} for {whose}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Says) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def ask(port: int, method: str, host: str, target: str) -> Answer:
    """Status, content if it is an instance's, where it leads, and the field for browsers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, target, b"b" if method == "POST" else None, {"Host": host})
        reply = connection.getresponse()
        body = reply.read().decode() if reply.status == 200 else ""
        leads = urlsplit(reply.headers.get("Location", "")).path
        return reply.status, body, leads, reply.headers.get("X-Frame-Options", "")
    finally:
        connection.close()


def asked(port: int) -> list[Answer] | None:
    """All answers, once there are any from the instances."""
    try:
        if any(ask(port, *QUESTIONS[number])[0] != 200 for number in (0, 2)):
            return None
        return [ask(port, *question) for question in QUESTIONS]
    except OSError:
        return None


FOR = "for 127.0.0.1"
CHECKED = "proxy.yaml: good: 1 listener, 3 routes, 1 service by name\n"
EXPECTED: list[Answer] = [
    (200, "users-1 GET /42?x=1  for 127.0.0.1", "", "DENY"),
    (200, "users-1 POST / b for 127.0.0.1", "", "DENY"),
    (200, "orders-1 GET /7  for 127.0.0.1", "", ""),
    (200, "users-1 GET /orders/7  for 127.0.0.1", "", "DENY"),
    (301, "", "/orders/", ""),
    (404, "", "", ""),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[dict[str, int]]:
    """Ports of the pages, and those in their place: etcd with an instance of each service."""
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(EtcdServer())
        client = await stack.enter_async_context(EtcdClient(etcd.url))
        ports = {"2379": urlsplit(etcd.url).port or 0}
        for number, service in (("9001", "users"), ("9002", "orders")):
            ports[number] = stack.enter_context(instance(f"{service}-1"))
            record = json.dumps({"address": "127.0.0.1", "port": ports[number]})
            await client.put(f"/services/{service}/{service}-1", record)
        yield ports


def write(page: Path, directory: Path, ports: dict[str, int]) -> None:
    """The files of a page, with other ports."""
    for block in blocks(page.read_text("utf-8")):
        text = block.text
        for port, other in ports.items():
            text = re.sub(rf"\b{port}\b", str(other), text)
        (directory / block.title).write_text(text)


async def answers(command: list[str], directory: Path, port: int) -> list[Answer]:
    """What a proxy says to the questions; it is ended afterwards."""
    process = AwaitedProcess(command, directory / "log", {"PATH": PATH}, directory)
    process.launch()
    try:
        found: list[Answer] = await eventually(lambda: asked(port), 30, process.log)
        return found
    finally:
        await process.stop()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.asyncio(loop_scope="module")
async def test_configuration_of_ours_on_the_page_serves_the_site(
    page: Path, world: dict[str, int], tmp_path: Path
) -> None:
    port = free_port()
    write(page, tmp_path, {**world, "8080": port, "9900": free_port()})
    assert await fairlead("check", cwd=tmp_path) == (0, CHECKED, "")
    command = [sys.executable, "-m", "proxy", "run"]
    assert await answers(command, tmp_path, port) == EXPECTED


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.asyncio(loop_scope="module")
async def test_configuration_of_theirs_on_the_page_serves_the_same_site(
    page: Path, world: dict[str, int], tmp_path: Path
) -> None:
    product = PRODUCTS[page.stem]
    if not shutil.which(product.split()[0], path=PATH):
        pytest.skip(f"{product.split()[0]} is not installed")
    port = free_port()
    write(page, tmp_path, {**world, "8080": port})
    found = await answers(["sh", "-c", f"exec {product}"], tmp_path, port)
    if page.stem == "envoy":  # Of a client on loopback it tells the machine's own address.
        found = [(answer[0], re.sub(r"for .+", FOR, answer[1]), *answer[2:]) for answer in found]
    assert found == EXPECTED
