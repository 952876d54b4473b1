"""Services as all proxies of a fleet see them, in one list. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec


class Latency(msgspec.Struct, frozen=True):
    """Seconds within which so many in a hundred answers came."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Limits(msgspec.Struct, frozen=True):
    """Counts of calls by caller and the hundreds of the status, and seconds that those took."""

    callers: dict[str, int] = {}
    caller_seconds: dict[str, float] = {}


class Row(msgspec.Struct, frozen=True):
    """A service as one proxy tells of it."""

    name: str
    ready: int = 0
    total: int = 0
    unhealthy: int = 0
    ejected: int = 0
    draining: int = 0
    balancer: str = ""
    source: str = ""
    panic: bool = False
    rate: float = 0.0
    error_rate: float = 0.0
    latency: Latency = Latency()
    limits: Limits = Limits()


class Document(msgspec.Struct, frozen=True):
    """`GET /api/v1/services`, as far as it is of use here."""

    services: tuple[Row, ...]


def merge(documents: Mapping[str, Document]) -> list[dict[str, Any]]:
    """A row of each service: rates are added up; of what each proxy finds out for itself the worst
    is shown, since percentiles and pools cannot be added."""
    by_name: dict[str, list[Row]] = {}
    for document in documents.values():
        for row in document.services:
            by_name.setdefault(row.name, []).append(row)
    return [_merged(name, rows) for name, rows in sorted(by_name.items())]


def _merged(name: str, rows: list[Row]) -> dict[str, Any]:
    def worst(point: str) -> float | None:
        known = [one for row in rows if (one := getattr(row.latency, point)) is not None]
        return max(known, default=None)

    return {
        "name": name,
        "proxies": len(rows),
        "ready": min(row.ready for row in rows),
        **{
            key: max(getattr(row, key) for row in rows)
            for key in ("total", "unhealthy", "ejected", "draining", "panic")
        },
        "balancer": rows[0].balancer,
        "source": rows[0].source,
        "rate": round(sum(row.rate for row in rows), 3),
        "error_rate": round(sum(row.error_rate for row in rows), 3),
        "latency": {point: worst(point) for point in ("p50", "p95", "p99")},
        "limits": {
            "callers": _summed(row.limits.callers for row in rows),
            "caller_seconds": _summed(row.limits.caller_seconds for row in rows),
        },
        "refused": [],
    }


def _summed(counts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for one in counts:  # ≤ proxies
        total.update(one)
    return dict(total)
