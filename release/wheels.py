"""`make wheels`: a compiled wheel for each CPython that is found, tried where it was not built.

An interpreter is found by its name on the path (`python3.11` and so on), or named in
FAIRLEAD_PYTHONS, separated by spaces. Whichever is not there is left out, with a line. Each wheel
is built from the sdist, repaired by auditwheel, so that it says which systems it is good for,
installed into a clean environment, has the tests of the data plane run on it, as the sdist has
them, and forwards small GETs beside nginx, where that is. One that fails is told of and does not
keep the others from being tried. The table that comes of it is written into docs/install.md.

`python -m release.wheels measure` measures those that are in `dist/` again, in a quiet hour: import
time and small GET. With FAIRLEAD_COMPILED=0 wheels are not compiled and nothing is measured beside
nginx or written, which shows in a minute or two that all the rest works; FAIRLEAD_WHEEL_TESTS names
other tests.
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
from dataclasses import dataclass, replace
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
TABLE = re.compile(r"(?<=<!-- wheels -->\n).*?(?=<!-- end -->)", re.DOTALL)
ROUNDS = ("--rounds", "9", "--seconds", "1")
THROWN = "ignore:the (type, exc, tb) signature of throw:DeprecationWarning"  # see the Makefile


class Failed(Exception):
    """A command that did not do what it should; what it printed."""


@dataclass(frozen=True)
class Row:
    """A line of the table in docs/install.md."""

    python: str
    platform: str
    compressed: int
    installed: int
    load: float
    ratio: str
    tests: str

    def __str__(self) -> str:
        sizes = f"{self.compressed / 1e6:.1f} MB | {self.installed / 1e6:.1f} MB"
        measured = f"{1000 * self.load:.0f} ms | {self.ratio}"
        return f"| {self.python} | {self.platform} | {sizes} | {measured} | {self.tests} |"


HEAD = """\
| CPython | platform | wheel | installed | importing | small GET | tests of the data plane |
|---|---|---|---|---|---|---|
"""
LEGEND = """
"Importing": the modules of a worker, without the start of Python. "Small GET": CPU time, the median
of rounds in which both were loaded in turn, with its interval of 95 %.
"""


def main() -> int:
    again = sys.argv[1:] == ["measure"]
    if not again:
        shutil.rmtree(DIST, ignore_errors=True)
        _run(sys.executable, "-m", "build", "--sdist", "--outdir", str(DIST), str(ROOT))
    rows = dict(_published()) if again else {}
    failures = 0
    with tempfile.TemporaryDirectory(prefix="fairlead-wheels-") as name:
        (sdist,) = DIST.glob("*.tar.gz")
        shutil.unpack_archive(sdist, name, filter="data")
        (sources,) = Path(name).iterdir()
        for python in _interpreters():
            try:
                wheel = _present(python) if again else _built(python, sdist)
                row = _tried(python, wheel, sources, again=again)
            except Failed as error:
                print(f"{python}: {error}", flush=True)
                failures += 1
            else:
                print(row, flush=True)
                rows[row.python] = str(row)
                _publish(rows)
    checks.packages(sorted(DIST.iterdir()))
    return 0 if rows and not failures else 1


def _published() -> Iterator[tuple[str, str]]:
    """Tag → row, as the page has them."""
    for row in re.finditer(r"^\| (cp\d+) \|.*\|$", PAGE.read_text("utf-8"), re.MULTILINE):
        yield row[1], row[0]


def _publish(rows: Mapping[str, str]) -> None:
    """Write these into the page, one of which may have taken half an hour."""
    if COMPILED == "1":
        table = HEAD + "".join(f"{rows[tag]}\n" for tag in sorted(rows)) + LEGEND
        PAGE.write_text(TABLE.sub(lambda _: f"\n{table}\n", PAGE.read_text("utf-8")), "utf-8")


def _interpreters() -> Iterator[str]:
    named = os.environ.get("FAIRLEAD_PYTHONS", "").split()
    for python in named or [f"python{version}" for version in VERSIONS]:
        # What is found may be a stand-in that only says where it would be.
        try:
            _run(python, "-c", "")
        except (OSError, Failed):
            print(f"{python} is not here: no wheel for it")
        else:
            yield python


def _present(python: str) -> Path:
    tag = _run(python, "-c", "import sys; print('cp{}{}'.format(*sys.version_info))").strip()
    for wheel in DIST.glob(f"*-{tag}-*.whl"):
        return wheel
    raise Failed(f"dist/ has no wheel for {tag}: make wheels")


def _built(python: str, sdist: Path) -> Path:
    with tempfile.TemporaryDirectory(prefix="fairlead-wheel-") as name:
        build = Path(name, "build")
        _environment(python, build)
        wheel = ("wheel", "--no-deps", "--wheel-dir", name, str(sdist))
        _run(str(build / "bin/pip"), *wheel, environ={"FAIRLEAD_COMPILED": COMPILED})
        (linux,) = Path(name).glob("*.whl")
        before = set(DIST.iterdir())
        _run(sys.executable, "-m", "auditwheel", "repair", "-w", str(DIST), str(linux))
        (repaired,) = set(DIST.iterdir()) - before
        return repaired


def _tried(python: str, wheel: Path, sources: Path, *, again: bool) -> Row:
    """What there is to say of a wheel; `again`: of the tests, what the page says already."""
    with tempfile.TemporaryDirectory(prefix="fairlead-wheel-") as name:
        clean = Path(name)
        _environment(python, clean)
        constrained = ("--constraint", str(ROOT / "constraints.txt"))
        _run(str(clean / "bin/pip"), "install", "--quiet", *constrained, str(wheel))
        site = next(clean.glob("lib/python*/site-packages"))
        ours = [*site.glob("proxy"), *site.glob("balancers"), *site.glob("fairlead*")]
        installed = sum(file.stat().st_size for path in ours for file in (path, *path.rglob("*")))
        interpreter = str(clean / "bin/python")
        load = min(_seconds_to_import(interpreter, site) for _ in range(5))
        _run(str(clean / "bin/pip"), "install", "--quiet", *constrained, f"{wheel}[test]")
        # The sources have the tests, and a `proxy` of their own, which must come second.
        path = {"PYTHONPATH": f"{site}:{sources}", "PYTHONSAFEPATH": "1"}
        code = f"import {NATIVE} as m; assert m.__file__.endswith('.so'), m.__file__"
        _run(interpreter, "-c", code, environ=path)
        tag, platform = wheel.name.removesuffix(".whl").split("-")[2::2]
        row = Row(tag, platform.split(".")[0], wheel.stat().st_size, installed, load, "", "")
        said = _said_of(tag) if again else _tests(interpreter, sources, path)
        ratio = _ratio(interpreter, sources, path) if COMPILED == "1" else "not measured"
        return replace(row, tests=said, ratio=ratio)


def _tests(interpreter: str, sources: Path, path: Mapping[str, str]) -> str:
    """The last line of what pytest says."""
    command = (interpreter, "-m", "pytest", "--override-ini", "pythonpath=", "-W", THROWN)
    said = _run(*command, "--numprocesses", "2", *TESTS, cwd=sources, environ=path)
    return said.strip().splitlines()[-1].strip("= ")


def _said_of(tag: str) -> str:
    """What the page says of the tests on a wheel."""
    return dict(_published()).get(tag, "| not run |").rstrip("| ").rpartition("| ")[2]


def _ratio(interpreter: str, sources: Path, path: Mapping[str, str]) -> str:
    """CPU time of a small GET through the wheel against nginx, in words."""
    if not shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        return "no nginx here"
    chosen = ("--scenario", "small_get", "--peers", "nginx,fairlead", *ROUNDS)
    said = subprocess.run(
        [interpreter, "-m", "bench", *chosen],
        env={**os.environ, **path, "FAIRLEAD_COMPILED": "0"},
        cwd=sources,
        capture_output=True,
        text=True,
    ).stdout
    written = re.search(r"written to (\S+)", said)
    if written is None:
        raise Failed(f"bench has measured nothing\n{said[-5000:]}")
    measured = json.loads((sources / written[1]).read_bytes())
    (row,) = [row for row in measured["scenarios"][0]["rows"] if row["peer"] == "fairlead"]
    low, high = row["intervals"]["nginx"]
    return f"{row['ratios']['nginx']:.2f} ({low:.2f} to {high:.2f}) × nginx"


def _environment(python: str, directory: Path) -> None:
    _run(python, "-m", "venv", str(directory))


def _seconds_to_import(interpreter: str, site: Path) -> float:
    """How long a worker's modules take, without the start of Python itself."""
    clock = "time.perf_counter()"
    code = f"import time; t = {clock}; import proxy.engine.worker; print({clock} - t)"
    return float(_run(interpreter, "-P", "-c", code, environ={"PYTHONPATH": str(site)}))


def _run(*command: str, cwd: Path = ROOT, environ: Mapping[str, str] | None = None) -> str:
    """What it prints. Failed with all of that if it fails; no limit, since what compilers and
    tests take is the machine's affair and a person waits."""
    done = subprocess.run(
        command,
        env={**os.environ, **(environ or {})},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise Failed(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-5000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
