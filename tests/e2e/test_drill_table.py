"""The table of drills is closed: each row of each registry is drilled, or says why it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.catalog import PROVIDERS
from tests.e2e.drill_table import WITHOUT, kinds, table
from tests.e2e.drilled import ROWS
from tests.e2e.every_registry import DRILLED
from tests.e2e.test_registry_drills import drilled

PAGE = Path(__file__).parents[2] / "docs/registries.md"


def test_each_row_is_drilled() -> None:
    assert drilled == ROWS.keys()


@pytest.mark.parametrize("type_", PROVIDERS)
def test_each_type_of_registry_is_drilled_or_says_why_it_is_not(type_: str) -> None:
    assert bool(kinds(type_)) != bool(WITHOUT.get(type_))


@pytest.mark.parametrize("name", DRILLED)
def test_rows_that_a_registry_lacks_have_reasons(name: str) -> None:
    lacks = DRILLED[name].lacks
    assert lacks.keys() < ROWS.keys()
    assert all(lacks.values())


def test_the_page_has_the_table() -> None:
    assert table() in PAGE.read_text(), "see python -m tests.e2e.drill_table"
