"""The manual page is what the parser says, and can be read."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from proxy import manual
from proxy.cli import main

FILE = Path(__file__).parents[2] / manual.PAGE


def test_the_page_is_what_the_parser_says() -> None:
    assert FILE.read_text("utf-8") == manual.page(), "run `make docs`"
    for name in main.commands:
        assert f'"fairlead {name}'.replace("-", "\\-") in manual.page()


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_page_is_formatted_without_a_warning() -> None:
    run = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", str(FILE)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
