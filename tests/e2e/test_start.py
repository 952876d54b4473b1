"""How long a start takes without a registry, and what each process loads for it.

What is judged is the best of several starts, less what the processes waited for a CPU, in units of
what a process takes that loads the same libraries at the same moment: so neither a slow machine nor
a busy one matters. Byte code is kept between the starts, as it is for an
installed package; `PYTHONDONTWRITEBYTECODE` in the environment would double the times.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from proxy.membership import Instance, Membership
from tests.e2e.origin import Origin
from tests.e2e.running import RunningProxy
from tests.support.manual_provider import save_snapshot
from tests.support.processes import eventually, waited_for_cpu

ROOT = Path(__file__).parents[2]

LIMIT = 2.4
"""Times of `LOADING`, from the launch of the process to the first answers: what an orchestrator
that replaces a proxy while etcd is down has to wait. It is a second where `LOADING` takes 0.4 s; a
start takes some 0.55 there, of which 0.1 are spent on asking the registry."""

LOADING = "import aiohttp.web, click, etcd3, msgspec, prometheus_client, structlog, uvloop, yaml"

STARTS = 20
"""At most: the first one that is fast enough proves it."""

HEAVY = ("aiohttp", "click", "etcd3", "prometheus_client", "pydantic", "requests", "yaml")
"""Libraries that take from 10 to 200 ms to load."""


def loading(environ: Mapping[str, str]) -> float:
    """Seconds that a process takes for `LOADING`, less those that it waited for a CPU."""
    began = time.monotonic()
    command = [sys.executable, "-c", LOADING]
    with subprocess.Popen(command, env={**os.environ, **environ}) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return time.monotonic() - began - waited_for_cpu([process.pid])


class Start(NamedTuple):
    """Seconds since the launch, less those that were waited for a CPU."""

    ready: float
    served: float


async def answers_200(port: int, path: str) -> bool:
    """One request, as cheap as it gets: the asking takes time from the starting."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % path.encode())
        return (await reader.read(12)).endswith(b" 200")
    except OSError:
        return False
    finally:
        writer.close()


def loads_in_vain(pid: int) -> list[str]:
    """Libraries with machine code that this worker has loaded and does not need."""
    mapped = Path(f"/proc/{pid}/maps").read_text()
    return [name for name in ("pydantic_core", "aiohttp", "yaml") if name in mapped]


async def start(proxy: RunningProxy) -> Start:
    launched = time.monotonic()
    proxy.launch()
    found: dict[str, float] = {}

    async def both() -> bool:
        for name, port, path in (
            ("ready", proxy.admin_port, "/readyz"),
            ("served", proxy.port, "/"),
        ):
            if name not in found and await answers_200(port, path):
                found[name] = time.monotonic() - launched
        return len(found) == 2

    try:
        await eventually(both, 20, "ready and serving", every=0.01)
        waited = waited_for_cpu([proxy.pid, proxy.control, *proxy.children()])
        assert not any(map(loads_in_vain, proxy.children()))
    except AssertionError as error:
        raise AssertionError(f"{error}\n{proxy.log()}") from None
    finally:
        await proxy.stop()
    return Start(found["ready"] - waited, found["served"] - waited)


@pytest.fixture
def refusing() -> Iterator[int]:
    """A port on which nobody listens, and nobody else can."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def mute() -> Iterator[int]:
    """A port whose connections are never answered."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize("registry", ["refusing", "mute"])
async def test_without_a_registry_a_start_takes_no_longer_than_loading(
    registry: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    port = request.getfixturevalue(registry)
    async with Origin() as origin:
        address, instance_port = "127.0.0.1", origin.port
        only = Instance(service="users", id="a", address=address, port=instance_port)
        file = tmp_path / "pools.json"
        save_snapshot(file, Membership(services={"users": (only,)}), time.time())
        environ = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path / "code")}
        proxy = RunningProxy(
            {
                "registry": {
                    "type": "etcd",
                    "endpoints": [f"http://127.0.0.1:{port}"],
                    "snapshot": str(file),
                },
                "routes": [{"service": "users"}],
                "workers": 2,
                "shutdown": {"delay": "0s", "grace": "0s"},
            },
            tmp_path,
            environ=environ,
        )
        await start(proxy)  # Writes the byte code.
        loading(environ)
        starts: list[tuple[Start, float]] = []
        for _ in range(STARTS):
            starts.append((await start(proxy), loading(environ)))
            ready, unit = starts[-1]
            if max(ready) < LIMIT * unit:
                return
        raise AssertionError(starts)


def loaded(directory: Path, *command: str) -> set[str]:
    """The modules that a command of ours loads."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        cwd=directory,  # Where there is no proxy.yaml.
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    names = set(re.findall(r"^import time:.*\| +(\S+)$", result.stderr, re.MULTILINE))
    assert "proxy" in names, result.stderr
    return names


@pytest.mark.parametrize(
    ("command", "needs"),
    [
        (["-m", "proxy.engine", "--help"], ()),
        # Everything that comes before the start of the workers, but the configuration.
        (["-c", "import proxy.control.process"], ()),
        (["-m", "proxy", "version"], ("click",)),
        (["-m", "proxy", "services", "--admin", "http://127.0.0.1:9"], ("click",)),
        (["-m", "proxy", "services"], ("click",)),
        (["-m", "proxy", "check"], ("click", "yaml")),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_process_loads_only_what_it_needs(
    command: list[str], needs: tuple[str, ...], tmp_path: Path
) -> None:
    assert {name for name in HEAVY if name in loaded(tmp_path, *command)} == {*needs}
