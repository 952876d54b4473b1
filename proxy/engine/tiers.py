"""How the requests of a pool are spread over tiers of priority and over zones. Pure.

A tier gets as much of what the tiers before it leave as it can bear: all of it while `OVERFLOW` of
its instances are ready, and proportionally less below that. Within a tier the preferred zone gets
all while `min_ready` of its instances are ready, and proportionally less below; other zones get
the rest. What nobody can bear is spread over all in proportion to what they bear, so that requests
never fail for this.

So whoever is ready in the first tier and the preferred zone always gets requests, no instance of
theirs more than 1 / `OVERFLOW` or 1 / `min_ready` times what it got while all were ready, and
others get some exactly when these cannot bear all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from proxy.engine.node import Node
from proxy.settings.choosing import OVERFLOW
from proxy.settings.service import ServiceSettings

SCALE: Final = 840
"""Weights are whole numbers, so those of a pool that is divided are multiplied by so much."""


def is_divided(settings: ServiceSettings) -> bool:
    """Whether instances are in tiers or zones."""
    zone = settings.zone
    return settings.priority_key != "" or (zone is not None and zone.prefer != "")


Place = tuple[int, bool]
"""Tier, and whether it is not the preferred zone: places sort by preference."""


def shares(places: Iterable[tuple[Place, bool, int]], min_ready: float) -> dict[Place, float]:
    """Share of the requests of each place, by (place, is ready, weight) of all instances."""
    total: dict[Place, int] = {}  # ≤ 1 KiB + 200 B per instance
    ready: dict[Place, int] = {}  # ≤ 1 KiB + 200 B per instance
    for place, is_ready, weight in places:  # ≤ instances
        total[place] = total.get(place, 0) + weight
        ready[place] = ready.get(place, 0) + (weight if is_ready else 0)
    left = 1.0
    borne: dict[Place, float] = {}  # ≤ 1 KiB + 200 B per instance
    for tier in sorted({tier for tier, _ in total}):  # ≤ instances
        near, far = (tier, False), (tier, True)
        all_ready = ready.get(near, 0) + ready.get(far, 0)
        if not all_ready:
            continue
        bears = _bearing(all_ready, total.get(near, 0) + total.get(far, 0), OVERFLOW)
        takes = left * bears
        nearby = _bearing(ready.get(near, 0), total.get(near, 0), min_ready)
        if not ready.get(far):
            nearby = 1.0
        borne[near] = takes * nearby
        borne[far] = takes - borne[near]
        left -= takes
    whole = sum(borne.values())
    return {place: share / whole for place, share in borne.items() if share > 0}


def _bearing(ready: int, total: int, enough: float) -> float:
    return min(1.0, ready / (total * enough)) if ready else 0.0


def spread(nodes: list[Node], min_ready: float, keeps_weights: bool) -> None:
    """Let nodes that are to get no requests be unusable, and the others have weights by which each
    place gets its share. `keeps_weights`: the balancer hashes, and a key moves with each weight:
    whoever gets any requests has its own weight."""
    by_place = shares(
        ((node.place, node.usable, node.stated) for node in nodes if node.status != "draining"),
        min_ready,
    )
    weights: dict[Place, int] = {}  # ≤ 1 KiB + 200 B per instance
    for node in nodes:  # ≤ instances
        node.usable = node.usable and node.place in by_place
        if node.usable:
            weights[node.place] = weights.get(node.place, 0) + node.stated
    whole = sum(weights.values())
    for node in nodes:  # ≤ instances
        node.weight = node.stated
        if node.usable and node.stated and not keeps_weights:
            share = by_place[node.place] * whole / weights[node.place]
            node.weight = max(1, round(node.stated * share * SCALE))
