"""Edits of field lines as bytes say what those of names and values say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.http.claims import hyphened
from proxy.http.edits import response_edited, without
from proxy.http.messages import ResponseFields, pairs_of, values_of

NAMES = st.sampled_from(
    ["X-User", "x_user", "X.User", "x-user", "X-User-Id", "Y", "x!user", "user"]
)
VALUES = st.text("ab:-_ XUSERxuser.\x80", max_size=12).map(str.strip)
LINES = st.lists(st.tuples(NAMES, VALUES), max_size=8)


def block(lines: list[tuple[str, str]]) -> bytes:
    return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in lines)


@given(LINES, NAMES)
def test_lines_are_taken_away_in_all_spellings(lines: list[tuple[str, str]], name: str) -> None:
    means = hyphened(name.lower().encode())
    plain = block(lines)
    kept = [pair for pair in pairs_of(plain) if hyphened(pair[0].lower()) != means]
    assert pairs_of(without(plain, means)) == kept
    assert (without(plain, means) is plain) == (len(kept) == len(lines))


@given(LINES, NAMES)
def test_values_are_those_of_the_name_in_any_case(lines: list[tuple[str, str]], name: str) -> None:
    lower = name.lower()
    values = [value.encode("latin-1") for seen, value in lines if seen.lower() == lower]
    assert values_of(block(lines), lower.encode()) == values


@given(LINES, LINES)
def test_an_answer_that_is_edited_twice_is_what_it_was_edited_to_last(
    one: list[tuple[str, str]], two: list[tuple[str, str]]
) -> None:
    was = ResponseFields(b"Y: 1\r\n", 1, 6)
    was.relayed = b"Y: 1\r\nVia: 1.1 fairlead\r\n\r\n"
    for lines in (one, two, two):
        made = response_edited(was, block(lines))
        assert made.plain == block(lines)
        assert made.relayed == block(lines) + b"Via: 1.1 fairlead\r\n\r\n"
