"""The site of the pages: it is built, no link of it leads nowhere, and it is whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not find_spec("mkdocs"), reason="mkdocs is not installed: make site does it")
def test_site_is_built_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
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
