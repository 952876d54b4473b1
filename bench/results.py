"""Where results go, and on what they were measured."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.report import Row

RESULTS = Path(__file__).parent / "results"
PUBLISHED = RESULTS / "published.json"
"""The result behind the README's table and picture; it is committed, the others are not."""


def machine(available: frozenset[int]) -> dict[str, Any]:
    """What a figure depends on most. `available`: the cores this process may use."""
    cpu = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": len(available),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def published_rows(cpu: str = "") -> dict[str, list[Row]]:
    """Scenario → the rows that were published; none if they are of another processor than `cpu`,
    where nginx costs something else, too."""
    result = msgspec.json.decode(PUBLISHED.read_bytes())
    if cpu and result["machine"]["cpu"] != cpu:
        return {}
    return {
        scenario["name"]: msgspec.convert(scenario["rows"], list[Row])
        for scenario in result["scenarios"]
    }


def write(result: dict[str, Any]) -> Path:
    """Write `result`, with the time added, into a new file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / (datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ") + ".json")
    timed = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **result}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(timed), indent=1))
    return path
