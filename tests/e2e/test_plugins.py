"""The package in `examples/plugins`, installed as a user's own is: the contracts of
`proxy.testing`, and a proxy that takes what its entry points name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "examples/plugins"


@pytest.mark.timeout(300)  # On a machine with much else to do it is a build and a test run.
def test_the_package_of_examples_passes_its_tests_where_it_is_installed(tmp_path: Path) -> None:
    here = tmp_path / "source"
    subprocess.run(["cp", "-r", PACKAGE, here], check=True)  # A build leaves its files behind.
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    install = [*pip, "--no-deps", "--no-build-isolation", "--target", str(target), str(here)]
    subprocess.run(install, check=True, timeout=120)
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(
        [*run, "--import-mode=importlib", "--rootdir", str(here), str(here / "tests")],
        env={**os.environ, "PYTHONPATH": str(target)},
        cwd=here,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
