"""The choice of an instance for an attempt.

The balancer chooses; these decisions are about whom it may choose among. An instance is *full* when
all workers together have `max_inflight` requests on it, *on probation* when it is back from an
ejection and has not answered since, *unreachable* when this worker could not connect to it. The
first tier in which there is anybody decides:

| tier | a first attempt goes to |
|---|---|
| 1 | a reachable instance with room; one on probation only while no request probes it |
| 2 | nobody yet: the request joins the queue, because a reachable one is only full |
| 3 | an instance on probation, whose probe is under way, with room |
| 4 | an unreachable instance with room: it may be back |

| tier | a further attempt goes to one that was not tried, |
|---|---|
| 1 | reachable, not on probation, with room |
| 2 | reachable, on probation, with room |
| 3 | or to the one that had closed a kept connection, by a new one: that said nothing against it |
| 4 | or to one of another zone or tier of priority, with room |
| 5 | or to one that is unreachable, or was until a moment ago |

A further attempt does not join the queue, and one that is made although there is an answer already
(a 503 that the service wants repeated) does not go to tier 5.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from proxy.engine.node import Node
from proxy.engine.pool import Pool

_NAMED: Final = 8
"""Full instances that the balancer may name, one after the other, before it is asked no more."""
_RESORTS: Final = 64
"""Instances looked at that the balancer does not know of."""


def first_choice(pool: Pool, picked: Node, key: int, now: float) -> Node | None:
    """The instance of a first attempt, or None for the queue. `picked`: what the balancer chose
    among all that are usable, which is right if the node is neither impaired nor full."""
    return _choice(pool, picked, key, (), now)


def next_choice(
    pool: Pool,
    key: int,
    tried: tuple[Node, ...],
    now: float,
    *,
    stale: Node | None,
    answered: bool,
) -> Node | None:
    """The instance of a further attempt, or None. `tried`: all before, the latest last; `stale`: of
    these the one whose kept connection was found closed; `answered`: there is an answer already."""
    failed = tried[-1]
    node = pool.pick(key, tried)
    if node is not None and (pool.limited or node.impaired):
        node = _choice(pool, node, key, tried, now)
    if (node is None or node.unreachable) and stale is not None and _may_dial(pool, stale):
        node = stale
    if node is None or node.unreachable:
        others = tried[:-1] if stale is failed else tried
        node = _last_resort(pool, others, answered) or node
    return None if answered and node is not None and node.unreachable else node


def _choice(pool: Pool, picked: Node, key: int, tried: Collection[Node], now: float) -> Node | None:
    further = bool(tried)
    if not _is_avoided(picked, further, now) and pool.has_room(picked):
        return picked
    on_probation = [node for node in pool.on_probation if _is_avoided(node, further, now)]
    avoided = {*pool.newly_unreachable, *on_probation}
    if avoided:
        other = pool.pick(key, {*tried, *avoided})
        if other is not None and pool.has_room(other):
            return other
    if avoided and pool.limited:
        other = _with_room(pool, key, {*tried, *avoided})
        away = pool.newly_unreachable
        if other is not None or pool.room.count_full() > sum(not pool.has_room(n) for n in away):
            return other
    if on_probation and pool.newly_unreachable:
        other = _with_room(pool, key, {*tried, *pool.newly_unreachable})
        if other is not None:
            return other
    return picked if pool.has_room(picked) else _with_room(pool, key, {*tried})


def _with_room(pool: Pool, key: int, avoided: set[Node]) -> Node | None:
    """A node with room that is not avoided. If the balancer names only full ones, any: where so
    many are full, whoever has room is to be asked, and to go on would be to look at all."""
    passed = {*avoided}
    for _ in range(_NAMED):  # ≤ _NAMED
        node = pool.pick(key, passed)
        if node is None or pool.has_room(node):
            return node
        passed.add(node)
    return pool.room.one(avoided)


def _is_avoided(node: Node, further: bool, now: float) -> bool:
    """Whether others are preferred, for a further attempt those that are known to be well."""
    return node.unreachable or (node.on_probation and (further or node.is_probed(now)))


def _may_dial(pool: Pool, node: Node) -> bool:
    return node.admitted and not node.unreachable and pool.has_room(node)


def _last_resort(pool: Pool, tried: Collection[Node], answered: bool) -> Node | None:
    """A node that the balancer does not choose among: one of another place, or if there is no
    answer yet one that cannot be connected to or could not until a moment ago."""
    candidates = [*pool.unknown]
    if not answered:
        candidates += [*pool.newly_unreachable, *pool.on_probation]
    if len(candidates) > _RESORTS:
        candidates = pool.rng.sample(candidates, _RESORTS)
    nodes = [
        node
        for node in candidates
        if node.admitted and node.weight and node not in tried and pool.has_room(node)
    ]
    nodes = [node for node in nodes if not node.unreachable] or nodes
    return pool.rng.choice(nodes) if nodes else None
