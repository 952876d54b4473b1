"""What a file means does not depend on whether PyYAML came with libyaml."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.settings import yaml_lines
from proxy.settings.tree import Document

PIECES = st.sampled_from(
    [
        *("a", "b", "x y", "1", "~", ": ", ":", ", ", ",", "- ", "-", "? ", "?", "#", " # ", "\t"),
        *("\n", "\n  ", "\n    ", "\r\n", "\u2028", "\ufeff", "\x85", "---\n", "...\n", "<<: "),
        *("[", "]", "{", "}", "'", '"', "|\n", "> ", "&x ", "*x", "!t ", "!!str ", "${X}", "%"),
        *("@", "`", "\\", "é", "http://h:1", "\x00"),
    ]
)
TEXTS = st.builds(
    lambda start, pieces: start + "".join(pieces),
    st.sampled_from(["", "a: ", "a:\n  - ", "a: {b: ", "a: [", "a:\n  b: c\n  "]),
    st.lists(PIECES, max_size=14),
)


def read(text: str, libyaml: bool) -> Document:
    document = yaml_lines.read(text, {"X": "1"}, libyaml=libyaml)
    if not isinstance(document.root, dict | list):
        # Nobody is told the line of a value that is all there is.
        return replace(document, lines={})
    return document


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="this PyYAML has no libyaml")
@given(TEXTS)
def test_libyaml_and_the_python_parser_read_the_same(text: str) -> None:
    assert read(text, libyaml=True) == read(text, libyaml=False)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_is_a_problem_and_not_the_end_of_the_process(opening: str) -> None:
    document = yaml_lines.read(opening * 100_000, {})
    assert document.root is None
    assert len(document.problems) == 1
