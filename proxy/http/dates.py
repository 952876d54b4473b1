"""The Date field (RFC 9110 §6.6.1), for answers of our own and for those that came without one."""

from __future__ import annotations

from email.utils import formatdate
from time import time

_second = -1
_text = b""


def http_date(now: float | None = None) -> bytes:
    """A moment in Unix time, by default the present one, as RFC 9110 §5.6.7 writes it. Written once
    in each second: that costs more than the rest of a head."""
    global _second, _text
    second = int(time() if now is None else now)
    if second != _second:
        _text = formatdate(second, usegmt=True).encode("ascii")
        _second = second
    return _text
