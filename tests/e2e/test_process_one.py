"""`fairlead run` where the kernel hands it orphans: as process 1 of a container, or as a subreaper
because whoever started it was one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running import RunningProxy
from tests.support.processes import alive, children, eventually

AS_PROCESS_1 = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL")
BECOME = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0);"
    " os.execv(sys.argv[1], sys.argv[1:])"
)
AS_SUBREAPER = (sys.executable, "-c", BECOME)


def can_unshare() -> bool:
    try:
        done = subprocess.run([*AS_PROCESS_1, "true"], capture_output=True, timeout=10, check=False)
    except OSError:
        return False
    return done.returncode == 0


@pytest.fixture(
    params=[
        pytest.param(
            AS_PROCESS_1,
            marks=pytest.mark.skipif(not can_unshare(), reason="no PID namespaces here"),
            id="process 1",
        ),
        pytest.param(AS_SUBREAPER, id="subreaper"),
    ]
)
def started_by(request: pytest.FixtureRequest) -> tuple[str, ...]:
    command: tuple[str, ...] = request.param
    return command


class Reaping(RunningProxy):
    """Its own process id is that of `unshare`, where that starts it."""

    @property
    def first(self) -> int:
        """The process that takes signals and orphans."""
        return children(self.pid)[0] if self._command[0] == "unshare" else self.pid

    @property
    def control(self) -> int:
        """The control process; the first child that there was."""
        return children(self.first)[0]

    def zombies(self) -> list[int]:
        return [pid for pid in (*children(self.first), *children(self.control)) if not alive(pid)]


def config(command: str) -> dict[str, Any]:
    check = {"type": "exec", "command": command, "interval": "100ms", "timeout": "100ms"}
    instances = [{"id": "one", "address": "127.0.0.1", "port": 9}]
    return {
        "services": {"users": {"instances": instances, "health_check": check}},
        "routes": [{"service": "users"}],
    }


async def test_checks_that_hang_leave_no_zombies(
    started_by: tuple[str, ...], tmp_path: Path
) -> None:
    note = tmp_path / "checks"
    # The shell and both of these are killed; the shell's children are orphans by then.
    command = f"echo >> {note}; sleep 87 | cat"
    async with Reaping(config(command), tmp_path, started_by=started_by) as proxy:
        await eventually(lambda: note.exists() and note.stat().st_size > 4, 20, "some checks")
        await eventually(lambda: not proxy.zombies(), 5, "no zombies")
        # Nobody has taken the exit of a child from those who wait for it.
        [worker] = await proxy.worker_pids()
        if started_by == AS_SUBREAPER:
            os.kill(worker, signal.SIGKILL)
            await eventually(lambda: '"how": "signal SIGKILL"' in proxy.log(), 5, "the death")
        os.kill(proxy.first, signal.SIGTERM)
        assert await proxy.wait() == 0


async def test_signals_are_handed_on_and_the_exit_code_is_kept(
    started_by: tuple[str, ...], tmp_path: Path
) -> None:
    async with Reaping(config("true"), tmp_path, started_by=started_by) as proxy:
        for number in (signal.SIGUSR1, signal.SIGHUP):
            os.kill(proxy.first, number)
            ignored = f'"signal": "{number.name}"'
            await eventually(lambda text=ignored: text in proxy.log(), 5, f"{number.name} heard")
        os.kill(proxy.first, signal.SIGTERM)
        assert await proxy.wait() == 0
    proxy.file.write_text("routes: []")
    proxy.launch()
    assert await proxy.wait() == 2


async def test_processes_are_gone_if_the_one_that_was_started_is_killed(
    started_by: tuple[str, ...], tmp_path: Path
) -> None:
    async with Reaping(config("true"), tmp_path, started_by=started_by) as proxy:
        control, *others = proxy.control, *children(proxy.control)
        os.kill(proxy.first, signal.SIGKILL)
        await proxy.wait()
        await eventually(lambda: not any(map(alive, (control, *others))), 5, "all gone")
