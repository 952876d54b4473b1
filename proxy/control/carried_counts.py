"""Counts of the processes before an upgrade, added to our own, so that no series goes back.

It works on pages of metrics in the text exposition format, since those have all counts that anybody
sees, whoever counts them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

STEP = 200
"""Lines in one step, some 0.2 ms."""

_OWN = ("process_", "python_", "fairlead_build_info")
"""Beginnings of names that tell of one process, and begin anew with it."""

Known = Callable[[str | None, str | None], bool]
"""Whether there are such a service, and such an instance of it; None where a series names none."""

_TEXT = rb'("(?:[^"\\]|\\.)*")'
_SERVICE = re.compile(rb"[{,]service(?:_name)?=" + _TEXT)
_INSTANCE = re.compile(rb"[{,](?:upstream|instance)=" + _TEXT)


def samples(page: bytes) -> Iterator[tuple[bytes, bytes, bytes, bool]]:
    """Line by line: the line, the series, the value, and whether it only ever grows. A line that
    is no sample has no series."""
    kind = b""
    for line in page.splitlines(keepends=True):
        if line.startswith(b"#"):
            if line.startswith(b"# TYPE "):
                kind = line.split()[-1]
            yield line, b"", b"", False
            continue
        series, _, value = line.rstrip(b"\n").rpartition(b" ")
        grows = kind in (b"counter", b"histogram", b"summary") and b'quantile="' not in series
        yield line, series, value, grows and not series.decode().startswith(_OWN)


class CarriedCounts:
    """Owns the counts of one page."""

    def __init__(self, page: bytes) -> None:
        self._values = {
            series: float(value) for _, series, value, grows in samples(page) if grows and series
        }

    def __bool__(self) -> bool:
        return bool(self._values)

    def merge(self, page: bytes, known: Known) -> Iterator[bytes]:
        """`page` in pieces, with these counts added. A series that only they have is kept, if it is
        of none, or if they are `known`, of a service and an instance."""
        lines = self._lines(page, known)
        while piece := list(islice(lines, STEP)):
            yield b"".join(piece)

    def _lines(self, page: bytes, known: Known) -> Iterator[bytes]:
        left = dict(self._values)
        missing: dict[bytes, list[bytes]] = {}
        for series in left:
            missing.setdefault(series.partition(b"{")[0], []).append(series)
        family = b""
        for line, series, value, grows in samples(page):
            if line.startswith(b"# HELP "):
                yield from _kept(family, missing, left, known)
                family = line.split()[2]
            if grows and (before := left.pop(series, None)):
                yield b"%b %b\n" % (series, str(float(value) + before).encode())
            else:
                yield line
        yield from _kept(family, missing, left, known)


def _kept(
    family: bytes,
    missing: Mapping[bytes, list[bytes]],
    left: Mapping[bytes, float],
    known: Known,
) -> Iterator[bytes]:
    """Lines of a family that ends here for series that nobody has counted since; an empty one for
    each that is dropped, so that it counts as a step, too."""
    for name in (family, *(family + end for end in (b"_bucket", b"_sum", b"_count"))):
        for series in missing.get(name, ()):
            if series in left and known(_label(_SERVICE, series), _label(_INSTANCE, series)):
                yield b"%b %b\n" % (series, str(left[series]).encode())
            else:
                yield b""


def _label(pattern: re.Pattern[bytes], series: bytes) -> str | None:
    found = pattern.search(series)
    # The format escapes a part of what JSON does.
    return None if found is None else str(json.loads(found[1], strict=False))
