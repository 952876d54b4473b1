"""The codec of HTTP/2 against mutated conversations and blocks: see `http2`."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.fuzz.http2 import BLOCKS, CONVERSATIONS, SEEDS, compare, converse, play
from tests.support.frame_cases import START


def mutated(rng: random.Random, seeds: Sequence[bytes] = SEEDS) -> bytes:
    parts = [bytearray(rng.choice(seeds)) for _ in range(rng.randint(1, 6))]
    for part in parts:
        for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
            at = rng.randrange(len(part) + 1)
            match rng.randrange(4):
                case 0:
                    part[at : at + 1] = bytes((rng.randrange(256),))
                case 1:
                    part[at:at] = rng.randbytes(rng.randint(1, 4))
                case 2:
                    del part[at : at + rng.randint(1, 4)]
                case _:
                    if at < len(part):
                        part[at] ^= 1 << rng.randrange(8)
    return b"".join(parts)


def test_every_seed() -> None:
    assert len(SEEDS) > 200
    assert sum(play(START + seed, 1000) for seed in SEEDS) > 50
    for seed in CONVERSATIONS:
        converse(seed)
    for seed in BLOCKS:
        compare(seed)


@pytest.mark.parametrize(
    ("seed", "rounds"), [(0, 1000), pytest.param(1, 100_000, marks=pytest.mark.drill)]
)
def test_mutated_conversations(seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    understood = sum(play(START + mutated(rng), rng.choice((1, 7, 1000))) for _ in range(rounds))
    assert understood > rounds // 10


@pytest.mark.parametrize(
    ("seed", "rounds"), [(0, 1000), pytest.param(1, 50_000, marks=pytest.mark.drill)]
)
def test_mutated_blocks(seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    for _ in range(rounds):
        compare(mutated(rng, BLOCKS))
