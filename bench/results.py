"""Where results go, and on what they were measured."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

RESULTS = Path(__file__).parent / "results"


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


def write(result: dict[str, Any]) -> Path:
    """Write `result`, with the time added, into a new file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / (datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ") + ".json")
    timed = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **result}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(timed), indent=1))
    return path
