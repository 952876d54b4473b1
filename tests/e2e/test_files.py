"""Logs, snapshots and their file systems in trouble: told of, and nobody's loss."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.mute_files import MuteFiles, can_mount
from tests.e2e.running import RunningProxy
from tests.e2e.test_cli import fairlead
from tests.e2e.traffic import Fleet, Traffic
from tests.support.processes import eventually

mounting = pytest.mark.skipif(not can_mount(), reason="only root may mount, and FUSE is needed")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def etcd() -> AsyncIterator[EtcdServer]:
    async with EtcdServer() as server:
        yield server


@pytest.fixture
async def client(etcd: EtcdServer) -> AsyncIterator[EtcdClient]:
    async with EtcdClient(etcd.url) as client:
        await client.delete("/", prefix=True)
        yield client


@pytest.fixture
async def fleet(client: EtcdClient) -> AsyncIterator[Fleet]:
    """Two instances, the first of them registered."""
    async with Fleet() as instances:
        await instances.add("a", "b")
        await client.put("/services/users/a", instances.record("a"))
        yield instances


def config(etcd: EtcdServer, directory: Path, **more: Any) -> dict[str, Any]:
    snapshot = str(directory / "pools.json")
    return {
        "registry": {"type": "etcd", "endpoints": [etcd.url], "snapshot": snapshot},
        "routes": [{"service": "users"}],
        "workers": 2,
        **more,
    }


async def snapshot(proxy: RunningProxy) -> dict[str, Any]:
    _, body = await proxy.get("/api/v1/registry")
    found: dict[str, Any] = body["snapshot"]
    return found


async def metric(proxy: RunningProxy, name: str) -> float:
    _, text = await proxy.get("/metrics")
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


@mounting
@pytest.mark.parametrize("signals", [1, 2])
async def test_a_file_system_that_never_answers_keeps_no_request_and_no_exit(
    signals: int, etcd: EtcdServer, client: EtcdClient, fleet: Fleet, tmp_path: Path
) -> None:
    directory = tmp_path / "mute"
    directory.mkdir()
    log = {"path": str(directory / "access.log")}
    grace = {"delay": "0s", "grace": "0s" if signals == 1 else "10m"}
    proxy = RunningProxy(config(etcd, directory, access_log=log, shutdown=grace), tmp_path)
    async with proxy, Traffic(proxy.port, "/") as traffic:
        await eventually((directory / "pools.json").exists, 5, "the snapshot")
        await traffic.shows("a", since=0.0)
        with MuteFiles(directory) as mute:
            proxy.signal(signal.SIGUSR1)
            told = await client.put("/services/users/b", fleet.record("b"))
            assert await asyncio.to_thread(mute.asked.wait, 10)
            await traffic.shows("b", since=told)
            for _ in range(signals):
                proxy.signal(signal.SIGTERM)
            assert await proxy.wait() == 0


@mounting
async def test_a_configuration_that_never_comes_is_given_up_at_sigterm(tmp_path: Path) -> None:
    directory = tmp_path / "mute"
    directory.mkdir()
    proxy = RunningProxy({"routes": [{"service": "users"}]}, tmp_path)
    proxy.file = directory / "proxy.yaml"
    proxy._command[-1] = str(proxy.file)
    with MuteFiles(directory) as mute:
        proxy.launch()
        assert await asyncio.to_thread(mute.asked.wait, 20)
        assert await proxy.stop() == 0


@mounting
async def test_an_access_log_that_does_not_open_ends_the_start(tmp_path: Path) -> None:
    directory = tmp_path / "mute"
    directory.mkdir()
    log = {"path": str(directory / "access.log")}
    proxy = RunningProxy({"routes": [{"service": "users"}], "access_log": log}, tmp_path)
    with MuteFiles(directory, tells_names=True):
        proxy.launch()
        assert await proxy.wait(30) == 1
    assert f"access_log: {log['path']} " in proxy.log()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "disk"
    directory.mkdir()
    libc = ctypes.CDLL(None)
    assert libc.mount(b"small", os.fsencode(directory), b"tmpfs", 0, b"size=64k") == 0
    yield directory
    assert libc.umount2(os.fsencode(directory), 2) == 0


def fill(directory: Path) -> Path:
    """A file that leaves no room for another one."""
    filler = directory / "filler"
    room = os.statvfs(directory)
    filler.write_bytes(bytes(room.f_bavail * room.f_frsize))
    return filler


@mounting
async def test_a_full_disk_is_told_of_and_used_again_when_there_is_room(
    etcd: EtcdServer, client: EtcdClient, fleet: Fleet, small_disk: Path, tmp_path: Path
) -> None:
    file = small_disk / "pools.json"
    proxy = RunningProxy(config(etcd, small_disk), tmp_path)
    async with proxy, Traffic(proxy.port, "/") as traffic:
        await eventually(file.exists, 5, "the snapshot")
        before = file.read_bytes()
        filler = fill(small_disk)
        told = await client.put("/services/users/b", fleet.record("b"))

        async def failed() -> bool:
            return await metric(proxy, "fairlead_registry_snapshot_failures_total") > 0

        await eventually(failed, 10, "a failure is counted")
        assert os.strerror(errno.ENOSPC) in (await snapshot(proxy))["error"]
        await eventually(lambda: "snapshot_not_written" in proxy.log(), 5, "the log line")
        assert file.read_bytes() == before
        assert sorted(os.listdir(small_disk)) == ["filler", "pools.json"]
        await traffic.shows("a", "b", since=told)
        filler.unlink()
        await client.delete("/services/users/b")
        await eventually(lambda: "snapshot_written_again" in proxy.log(), 10, "a new snapshot")
    assert not traffic.failed


async def test_two_proxies_with_one_snapshot_serve_and_the_second_says_so(
    etcd: EtcdServer, client: EtcdClient, fleet: Fleet, tmp_path: Path
) -> None:
    settings = config(etcd, tmp_path)
    async with RunningProxy(settings, tmp_path) as first:
        await eventually((tmp_path / "pools.json").exists, 5, "the snapshot")
        async with RunningProxy(settings, tmp_path) as second, Traffic(second.port, "/") as traffic:
            await traffic.shows("a", since=0.0)

            async def refused() -> bool:
                return (await snapshot(second))["error"] is not None

            await eventually(refused, 10, "the second is refused")
            assert "another proxy" in (await snapshot(second))["error"]
            await eventually(lambda: "snapshot_not_written" in second.log(), 5, "the log line")
            assert (await snapshot(first))["error"] is None
            assert await first.stop() == 0
            await client.put("/services/users/b", fleet.record("b"))
            await eventually(lambda: "snapshot_written_again" in second.log(), 10, "its turn")


@pytest.mark.parametrize(
    ("kind", "words"),
    [("pipe", "is a named pipe"), ("link", "is a link")],
)
async def test_a_log_that_would_be_a_trap_is_named_at_the_start(
    kind: str, words: str, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    path, other = shared / "access.log", tmp_path / "other"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(other)
    log = {"path": str(path)}
    proxy = RunningProxy({"routes": [{"service": "s"}], "access_log": log}, tmp_path)
    code, _, errors = await fairlead("run", "-c", str(proxy.file), cwd=tmp_path)
    assert code == 1
    for told in ("access_log: ", str(path), words):
        assert told in errors
    assert not other.exists()


async def test_a_configuration_that_nobody_writes_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "proxy.yaml")
    for command in ("run", "check", "services"):
        code, output, errors = await fairlead(command, cwd=tmp_path)
        assert code == 2
        assert "proxy.yaml: is a named pipe" in output + errors
