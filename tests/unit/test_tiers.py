"""Shares of tiers and zones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.node import Node
from proxy.engine.tiers import Place, shares, spread
from proxy.messages import PoolNode
from proxy.settings.choosing import OVERFLOW

NEAR: Place = (0, False)
FAR: Place = (0, True)
NEXT: Place = (1, False)


@pytest.mark.parametrize(
    ("ready", "expected"),
    [
        # (place, ready, all)
        ([(NEAR, 4, 4), (FAR, 8, 8)], {NEAR: 1.0}),
        ([(NEAR, 2, 4), (FAR, 8, 8)], {NEAR: 1.0}),
        ([(NEAR, 1, 4), (FAR, 8, 8)], {NEAR: 0.5, FAR: 0.5}),
        ([(NEAR, 0, 4), (FAR, 8, 8)], {FAR: 1.0}),
        ([(NEAR, 1, 4), (FAR, 0, 8)], {NEAR: 1.0}),
        ([(FAR, 2, 8)], {FAR: 1.0}),
        ([(NEAR, 4, 4), (NEXT, 4, 4)], {NEAR: 1.0}),
        ([(NEAR, 3, 4), (NEXT, 4, 4)], {NEAR: 1.0}),
        ([(NEAR, 2, 4), (NEXT, 4, 4)], {NEAR: 0.7, NEXT: 0.3}),
        ([(NEAR, 0, 4), (NEXT, 1, 4)], {NEXT: 1.0}),
        ([(NEAR, 0, 4)], {}),
    ],
)
def test_shares_by_what_is_ready(
    ready: list[tuple[Place, int, int]], expected: dict[Place, float]
) -> None:
    found = shares([(p, n < r, 1) for p, r, total in ready for n in range(total)], 0.5)
    assert found == pytest.approx(expected)


places = st.tuples(st.integers(0, 2), st.booleans())


@given(
    st.lists(st.tuples(places, st.booleans(), st.integers(1, 9)), max_size=30),
    st.sampled_from([0.1, 0.5, 1.0]),
)
def test_shares_starve_no_zone_and_overload_none(
    nodes: list[tuple[Place, bool, int]], min_ready: float
) -> None:
    found = shares(nodes, min_ready)
    ready = {place: sum(w for p, up, w in nodes if up and p == place) for place, _, _ in nodes}
    assert set(found) <= {place for place, weight in ready.items() if weight}
    assert sum(found.values()) == pytest.approx(1.0 if any(ready.values()) else 0.0)
    first = min((place for place, weight in ready.items() if weight), default=None)
    if first is not None:
        assert found[first] > 0  # The best place with anybody ready always gets some.
    left = 1.0
    for tier in range(3):
        whole = sum(w for (t, _), _, w in nodes if t == tier)
        up = sum(w for (t, _), ok, w in nodes if ok and t == tier)
        gets = found.get((tier, False), 0.0) + found.get((tier, True), 0.0)
        if up:
            bears = min(1.0, up / (whole * OVERFLOW))
            assert gets >= left * bears - 1e-9  # More only if nobody can bear it.
            left -= left * bears


def node(name: str, place: Place, weight: int = 1, usable: bool = True) -> Node:
    made = Node(
        PoolNode(name, name, "10.0.0.1", 80, weight, "ready", 0, tier=place[0], nearby=not place[1])
    )
    made.usable = usable
    return made


def test_weights_of_a_divided_pool() -> None:
    nodes = [node("a", NEAR, 2), *(node(n, NEAR, usable=False) for n in "bcdefg")]
    nodes += [node("x", FAR), node("y", FAR, 3)]
    spread(nodes, 0.5, False)
    weights = {n.id: n.weight for n in nodes if n.usable}
    assert weights["a"] == weights["x"] + weights["y"]
    assert weights["y"] == 3 * weights["x"]
    spread(nodes, 0.5, True)
    assert [n.weight for n in nodes if n.usable] == [2, 1, 3]
    spread(nodes, 0.25, False)
    assert [n.id for n in nodes if n.usable] == ["a"]
