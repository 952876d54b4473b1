"""Peers that mean harm to all, and what a well-behaved client notices of them.

For each kind of `tests/e2e/hostile.py` one client asks for a small answer, again and again, while
the hostile peer does its worst to the same worker. Every answer must be right. How long they
took is printed at the end of the run, beside nginx's times in the same drill where there is an
nginx. That is no condition, since a busy machine would fail it: that the work in one turn of the
loop is bounded is counted elsewhere, in steps. `FAIRLEAD_DRILL_SECONDS=3` takes more samples.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.e2e.hostile import CLIENTS, GET
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port, listens

SECONDS = float(os.environ.get("FAIRLEAD_DRILL_SECONDS", "0.5"))
PATIENCE = 20.0
"""Seconds after which an answer does not come any more."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Times(NamedTuple):
    """Seconds that answers took."""

    median: float
    late: float
    """All but one in twenty took no longer."""
    worst: float

    def __str__(self) -> str:
        return " ".join(f"{1000 * value:7.1f}" for value in self)


class Target(NamedTuple):
    """A proxy under test, by name."""

    name: str
    port: int


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The honest instance."""
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(OK)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


@asynccontextmanager
async def _nginx(directory: Path, good: int, evil: int) -> AsyncIterator[int]:
    port = free_port()
    config = directory / "nginx.conf"
    config.write_text(
        f"""daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/e.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  client_max_body_size 0; proxy_request_buffering off; proxy_http_version 1.1;
  proxy_set_header Connection "";
  upstream good {{ server 127.0.0.1:{good}; keepalive 64; }}
  upstream evil {{ server 127.0.0.1:{evil}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port}; keepalive_requests 1000000;
    location /good {{ proxy_pass http://good; }}
    location /evil {{ proxy_pass http://evil; }}
  }}
}}"""
    )
    process = await asyncio.create_subprocess_exec(
        "nginx", "-e", str(directory / "e.log"), "-p", str(directory), "-c", str(config)
    )
    try:
        await eventually(lambda: listens(port), 10, "nginx listens")
        yield port
    finally:
        process.terminate()
        await process.wait()


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def targets(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Target]]:
    """The proxy, and nginx where there is one, in front of an honest and a hostile instance."""
    directory = tmp_path_factory.mktemp("drill")
    async with AsyncExitStack() as stack:
        server = await asyncio.start_server(_answer, "127.0.0.1", 0)
        stack.callback(server.close)
        good = server.sockets[0].getsockname()[1]
        hostile = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.e2e.hostile", "instance", "0",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        stack.push_async_callback(hostile.wait)
        stack.callback(hostile.kill)
        assert hostile.stdout is not None
        evil = int(await hostile.stdout.readline())
        instances = {"good": good, "evil": evil}
        config = {
            "services": {
                name: {"instances": [{"address": "127.0.0.1", "port": port}]}
                for name, port in instances.items()
            },
            "routes": [{"path_prefix": f"/{name}", "service": name} for name in instances],
        }
        proxy = await stack.enter_async_context(RunningProxy(config, directory))
        found = [Target("fairlead", proxy.port)]
        if shutil.which("nginx"):
            port = await stack.enter_async_context(_nginx(directory, good, evil))
            found.append(Target("nginx", port))
        yield found


async def _drill(kind: str, port: int) -> Times:
    """Answer times of an honest client while a peer of this kind is at work."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    hostile = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.e2e.hostile", kind, str(port), str(SECONDS + 0.3),
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        took: list[float] = []
        until = monotonic() + SECONDS + 0.3  # The other process takes some time to begin.
        while monotonic() < until or len(took) < 20:
            begun = monotonic()
            writer.write(GET)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            assert head.startswith(b"HTTP/1.1 200 "), head
            assert await asyncio.wait_for(reader.readexactly(2), PATIENCE) == b"ok"
            took.append(monotonic() - begun)
            await asyncio.sleep(0.005)
    finally:
        writer.close()
        _, said = await hostile.communicate()
    assert hostile.returncode == 0, said.decode()
    took.sort()
    return Times(took[len(took) // 2], took[len(took) * 19 // 20], took[-1])


@pytest.mark.parametrize("kind", CLIENTS)
async def test_an_honest_client_is_served_beside(
    kind: str, targets: list[Target], record_property: Callable[[str, object], None]
) -> None:
    for target in targets:
        times = await _drill(kind, target.port)
        record_property("drill", f"{target.name:9}{times}   {kind}")
