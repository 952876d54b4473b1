"""The micro-benchmarks still run, here the small ones; `make microbench` measures all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.drill
def test_micro_benchmarks_run() -> None:
    command = [sys.executable, "-m", "pytest", "bench/micro", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, "-p", "no:xdist", "--benchmark-disable", "-k", "not 100"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
