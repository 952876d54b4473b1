"""docs/http.md names the proof of every clause; each proof exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.raw_cases import QUESTIONS, REPLIES

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split(" | ")]
    for line in (ROOT / "docs/http.md").read_text().splitlines()
    if line.startswith("| §")
]
PROOFS = sorted({name for row in ROWS for name in re.findall(r"`([^`]+)`", row[2])})
CASES = {case.name for case in (*QUESTIONS, *REPLIES)}


def test_every_row_has_a_proof() -> None:
    assert len(ROWS) >= 75
    assert [row[0] for row in ROWS if len(row) != 3 or "`" not in row[2]] == []


@pytest.mark.parametrize("name", PROOFS)
def test_every_proof_exists(name: str) -> None:
    path, is_test, function = name.partition("::")
    if not is_test:
        assert name in CASES
        return
    source = (ROOT / "tests" / path).read_text()
    assert re.search(rf"^ *(?:async )?def {function}\(", source, re.MULTILINE)


@pytest.mark.parametrize("case", [*QUESTIONS, *REPLIES], ids=lambda case: case.name)
def test_every_case_names_its_clause(case: object) -> None:
    assert re.fullmatch(r"\d{4} §\d+(\.\d+)*", getattr(case, "clause", ""))
