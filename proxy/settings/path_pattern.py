"""`path_regex:`, regular expressions whose time is bounded by the length of the path.

What Python's `re` may need long for is to take choices back. The subset that is allowed here has
next to none: of every loop, option and alternative the next character says which way it goes, so
that what was taken is never taken back to any avail (the expressions are "one-unambiguous",
Brüggemann-Klein and Wood, 1998). Exceptions, none of them inside of a loop: a handful of options
and alternatives, and one loop over single characters, such as `.*`, if no loop follows. Decision
0029 has the reasons.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_LONGEST: Final = 256
"""Characters of a pattern."""
_MOST_CHOICES: Final = 16
"""Ways through the ambiguous options and alternatives of a pattern: so often it may be tried."""
_MOST_COUNTED: Final = 256
"""Of `{m,n}`."""

_ALL: Final = (1 << 128) - 1
_END: Final = 1 << 128
"""The end of the path, which follows `$`."""


def _mask(chars: str) -> int:
    return sum(1 << ord(char) for char in set(chars))


_DIGITS: Final = _mask("0123456789")
_WORD: Final = _DIGITS | _mask("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_COUNT: Final = re.compile(r"\{(\d{1,3})(?:(,)(\d{1,3})?)?\}")
_GROUP: Final = re.compile(r"\((?:\?P<([A-Za-z_][A-Za-z0-9_]*)>|\?:)?(?!\?)")


@dataclass(frozen=True)
class _Chars:
    """One character out of a set, as bits by their code."""

    mask: int


@dataclass(frozen=True)
class _Sequence:
    parts: tuple[_Node, ...]


@dataclass(frozen=True)
class _Choice:
    options: tuple[_Node, ...]


@dataclass(frozen=True)
class _Repeat:
    body: _Node
    low: int
    high: int
    """Large for no limit."""


_Node = _Chars | _Sequence | _Choice | _Repeat


class PathPattern:
    """A pattern that was found to be one, taken apart. Raises `ValueError` if it is none."""

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST:
            raise ValueError(f"is longer than {_LONGEST} characters")
        if not text.isascii() or not text.isprintable() or not text.startswith("^/"):
            raise ValueError("does not begin with ^/, or holds characters that no path has")
        self._text = text
        self._at = 1
        self._ends = len(text)
        if text.endswith("$") and (len(text) - len(text[:-1].rstrip("\\"))) % 2 == 1:
            self._ends -= 1
        root = self._choice()
        if self._at < self._ends:
            raise ValueError(f"has a ) too many at character {self._at + 1}")
        if isinstance(root, _Choice):
            raise ValueError("has a | outside of a group, which would divide all of it")
        ways = _ways(root, 0 if self._ends == len(text) else _END, False, False)
        if ways > _MOST_CHOICES:
            raise ValueError(f"has {ways} ways to read a path, which is more than {_MOST_CHOICES}")
        try:
            self.compiled = re.compile(text, re.ASCII)
        except re.error as error:
            raise ValueError(f"is not a regular expression ({error.msg})") from None
        self.literals = [""]
        """Texts that every path has in it that fits; it begins with the first one."""
        _gather(root, self.literals)

    def _choice(self) -> _Node:
        options = [self._sequence()]
        while self._at < self._ends and self._text[self._at] == "|":
            self._at += 1
            options.append(self._sequence())
        return options[0] if len(options) == 1 else _Choice(tuple(options))

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self._at < self._ends and self._text[self._at] not in "|)":
            parts.append(self._counted(self._one()))
        return _Sequence(tuple(parts))

    def _one(self) -> _Node:
        char = self._text[self._at]
        if char == "(":
            group = _GROUP.match(self._text, self._at)
            if group is None:
                raise ValueError(f"has an unknown kind of group at character {self._at + 1}")
            self._at = group.end()
            inner = self._choice()
            if self._at >= self._ends:
                raise ValueError("lacks a )")
            self._at += 1
            return inner
        if char == "[":
            return self._set()
        if char == ".":
            self._at += 1
            return _Chars(_ALL)
        if char in "*+?{^$])}":
            raise ValueError(f"has a {char} out of place at character {self._at + 1}")
        return _Chars(self._char())

    def _char(self) -> int:
        """One character, or an escape: its set."""
        char = self._text[self._at : self._at + 1]
        self._at += 1
        if char != "\\":
            return _mask(char)
        escaped = self._text[self._at : self._at + 1]
        self._at += 1
        if escaped == "d":
            return _DIGITS
        if escaped == "w":
            return _WORD
        if not escaped or escaped.isalnum():
            raise ValueError(f"has \\{escaped}; of these there are \\d and \\w alone")
        return _mask(escaped)

    def _set(self) -> _Node:
        self._at += 1
        negated = self._text[self._at : self._at + 1] == "^"
        self._at += negated
        mask = 0
        while self._at < self._ends and self._text[self._at] != "]":
            if self._text[self._at] == "[":
                raise ValueError(f"has a [ inside of [] at character {self._at + 1}")
            low = self._char()
            if self._text[self._at : self._at + 1] == "-" and self._text[self._at + 1 :][:1] != "]":
                self._at += 1
                high = self._char()
                if low.bit_count() != 1 or high.bit_count() != 1 or high < low:
                    raise ValueError(f"has a bad range before character {self._at + 1}")
                low = (high << 1) - low
            mask |= low
        if self._at >= self._ends or not mask:
            raise ValueError("has a [] that is empty or does not end")
        self._at += 1
        return _Chars(_ALL & ~mask if negated else mask)

    def _counted(self, node: _Node) -> _Node:
        char = self._text[self._at : self._at + 1] if self._at < self._ends else ""
        if char == "{":
            count = _COUNT.match(self._text, self._at)
            if count is None:
                raise ValueError(f"has a {{ that is no count at character {self._at + 1}")
            self._at = count.end()
            low = int(count[1])
            high = low if count[2] is None else int(count[3] or 1_000_000)
            if high < low or (high > _MOST_COUNTED and count[3]) or low > _MOST_COUNTED:
                raise ValueError(f"counts beyond {_MOST_COUNTED}, or backwards")
        elif char and char in "*+?":
            self._at += 1
            low, high = {"*": (0, 1_000_000), "+": (1, 1_000_000), "?": (0, 1)}[char]
        else:
            return node
        if self._at < self._ends and self._text[self._at] in "*+?{":
            raise ValueError(f"repeats a repetition at character {self._at + 1}")
        return _Repeat(node, low, high)


def _is_empty(node: _Node) -> bool:
    """Whether it may match no character at all."""
    if isinstance(node, _Chars):
        return False
    if isinstance(node, _Repeat):
        return node.low == 0 or _is_empty(node.body)
    if isinstance(node, _Choice):
        return any(_is_empty(option) for option in node.options)
    return all(_is_empty(part) for part in node.parts)


def _first(node: _Node, follow: int) -> int:
    """Characters with which it, or where that may be empty what follows, may begin."""
    if isinstance(node, _Chars):
        return node.mask
    if isinstance(node, _Repeat):
        return _first(node.body, follow) | (follow if node.low == 0 else 0)
    if isinstance(node, _Choice):
        mask = 0
        for option in node.options:
            mask |= _first(option, follow)
        return mask
    for part in reversed(node.parts):
        follow = _first(part, follow)
    return follow


def _loops(node: _Node) -> bool:
    """Whether there is a repetition in it."""
    if isinstance(node, _Repeat):
        return node.high > 1 or _loops(node.body)
    if isinstance(node, _Choice):
        return any(_loops(option) for option in node.options)
    return isinstance(node, _Sequence) and any(_loops(part) for part in node.parts)


def _ways(node: _Node, follow: int, in_loop: bool, loops_follow: bool) -> int:
    """Number of ways through it that may have to be tried. `follow`: characters that may come
    behind it; `in_loop`: it is repeated; `loops_follow`: there is a repetition behind it."""
    if isinstance(node, _Chars):
        return 1
    if isinstance(node, _Sequence):
        ways = 1
        for part in reversed(node.parts):
            ways *= _ways(part, follow, in_loop, loops_follow)
            follow = _first(part, follow)
            loops_follow = loops_follow or _loops(part)
        return ways
    if isinstance(node, _Choice):
        ways = 0
        seen = 0
        clash = False
        for option in node.options:
            ways += _ways(option, follow, in_loop, loops_follow)
            begins = _first(option, follow)
            clash = clash or bool(seen & begins)
            seen |= begins
        if clash and in_loop:
            raise ValueError("repeats alternatives that may begin with the same character")
        return ways if clash else max(1, ways - len(node.options) + 1)
    body = node.body
    again = _first(body, 0)
    clash = bool(again & follow) and node.low != node.high
    if node.high == 1:
        if clash and in_loop:
            raise ValueError("repeats an option that what follows may begin like")
        return _ways(body, follow, in_loop, loops_follow) * (2 if clash else 1)
    if _is_empty(body):
        raise ValueError("repeats what may be empty")
    if clash and (in_loop or loops_follow or not isinstance(body, _Chars)):
        raise ValueError(
            "has a repetition that what follows may begin like, so that it can be read in very"
            " many ways ([^/]+ instead of .* is mostly what is meant)"
        )
    return _ways(body, again | follow, True, loops_follow)


def _gather(node: _Node, texts: list[str]) -> None:
    """Gather the texts without which nothing fits; the last of those so far may go on."""
    if isinstance(node, _Sequence):
        for part in node.parts:
            _gather(part, texts)
    elif isinstance(node, _Chars) and node.mask.bit_count() == 1:
        texts[-1] += chr(node.mask.bit_length() - 1)
    else:
        texts.append("")
        if isinstance(node, _Repeat) and node.low:
            _gather(node.body, texts)
            texts.append("")


def parse_pattern(text: str) -> str:
    """A pattern as it stands in the file, if it is one."""
    PathPattern(text)
    return text
