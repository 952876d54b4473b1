"""`Booted`: systemd as process 1 of a machine that has units of `deploy/` and nothing else."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.e2e.own_root import BIN, in_own_root
from tests.e2e.programs import REPOSITORY, output
from tests.support.processes import AwaitedProcess, children, eventually

SYSTEMD = Path("/lib/systemd/systemd")
TARGETS = ("sysinit", "basic", "network-online", "multi-user", "shutdown", "default")
"""What a whole system has, and units name: here there is nothing behind them."""


def _groups() -> Path | None:
    """Where control groups of version 2 are."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    return None


class Booted(AwaitedProcess):
    """Owns process 1 and, by its end, all others; the control group and the network are those of
    this machine, and so are ports."""

    def __init__(
        self, directory: Path, files: Mapping[str, str], more: Mapping[str, Path] | None = None
    ) -> None:
        """`files`: path on the machine → text; `more`: path there → directory here."""
        self.units = directory / "units"
        shutil.copytree(REPOSITORY / "deploy/systemd", self.units)
        for name in TARGETS:
            (self.units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        self._logs = directory / "logs"
        self._logs.mkdir()
        for unit in self.units.glob("*.service"):
            # The one thing that is not as shipped: there is no journal.
            beside = self.units / f"{unit.name}.d"
            beside.mkdir()
            (beside / "log.conf").write_text("[Service]\nStandardOutput=append:/logs/%N.log\n")
        group = _groups()
        assert group is not None, "no control groups of version 2"
        self._group = group / f"fairlead-test-{uuid.uuid4()}"
        binds = {"/etc/systemd/system": self.units, "/logs": self._logs, **(more or {})}
        for number, place in enumerate(files):
            binds[place] = directory / f"file-{number}"
        self._places = binds
        for place, text in files.items():
            self.rewrite(place, text)
        root = directory / "root"
        root.mkdir()
        enter = f'echo $$ > {self._group}/cgroup.procs; exec "$@"'
        unshare = ["unshare", "--pid", "--mount", "--cgroup", "--ipc", "--uts", "--fork"]
        environ = ["env", "-i", "container=test", "SYSTEMD_UNIT_PATH=/etc/systemd/system"]
        super().__init__(
            [
                *("/bin/sh", "-c", enter, "sh", *unshare, "--kill-child=SIGKILL"),
                *in_own_root(root, binds, "mount -t cgroup2 none /sys/fs/cgroup"),
                *(*environ, "SYSTEMD_LOG_TARGET=console", str(SYSTEMD), "--show-status=no"),
            ],
            directory / "systemd.log",
        )

    def rewrite(self, place: str, text: str) -> None:
        """Change one of the files."""
        self._places[place].write_text(text)

    async def __aenter__(self) -> Self:
        self._group.mkdir()
        self.launch()
        try:
            await eventually(self._up, 20.0, self.log)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _up(self) -> bool:
        if not children(self.pid):
            return False
        with contextlib.suppress(AssertionError):
            return await self.run("systemctl", "is-system-running") == "running\n"
        return False

    async def run(self, *words: str) -> str:
        """What a command of the machine's root writes. AssertionError unless it ends well."""
        (first,) = children(self.pid)
        enter = ["nsenter", f"--target={first}", "--mount", "--pid", "--cgroup", "--wd=/"]
        path = f"PATH={BIN}:/usr/bin:/bin"
        return (await output(*enter, "env", path, *words, within=60.0)).decode()

    async def told(self, unit: str, key: str) -> str:
        """A property of a unit."""
        return (await self.run("systemctl", "show", "--value", "-p", key, unit)).strip()

    def log_of(self, unit: str) -> str:
        """What the processes of a unit have written."""
        file = self._logs / f"{unit}.log"
        return file.read_text() if file.exists() else ""

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

        def gone() -> bool:
            # Groups go from the bottom up, once they are empty.
            for group in (*sorted(self._group.rglob("*/"), reverse=True), self._group):
                with contextlib.suppress(OSError):
                    group.rmdir()
            return not self._group.exists()

        await eventually(gone, what=f"{self._group} is in use")


def can_boot() -> bool:
    """Whether there are systemd and control groups for it."""
    return SYSTEMD.exists() and _groups() is not None and shutil.which("systemctl") is not None
