"""The C heap of a process that is to be small: one for all threads, of which what is free is given
back."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from proxy.control.launch import ALLOCATOR


def tune() -> None:
    """Set what `ALLOCATOR` has for workers that are executed. Call it before there are threads:
    each would have a heap of its own, with holes."""
    if (mallopt := _of_glibc("mallopt")) is not None:
        mallopt(-8, 1)  # M_ARENA_MAX
        for name, number in zip(ALLOCATOR, (-3, -1, -2), strict=True):  # As mallopt(3) has them.
            if name not in os.environ:
                mallopt(number, int(ALLOCATOR[name]))


def trim() -> None:
    """Give back to the kernel what was freed since, in loading for example."""
    if (malloc_trim := _of_glibc("malloc_trim")) is not None:
        malloc_trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    """A function that other libraries of C do not have."""
    return getattr(ctypes.CDLL(None), name, None)
