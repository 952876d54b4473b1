"""docs/http.md and docs/http2.md name the proof of every clause; each proof exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.frame_cases import FRAME_CASES
from tests.support.head_cases import ANSWER_CASES, REQUEST_CASES, TRAILER_CASES
from tests.support.raw_cases import QUESTIONS, REPLIES
from tests.support.session_cases import SESSION_CASES

ROOT = Path(__file__).parents[2]
TABLES = {
    "http": (*QUESTIONS, *REPLIES),
    "http2": (
        *(*FRAME_CASES, *REQUEST_CASES, *ANSWER_CASES, *TRAILER_CASES),
        *SESSION_CASES,
    ),
}
"""Page → the cases that it may name."""
ROWS = {
    page: [
        [cell.strip() for cell in line.strip("|\n").split(" | ")]
        for line in (ROOT / f"docs/{page}.md").read_text().splitlines()
        if re.match(r"\| (\d+ §|§|appendix)", line)
    ]
    for page in TABLES
}
PROOFS = sorted(
    {
        (page, name)
        for page, rows in ROWS.items()
        for row in rows
        for name in re.findall(r"`([^`]+)`", row[2])
    }
)


@pytest.mark.parametrize(("page", "least"), [("http", 75), ("http2", 55)])
def test_every_row_has_a_proof(page: str, least: int) -> None:
    assert len(ROWS[page]) >= least
    assert [row[0] for row in ROWS[page] if len(row) != 3 or "`" not in row[2]] == []


@pytest.mark.parametrize(("page", "name"), PROOFS)
def test_every_proof_exists(page: str, name: str) -> None:
    path, is_test, function = name.partition("::")
    if not is_test:
        assert name in {case.name for case in TABLES[page]}
        return
    source = (ROOT / "tests" / path).read_text()
    assert re.search(rf"^ *(?:async )?def {function}\(", source, re.MULTILINE)


@pytest.mark.parametrize(
    "case", [case for table in TABLES.values() for case in table], ids=lambda case: case.name
)
def test_every_case_names_its_clause(case: object) -> None:
    assert re.fullmatch(r"\d{4} §\d+(\.\d+)*", getattr(case, "clause", ""))
