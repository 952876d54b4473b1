"""The instructions of requests, counted by a real valgrind."""

from __future__ import annotations

import shutil

import pytest

from bench import instructions
from bench.inprocess import NOTED, WORKLOADS


@pytest.mark.drill
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="there is no valgrind")
@pytest.mark.timeout(instructions.LIMIT + 60)  # Ten seconds, unless others use the machine, too.
def test_a_run_counts_each_workload_between_its_own_marks() -> None:
    variant, counted = instructions.count(1, {})
    assert variant in ("python", "compiled")
    assert counted.keys() == {*WORKLOADS, NOTED}
    assert 0 < counted[NOTED] < 1_000
    assert 10_000 < counted["get"] < counted["traced"] < counted["post"] < 1_000_000
