"""docs/install.md: its ways, followed as written, with places of a scratch directory in the place
of the machine's. What is compiled is tried elsewhere; Kubernetes needs a cluster, and
`tests/unit/test_deploy.py` reads what is applied there.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from configparser import ConfigParser
from pathlib import Path

import pytest

from proxy import __version__
from tests.support.processes import AwaitedProcess, eventually, free_port

pytestmark = pytest.mark.drill

ROOT = Path(__file__).parents[2]
LIMIT = 300
"""Seconds for a command; an index may be slow."""


def commands(heading: str) -> list[str]:
    """The lines of the first block below a heading of the page."""
    below = (ROOT / "docs/install.md").read_text("utf-8").partition(f"\n## {heading}\n")[2]
    block = re.search(r"```\n(.*?)```", below, re.DOTALL)
    assert block is not None
    return block[1].splitlines()


def run(
    command: str, scratch: Path, cwd: Path = ROOT, first: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a line of the page for a user of its own, who has the programs of a scratch environment,
    and those of the directories `first` before them."""
    path = f"{first}:{scratch}/tools/bin:{scratch}/bin:{os.environ['PATH']}"
    homes = {"HOME": f"{scratch}/home", "PIPX_HOME": f"{scratch}/pipx"}
    return subprocess.run(
        command,
        shell=True,
        cwd=cwd,
        env={**os.environ, **homes, "PIPX_BIN_DIR": f"{scratch}/bin", "PATH": path,
             "PIPX_MAN_DIR": f"{scratch}/man", "UV_CACHE_DIR": f"{scratch}/uv",
             "UV_PYTHON": sys.executable, "PIPX_DEFAULT_PYTHON": sys.executable,
             "PIP_CACHE_DIR": f"{scratch}/pip", "FAIRLEAD_COMPILED": "0"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )  # fmt: skip


def done(command: str, scratch: Path, cwd: Path = ROOT, first: str = "") -> str:
    """What a line of the page prints; it has to end well."""
    process = run(command, scratch, cwd, first)
    assert process.returncode == 0, f"{command}\n{process.stdout}{process.stderr}"
    return process.stdout


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has nothing but pipx and uv; skips where no index has them."""
    directory = tmp_path_factory.mktemp("paths")
    for name in ("home", "systemd"):
        (directory / name).mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(directory / "tools")], check=True)
    process = run("pip install --quiet pipx uv", directory)
    if process.returncode:
        pytest.skip(f"pipx and uv cannot be had: {process.stderr.strip().splitlines()[-1]}")
    return directory


def translated(text: str, ports: dict[str, str]) -> str:
    for port, other in ports.items():
        text = re.sub(rf"\b{port}\b", other, text)
    return text


async def serves(command: list[str], scratch: Path, admin: str, **environ: str) -> None:
    """Start it, wait until its admin server answers, and end it as a service manager does."""

    def healthy() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/healthz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    process = AwaitedProcess(command, scratch / "log", environ, scratch)
    process.launch()
    try:
        await eventually(lambda: asyncio.to_thread(healthy), 60, process.log)
        assert await process.stop(40) == 0, process.log()
    finally:
        await process.kill()


@pytest.mark.timeout(3 * LIMIT)
def test_pipx_and_uvx_start_the_command(scratch: Path) -> None:
    install, at_once = commands("pipx and uvx")
    done(install, scratch)
    for command in ("fairlead version", at_once):
        assert f"fairlead {__version__}" in done(command, scratch)
    assert (scratch / "man/man1/fairlead.1").exists()


@pytest.mark.timeout(3 * LIMIT)
async def test_pip_and_the_unit_of_systemd_serve(scratch: Path) -> None:
    opt, etc, stand_in = scratch / "opt", scratch / "etc", scratch / "stand-in"

    def placed(text: str) -> str:
        return text.replace("/opt/fairlead", str(opt)).replace(" /etc/", f" {etc}/")

    *install, version = map(placed, commands("pip"))
    for line in install:
        done(line, scratch)
    assert done(version, scratch) == f"fairlead {__version__}\n"

    (etc / "systemd/system").mkdir(parents=True)
    stand_in.mkdir()
    (stand_in / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {scratch}/asked\n')
    (stand_in / "systemctl").chmod(0o755)
    for line in map(placed, commands("systemd")):
        done(line, scratch, first=str(stand_in))
    asked = (scratch / "asked").read_text().splitlines()
    assert asked == ["daemon-reload", "enable --now fairlead"]

    unit = ConfigParser(strict=False, interpolation=None)
    unit.read(etc / "systemd/system/fairlead.service")
    manual = placed(unit["Unit"]["Documentation"]).removeprefix("file:")
    assert manual == str(opt / "share/man/man1/fairlead.1")
    assert ".TH FAIRLEAD 1" in (opt / "share/man/man1/fairlead.1").read_text()
    ports = {port: str(free_port()) for port in ("8080", "9900")}
    configuration = etc / "fairlead/proxy.yaml"
    configuration.write_text(translated(configuration.read_text(), ports))
    done(placed(unit["Service"]["ExecStartPre"]), scratch)
    # What of the unit another program than systemd can do: no rights but its one.
    rights = "--bounding-set=-all,+net_bind_service" if os.geteuid() == 0 else "--inh-caps=-all"
    alone = ["setpriv", "--no-new-privs", rights] if shutil.which("setpriv") else []
    command = [*alone, *shlex.split(placed(unit["Service"]["ExecStart"]))]
    await serves(command, scratch, ports["9900"])


class Image:
    """A Dockerfile of two stages, replayed: each has an environment in the place of its base, and
    the places of all are below one directory."""

    def __init__(self, directory: Path, scratch: Path) -> None:
        self._directory = directory
        self._scratch = scratch
        self._work = directory
        self.bin = directory
        self.said: dict[str, str] = {}

    def placed(self, text: str) -> str:
        return re.sub(r"(?<![\w.])/(src|wheels|tmp|etc)\b", rf"{self._directory}/\1", text)

    def follow(self, text: str) -> None:
        lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
        for line in filter(None, map(str.strip, lines.splitlines())):
            word, _, rest = line.partition(" ")
            step = getattr(self, f"_{word.lower()}", None)
            if step is None:
                self.said[word] = rest
            else:
                step(self.placed(rest))

    def _from(self, rest: str) -> None:
        base = self._directory / rest.partition(":")[2].replace(" ", "-")
        subprocess.run([sys.executable, "-m", "venv", str(base)], check=True)
        self.bin = base / "bin"
        # Nobody is to come into the machine's list of users.
        (self.bin / "useradd").write_text("#!/bin/sh\n")
        (self.bin / "useradd").chmod(0o755)

    def _workdir(self, rest: str) -> None:
        self._work = Path(rest)
        self._work.mkdir(parents=True, exist_ok=True)

    def _copy(self, rest: str) -> None:
        *sources, target = rest.removeprefix("--from=build ").split()
        for source in sources:
            place = self._work / target
            if (ROOT / source).is_dir():
                shutil.copytree(
                    ROOT / source, place, ignore=shutil.ignore_patterns("*.so", "__py*")
                )
            else:
                is_directory = target.endswith("/")
                (place if is_directory else place.parent).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)

    def _run(self, rest: str) -> None:
        line = rest.replace("FAIRLEAD_COMPILED=1", "")
        done(line, self._scratch, cwd=self._work, first=str(self.bin))


@pytest.mark.timeout(3 * LIMIT)
async def test_steps_of_the_image_make_one_that_serves(scratch: Path, tmp_path: Path) -> None:
    image = Image(tmp_path, scratch)
    image.follow((ROOT / "deploy/Dockerfile").read_text("utf-8"))
    assert image.said.keys() == {"USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert not (tmp_path / "tmp/wheels").exists()
    ports = {port: str(free_port()) for port in image.said["EXPOSE"].split()}
    configuration = translated((ROOT / "proxy.yaml").read_text("utf-8"), ports)
    (tmp_path / "etc/fairlead/proxy.yaml").write_text(configuration)
    words = json.loads(image.said["ENTRYPOINT"]) + json.loads(image.placed(image.said["CMD"]))
    path = f"{image.bin}:{os.environ['PATH']}"
    check = json.loads(translated(image.said["HEALTHCHECK"].partition("CMD")[2], ports))
    assert f":{ports['9900']}/healthz" in check[-1]
    await serves(["/usr/bin/env", *words], tmp_path, ports["9900"], PATH=path)
