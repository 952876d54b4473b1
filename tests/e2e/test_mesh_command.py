"""The command of a side-car: as it is started by process 1 of a container, and by shells."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.beside import Beside
from tests.e2e.certificates import Authority
from tests.e2e.etcd_server import EtcdServer
from tests.e2e.test_sidecar import UNSHARE, can_unshare
from tests.support.processes import alive, children, eventually, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")
as_process_1 = pytest.mark.skipif(
    not can_unshare(), reason="this machine does not allow PID namespaces"
)

PROGRAM = """
import signal, socket, subprocess, sys, time
socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close()
for number in (signal.SIGHUP, signal.SIGUSR2):
    signal.signal(number, lambda number, _: print(f"heard {number}", flush=True))
def leave(*_):
    print(f"ends at {time.time()}\\n", end="", flush=True)  # In one piece, among lines of others.
    sys.exit(7)
signal.signal(signal.SIGTERM, leave)
for _ in range(10):
    subprocess.run(["/bin/sh", "-c", "sleep 0.1 &"])
subprocess.run(["/bin/sh", "-c", "setsid sleep 87 &"])
server = socket.create_server(("127.0.0.1", int(sys.argv[2])))
print("begins", flush=True)
while True:
    server.accept()[0].close()
"""
"""Reaches the way out in its first line, and leaves orphans, one of which outlives it."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def etcd() -> AsyncIterator[EtcdServer]:
    async with EtcdServer() as server:
        yield server


def beside(
    etcd: EtcdServer, directory: Path, port: int = 1, *options: str, **more: object
) -> Beside:
    """Its registry has the time that a busy machine takes."""
    authority = Authority(directory, "mesh")
    soon = ("--drain-wait", "300ms", "--ttl", "30s")
    return Beside("shop", port, directory, authority, etcd.url, *soon, *options, **more)


@as_process_1
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_as_process_1_it_reaps_hands_signals_on_and_leaves_in_order(
    etcd: EtcdServer, tmp_path: Path, number: signal.Signals
) -> None:
    port = free_port()
    side = beside(etcd, tmp_path, port, under=UNSHARE)
    side.run_in(tmp_path, (sys.executable, "-c", PROGRAM, str(side.outbound), str(port)))
    try:
        await side.started()
        (first,) = children(side.pid)
        # The side-car itself, and the grandchild that nobody else is left for.
        await eventually(lambda: len(children(first)) == 2, what=lambda: str(children(first)))
        below = [first, *(one for child in children(first) for one in (child, *children(child)))]
        assert len(below) == 4
        for passed in (signal.SIGHUP, signal.SIGUSR2):
            os.kill(first, passed)
            heard = f"heard {passed.value}"
            await eventually(lambda text=heard: text in side.log(), what=side.log)
        os.kill(first, number)
        assert await side.wait() == 7
    finally:
        await side.kill()
    assert not any(map(alive, below))
    events = [json.loads(one) for one in log_of(side) if one[:1] == "{"]
    order = ["worker_accepting", "command_started", "registered", "stopping", "draining"]
    order += ["deregistered", "stopping", "worker_stopped"]
    assert [one["event"] for one in events if one["event"] in order] == order, side.log()
    (gone,) = (one["timestamp"] for one in events if one["event"] == "deregistered")
    (ended,) = (one for one in log_of(side) if one.startswith("ends at"))
    assert datetime.fromisoformat(gone).timestamp() <= float(ended.split()[-1])


@pytest.mark.parametrize("under", [(), pytest.param(UNSHARE, marks=as_process_1)])
async def test_the_command_reads_what_is_piped_in_and_its_end_is_told(
    etcd: EtcdServer, tmp_path: Path, under: tuple[str, ...]
) -> None:
    script = 'read first; echo "got $first"; cat; kill -KILL $$'
    side = beside(
        *(etcd, tmp_path, 1, "--check", "exec:true"), under=under, command=("/bin/sh", "-c", script)
    )
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "w") as pipe:
        side.launch(stdin=reader)
        pipe.write("one\ntwo\n")
        pipe.flush()
        await eventually(lambda: "two" in log_of(side), 60.0, side.log)
        assert "got one" in log_of(side)
    try:
        assert await side.wait() == 128 + signal.SIGKILL
    finally:
        await side.kill()


async def test_a_command_has_no_socket_where_nothing_was_open(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    script = f'x=$(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2); echo "$x" > {note}; exit 3'
    side = beside(
        *(etcd, tmp_path, 1, "--check", "exec:true"),
        under=("/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"),
        command=("/bin/sh", "-c", script),
    )
    side.launch(stdin=subprocess.DEVNULL)
    try:
        assert await side.wait(60.0) == 3
    finally:
        await side.kill()
    assert note.read_text().split() == [os.devnull] * 3


def log_of(side: Beside) -> list[str]:
    return side.log().splitlines()
