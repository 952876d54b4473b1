"""Pages in Simplified Chinese are in step with the English ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.test_cli import fairlead
from tests.support.shown import Block, blocks

ROOT = Path(__file__).parents[2]
PAGES = [
    ("README.md", "README.zh-CN.md"),
    ("docs/tutorial.md", "docs/zh/tutorial.md"),
    ("docs/configuration.md", "docs/zh/configuration.md"),
]
CODE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
OVERVIEW = (ROOT / "docs/zh/configuration.md").read_text("utf-8")
EXAMPLES = [block for block in blocks(OVERVIEW) if block.language == "yaml"]


def code(page: str) -> list[str]:
    return CODE.findall((ROOT / page).read_text("utf-8"))


def headings(page: str) -> list[int]:
    """The level of each, in order."""
    text = CODE.sub("", (ROOT / page).read_text("utf-8"))
    return [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]


@pytest.mark.parametrize(("english", "chinese"), PAGES)
def test_chinese_page_has_the_headings_of_the_english_one(english: str, chinese: str) -> None:
    assert headings(chinese) == headings(english)


@pytest.mark.parametrize(("english", "chinese"), PAGES[:2])
def test_chinese_page_has_the_commands_and_files_of_the_english_one(
    english: str, chinese: str
) -> None:
    assert code(chinese) == code(english)


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: f"line-{block.line}")
async def test_example_of_the_overview_is_accepted(block: Block, tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").write_text(block.text)
    status, said, _ = await fairlead("check", cwd=tmp_path)
    assert status == 0, said
