"""docs/install.md: the ways that make an environment by themselves, followed as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import __version__

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


def run(command: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of the page for a user of its own, who has the programs of a scratch environment.
    What is compiled is tried elsewhere."""
    path = f"{scratch}/tools/bin:{scratch}/bin:{os.environ['PATH']}"
    homes = {"HOME": f"{scratch}/home", "PIPX_HOME": f"{scratch}/pipx"}
    return subprocess.run(
        command,
        shell=True,
        cwd=ROOT,
        env={**os.environ, **homes, "PIPX_BIN_DIR": f"{scratch}/bin", "PATH": path,
             "UV_CACHE_DIR": f"{scratch}/uv", "UV_PYTHON": sys.executable,
             "PIPX_DEFAULT_PYTHON": sys.executable, "FAIRLEAD_COMPILED": "0"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has nothing but pipx and uv; skips where no index has them."""
    directory = tmp_path_factory.mktemp("paths")
    subprocess.run([sys.executable, "-m", "venv", str(directory / "tools")], check=True)
    done = run("pip install --quiet pipx uv", directory)
    if done.returncode:
        pytest.skip(f"pipx and uv cannot be had: {done.stderr.strip().splitlines()[-1]}")
    return directory


@pytest.mark.timeout(3 * LIMIT)
def test_pipx_and_uvx_start_the_command(scratch: Path) -> None:
    install, at_once = commands("pipx and uvx")
    done = run(install, scratch)
    assert done.returncode == 0, done.stderr
    for command in ("fairlead version", at_once):
        done = run(command, scratch)
        assert f"fairlead {__version__}" in done.stdout, done.stderr
