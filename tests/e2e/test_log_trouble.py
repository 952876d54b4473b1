"""Whoever takes the log stops reading, is gone, or has no room: requests are served all the same,
and the processes stop as they should."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.origin import Origin
from tests.e2e.raw_http import Client, request
from tests.e2e.running import RunningProxy
from tests.support.processes import alive, eventually, free_port


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin("one") as one:
        yield one


def config(origin: Origin, **more: Any) -> dict[str, Any]:
    gone = {"id": "gone", "address": "127.0.0.1", "port": free_port()}
    return {
        "workers": 2,
        "shutdown": {"delay": "0s", "grace": "3s"},
        "services": {
            "users": {"instances": [origin.instance]},
            "gone": {"instances": [gone], "retry": False},
        },
        "routes": [
            {"path_prefix": "/users", "service": "users"},
            {"path_prefix": "/gone", "service": "gone"},
        ],
        **more,
    }


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe that takes 4 KiB. The test closes what it wants closed."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    try:
        yield reader, writer
    finally:
        for end in (reader, writer):
            with suppress(OSError):
                os.close(end)


async def ask(proxy: RunningProxy, target: str) -> int:
    """The status of an answer over a connection of its own."""
    async with asyncio.timeout(15), await Client.connect(proxy.port) as client:
        await client.send(request("GET", target))
        return int((await client.answer()).status)


async def serves(proxy: RunningProxy) -> None:
    """Failures, with a line in the log each, hold up nobody in any worker."""
    for _ in range(60):
        assert await ask(proxy, "/gone") == 502
    for _ in range(10):
        assert await ask(proxy, "/users") == 200
    assert await proxy.readyz() == 200


async def stops(proxy: RunningProxy, pids: list[int]) -> None:
    began = time.monotonic()
    assert await proxy.stop() == 0
    # It would be held up for ever; the rest is for a machine that is busy.
    assert time.monotonic() - began < 15
    assert not any(map(alive, pids))


async def test_a_log_that_nobody_reads_holds_nothing_up(origin: Origin, tmp_path: Path) -> None:
    with pipe() as (_, writer):
        proxy = RunningProxy(config(origin), tmp_path, stderr=writer)
        async with proxy:
            pids = await proxy.worker_pids()
            await serves(proxy)
            await stops(proxy, pids)


CRASH = """
import structlog
from proxy import log
from proxy.settings.process import LogSettings
log.set_up(LogSettings(), worker=2)
for number in range({lines}):
    structlog.get_logger().info("ready", number=number)
raise KeyError("boom")
"""


def test_a_crash_is_a_line_of_the_log() -> None:
    program = [sys.executable, "-c", CRASH.format(lines=3)]
    found = subprocess.run(program, capture_output=True, check=False, timeout=30)
    assert found.returncode == 1
    lines = [json.loads(line) for line in found.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["ready"] * 3 + ["crashed"]
    assert (lines[-1]["error"], lines[-1]["worker"]) == ("KeyError", 2)
    assert "Traceback" in lines[-1]["exception"]


def test_a_crash_whose_log_nobody_reads_ends_the_process() -> None:
    with pipe() as (_, writer):
        program = [sys.executable, "-c", CRASH.format(lines=500)]
        process = subprocess.Popen(program, stderr=writer)
        try:
            assert process.wait(30) == 1
        finally:
            process.kill()
            process.wait()


async def test_the_reader_of_the_log_is_gone(origin: Origin, tmp_path: Path) -> None:
    with pipe() as (reader, writer):
        proxy = RunningProxy(config(origin), tmp_path, stderr=writer)
        async with proxy:
            os.close(reader)
            await serves(proxy)
            (victim, _) = await proxy.worker_pids()
            os.kill(victim, signal.SIGKILL)

            async def replaced() -> bool:
                pids = await proxy.worker_pids()
                return len(pids) == 2 and victim not in pids and await proxy.readyz() == 200

            await eventually(replaced, 15, "the replacement")
            pids = await proxy.worker_pids()
            await serves(proxy)
            await stops(proxy, pids)


async def test_workers_end_though_the_log_went_with_the_control_process(
    origin: Origin, tmp_path: Path
) -> None:
    with pipe() as (reader, writer):
        proxy = await RunningProxy(config(origin), tmp_path, stderr=writer).start()
        pids = await proxy.worker_pids()
        os.close(reader)
        await proxy.kill()
        try:
            await eventually(lambda: not any(map(alive, pids)), 20, "the workers' exit")
        finally:
            for pid in filter(alive, pids):
                os.kill(pid, signal.SIGKILL)


async def test_the_disk_of_the_log_is_full(origin: Origin, tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        async with RunningProxy(config(origin), tmp_path, stderr=full) as proxy:
            pids = await proxy.worker_pids()
            await serves(proxy)
            _, text = await proxy.get("/metrics")
            lost = re.search(r"^fairlead_log_dropped_total (\S+)$", text, re.MULTILINE)
            assert lost is not None
            assert float(lost[1]) >= 60  # A line for each failure, and what was said at the start.
            await stops(proxy, pids)
    finally:
        os.close(full)


async def test_a_proxy_without_standard_descriptors_serves(origin: Origin, tmp_path: Path) -> None:
    async with RunningProxy(config(origin), tmp_path, stderr=-1) as proxy:
        pids = await proxy.worker_pids()
        for pid in (proxy.pid, proxy.control, *pids):
            for number in range(3):
                assert os.readlink(f"/proc/{pid}/fd/{number}") == os.devnull
        await serves(proxy)
        await stops(proxy, pids)
