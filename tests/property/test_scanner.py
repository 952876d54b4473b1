"""Laws of field blocks: both scanners, native and plain, are the same function as one that reads
line by line."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.http.fields import (
    CLAIM,
    PLAIN,
    REQUEST_KINDS,
    RESPONSE_KINDS,
    UNDERSCORE,
    VALUE_BYTES,
    Kinds,
)
from proxy.http.forwarding import TOKEN_BYTES
from proxy.http.scanner import FindEnd, PlainScanner, TooManyFields, plain_find_end

MOST = 12


def plain_scan(kinds: Kinds) -> Callable[[bytes, int], Any]:
    return PlainScanner(kinds.of).scan


def native_scan(kinds: Kinds) -> Callable[[bytes, int], Any]:
    try:
        native = importlib.import_module("proxy.http._scanner")
    except ImportError:
        pytest.skip("the native scanner is not built; `make test-compiled` does")
    scan: Callable[[bytes, int], Any] = native.Scanner(kinds.of, TooManyFields).scan
    return scan


def native_find_end() -> FindEnd:
    native_scan(REQUEST_KINDS)
    find: FindEnd = importlib.import_module("proxy.http._scanner").find_end
    return find


def by_lines(kinds: Kinds, block: bytes, most: int) -> object:
    """Result or error, read in the plainest way."""
    lines = block.split(b"\r\n")
    if len(lines) - 2 > most:
        return TooManyFields
    whole = lines[-2:] == [b"", b""]
    plain, special = b"", []
    for at, line in enumerate(lines[:-2] if whole else lines):
        cut_off = not whole and at == len(lines) - 1
        name = line[: len(line) - len(line.lstrip(TOKEN_BYTES))]
        rest = line[len(name) :]
        if cut_off and not rest:
            return "the block does not end in an empty line"
        if not name or (rest and rest[:1] != b":"):
            return "a field name is empty, or holds bytes that no name has"
        if not rest or rest.strip(VALUE_BYTES) or rest.translate(None, VALUE_BYTES) or cut_off:
            return "a field line without a colon, or with bytes no value has"
        value = rest[1:].strip(b" \t")
        kind = kinds.of(name.lower())
        if kind == PLAIN:
            plain += name + b": " + value + b"\r\n"
        elif kind == CLAIM:
            special.append((kind, name + b": " + value))
        else:
            special.append((kind, name if kind == UNDERSCORE else value))
    return plain, special, len(lines) - 2


def outcome(scan: Callable[[bytes, int], Any], block: bytes, most: int) -> object:
    try:
        return scan(block, most)
    except TooManyFields:
        return TooManyFields
    except ValueError as error:
        return str(error)


twins = pytest.mark.parametrize("make", [plain_scan, native_scan])
directions = pytest.mark.parametrize("kinds", [REQUEST_KINDS, RESPONSE_KINDS])

names = st.sampled_from(
    [b"Host", b"hOST", b"Content-Length", b"Connection", b"X-Real-IP", b"X_Real_IP", b"X.Real.IP",
     b"X-Request-ID", b"Cookie", b"Accept", b"", b"A b", b"A\x00", b"\xc4", b"a" * 40, b"B" * 41,
     b"c_" * 30, b"~"]
)  # fmt: skip
values = st.sampled_from(
    [b"", b" ", b" v", b"v ", b"\t v\t w \t", b"\xff\x80", b"a\x00", b"a\x7f", b"a\rb", b"a\nb",
     b"a\r", b"\r", b":", b": :"]
)  # fmt: skip
lines = st.tuples(names, st.sampled_from([b":", b": ", b"", b" :"]), values).map(b"".join)
blocks = st.tuples(
    st.lists(st.tuples(lines, st.sampled_from([b"\r\n"] * 9 + [b"\n", b"\r", b""])), max_size=14),
    st.sampled_from([b"\r\n"] * 9 + [b"", b"\r", b"\r\n\r\n", b"\r\nx"]),
).map(lambda parts: b"".join(map(b"".join, parts[0])) + parts[1])

# A value is looked at in eights: each byte of one, and what is behind it.
eights = [b"A: " + b"~" * at + b"%b \xff!~~~~~~~~" for at in range(9)]
places = [b"%b: v", b"A%bB: v", b"A%b: v", b"A:%b", b"A: v%bw", b"A: v%b", *eights]


@twins
@directions
@given(st.one_of(blocks, blocks, st.binary(max_size=40)))
@example(b"")
@example(b"\r\n")
@example(b"\r\n\r\n")
@example(b"a: b\r\n\r\n\r\n")
@example(b"a\r\n\r\n")
def test_a_block_is_scanned_as_its_lines_are_read_one_by_one(
    make: Callable[[Kinds], Callable[[bytes, int], Any]], kinds: Kinds, block: bytes
) -> None:
    scan = make(kinds)
    for _ in range(2):  # The second time all names are known.
        assert outcome(scan, block, MOST) == by_lines(kinds, block, MOST)


@twins
@pytest.mark.parametrize("place", places)
def test_each_byte_at_each_place_is_judged_alike(
    make: Callable[[Kinds], Callable[[bytes, int], Any]], place: bytes
) -> None:
    scan = make(REQUEST_KINDS)
    for byte in range(256):
        block = b"B: 1\r\n" + place.replace(b"%b", bytes((byte,))) + b"\r\nC: 2\r\n\r\n"
        assert outcome(scan, block, MOST) == by_lines(REQUEST_KINDS, block, MOST), byte


@twins
def test_more_names_than_are_kept_are_read_like_the_first(
    make: Callable[[Kinds], Callable[[bytes, int], Any]],
) -> None:
    scan = make(REQUEST_KINDS)
    for number in range(2000):
        block = b"X-%d: 1\r\nHost: h\r\nX_%d: 1\r\n\r\n" % (number, number)
        assert scan(block, MOST) == by_lines(REQUEST_KINDS, block, MOST)


@pytest.mark.parametrize("make", [lambda: plain_find_end, native_find_end])
@given(
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"a"]), max_size=12).map(b"".join),
    st.integers(0, 14),
)
def test_a_head_ends_at_the_first_empty_line(
    make: Callable[[], FindEnd], data: bytes, start: int
) -> None:
    ends = [at for at in range(start, len(data)) if data[at : at + 4] == b"\r\n\r\n"]
    assert make()(data, start) == (ends[0] if ends else -1)
