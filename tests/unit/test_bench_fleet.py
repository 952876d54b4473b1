"""The picture of `bench.fleet`, and its processes."""

from __future__ import annotations

import argparse
import multiprocessing
from typing import cast

import pytest

from bench.fleet import Cluster, Fleet, draw, percentile


def test_a_picture_has_a_line_for_each_row() -> None:
    row = {"proxies": 20, "relays": 0, "sinks": 0, "instances": 2000, "changes_a_second": 49.9}
    rows = [
        {**row, "late_ms": [float(at) for at in range(34)]},
        {**row, "relays": 2, "sinks": 980, "late_ms": [2.0 * at for at in range(34)]},
    ]
    found = draw(rows)
    assert found.count("<polyline") == 2
    assert "1000, 2 relays: 2,000, 50/s" in found
    assert found.strip().endswith("</svg>")


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([], 0.99) == 0.0


async def test_a_process_that_has_ended_ends_the_run() -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.send("ready")
    theirs.close()
    fleet = Fleet(argparse.Namespace(), cast("Cluster", None))
    assert await fleet.heard([ours]) == ["ready"]
    with pytest.raises(EOFError):
        await fleet.heard([ours])
