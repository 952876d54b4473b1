"""The memory of a process that is to be small: one C heap for all threads, of which what is free is
given back, and no more code than is run."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable
from mmap import MADV_DONTNEED
from pathlib import Path

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
    """Give back to the kernel what was freed since, in loading for example, and the code of
    libraries that was run for that alone: what is run again is mapped again as it is, from the
    file's pages, which all processes share."""
    if (malloc_trim := _of_glibc("malloc_trim")) is not None:
        malloc_trim(0)
    madvise = _of_glibc("madvise")
    if madvise is None:
        return
    where = ""
    with contextlib.suppress(OSError):  # Only Linux tells (proc(5)).
        for line in Path("/proc/self/smaps").read_text().splitlines():  # ≤ 30 * mappings
            words = line.split(maxsplit=5)
            if "-" in words[0]:
                where = words[0] if words[1] == "r-xp" and words[-1].startswith("/") else ""
            elif where and words[:2] == ["Anonymous:", "0"]:  # None of it differs from the file.
                begin, end = (int(one, 16) for one in where.split("-"))
                madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_DONTNEED)


def _of_glibc(name: str) -> Callable[..., int] | None:
    """A function that other libraries of C do not have."""
    return getattr(ctypes.CDLL(None), name, None)
