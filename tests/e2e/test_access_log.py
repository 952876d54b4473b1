"""The access log of a real proxy: no line lost, none torn, and no trouble for requests."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.e2e.raw_http import request
from tests.e2e.running import RunningProxy
from tests.e2e.test_cli import fairlead
from tests.e2e.traffic import Fleet
from tests.support.load import Client, Load
from tests.support.processes import eventually


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async with Fleet() as fleet:
        await fleet.add("a")
        yield fleet


def proxy(fleet: Fleet, directory: Path, log: Any, **more: Any) -> RunningProxy:
    instance = {"id": "a", "address": "127.0.0.1", "port": fleet.ports["a"]}
    config = {
        "services": {"s": {"instances": [instance]}},
        "routes": [{"path_prefix": "/", "service": "s"}],
        "workers": 2,
        "access_log": log,
        **more,
    }
    return RunningProxy(config, directory)


class NumberedLoad(Load):
    """Owns what became of requests for `/0`, `/1`, `/2`, …: each has a target of its own, by which
    its line is found."""

    def __init__(self, port: int) -> None:
        super().__init__(port, (request("GET", f"/{n}") for n in itertools.count()))
        self.answered: dict[str, float] = {}
        """Target → when its answer was here."""
        self.cut: set[str] = set()
        """Targets whose connection ended before."""

    async def reach(self, count: int) -> None:
        """Wait until so many more were answered."""
        wanted = len(self.answered) + count
        await eventually(lambda: len(self.answered) >= wanted, 30, f"{wanted} answers")

    def on_answer(self, client: Client) -> None:
        assert client.status == 200, client.body
        self.answered[_target(client)] = client.ended

    def on_failure(self, client: Client, error: BaseException) -> None:
        if not client.request or not isinstance(error, ConnectionError):
            raise error
        self.cut.add(_target(client))


def _target(client: Client) -> str:
    return client.request.split()[1].decode()


def read(files: Iterable[Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def of_requests(text: str) -> Iterator[dict[str, Any]]:
    """The lines of the access log in what the proxy prints."""
    for line in text.splitlines():
        parsed = json.loads(line)
        if "target" in parsed and "event" not in parsed:
            yield parsed


def workers_in(lines: Iterable[dict[str, Any]]) -> set[str]:
    return {line["request_id"].partition("-")[0] for line in lines}


async def test_rotation_under_load_loses_no_line(fleet: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    files = [file, *(tmp_path / f"access.log.{n}" for n in range(5))]
    running = proxy(fleet, tmp_path, {"path": str(file)})
    async with running, NumberedLoad(running.port) as load:
        for moved in files[1:]:
            await load.reach(400)
            file.rename(moved)
            running.signal(signal.SIGUSR1)
            await eventually(file.exists, 5, "a new file")
        await load.reach(400)
    # It has stopped, so everything is written.
    lines = read(files)
    assert Counter(line["target"] for line in lines) == Counter(load.answered.keys())
    assert len(workers_in(lines)) == 2
    assert all(part.stat().st_size for part in files)
    reopened = [line for line in running.log().splitlines() if "access_log_reopened" in line]
    assert len(reopened) == 2 * 5


async def test_standard_output_takes_whole_lines_of_all_workers(
    fleet: Fleet, tmp_path: Path
) -> None:
    running = proxy(fleet, tmp_path, {"path": "-"})
    async with running, NumberedLoad(running.port) as load:
        await load.reach(3000)
        running.signal(signal.SIGUSR1)  # Nothing to reopen.
        await load.reach(500)
    lines = list(of_requests(running.log()))
    assert Counter(line["target"] for line in lines) == Counter(load.answered.keys())
    assert len(workers_in(lines)) == 2


async def test_a_killed_worker_takes_only_the_last_moment_with_it(
    fleet: Fleet, tmp_path: Path
) -> None:
    file = tmp_path / "access.log"
    running = proxy(fleet, tmp_path, {"path": str(file)})
    async with running, NumberedLoad(running.port) as load:
        await load.reach(2000)
        victim, _ = await running.worker_pids()
        os.kill(victim, signal.SIGKILL)
        killed = monotonic()
        await load.reach(1000)
        await eventually(lambda: _ready(running), 10, "the replacement")
        replaced = monotonic()
        await load.reach(500)
    lines = read([file])
    logged = {line["target"] for line in lines}
    missing = set(load.answered) - logged
    # Lines wait for 0.1 s, and a busy machine may be late.
    assert all(load.answered[target] > killed - 2.0 for target in missing), missing
    assert logged - set(load.answered) <= load.cut
    assert max(Counter(line["target"] for line in lines).values()) == 1
    assert any(load.answered.get(line["target"], 0) > replaced for line in lines)


async def _ready(running: RunningProxy) -> bool:
    return await running.readyz() == 200


async def test_a_sample_of_a_tenth(fleet: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    running = proxy(fleet, tmp_path, {"path": str(file), "format": "combined", "sample": 0.1})
    async with running, NumberedLoad(running.port) as load:
        await load.reach(3000)
    count = len(file.read_text().splitlines())
    # A deviation of six times the standard one comes once in five hundred million runs.
    expected = len(load.answered) * 0.1
    assert abs(count - expected) < 6 * (expected * 0.9) ** 0.5


async def test_a_full_disk_harms_no_request(fleet: Fleet, tmp_path: Path) -> None:
    running = proxy(fleet, tmp_path, {"path": "/dev/full"})
    async with running:
        async with NumberedLoad(running.port) as load:
            await load.reach(500)
        assert not load.cut

        async def counted() -> bool:
            _, metrics = await running.get("/metrics")
            (line,) = (
                line for line in metrics.splitlines()
                if line.startswith("fairlead_access_log_dropped_total ")
            )  # fmt: skip
            return float(line.split()[1]) == len(load.answered)

        await eventually(counted, 5, "every line counted as dropped")
        await eventually(
            lambda: "access_log_lines_dropped" in running.log(), 5, "a line about dropped lines"
        )
    said = [line for line in running.log().splitlines() if "access_log_lines_dropped" in line]
    assert len(said) <= 2 * 2
    assert json.loads(said[0])["error"] == os.strerror(errno.ENOSPC)


async def test_a_connection_cut_at_the_stop_is_logged(fleet: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "access.log"

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"Upgrade" in head:
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhi"
            )
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    fleet.ports["a"] = server.sockets[0].getsockname()[1]
    shutdown = {"delay": "0s", "grace": "200ms"}
    running = proxy(fleet, tmp_path, {"path": str(file)}, shutdown=shutdown)
    async with running:
        writers = []
        for target, fields in (
            ("/hangs", ""),
            ("/tunnel", "Connection: Upgrade\r\nUpgrade: x\r\n"),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writers.append(writer)
            writer.write(f"GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\nhi")).startswith(b"HTTP/1.1 101")

        async def both() -> bool:
            _, body = await running.get("/api/v1/services/s")
            return bool(body["instances"][0]["inflight"] == 2)

        await eventually(both, 5, "two in flight")
    for writer in writers:
        writer.close()
    server.close()
    lines = {line["target"]: line for line in read([file])}
    assert lines["/hangs"]["status"] == 499
    assert lines["/tunnel"]["status"] == 101
    assert lines["/tunnel"]["bytes_sent"] == 2


async def test_a_file_that_cannot_be_opened_is_named_at_the_start(
    fleet: Fleet, tmp_path: Path
) -> None:
    target = tmp_path / "loop"
    target.symlink_to(target)
    running = proxy(fleet, tmp_path, {"path": str(target)})
    code, _, errors = await fairlead("run", "-c", str(running.file), cwd=tmp_path)
    assert code == 1
    for told in ("access_log: ", str(target), os.strerror(errno.ELOOP)):
        assert told in errors


async def test_sigusr1_without_an_access_log_changes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    running = proxy(fleet, tmp_path, False)
    async with running:
        running.signal(signal.SIGUSR1)
        await eventually(lambda: "signal_ignored" in running.log(), 5, "that it was seen")
        for pid in await running.worker_pids():
            os.kill(pid, signal.SIGUSR1)  # As `systemctl kill` does.
        async with NumberedLoad(running.port) as load:
            await load.reach(50)
        assert not any(row["restarts"] for row in await running.workers())
