"""`fairlead demo` from start to Ctrl-C: everything is there, and nothing is left."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from xml.etree import ElementTree

import aiohttp
import pytest

from proxy import demo
from proxy.settings.file import Settings
from proxy.settings.listener import ListenerSettings
from proxy.settings.route import RouteSpec
from release.picture import PICTURE, recorded
from tests.support.processes import AwaitedProcess, alive, eventually, free_port

ROOT = Path(__file__).parents[2]


class RunningDemo(AwaitedProcess):
    """Owns one `fairlead demo` process and what it prints."""

    def __init__(self, directory: Path) -> None:
        self.port, self.admin_port = free_port(), free_port()
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        ports = ("--port", str(self.port), "--admin-port", str(self.admin_port))
        command = (sys.executable, "-m", "proxy", "demo", *ports)
        super().__init__(command, directory / "output", {"TMPDIR": str(self.temporary)}, ROOT)
        self.launch()

    async def ready(self) -> None:
        await eventually(
            lambda: "Ctrl-C stops" in self.log() or self.returncode is not None,
            60,
            "the page of URLs",
        )
        assert self.returncode is None, self.log()

    def family(self) -> list[int]:
        """Process ids of everything it started."""
        return list(_descendants(self.pid))


def _descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from _descendants(child)


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[RunningDemo]:
    one = RunningDemo(directory)
    try:
        await one.ready()
        yield one
    finally:
        await one.stop(20, signal.SIGINT)


async def test_the_urls_it_prints_work_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        examples = re.findall(r"^  curl (.*/hello)$", one.log(), re.MULTILINE)
        assert len(examples) >= 3
        async with aiohttp.ClientSession() as session:
            for example in examples:
                *options, url = shlex.split(example)
                headers = dict(field.split(": ") for field in options if field != "-H")
                async with session.get(url, headers=headers) as answer:
                    assert answer.status == 200, example
                    assert (await answer.json())["service"] in demo.SAMPLES
            async with session.get(f"http://127.0.0.1:{one.admin_port}/api/v1/services") as answer:
                rows = (await answer.json())["services"]
        assert {row["name"]: row["ready"] for row in rows} == {
            name: len(weights) for name, weights in demo.SAMPLES.items()
        }
        family = one.family()
        # Workers, instances and etcd.
        assert len(family) >= 1 + 6 + 1
        assert await one.stop(20, signal.SIGINT) == 0, one.log()
        assert "Traceback" not in one.log()
        assert not any(map(alive, family))
        assert list(one.temporary.iterdir()) == []


async def test_processes_of_the_demo_end_with_it_even_if_it_is_killed(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        family = one.family()
        await one.stop(20, signal.SIGKILL)
        await eventually(lambda: not any(map(alive, family)), 10, "everything gone")


def shapes(lines: Iterable[str]) -> list[str]:
    """Lines without what differs from run to run: numbers, and of instances all but the name."""
    plain = (re.sub(r"\d+", "0", " ".join(line.split())) for line in lines)
    return list(dict.fromkeys(re.sub(r"^(users-0) .*", r"\1", line) for line in plain))


def test_the_picture_of_the_first_page_shows_what_the_demo_does() -> None:
    drawn = ElementTree.parse(PICTURE).iter("{http://www.w3.org/2000/svg}text")
    assert shapes(text.text or "" for text in drawn) == shapes(line for line, _ in recorded())


async def test_a_signal_while_it_starts_is_heeded(tmp_path: Path) -> None:
    one = RunningDemo(tmp_path)
    await eventually(lambda: "starting" in one.log(), 20, "the start")
    assert await one.stop(20, signal.SIGTERM) == 0, one.log()
    assert list(one.temporary.iterdir()) == []


async def test_a_busy_port_is_one_clear_line(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "demo", "--admin-port", str(port)),
        *("--port", str(free_port())),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    server.close()
    await server.wait_closed()
    assert process.returncode == 1
    last = output.decode().splitlines()[-1]
    assert last.startswith(f"Error: admin: 127.0.0.1:{port}: ")
    for told in ("in use", "--admin-port"):
        assert told in last


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        (RouteSpec(service="users"), "curl http://127.0.0.1:80/hello"),
        (
            RouteSpec(host="*.shop", path_prefix="/u/", service="users", methods=("POST",)),
            "curl -X POST -H 'Host: www.shop' http://127.0.0.1:80/u/hello",
        ),
        (
            RouteSpec(path_prefix="/{service}", headers={"X-Beta": "1"}),
            "curl -H 'X-Beta: 1' http://127.0.0.1:80/users/hello",
        ),
        (RouteSpec(host="{service}.svc"), "curl -H 'Host: users.svc' http://127.0.0.1:80/hello"),
        (RouteSpec(path_prefix="/other", service="other"), None),
    ],
)
def test_an_example_for_each_kind_of_route(route: RouteSpec, expected: str | None) -> None:
    settings = Settings(listeners=(ListenerSettings(bind="0.0.0.0:80"),), routes=(route,))
    assert demo.examples(settings) == ([] if expected is None else [expected])
