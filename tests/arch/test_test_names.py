"""A test's name is a sentence that begins with its subject: a failed line of CI is read alone."""

from __future__ import annotations

import re
from pathlib import Path

FIRST = """also and anything both but everybody if it its neither nobody nor not nothing one_that or
others so that their then there these they this those what whatever whether which who whoever"""
TESTS = Path(__file__).parents[1]


def test_names_of_tests_begin_with_their_subject() -> None:
    begins = re.compile(rf"^ *(?:async )?def (test_(?:{'|'.join(FIRST.split())})_\w+)", re.M)
    found = {
        f"{path.relative_to(TESTS)}::{name}"
        for path in TESTS.rglob("test_*.py")
        for name in begins.findall(path.read_text())
    }
    assert found == set()
