"""Fields of Protocol Buffers, as they are written. Pure.

A few messages of three protocols are all that is spoken of it: their own packages bring tens of
megabytes for what are some lines here.
"""

from __future__ import annotations


def varint(number: int) -> bytes:
    """A whole number of any size; one below 0 as if it had 64 bits and no sign."""
    number &= (1 << 64) - 1
    coded = bytearray()
    while number >= 0x80:  # ≤ 9
        coded.append(number & 0x7F | 0x80)
        number >>= 7
    coded.append(number)
    return bytes(coded)


def field(number: int, value: bytes) -> bytes:
    """A text, bytes or a message."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def whole(number: int, value: int) -> bytes:
    """A whole number, or the number of a word (`enum`)."""
    return varint(number << 3) + varint(value)


def fixed64(number: int, value: int) -> bytes:
    """A whole number that always has eight bytes."""
    return varint(number << 3 | 1) + value.to_bytes(8, "little")
