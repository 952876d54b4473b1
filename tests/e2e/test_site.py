"""The site of the pages: it is built, no link of it leads nowhere, and it is whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not find_spec("mkdocs"), reason="mkdocs is not installed: make site does it")
def test_site_is_built_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in ROOT.glob("docs/**/*.md")}
    built = {path.relative_to(tmp_path).with_suffix("") for path in tmp_path.glob("**/*.html")}
    assert not pages - built
    assert json.loads((tmp_path / "proxy.schema.json").read_text())["type"] == "object"
    assert (tmp_path / "fairlead.1").read_bytes() == (ROOT / "deploy/man/fairlead.1").read_bytes()
    assert "wait_ready" in (tmp_path / "reference.html").read_text("utf-8")
    assert (tmp_path / "search/search_index.json").stat().st_size > 100_000


@pytest.mark.drill
@pytest.mark.timeout(300)
@pytest.mark.skipif(not find_spec("mike"), reason="mike is not installed: make site does it")
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout of git")
def test_versions_of_the_site_stand_beside_each_other(tmp_path: Path) -> None:
    name = {"NAME": "t", "EMAIL": "t@t.test"}
    environ = {
        f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in name.items()
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **environ}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("git", "clone", "--quiet", str(ROOT), ".")
    make = ("make", "-s", f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.docs", "site-version")
    version = tmp_path / "proxy/__init__.py"
    for minor in (1, 2):
        version.write_text(re.sub(r'"[\d.]+"', f'"7.{minor}.0"', version.read_text(), count=1))
        run(*make)
    versions = json.loads(run("git", "show", "site:versions.json"))
    assert [(one["version"], one["aliases"]) for one in versions] == [
        ("7.2", ["latest"]),
        ("7.1", []),
    ]
    files = run("git", "ls-tree", "-r", "--name-only", "site").split()
    for folder in ("7.1", "7.2"):
        assert {f"{folder}/tutorial.html", f"{folder}/proxy.schema.json"} <= set(files)
    assert "../7.2/tutorial.html" in run("git", "show", "site:latest/tutorial.html")
    assert "latest/" in run("git", "show", "site:index.html")
