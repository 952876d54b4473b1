"""`make wheels`: a compiled wheel for each CPython that is found, tried where it was not built.

An interpreter is found by its name on the path (`python3.11` and so on), or named in
FAIRLEAD_PYTHONS, separated by spaces. Whichever is not there is left out, with a line. Each wheel
is repaired by auditwheel, so that it says which systems it is good for, installed into a clean
environment, and has the tests of the data plane run on it. With FAIRLEAD_COMPILED=0 they are not
compiled, which shows in a minute or two that all the rest works.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
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
TESTS = ("tests/unit", "tests/property", "tests/wire")
THROWN = "ignore:the (type, exc, tb) signature of throw:DeprecationWarning"  # see the Makefile


@dataclass(frozen=True)
class Row:
    """A line of the table in docs/install.md."""

    name: str
    compressed: int
    installed: int
    load: float
    tests: str

    def __str__(self) -> str:
        sizes = f"{self.compressed / 1e6:.1f} MB | {self.installed / 1e6:.1f} MB"
        return f"| `{self.name}` | {sizes} | {1000 * self.load:.0f} ms | {self.tests} |"


def main() -> int:
    shutil.rmtree(DIST, ignore_errors=True)
    _run(sys.executable, "-m", "build", "--sdist", "--outdir", str(DIST), str(ROOT))
    (sdist,) = DIST.glob("*.tar.gz")
    rows = [_built_and_tried(python, sdist) for python in _interpreters()]
    checks.packages(sorted(DIST.iterdir()))
    print("| wheel | size | installed | `fairlead version` | tests of the data plane |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(row)
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
    command = str(clean / "bin/fairlead")
    load = min(_seconds(command, "version") for _ in range(5))
    _run(str(clean / "bin/pip"), "install", "--quiet", *constrained, f"{wheel}[test]")
    # The checkout has the tests, and a `proxy` of its own, which must come second.
    path = {"PYTHONPATH": f"{site}:{ROOT}", "PYTHONSAFEPATH": "1"}
    interpreter = str(clean / "bin/python")
    code = f"import {NATIVE} as m; assert m.__file__.endswith('.so'), m.__file__"
    _run(interpreter, "-c", code, **path)
    said = _run(
        *(interpreter, "-m", "pytest", "--override-ini", "pythonpath=", "-W", THROWN),
        *("--numprocesses", "2", *TESTS),
        **path,
    )
    tests = said.strip().splitlines()[-1].strip("= ")
    return Row(wheel.name, wheel.stat().st_size, installed, load, tests)


def _environment(python: str, directory: Path) -> None:
    _run(python, "-m", "venv", str(directory))


def _seconds(*command: str) -> float:
    start = time.perf_counter()
    _run(*command)
    return time.perf_counter() - start


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
