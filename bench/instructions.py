"""Has a request become dearer, to the instruction? `python -m bench instructions [--compiled]`.

Valgrind's callgrind counts the instructions of each workload of `bench/inprocess.py`: no time, no
noise, and unlike the guard's bytecodes it sees what happens in C. Repeated runs differ by less
than one in a thousand. So it can say what the guard's tenth cannot: `bench/instructions.json` has
the figures from before a series of changes, and all of these together may cost `TOLERANCE`.

The figures hold for one build of Python and one compiler; where there are none for the present
ones, or no valgrind, it says so in one line and passes.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bench import compiled
from bench.inprocess import NOTED, Marked

STORE = Path(__file__).parent / "instructions.json"
TOLERANCE = 0.03
"""What a series of changes may cost in all. A single one that is meant to cost something is paid
for by the others; the figures are stored anew only when a series begins."""
RELATIVE = {"observed": ("get", TOLERANCE), "reported": ("get", 0.04)}
"""Workload → the one that it may cost so much more than, in the same run, where nothing is stored.
`reported` is all that lets operators see what happens, to none of it: less what `get` does of the
same (`NOTED`); 2.3 % where it is compiled, and 3.6 % where it is not."""
UNSTEADY = frozenset({"log", NOTED})
"""Workloads that are told of and not stored: how often the thread that writes lines is woken, a
twentieth of them, goes by the machine's load; and of a few hundred instructions some always do."""
BLOCKS = 20
"""Of 96 requests, for each workload: the memories of parsed heads turn over some times."""
LIMIT = 450.0
"""Seconds; a run takes ten on a quiet machine."""
_TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)

Store = dict[str, dict[str, float]]
"""See `key` → workload → instructions per request."""


def key(variant_: str) -> str:
    """Under what the figures of this build are stored: what else decides about them."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    try:
        asked = [compiler, "-dumpfullversion"]
        version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        version = "unknown"
    build = f"{platform.python_version()} {platform.machine()}"
    return f"{variant_} {build}" + (f" {compiler} {version}" if variant_ == "compiled" else "")


def count(
    blocks: int,
    variables: Mapping[str, str],
    command: Sequence[str] = ("inprocess",),
    limit: float = LIMIT,
) -> tuple[str, dict[str, float]]:
    """The variant that ran, and workload → instructions per request. `command`: of `bench`, that
    serves them between marks. RuntimeError when the process under callgrind fails."""
    with tempfile.TemporaryDirectory(prefix="fairlead-count-") as directory:
        out = Path(directory) / "out"
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}",
             "--dump-before=getppid", sys.executable, "-m", "bench", *command,
             "--marked", str(blocks)],
            env={**os.environ, **variables, "PYTHONHASHSEED": "0"},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"counting failed with {done.returncode}: {done.stderr[-2000:]}")
        marked = msgspec.json.decode(done.stdout, type=Marked)
        # A dump ends at each mark: the odd ones hold what came before a workload.
        counted = {}
        for number, (name, requests) in enumerate(marked.served.items()):
            totals = _TOTALS.search(out.with_name(f"out.{2 * number + 2}").read_text())
            if totals is None:
                raise RuntimeError("callgrind wrote no totals")
            counted[name] = round(int(totals[1]) / requests, 1)
    return marked.variant, counted


def findings(stored: Mapping[str, float], counted: Mapping[str, float]) -> list[str]:
    """What costs more than `TOLERANCE` more than is stored. What is stored alone counts, for a GET
    that has become cheaper makes nothing else dearer."""
    limits = {name: (then, TOLERANCE, "before") for name, then in stored.items()}
    for name, (of, tolerance) in RELATIVE.items():
        if of in counted and name not in stored:
            without = counted.get(NOTED, 0.0) if name == "reported" else 0.0
            limits[name] = counted[of] - without, tolerance, of
    return [
        f"{name}: a request costs {now:.0f} instructions, {now / limits[name][0] - 1:+.1%} to"
        f" {limits[name][2]}"
        for name, now in counted.items()
        if name in limits and now > limits[name][0] * (1 + limits[name][1])
    ]


def main(arguments: Sequence[str]) -> int:
    """`python -m bench instructions`: 0 when nothing has become dearer, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench instructions", description=__doc__)
    parser.add_argument("--compiled", action="store_true", help="what `make compiled` built")
    parser.add_argument("--update", action="store_true", help="store: a series of changes begins")
    options = parser.parse_args(arguments)
    if options.compiled and not compiled.is_built():
        parser.error("nothing is compiled, or sources have changed since: run `make compiled`")
    if shutil.which("valgrind") is None:
        print("instructions are not counted: there is no valgrind")
        return 0
    ran, counted = count(BLOCKS, compiled.environment() if options.compiled else {})
    if options.compiled and ran != "compiled":
        print("what was counted is not compiled: was it built for another Python?")
        return 1
    name = key(ran)
    store: Store = msgspec.json.decode(STORE.read_bytes(), type=Store) if STORE.exists() else {}
    stored = store.get(name, {})
    print(f"instructions per request in the data plane, {name}")
    for workload, now in counted.items():
        change = f"{now / stored[workload] - 1:+8.1%}" if workload in stored else ""
        print(f"  {workload:10}{now:10.0f}{stored.get(workload, 0):10.0f}{change}")
    if options.update:
        counted = {one: now for one, now in counted.items() if one not in UNSTEADY}
        ordered = {entry: {**store, name: counted}[entry] for entry in sorted({*store, name})}
        STORE.write_bytes(msgspec.json.format(msgspec.json.encode(ordered), indent=2) + b"\n")
        return 0
    if not stored:
        print("nothing is stored for this build of Python and this compiler: not judged")
    found = findings(stored, counted)
    for sentence in found:
        print(f"too dear: {sentence}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
