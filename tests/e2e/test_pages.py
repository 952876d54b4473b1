"""Pages that are followed from their first command to the last: tutorial, testing."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.processes import free_port
from tests.support.shown import Reader, as_shown, blocks, steps

DOCS = Path(__file__).parents[2] / "docs"
TESTING = (DOCS / "testing.md").read_text("utf-8")
TEXT = (DOCS / "tutorial.md").read_text("utf-8")
PORTS = sorted(set(re.findall(r"\b(2379|2380|8080|8443|900\d|9900)\b", TEXT)))
ENVIRON = {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"}


def test_tutorial_leaves_out_its_installation_only() -> None:
    left_out = [b for b in blocks(TEXT) if b.title and b.language == "console"]
    assert ["pip install" in block.text for block in left_out] == [True]
    assert {block.language for block in blocks(TEXT)} == {"console", "python", "yaml"}


def show_logs(directory: Path) -> None:
    for log in sorted(directory.glob("*.log")):
        sys.stderr.write(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}\n")


@pytest.mark.timeout(300)
@pytest.mark.skipif(not all(map(shutil.which, ("bash", "curl", "openssl"))), reason="no curl")
async def test_tutorial_goes_as_it_says(tmp_path: Path) -> None:
    async with Reader(tmp_path, ENVIRON, {port: str(free_port()) for port in PORTS}) as reader:
        try:
            await reader.follow(TEXT)
        except BaseException:
            show_logs(tmp_path)
            raise


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
async def test_fixtures_of_pytest_are_there_without_a_line(tmp_path: Path) -> None:
    async with Reader(tmp_path, ENVIRON, {}) as reader:
        await reader.follow(TESTING)


def test_runner_tells_commands_from_what_they_print() -> None:
    text = "$ a \\\n>   b\nout\n\nmore\n$ c\n"
    assert list(steps(text)) == [("a \\\n  b", "out\nmore\n"), ("c", "")]


@pytest.mark.parametrize(
    ("shown", "printed", "fits"),
    [
        ("a b\n", "\n a    b  \n", True),
        ("…b…\n", "a b c\n", True),
        ("a\n...\nb\n", "a\nb\n", True),
        ("a\n...\nb\n", "a\nx\ny\nb\n", True),
        ("a\n...\nb\n", "a\nx\n", False),
        ("", "a\n", False),
        ("a.c\n", "abc\n", False),
    ],
)
def test_runner_knows_what_is_as_shown(shown: str, printed: str, fits: bool) -> None:
    assert as_shown(shown, printed) is fits
