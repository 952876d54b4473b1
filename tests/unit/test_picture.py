"""The moving picture of the first page: when lines of a record appear, and that it is SVG."""

from __future__ import annotations

from xml.etree import ElementTree

from release.picture import PICTURE, READING, SILENCE, TYPING, drawn, timed

RECORD = [("$ one & two", 0.0), ("<said>", 5.0), ("at once", 0.0), ("$ three", 0.0)]


def test_commands_are_typed_and_waits_are_cut() -> None:
    first, said, second, last = timed(RECORD)
    assert first.typed == TYPING * len("$ one & two")
    assert said.at - (first.at + first.typed) < SILENCE + 0.3
    assert second.at == said.at
    assert last.at == second.at + READING


def test_picture_shows_all_lines_in_their_order() -> None:
    tree = ElementTree.fromstring(drawn(timed(RECORD)))
    texts = [text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == [text for text, _ in RECORD]


def test_picture_of_the_first_page_is_of_the_demo() -> None:
    tree = ElementTree.parse(PICTURE)
    texts = [text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "$ fairlead demo &"
