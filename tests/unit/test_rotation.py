"""Which endpoint of a registry is tried next, and after how long."""

from __future__ import annotations

import random

from proxy.registry.rotation import Rotation


def rotation(size: int = 3, seed: int = 1) -> Rotation:
    return Rotation(size, random.Random(seed), first=0.02, limit=5.0)


def test_endpoints_are_tried_in_turn_from_a_random_start() -> None:
    assert len({rotation(seed=seed).current for seed in range(30)}) == 3
    turn = rotation()
    seen = []
    for _ in range(6):
        seen.append(turn.current)
        turn.advance()
    assert set(seen[:3]) == {0, 1, 2}
    assert seen[:3] == seen[3:]


def test_delays_double_under_full_jitter_up_to_the_limit() -> None:
    draws = [[turn.delay() for _ in range(30)] for turn in map(rotation, [1] * 400, range(400))]
    for attempt, ceiling in enumerate((0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.0, 5.0)):
        column = [row[attempt] for row in draws]
        assert 0.9 * ceiling < max(column) <= ceiling
        assert min(column) < 0.1 * ceiling
    assert max(map(max, draws)) <= 5.0


def test_progress_starts_the_delays_anew() -> None:
    turn = rotation()
    for _ in range(20):
        turn.delay()
    turn.progress()
    assert turn.delay() <= 0.02
