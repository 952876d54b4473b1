"""How many bytes something holds, with everything that it refers to."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from io import BytesIO
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

_SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)


def attributes_of(value: object) -> Iterator[tuple[str, Any]]:
    """Name and value of what an object of ours holds, whether in slots or in a dict."""
    for kind in type(value).__mro__:
        # What is compiled lists its attributes under another name.
        slots = kind.__dict__.get("__mypyc_attrs__") or kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                yield name, getattr(value, name)
    yield from getattr(value, "__dict__", {}).items()


def deep_size(root: object, stop: Callable[[object], bool] = lambda value: False) -> int:
    """Bytes of `root` and of what it refers to; what `stop` says yes to is left out, with what is
    behind it. Classes, modules and functions are nobody's memory."""
    seen: set[int] = set()
    pending: list[object] = [root]
    size = 0
    while pending:
        value = pending.pop()
        if id(value) in seen or isinstance(value, _SHARED) or (value is not root and stop(value)):
            continue
        seen.add(id(value))
        size += sys.getsizeof(value)
        if isinstance(value, dict):
            pending += value.keys()
            pending += value.values()
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            pending += value
        elif isinstance(value, memoryview):
            pending.append(value.obj)
        elif not isinstance(value, (str, bytes, bytearray, int, float, BytesIO)):
            pending += [held for _, held in attributes_of(value)]
            if hasattr(value, "__dict__"):
                size += sys.getsizeof(vars(value))
    return size
