"""Counts of the processes before an upgrade, added to our own, so that no series goes back.

It works on pages of metrics in the text exposition format, since those have all counts that anybody
sees, whoever counts them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

STEP = 200
"""Lines in one step, some 0.2 ms."""

_OWN = ("process_", "python_", "fairlead_build_info")
"""Beginnings of names that tell of one process, and begin anew with it."""

_SERVICE = re.compile(rb'service="((?:[^"\\]|\\.)*)"')


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

    def merge(self, page: bytes, services: Collection[str]) -> Iterator[bytes]:
        """`page` in pieces, with these counts added. A series that only they have is kept, if it is
        of one of `services` or of none, and of no single instance: those come and go."""
        left = dict(self._values)
        family = b""
        piece: list[bytes] = []
        missing: dict[bytes, list[bytes]] = {}
        for series in left:
            missing.setdefault(series.partition(b"{")[0], []).append(series)
        for line, series, value, grows in samples(page):
            if line.startswith(b"# HELP "):
                piece += self._kept(family, missing, left, services)
                family = line.split()[2]
            if grows and (before := left.pop(series, None)):
                piece.append(b"%b %b\n" % (series, str(float(value) + before).encode()))
            else:
                piece.append(line)
            if len(piece) >= STEP:
                yield b"".join(piece)
                piece.clear()
        piece += self._kept(family, missing, left, services)
        yield b"".join(piece)

    def _kept(
        self,
        family: bytes,
        missing: dict[bytes, list[bytes]],
        left: dict[bytes, float],
        services: Collection[str],
    ) -> Iterator[bytes]:
        """Lines of a family that ends here for series that nobody has counted since."""
        for name in (family, *(family + end for end in (b"_bucket", b"_sum", b"_count"))):
            for series in missing.get(name, ()):
                found = _SERVICE.search(series)
                known = found is None or found[1].decode() in services
                if series in left and known and b'upstream="' not in series:
                    yield b"%b %b\n" % (series, str(left[series]).encode())
