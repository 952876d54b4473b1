"""Field blocks of heads in one pass: checked, told apart by kind, and serialised (RFC 9112 §5).

Where the data plane is compiled `_scanner.c` does this; what is here is the reference for it, and
takes its place elsewhere. Nothing is kept of a block but how its names are spelt.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from proxy.http.fields import CLAIM, PLAIN, UNDERSCORE, Kinds, Special
from proxy.http.memo import ENTRY, Memo
from proxy.http.messages import CRLF

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]*")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_LINE: Final = re.compile(
    rb"(?<=\r\n)([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t ]*([\t\x20-\x7e\x80-\xff]*)\r\n"
)
_KIB: Final = 1024

Scan = Callable[[bytes, int], tuple[bytes, list[Special], int]]
"""Field lines with their final empty line, and how many there may be → the plain ones as they are
serialised, the others, and how many there are of both. ValueError when they are malformed,
`TooManyFields` when there are more."""


FindEnd = Callable[[bytes, int], int]
"""Bytes that begin with a head, and from where to look → where its last CR LF CR LF begins; below
0 = it is not there."""


class TooManyFields(Exception):
    """More field lines than the listener allows; the caller knows the limit."""


class PlainScanner:
    """Owns the names that it has seen, and what they mean. One per direction."""

    def __init__(self, of: Callable[[bytes], int]) -> None:
        """`of`: the kind of a field by its name in lower case."""
        self._of = of
        self._names: Memo[bytes, int] = Memo(_KIB * 64, _KIB)  # ≤ _KIB * 64
        """Spellings of names. Real traffic has a few hundred."""

    def forget(self) -> None:
        """Forget what names mean: for some it is something else from now on."""
        self._names.clear()

    def scan(self, block: bytes, most: int) -> tuple[bytes, list[Special], int]:
        """See `Scan`."""
        count = block.count(CRLF) - 1
        if count > most:
            raise TooManyFields
        found = _LINE.findall(CRLF + block)
        # Each line makes one match or none, so as many matches as lines are all of them.
        if len(found) != count or block[-4:] not in (CRLF, CRLF + CRLF):
            raise ValueError(_complaint(block))
        plain: list[bytes] = []
        special: list[Special] = []
        names = self._names.young
        for name, value in found:  # ≤ 256
            kind = names.get(name)
            if kind is None:
                kind = self._kind_of(name)
                names = self._names.young
            value = value.rstrip(b"\t ")
            if kind == PLAIN:
                plain.append(b"%b: %b\r\n" % (name, value))
            elif kind == CLAIM:
                special.append((kind, b"%b: %b" % (name, value)))
            else:
                special.append((kind, name if kind == UNDERSCORE else value))
        return b"".join(plain), special, count

    def _kind_of(self, name: bytes) -> int:
        """For a name that is not among the young ones."""
        kind = self._names.old.get(name)
        if kind is None:
            kind = self._of(name.lower())
        self._names.put(name, kind, ENTRY + len(name))
        return kind


def plain_find_end(data: bytes, start: int) -> int:
    """See `FindEnd`."""
    return data.find(CRLF + CRLF, start)


def _complaint(block: bytes) -> str:
    """The first thing that is wrong with the lines of a block."""
    lines = block.split(CRLF)
    whole = lines[-2:] == [b"", b""]
    if whole:
        del lines[-2:]
    for at, line in enumerate(lines):  # ≤ 256
        cut_off = not whole and at == len(lines) - 1
        name = _match(_TOKEN, line)
        rest = line[len(name) :]
        if cut_off and not rest:
            return "the block does not end in an empty line"
        if not name or (rest and rest[:1] != b":"):
            return "a field name is empty, or holds bytes that no name has"
        if not rest or _match(_VALUE, rest) != rest or cut_off:
            return "a field line without a colon, or with bytes no value has"
    return "the block does not end in an empty line"


def _match(pattern: re.Pattern[bytes], text: bytes) -> bytes:
    match = pattern.match(text)
    return b"" if match is None else match[0]


class FieldScanner:
    """Owns the scanner of one direction, native where there is one."""

    def __init__(self, kinds: Kinds) -> None:
        try:
            from proxy.http._scanner import Scanner, find_end
        except ImportError:
            plain = PlainScanner(kinds.of)
            self.scan: Scan = plain.scan
            self.forget: Callable[[], None] = plain.forget
            self.find_end: FindEnd = plain_find_end
        else:
            native = Scanner(kinds.of, TooManyFields)
            self.scan = native.scan
            self.forget = native.forget
            self.find_end = find_end
