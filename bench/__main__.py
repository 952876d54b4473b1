"""`python -m bench`: start every proxy that is installed, load each in turn, print the table."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.certificates import make_certificates
from bench.load import LoadPlan
from bench.measure import GRPC_SERVER, Measurement, contenders, start_backends
from bench.peers import PEERS, Command, Peer
from bench.processes import StartError, core_plan, raise_open_files
from bench.report import refuted, scaling_remark, seconds_for, summarize, table
from bench.results import machine, published_rows, write
from bench.scenarios import SCENARIOS, Scenario

BUDGET = 900.0
QUICK_BUDGET = 36.0
"""Seconds the whole run plans for; the limits are twenty minutes and 45 s: a busy machine
starts things slowly, and some scenarios have a shortest measurement of their own."""
ROUNDS = 9
QUICK_ROUNDS = 2
REFUTED = 3
"""Exit code when all was measured and something published holds no longer."""
OVERHEAD = 0.15
"""Seconds around each measurement: wrk ends on its next 100 ms, /proc is read twice."""
COMMANDS = {
    "features": "bench.features",
    "guard": "bench.guard",
    "http2-memory": "bench.http2_memory",
    "inprocess": "bench.inprocess",
    "instructions": "bench.instructions",
    "plot": "bench.plot",
    "registries": "bench.registries",
    "scale": "bench.scale",
    "tls-memory": "bench.tls_memory",
    "mesh": "bench.mesh",
}
"""What else this program does, by the first argument → the module whose `main` gets the rest."""
START_COST = 1.0
"""Seconds to start, check, warm up and stop one proxy."""


def main() -> int:
    if len(sys.argv) > 1 and (command := COMMANDS.get(sys.argv[1])):
        module = import_module(command)
        status: int = module.main(sys.argv[2:])
        return status
    return _compare()


def _compare() -> int:
    parser = _parser()
    options = parser.parse_args()
    try:
        peers = _chosen_peers(options)
        scenarios = _chosen_scenarios(options)
    except ValueError as error:
        parser.error(str(error))
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    starts = sum(len(contenders(scenario, peers)) for scenario in scenarios)
    seconds = options.seconds or seconds_for(
        QUICK_BUDGET if options.quick else BUDGET,
        measurements=starts * rounds,
        starts=starts,
        overhead=OVERHEAD,
        start_cost=START_COST,
    )
    # SIGTERM must run the clean-up too: everything below is started by us and stopped by us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return _run(peers, scenarios, rounds, seconds, own_load=options.own_load)
    except StartError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(
    peers: list[Peer], scenarios: list[Scenario], rounds: int, seconds: float, *, own_load: bool
) -> int:
    available = frozenset(os.sched_getaffinity(0))
    open_files = raise_open_files()
    scenarios = [scenario.within(open_files) for scenario in scenarios]
    versions = {peer.name: peer.version() for peer in peers}
    wrk = None if own_load else shutil.which("wrk")
    facts = machine(available)
    print(f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    load_name = "wrk" if wrk else "built-in load generator"
    print(f"{load_name}; {rounds} interleaved rounds of {seconds:.1f} s, medians", flush=True)
    begun = time.monotonic()
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    claims: list[str] = []
    published = published_rows(facts["cpu"])
    if not published:
        print("what is published is of another processor: nothing is held against it")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        # The backend's workers may run as another user when we are root.
        directory.chmod(0o755)
        certificates = make_certificates(directory / "tls")
        backends = start_backends(stack, directory, core_plan(available, 1)[1], certificates)
        for scenario in scenarios:
            cores, load_cores = core_plan(available, scenario.workers)
            measurement = Measurement(
                scenario,
                backends=backends,
                certificates=certificates,
                load=LoadPlan(wrk=wrk, cores=load_cores, directory=directory),
                cores=cores,
                directory=directory,
                open_files=open_files,
            )
            entered = contenders(scenario, peers)
            samples = measurement.run(entered, rounds, seconds)
            rows = summarize(samples, scenario.unit)
            against = {one.label: one.against for one in entered}
            print("\n" + table(_title(scenario), scenario.unit, rows, against), flush=True)
            workers = {one.label: one.variant.workers for one in entered}
            for remark in scaling_remark(rows, workers, len(cores)):
                print(remark, flush=True)
            if measurement.thrown_out:
                print(f"  {measurement.thrown_out} rounds do not count: the machine was slower")
            claims += refuted(scenario.name, rows, published.get(scenario.name, []))
            for failure in measurement.failures:
                print(f"  failed: {failure}", flush=True)
            # A result may be published: where this machine keeps its files is nobody's business.
            failures += [text.replace(str(directory), ".") for text in measurement.failures]
            results.append(
                {
                    "name": scenario.name,
                    "title": scenario.title,
                    "unit": scenario.unit,
                    "against": against,
                    "rows": rows,
                    "samples": samples,
                }
            )
    path = write(
        {
            "machine": facts,
            "versions": versions,
            "load": load_name,
            "rounds": rounds,
            "seconds": seconds,
            "scenarios": results,
            "failures": failures,
        }
    )
    print(f"\n{time.monotonic() - begun:.0f} s; written to {os.path.relpath(path)}")
    for claim in claims:
        print(f"no longer true: {claim}")
    return 1 if failures else REFUTED if claims else 0


def _title(scenario: Scenario) -> str:
    workers = "1 worker" if scenario.workers == 1 else f"1 to {scenario.workers} workers"
    return f"{scenario.title} ({scenario.name}: {scenario.connections:,} connections, {workers})"


def _chosen_peers(options: argparse.Namespace) -> list[Peer]:
    every: dict[str, Peer] = {kind.name: kind() for kind in PEERS}
    if options.peers:
        unknown = [name for name in options.peers if name not in every]
        if unknown:
            raise ValueError(f"unknown peer {unknown[0]!r}; known: {', '.join(every)}")
        chosen = [every[name] for name in options.peers]
    else:
        chosen = [peer for peer in every.values() if peer.find() is not None]
    chosen += [Command(text) for text in options.command]
    absent = [peer.name for peer in chosen if peer.find() is None]
    if absent:
        raise ValueError(f"not installed: {', '.join(absent)}")
    if len({peer.name for peer in chosen}) < len(chosen):
        raise ValueError("two peers have the same name")
    return chosen


def _chosen_scenarios(options: argparse.Namespace) -> list[Scenario]:
    if not options.scenario:
        return [
            scenario
            for scenario in SCENARIOS.values()
            if (scenario.quick if options.quick else scenario.default)
            and (GRPC_SERVER.exists() or not scenario.grpc)
        ]
    unknown = [name for name in options.scenario if name not in SCENARIOS]
    if unknown:
        raise ValueError(f"unknown scenario {unknown[0]!r}; known: {', '.join(SCENARIOS)}")
    return [SCENARIOS[name] for name in options.scenario]


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise ValueError
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--scenario", type=_names, default=[], help=f"comma-separated, of: {', '.join(SCENARIOS)}"
    )
    parser.add_argument(
        "--peers", type=_names, default=[],
        help=f"comma-separated, of: {', '.join(kind.name for kind in PEERS)}; default: installed",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, choices=range(1, 101), metavar="N")
    parser.add_argument("--seconds", type=_positive, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="three scenarios in under 45 s")
    parser.add_argument(
        "--own-load", action="store_true", help="use the built-in load generator, not wrk"
    )
    parser.add_argument(
        "--command", action="append", default=[], metavar="NAME=PROGRAM ARGS",
        help="one more proxy; {port}, {backend}, {admin} and {workers} are replaced",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
