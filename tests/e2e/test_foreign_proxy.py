"""The installed command where another package is called `proxy`, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import proxy

ROOT = Path(__file__).parents[2]
RUN = "from fairlead_command import main; main()"


def fairlead(*arguments: str, path: tuple[Path, ...]) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(map(str, path))
    return subprocess.run(
        [sys.executable, "-P", "-c", RUN, *arguments],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("proxy/__init__.py", '__version__ = "2.4.3"\n'),
        ("proxy/__init__.py", "raise RuntimeError('no configuration')\n"),
        ("proxy.py", "import argparse\n"),
    ],
)
def test_a_package_of_the_same_name_is_named_in_one_line(
    name: str, content: str, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    done = fairlead("version", path=(tmp_path, ROOT))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "fairlead: another package is called proxy" in done.stderr
    assert "fairlead-proxy" in done.stderr


def test_a_foreign_proxy_behind_ours_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "proxy.py").write_text("import argparse\n")
    done = fairlead("version", path=(ROOT, tmp_path))
    assert (done.returncode, done.stdout) == (0, f"fairlead {proxy.__version__}\n")
