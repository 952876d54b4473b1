"""Which endpoint of a registry is tried next, and after how long."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from proxy.registry.base import RegistryError
from proxy.registry.consul import answers as consul
from proxy.registry.consul_kv.pairs import Pair
from proxy.registry.nacos import answers as nacos
from proxy.registry.rotation import ROUND, Rotation
from proxy.registry.zookeeper.wire import Failed


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
    turns = map(rotation, [1] * 400, range(400))
    draws = [[turn.delay(answered=True) for _ in range(30)] for turn in turns]
    for attempt, ceiling in enumerate((0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.0, 5.0)):
        column = [row[attempt] for row in draws]
        assert 0.9 * ceiling < max(column) <= ceiling
        assert min(column) < 0.1 * ceiling
    assert max(map(max, draws)) <= 5.0


def test_progress_starts_the_delays_anew() -> None:
    turn = rotation()
    for _ in range(20):
        turn.delay(answered=True)
    turn.progress()
    assert turn.delay(answered=True) <= 0.02


def test_a_round_of_endpoints_that_do_not_answer_takes_its_time_whatever_their_number() -> None:
    for size in (1, 3, 5):
        turns = [rotation(size, seed) for seed in range(400)]
        for turn in turns:
            for _ in range(30):
                turn.delay(answered=False)
        rounds = [sum(turn.delay(answered=False) for _ in range(size)) for turn in turns]
        assert 0.8 * ROUND < max(rounds) <= ROUND
        assert min(rounds) < 0.3 * ROUND


def test_hours_of_silence_do_not_delay_what_follows_an_answer() -> None:
    turn = rotation(1)
    for _ in range(10_000):
        turn.delay(answered=False)
    assert turn.delay(answered=True) <= 0.02
    # A member that answers and one that is gone, by turns, are not asked faster and faster.
    for _ in range(20):
        turn.delay(answered=True)
        turn.delay(answered=False)
    assert max(turn.delay(answered=True) for _ in range(20)) > ROUND


@pytest.mark.parametrize(
    "fail",
    [
        lambda: consul.decode(b"{", list[int]),
        lambda: Pair(key="a", modify_index=1, session="none").lease,
        lambda: nacos.done(b'{"code": 500, "message": "not now"}'),
        lambda: nacos.hosts(b"[]"),
        lambda: raised(Failed(-5, "create")),
    ],
)
def test_an_endpoint_that_answers_nothing_of_use_is_not_pressed(fail: Callable[[], object]) -> None:
    """As one is who says nothing, and may be back at any moment."""
    with pytest.raises(RegistryError) as error:
        fail()
    assert error.value.answered


def raised(error: Exception) -> None:
    raise error
