"""The package in `examples/plugins`, installed as a user's own is: the contracts of
`proxy.testing`, a proxy that takes what its entry points name, and what docs/plugins.md shows."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.shown import blocks

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "examples/plugins"
PAGE = {
    block.language: block.text for block in blocks((ROOT / "docs/plugins.md").read_text("utf-8"))
}


def run(*words: str, cwd: Path, **environ: str) -> str:
    """What a module of Python prints; it has to end well."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        env={**os.environ, **environ},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.timeout(300)  # On a machine with much else to do it is a build and a test run.
def test_the_package_of_examples_passes_its_tests_where_it_is_installed(tmp_path: Path) -> None:
    here, target = tmp_path / "source", tmp_path / "site"
    subprocess.run(["cp", "-r", PACKAGE, here], check=True)  # A build leaves its files behind.
    install = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(target))
    run("pip", "--disable-pip-version-check", *install, str(here), cwd=tmp_path)
    (here / "tests/test_page.py").write_text(PAGE["python"])
    (here / "page.yaml").write_text(PAGE["yaml"] + "routes: [{service: users}]\n")
    place = {"PYTHONPATH": str(target)}
    run("proxy", "check", "-c", "page.yaml", cwd=here, **place)
    options = ("-q", "-p", "no:cacheprovider", "-W", "error", "--import-mode=importlib")
    tests = ("--rootdir", str(here), str(here / "tests"))
    assert "passed" in run("pytest", *options, *tests, cwd=here, **place)


def test_entry_points_of_the_page_are_those_of_the_package() -> None:
    shown, package = (
        tomllib.loads(text)["project"]["entry-points"]
        for text in (PAGE["toml"], (PACKAGE / "pyproject.toml").read_text("utf-8"))
    )
    assert {group: package[group] for group in shown} == shown
