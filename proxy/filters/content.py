"""Content of messages on its way through filters."""

from __future__ import annotations

from collections.abc import Callable

Change = Callable[[bytes, bool], bytes]
"""A piece of content and whether it is the last, to what takes its place. Raises `Refused`."""


def changed(changes: list[Change], data: bytes, last: bool, keeps_length: bool) -> bytes:
    """A piece of content with these changes, which are told whether it is the last. Raises what
    they do, `TypeError` for what is no content, and `ValueError` for one of another length."""
    length = len(data)
    for change in changes:  # ≤ 256
        made: object = change(data, last)
        if isinstance(made, (bytearray, memoryview)):
            made = bytes(made)
        if not isinstance(made, bytes):
            raise TypeError(f"a change of content made {type(made).__name__} of it, not bytes")
        data = made
    if keeps_length and len(data) != length:
        raise ValueError(f"a change that keeps the length made {len(data)} bytes of {length}")
    return data
