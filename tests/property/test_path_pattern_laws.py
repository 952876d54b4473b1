"""How much work regular expressions for paths are: in steps, which no clock counts.

`re` does not tell its steps, so they are those of a reader here, which takes the same choices in
the same order and takes them back in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.settings.path_pattern import PathPattern

PARSE: Callable[[str, int], Any] = re._parser.parse  # type: ignore[attr-defined]


class Exhausted(Exception):
    """More steps than are waited for."""


class Backtracking:
    """A reader that tries one way after the other, and counts what it looks at."""

    def __init__(self, pattern: str, text: str, most: int = 1_000_000) -> None:
        self.steps, self._most, self._text = 0, most, text
        self.fits = any(True for _ in self._all([*PARSE(pattern, re.ASCII)], 0))

    def _all(self, parts: list[Any], at: int) -> Iterator[int]:
        """Where each way through all of these ends, the preferred first."""
        if not parts:
            yield at
            return
        for end in self._one(*parts[0], at):
            yield from self._all(parts[1:], end)

    def _one(self, kind: Any, told: Any, at: int) -> Iterator[int]:
        self.steps += 1
        if self.steps > self._most:
            raise Exhausted
        name = str(kind)
        if name == "AT":
            # `$` fits before a line's end, too, which no path has.
            if at == (0 if str(told) == "AT_BEGINNING" else len(self._text)):
                yield at
        elif name == "SUBPATTERN":
            yield from self._all([*told[-1]], at)
        elif name == "BRANCH":
            for option in told[1]:
                yield from self._all([*option], at)
        elif name == "MAX_REPEAT":
            yield from self._repeated(told[0], int(told[1]), [*told[2]], at)
        elif at < len(self._text) and self._is_one(name, told, ord(self._text[at])):
            yield at + 1

    def _repeated(self, low: int, high: int, body: list[Any], at: int) -> Iterator[int]:
        """Greedily; a stack in the place of recursion, which a long text would exhaust."""
        ways, ends = [self._all(body, at)], [at]
        while ways:
            end = next(ways[-1], None) if len(ways) <= high else None
            if end is not None:
                ways.append(self._all(body, end))
                ends.append(end)
                continue
            ways.pop()
            end = ends.pop()
            if len(ways) >= low:
                yield end

    def _is_one(self, name: str, told: Any, code: int) -> bool:
        if name == "LITERAL":
            return bool(code == told)
        if name == "NOT_LITERAL":
            return bool(code != told)
        if name == "ANY":
            return True
        if name == "RANGE":
            return bool(told[0] <= code <= told[1])
        if name == "CATEGORY":
            return re.fullmatch({"D": r"\d", "W": r"\w"}[str(told)[9]], chr(code), re.A) is not None
        assert name == "IN", name
        negated = str(told[0][0]) == "NEGATE"
        return negated != any(self._is_one(str(k), t, code) for k, t in told[negated:])


def steps(pattern: str, text: str) -> int:
    read = Backtracking(pattern, text)
    assert read.fits == (re.match(pattern, text, re.ASCII) is not None)
    return read.steps


ACCEPTED = (
    r"^/.*\.(?:jpg|jpeg|png)$",
    r"^/(?:[a-z]+/)+X?[0-9]{2,3}$",
    r"^/(?:en|de)(?:/.*)?$",
    r"^/[a-z]*[0-9]*$",
    r"^/a?a?a?a?[ab]*c$",
    r"^/(?:a|aa)(?:a|aa)(?:a|aa).*c$",
)


@pytest.mark.parametrize("pattern", ACCEPTED)
@pytest.mark.parametrize("word", ["a", "a/", "ab", ".jpg", ".", "a/a0/"])
def test_twice_the_path_is_at_most_twice_the_work(pattern: str, word: str) -> None:
    PathPattern(pattern)
    for front in ("/", "/en/", "/aaa"):
        short, long = (steps(pattern, front + word * times + "!") for times in (200, 400))
        assert long <= 2 * short + 100
        assert long <= 16 * 8 * len(front + word * 400 + "!")


@pytest.mark.parametrize("pattern", ["^/(a+)+$", "^/(?:a|a)*$", "^/(?:aa?)*$"])
def test_the_steps_of_what_is_refused_grow_beyond_all_bounds(pattern: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        PathPattern(pattern)
    with pytest.raises(Exhausted):
        Backtracking(pattern, "/" + "a" * 60 + "!", most=100_000)


ATOMS = st.sampled_from(["a", "b", "/", ".", "[ab]", "[^/]", r"\w"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: f"(?:{'|'.join(some)})"),
        st.tuples(inner, st.sampled_from("*+?")).map(lambda both: f"(?:{both[0]}){both[1]}"),
        st.tuples(ATOMS, st.sampled_from("*+?")).map("".join),
    ),
    max_leaves=8,
)


@given(PATTERNS, st.text("ab/", min_size=1, max_size=4), st.sampled_from(["", "$"]))
def test_work_for_accepted_patterns_is_bounded(inner: str, word: str, end: str) -> None:
    pattern = f"^/{inner}{end}"
    try:
        PathPattern(pattern)
    except ValueError:
        return
    short, long = (steps(pattern, "/" + word * times + "!") for times in (50, 100))
    assert long <= 2 * short + 16 * len(pattern)
