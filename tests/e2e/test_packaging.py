"""The build backend, on a project of one module: when it compiles, and what becomes of failures."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import build_backend

pytest.importorskip("setuptools", reason="setuptools is in the extra dev")

ROOT = Path(__file__).parents[2]

# What takes minutes in the real one is a file here, which is there in a compiled wheel only.
SETUP = """
import os, pathlib, time
from setuptools import setup

pathlib.Path("compiled.py").unlink(missing_ok=True)
if os.environ.get("FAIRLEAD_COMPILED") == "1":
    pathlib.Path("compiled.py").touch()
    {body}
names = [name for name in ("plain", "compiled") if pathlib.Path(name + ".py").exists()]
setup(name="sample", version="1", py_modules=names)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "plain.py").touch()
    (tmp_path / "setup.py").write_text(SETUP.format(body="pass"))
    return tmp_path


def ask(project: Path, call: str, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "FAIRLEAD_COMPILED"}
    return subprocess.run(
        [sys.executable, "-c", f"import build_backend as b; {call}"],
        cwd=project,
        env={**inherited, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the backend itself has said, among what setuptools says."""
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("fairlead-proxy: ")]
    return [line.partition("is not compiled: ")[2] for line in said]


def contents(project: Path) -> set[str]:
    (wheel,) = project.glob("out/*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if "/" not in name}


BUILD = "b.build_wheel('out')"


@pytest.fixture
def compiler(tmp_path: Path) -> str:
    """Something to be found; nothing calls it."""
    return sys.executable


def test_backend_compiles_where_there_is_a_compiler(project: Path, compiler: str) -> None:
    done = ask(project, BUILD, CC=compiler)
    assert told(done) == []
    assert contents(project) == {"plain.py", "compiled.py"}


@pytest.mark.parametrize(
    ("body", "limit", "reason"),
    [
        ("raise SystemExit('cc1: out of memory')", 300, "cc1: out of memory"),
        ("time.sleep(60)", 1, "it took longer than 1 s"),
    ],
)
def test_backend_falls_back_with_one_line(
    project: Path, compiler: str, body: str, limit: int, reason: str
) -> None:
    (project / "setup.py").write_text(SETUP.format(body=body))
    done = ask(project, f"b.LIMIT = {limit}; {BUILD}", CC=compiler)
    assert told(done) == [reason]
    assert contents(project) == {"plain.py"}


def test_backend_needs_no_compiler(project: Path) -> None:
    done = ask(project, f"{BUILD}; print(b.get_requires_for_build_wheel())", CC="/no/such/cc")
    assert told(done) == ["there is no /no/such/cc"]
    assert contents(project) == {"plain.py"}
    assert "mypy" not in done.stdout.splitlines()[-1]


def test_backend_does_as_it_is_told(project: Path, compiler: str) -> None:
    done = ask(project, BUILD, CC=compiler, FAIRLEAD_COMPILED="0")
    assert told(done) == ["FAIRLEAD_COMPILED=0"]
    assert contents(project) == {"plain.py"}
    (project / "setup.py").write_text(SETUP.format(body="raise SystemExit('no')"))
    assert ask(project, BUILD, CC=compiler, FAIRLEAD_COMPILED="1").returncode == 1
    wrong = ask(project, BUILD, FAIRLEAD_COMPILED="yes")
    assert wrong.stderr == 'FAIRLEAD_COMPILED: is "yes"; allowed: 0, 1, or not set\n'


def test_backend_gets_the_compiler_for_wheels_only(project: Path, compiler: str) -> None:
    needs = "print(b.get_requires_for_build_{}())"
    assert "mypy" in ask(project, needs.format("wheel"), CC=compiler).stdout
    assert "mypy" not in ask(project, needs.format("editable"), CC=compiler).stdout
    asked = ask(project, needs.format("editable"), CC=compiler, FAIRLEAD_COMPILED="1")
    assert "mypy" in asked.stdout


def test_backend_asks_for_the_compiler_before_it_is_there(project: Path) -> None:
    (project / "setup.py").write_text(SETUP.format(body="import no_such_compiler"))
    calls = [f"b.get_requires_for_build_{kind}()" for kind in ("wheel", "editable", "sdist")]
    calls += [f"b.prepare_metadata_for_build_{kind}('.')" for kind in ("wheel", "editable")]
    for call in (*calls, "b.build_sdist('out')"):
        done = ask(project, call, FAIRLEAD_COMPILED="1")
        assert done.returncode == 0, done.stderr
    assert ask(project, BUILD, FAIRLEAD_COMPILED="1").returncode == 1


def imported(module: str) -> Iterator[str]:
    """What the source of a module imports, and the modules that it may do so from; nothing if it is
    none of ours."""
    path = ROOT.joinpath(*module.split("."))
    source = next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None)
    for node in ast.walk(ast.parse(source.read_text("utf-8"))) if source else ():
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_compiler_is_given_all_that_compiled_modules_import() -> None:
    """In an isolated environment mypy refuses what it does not find, and nothing is compiled."""
    pending = [
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for folder in ("engine", "http", "http2")
        for path in (ROOT / "proxy" / folder).rglob("*.py")
        if path.name != "__main__.py"
    ]
    seen: set[str] = set()
    while pending:
        module = pending.pop()
        if module not in seen:
            seen.add(module)
            pending += imported(module)
    tops = {module.partition(".")[0] for module in seen} - sys.stdlib_module_names
    given = {re.split(r"\W", need)[0] for need in build_backend.NEEDED}
    assert given - {"mypy"} == tops - {"proxy", "balancers"}


def test_sdist_has_what_the_repository_has(tmp_path: Path) -> None:
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("no checkout of git: nothing says which files there are")
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    source = f"import os; os.chdir({str(ROOT)!r})"
    assert ask(ROOT, f"{source}; b.build_sdist({str(tmp_path)!r})").returncode == 0
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {re.sub("^[^/]*/", "", name) for name in opened.getnames()}
    assert set(tracked) - names <= {".gitignore"}
    assert {name for name in names if name.endswith(".json")} <= set(tracked)
