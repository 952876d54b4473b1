"""The part of a rate limit that each proxy of a fleet takes. Pure.

No store is asked on the path of a request: each proxy takes its share of rate and burst, by the
list of proxies and their load. Proxies that go by the same list have shares that are 1 together.
While they go by k different lists, as one joins or leaves, all of them together are at most k,
since those that go by one list are at most 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

EVEN: Final = 0.5
"""The part of a limit that is shared evenly; the rest goes by load. A proxy that had nothing to do
so far has half of an even share for the first who come to it."""
MOST: Final = 1e12
"""Requests a second that a load may be; more is none."""
LIST_EVERY: Final = 15.0
"""Seconds between two looks at the list, as often as loads are written to it."""
LISTS_A_SECOND: Final = 10.0
"""Lists that a fleet asks of etcd in a second at most: beyond 150 proxies they look less often."""


def loads_of(proxies: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Id → requests a second, of the proxies of a list that serve. Whoever may write the list can
    take shares away from others, and nothing else: what is no load is none."""
    loads = {}
    for one in proxies:
        load = one.get("load")
        rate = load.get("requests") if isinstance(load, dict) else None
        if one.get("ready") is True:
            good = isinstance(rate, (int, float)) and 0 < rate <= MOST
            loads[str(one.get("id"))] = float(rate) if good else 0.0  # type: ignore[arg-type]
    return loads


def share_of(id_: str, loads: Mapping[str, float]) -> float:
    """The share of one proxy, which need not be on the list yet: above 0, at most 1."""
    loads = {id_: 0.0, **loads}
    total = sum(loads.values())
    even = 1.0 / len(loads)
    by_load = loads[id_] / total if total else even
    return EVEN * even + (1.0 - EVEN) * by_load


def pause(proxies: int) -> float:
    """Seconds until the next look."""
    return max(LIST_EVERY, proxies / LISTS_A_SECOND)


def ejected_by_most(proxies: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The instances that more than half of the proxies that serve have ejected: one that only some
    cannot reach has another trouble than one that nobody can."""
    counts: dict[str, int] = {}
    number = 0
    for one in proxies:
        if one.get("ready") is not True:
            continue
        number += 1
        ejected = one.get("ejected")
        for name in {str(name) for name in ejected} if isinstance(ejected, list) else ():
            counts[name] = counts.get(name, 0) + 1
    return [
        {"instance": name, "proxies": count, "of": number}
        for name, count in sorted(counts.items())
        if number > 1 and count > number / 2
    ]
