"""Pages that are followed from their first command to the last."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.support.shown import Reader, as_shown, steps

DOCS = Path(__file__).parents[2] / "docs"
ENVIRON = {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"}


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
async def test_fixtures_of_pytest_are_there_without_a_line(tmp_path: Path) -> None:
    async with Reader(tmp_path, ENVIRON, {}) as reader:
        await reader.follow(DOCS / "testing.md")


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
