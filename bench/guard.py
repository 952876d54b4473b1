"""Has a request become dearer? `python -m bench guard`, and `--update` when that was meant.

Two figures for each workload of `bench/inprocess.py` are compared with those stored in
`bench/guard.json`; a figure more than a tenth above the stored one fails. Neither is a time:

* **units**: CPU time in units of a fixed piece of work measured in the same run. Several fresh
  processes measure, since where a process's memory lies makes a difference of some per cent, and
  the lower quartile counts. Before it fails it measures again, twice: a busy machine makes
  figures larger, a change that costs something makes all of them so.
* **bytecodes**: how many instructions of our own code the interpreter ran. The same in every
  run, but blind to what happens inside calls into C, and there are none in compiled modules.

Figures are kept for each version of Python, for the data plane as Python and compiled, and for
each model of processor: the unit does not take out what a larger cache or a wider core makes of a
program, and one tree has measured 26 to 45 % apart on two machines. Where there is none the guard
says so and passes; `bench/instructions.py` judges by what is the same everywhere.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bench import compiled
from bench.inprocess import Report, lower_quartile

STORE = Path(__file__).parent / "guard.json"
TOLERANCE = 0.10
"""What may be lost unnoticed. Repeated runs of the whole guard differ by 4 to 5 %, with a trace id
in each request by up to 11 % on a busy machine, which is what the further attempts are for."""
FEW = 20.0
"""Bytecodes that may be added whatever the share: in a compiled data plane one line of glue
would be more than a tenth."""
PROCESSES = 8
SECONDS = 0.4
"""For each workload in each process: some 200 blocks."""
ATTEMPTS = 3
"""Measurements before it fails."""
LIMIT = 120.0
"""Seconds after which a measuring process is given up."""


class Figure(msgspec.Struct, frozen=True):
    """What is stored of one workload."""

    units: float
    bytecodes: float


Store = dict[str, dict[str, Figure]]
"""See `key` → workload → figure."""


def key(report: Report, processor: str) -> str:
    """Under what a report's figures are stored."""
    return f"{report.variant} {report.python} on {processor}"


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The model of this machine's processor, as the kernel calls it; virtual machines share a
    name, so the numbers behind it count, too."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return "unknown"
    said: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        said.setdefault(name.strip(), value.strip())
    words = ("model name", "cpu family", "model", "stepping", "cache size")
    return " ".join(said[word] for word in words if said.get(word)) or "unknown"


def merge(reports: Sequence[Report]) -> dict[str, Figure]:
    """The figures of several processes that measured the same. ValueError if they did not."""
    if len({(key(report, ""), tuple(report.costs)) for report in reports}) != 1:
        raise ValueError("the processes did not measure the same thing")
    merged = {}
    for name in reports[0].costs:
        costs = [report.costs[name] for report in reports]
        merged[name] = Figure(
            round(lower_quartile([cost.units for cost in costs]), 3),
            round(min(cost.bytecodes for cost in costs), 1),
        )
    return merged


def better(first: Mapping[str, Figure], second: Mapping[str, Figure]) -> dict[str, Figure]:
    """Of two measurements of the same code the smaller figures: noise only adds."""
    return {
        name: Figure(
            min(figure.units, second[name].units), min(figure.bytecodes, second[name].bytecodes)
        )
        for name, figure in first.items()
    }


def findings(stored: Mapping[str, Figure], measured: Mapping[str, Figure]) -> list[str]:
    """What has become more than `TOLERANCE` dearer; a workload nobody stored is not judged."""
    found = []
    for name, now in measured.items():
        then = stored.get(name)
        if then is None:
            continue
        if now.units > then.units * (1 + TOLERANCE):
            found.append(_sentence(name, "units of work", now.units, then.units))
        if now.bytecodes > max(then.bytecodes * (1 + TOLERANCE), then.bytecodes + FEW):
            found.append(_sentence(name, "bytecodes", now.bytecodes, then.bytecodes))
    return found


def _sentence(name: str, what: str, now: float, then: float) -> str:
    grown = f", {now / then - 1:+.0%}" if then else ""
    return f"{name}: a request costs {now:g} {what}, stored is {then:g}{grown}"


def lines(stored: Mapping[str, Figure], measured: Mapping[str, Figure]) -> list[str]:
    """The comparison as a table."""
    text = [f"  {'':8}{'units':>8}{'stored':>8}{'':>7}{'bytecodes':>11}{'stored':>8}"]
    for name, now in measured.items():
        then = stored.get(name)
        if then is None:
            text.append(f"  {name:8}{now.units:8.3f}{'-':>8}{'':>7}{now.bytecodes:11.1f}{'-':>8}")
            continue
        change = f"{now.units / then.units - 1:+.1%}"
        text.append(
            f"  {name:8}{now.units:8.3f}{then.units:8.3f}{change:>7}"
            f"{now.bytecodes:11.1f}{then.bytecodes:8.1f}"
        )
    return text


def load(path: Path = STORE) -> Store:
    """The stored figures; none when there is no file."""
    if not path.exists():
        return {}
    return msgspec.json.decode(path.read_bytes(), type=Store)


def save(store: Store, path: Path = STORE) -> None:
    """Write the figures, in an order that makes small diffs."""
    ordered = {name: store[name] for name in sorted(store)}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(ordered), indent=2) + b"\n")


def measure(processes: int, seconds: float, variables: Mapping[str, str]) -> list[Report]:
    """One process after the other, with these variables. RuntimeError when one fails."""
    command = [sys.executable, "-m", "bench", "inprocess", "--json", "--seconds", str(seconds)]
    reports = []
    for number in range(processes):
        # Where keys land in dicts and sets must not depend on the day, but may on the process.
        done = subprocess.run(
            command,
            env={**os.environ, **variables, "PYTHONHASHSEED": str(number)},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"measuring failed with {done.returncode}: {done.stderr[-2000:]}")
        reports.append(msgspec.json.decode(done.stdout, type=Report))
    return reports


def main(arguments: Sequence[str]) -> int:
    """`python -m bench guard`: 0 when nothing has become dearer, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench guard", description=__doc__)
    parser.add_argument("--update", action="store_true", help="store what is measured")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each workload")
    parser.add_argument("--compiled", action="store_true", help="what `make compiled` built")
    options = parser.parse_args(arguments)
    if options.compiled and not compiled.is_built():
        parser.error("nothing is compiled, or sources have changed since: run `make compiled`")
    variables = compiled.environment() if options.compiled else {}
    reports = measure(options.processes, options.seconds, variables)
    if options.compiled and reports[0].variant != "compiled":
        print("what was measured is not compiled: was it built for another Python?")
        return 1
    name = key(reports[0], processor())
    measured = merge(reports)
    store = load()
    stored = store.get(name, {})
    found = findings(stored, measured)
    for _ in range(1, ATTEMPTS):
        if not found or options.update:
            break
        measured = better(measured, merge(measure(options.processes, options.seconds, variables)))
        found = findings(stored, measured)
    print(f"cost of a request in the data plane, {name}")
    print("\n".join(lines(stored, measured)))
    if options.update:
        save({**store, name: measured})
        print(f"stored in {STORE.relative_to(Path(__file__).parent.parent)}")
        return 0
    if not stored:
        print(f"no figure is stored for {name}: `python -m bench guard --update` stores this one")
        return 0
    for sentence in found:
        print(f"too dear: {sentence}")
    if found:
        print("if that is meant, say why in the commit that runs `python -m bench guard --update`")
        return 1
    cheaper = [n for n in measured if n in stored and findings({n: measured[n]}, {n: stored[n]})]
    if cheaper:
        print(f"cheaper by more than a tenth ({', '.join(cheaper)}): store it with `--update`")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
