"""Handshakes that go nowhere cost those who are served little: half ones by the hundred, and those
that ask for a dear key exchange.

How long answers took is printed at the end of the run, beside nginx's in the same drill.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest
import pytest_asyncio

from tests.e2e.hostile import TLS_CLIENTS
from tests.e2e.origin import Origin
from tests.e2e.programs import need
from tests.e2e.raw_http import PATIENCE, Client
from tests.e2e.secure import NAME, SecureClient, SecureProxy
from tests.support.processes import Slowdown, eventually, free_port, listens

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECONDS = float(os.environ.get("FAIRLEAD_DRILL_SECONDS", "0.5"))
HELLOS = 50
CHEAP = 0.005
"""Seconds of computing that a hello may cost which is refused. A key exchange by ffdhe8192 takes
thirty times that."""


@asynccontextmanager
async def _nginx(proxy: SecureProxy, directory: Path, instance: int) -> AsyncIterator[int]:
    port = free_port()
    config = directory / "nginx.conf"
    config.write_text(
        f"""daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/e.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  proxy_http_version 1.1; proxy_set_header Connection "";
  ssl_certificate {proxy.cert}; ssl_certificate_key {proxy.key};
  upstream instance {{ server 127.0.0.1:{instance}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port} ssl; keepalive_requests 1000000;
    location / {{ proxy_pass http://instance; }}
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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecureProxy]:
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin())
        config = {
            "services": {"s": {"instances": [origin.instance]}},
            "routes": [{"path_prefix": "/", "service": "s"}],
        }
        proxy = SecureProxy(config, tmp_path_factory.mktemp("proxy"), limits={"handshakes": 1000})
        await stack.enter_async_context(proxy)
        proxy.ports["instance"] = origin.port
        yield proxy


async def _took(port: int, context: ssl.SSLContext, kind: str) -> list[float]:
    """Seconds that answers took over a connection from before, shortest first."""
    took: list[float] = []
    async with await SecureClient.connect_to(port, context) as client:
        hostile = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.e2e.hostile", kind, str(port), str(SECONDS + 0.3),
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            until = monotonic() + SECONDS + 0.3  # The other process takes some time to begin.
            while monotonic() < until or len(took) < 20:
                begun = monotonic()
                assert (await client.ask("GET", "/", host=NAME)).status == 200
                took.append(monotonic() - begun)
                await asyncio.sleep(0.002)
        finally:
            _, said = await hostile.communicate()
    assert hostile.returncode == 0, said.decode()
    return sorted(took)


@pytest.mark.drill
@pytest.mark.parametrize("kind", TLS_CLIENTS)
async def test_handshakes_that_go_nowhere_delay_nobody(
    kind: str,
    proxy: SecureProxy,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    context = proxy.authority.client()
    limit = 0.05
    async with AsyncExitStack() as stack:
        ports = {"fairlead": proxy.https}
        if shutil.which("nginx"):
            nginx = _nginx(proxy, tmp_path, proxy.ports["instance"])
            ports = {"nginx": await stack.enter_async_context(nginx), **ports}
        slowdown = Slowdown([*await proxy.worker_pids(), os.getpid()])
        worst: dict[str, float] = {}
        for name, port in ports.items():
            # What another process of this machine did in one round is not in all of them.
            rounds = [await _took(port, context, kind) for _ in range(3)]
            best = min(rounds, key=lambda took: took[-1])
            worst[name] = best[-1]
            figures = [best[len(best) // 2], best[len(best) * 19 // 20], best[-1]]
            shown = " ".join(f"{1000 * value:7.1f}" for value in figures)
            record_property("drill", f"{name:9}{shown}   {kind}")
        limit = max(limit, 3 * worst.get("nginx", 0)) * slowdown.factor
    assert worst["fairlead"] <= limit


async def _hello(*arguments: str) -> bytes:
    """What `openssl s_client` says first, with these arguments."""
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readexactly(5)
        heard.set_result(head + await reader.readexactly(int.from_bytes(head[3:])))
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            need("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        hello = await asyncio.wait_for(heard, PATIENCE)
        await asyncio.wait_for(process.wait(), PATIENCE)
    return hello


def _computed(pid: int) -> float:
    """Seconds of computing in the loop of a worker."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@pytest.mark.parametrize(
    ("arguments", "alert"),
    [
        (["-groups", "ffdhe8192", "-tls1_3"], 40),
        (["-cipher", "DHE-RSA-AES128-GCM-SHA256", "-tls1_2"], 40),
    ],
    ids=["TLS 1.3", "TLS 1.2"],
)
async def test_a_dear_key_exchange_is_refused_at_once(
    proxy: SecureProxy,
    arguments: list[str],
    alert: int,
    record_property: Callable[[str, object], None],
) -> None:
    hello = await _hello(*arguments)
    [worker] = await proxy.worker_pids()
    before = _computed(worker)
    for _ in range(HELLOS):
        async with await Client.connect(proxy.https) as client:
            await client.send(hello)
            said = await client.rest()
            assert said[:1] == b"\x15"
            assert said[5:] == bytes([2, alert])
    each = (_computed(worker) - before) / HELLOS
    record_property("drill", f"{1000 * each:.2f} ms of CPU for a hello with {' '.join(arguments)}")
    assert each < CHEAP
