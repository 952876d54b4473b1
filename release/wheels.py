"""`make wheels`: a compiled wheel for each CPython that is found, tried where it was not built.

An interpreter is found by its name on the path (`python3.11` and so on), or named in
FAIRLEAD_PYTHONS, separated by spaces. Whichever is not there is left out, with a line. Each wheel
is repaired by auditwheel, so that it says which systems it is good for, installed into a clean
environment, has the tests of the data plane run on it, and forwards small GETs beside nginx, where
that is. The table that comes of it is written into docs/install.md. With FAIRLEAD_COMPILED=0 they
are not compiled and nothing is written, which shows in a minute or two that all the rest works;
FAIRLEAD_WHEEL_TESTS names other tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from release import checks

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
COMPILED = os.environ.get("FAIRLEAD_COMPILED", "1")
NATIVE = "proxy.engine.exchange" if COMPILED == "1" else "proxy.http._scanner"
"""A module of which a wheel must have a shared object."""
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
TESTS = os.environ.get("FAIRLEAD_WHEEL_TESTS", "tests/unit tests/property tests/wire").split()
PAGE = ROOT / "docs/install.md"
TABLE = re.compile(r"(?<=<!-- wheels -->\n\n).*?(?=\n<!-- end -->)", re.DOTALL)
ROUNDS = ("--rounds", "9", "--seconds", "1")
THROWN = "ignore:the (type, exc, tb) signature of throw:DeprecationWarning"  # see the Makefile


@dataclass(frozen=True)
class Row:
    """A line of the table in docs/install.md."""

    name: str
    compressed: int
    installed: int
    load: float
    ratio: str
    tests: str

    def __str__(self) -> str:
        python, platform = self.name.removesuffix(".whl").split("-")[2::2]
        sizes = f"{self.compressed / 1e6:.1f} MB | {self.installed / 1e6:.1f} MB"
        measured = f"{1000 * self.load:.0f} ms | {self.ratio}"
        return f"| {python} | {platform.split('.')[0]} | {sizes} | {measured} | {self.tests} |"


HEAD = """\
| CPython | platform | wheel | installed | importing | small GET | tests of the data plane |
|---|---|---|---|---|---|---|
"""
LEGEND = """
"Importing": the modules of a worker, without the start of Python. "Small GET": CPU time, the median
of rounds in which both were loaded in turn.
"""


def main() -> int:
    shutil.rmtree(DIST, ignore_errors=True)
    _run(sys.executable, "-m", "build", "--sdist", "--outdir", str(DIST), str(ROOT))
    (sdist,) = DIST.glob("*.tar.gz")
    rows = [_built_and_tried(python, sdist) for python in _interpreters()]
    checks.packages(sorted(DIST.iterdir()))
    table = HEAD + "".join(f"{row}\n" for row in rows) + LEGEND
    print(table, end="")
    if COMPILED == "1":
        PAGE.write_text(TABLE.sub(lambda _: table, PAGE.read_text("utf-8")), "utf-8")
    return 0 if rows else 1


def _interpreters() -> Iterator[str]:
    named = os.environ.get("FAIRLEAD_PYTHONS", "").split()
    for python in named or [f"python{version}" for version in VERSIONS]:
        if shutil.which(python):
            yield python
        else:
            print(f"{python} is not here: no wheel for it")


def _built_and_tried(python: str, sdist: Path) -> Row:
    with tempfile.TemporaryDirectory(prefix="fairlead-wheel-") as name:
        directory = Path(name)
        build = directory / "build"
        _environment(python, build)
        pip = str(build / "bin/pip")
        wheel = ("wheel", "--no-deps", "--wheel-dir", str(directory), str(sdist))
        _run(pip, *wheel, FAIRLEAD_COMPILED=COMPILED)
        (linux,) = directory.glob("*.whl")
        before = set(DIST.iterdir())
        _run(sys.executable, "-m", "auditwheel", "repair", "-w", str(DIST), str(linux))
        (repaired,) = set(DIST.iterdir()) - before
        return _tried(python, repaired, directory / "clean")


def _tried(python: str, wheel: Path, clean: Path) -> Row:
    _environment(python, clean)
    constrained = ("--constraint", str(ROOT / "constraints.txt"))
    _run(str(clean / "bin/pip"), "install", "--quiet", *constrained, str(wheel))
    site = next(clean.glob("lib/python*/site-packages"))
    ours = [*site.glob("proxy"), *site.glob("balancers"), *site.glob("fairlead*")]
    installed = sum(file.stat().st_size for path in ours for file in (path, *path.rglob("*")))
    interpreter = str(clean / "bin/python")
    load = min(_seconds_to_import(interpreter, site) for _ in range(5))
    _run(str(clean / "bin/pip"), "install", "--quiet", *constrained, f"{wheel}[test]")
    # The checkout has the tests, and a `proxy` of its own, which must come second.
    path = {"PYTHONPATH": f"{site}:{ROOT}", "PYTHONSAFEPATH": "1"}
    code = f"import {NATIVE} as m; assert m.__file__.endswith('.so'), m.__file__"
    _run(interpreter, "-c", code, **path)
    said = _run(
        *(interpreter, "-m", "pytest", "--override-ini", "pythonpath=", "-W", THROWN),
        *("--numprocesses", "2", *TESTS),
        **path,
    )
    tests = said.strip().splitlines()[-1].strip("= ")
    ratio = _ratio(interpreter, path)
    return Row(wheel.name, wheel.stat().st_size, installed, load, ratio, tests)


def _ratio(interpreter: str, path: Mapping[str, str]) -> str:
    """CPU time of a small GET through the wheel against nginx, in words."""
    if not shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        return "no nginx here"
    chosen = ("--scenario", "small_get", "--peers", "nginx,fairlead", *ROUNDS)
    said = subprocess.run(
        [interpreter, "-m", "bench", *chosen],
        env={**os.environ, **path, "FAIRLEAD_COMPILED": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    written = re.search(r"written to (\S+)", said)
    if written is None:
        sys.exit(f"bench has measured nothing\n{said[-5000:]}")
    measured = json.loads((ROOT / written[1]).read_bytes())
    rows = {row["peer"]: row for row in measured["scenarios"][0]["rows"]}
    return f"{rows['fairlead']['ratios']['nginx']:.2f} × nginx"


def _environment(python: str, directory: Path) -> None:
    _run(python, "-m", "venv", str(directory))


def _seconds_to_import(interpreter: str, site: Path) -> float:
    """How long a worker's modules take, without the start of Python itself."""
    clock = "time.perf_counter()"
    code = f"import time; t = {clock}; import proxy.engine.worker; print({clock} - t)"
    return float(_run(interpreter, "-P", "-c", code, PYTHONPATH=str(site)))


def _run(*command: str, **environ: str) -> str:
    """What it prints. SystemExit with all of that if it fails; no limit, since what compilers and
    tests take is the machine's affair and a person waits."""
    inherited: Mapping[str, str] = {**os.environ, **environ}
    done = subprocess.run(
        command,
        env=inherited,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-5000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
