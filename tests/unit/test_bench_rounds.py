"""Which rounds of the benchmark count, how sure a ratio is, and when a claim holds no longer."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from bench.report import Row, refuted
from bench.results import published_rows
from bench.rounds import counting, interval, pace


def test_rounds_on_a_slower_machine_do_not_count() -> None:
    even = [(1.0, 1.05), (1.1, 1.0), (1.02, 1.0)]
    assert counting(even) == [0, 1, 2]
    assert counting([*even, (1.0, 1.3), (2.0, 1.0), (1.1, 1.1)]) == [0, 1, 2, 5]
    assert counting([]) == []


def test_rounds_that_are_all_slow_count_among_themselves() -> None:
    assert counting([(3.0, 3.1), (3.2, 3.0)]) == [0, 1]


@pytest.mark.parametrize(("count", "outside"), [(1, 0), (5, 0), (6, 0), (9, 1), (12, 2), (20, 5)])
def test_interval_leaves_out_as_many_at_each_end(count: int, outside: int) -> None:
    values = [float(number) for number in range(count)]
    Random(count).shuffle(values)
    assert interval(values) == (float(outside), float(count - 1 - outside))


def test_interval_holds_the_median_nineteen_times_of_twenty() -> None:
    """Of a skewed distribution, whose median is 1."""
    rng = Random(4)
    held = 0
    for _ in range(2000):
        low, high = interval([2.0 ** rng.gauss(0.0, 1.0) for _ in range(9)])
        held += low <= 1.0 <= high
    assert 0.945 <= held / 2000 <= 0.98


def row(peer: str, ratio: float, low: float, high: float) -> Row:
    [some, *_] = next(iter(published_rows().values()))
    return msgspec.structs.replace(
        some, peer=peer, ratios={"nginx": ratio}, intervals={"nginx": (low, high)}
    )


def test_a_claim_is_refuted_by_a_whole_interval_above_it() -> None:
    published = [row("fairlead", 1.2, 1.1, 1.3), row("envoy", 3.0, 2.9, 3.1)]
    assert refuted("s", [row("fairlead", 1.4, 1.36, 1.5)], published) == []
    assert refuted("s", [row("envoy", 9.0, 9.0, 9.0)], published) == []
    assert refuted("s", [row("fairlead", 1.4, 1.38, 1.5)], published) == [
        "s: fairlead takes 1.38 x nginx at least; published: 1.30"
    ]


def test_a_claim_without_an_interval_is_its_ratio() -> None:
    published = [msgspec.structs.replace(row("fairlead", 1.2, 0, 0), intervals={})]
    assert refuted("s", [row("fairlead", 1.3, 1.27, 1.4)], published)
    assert not refuted("s", [row("fairlead", 1.3, 1.25, 1.4)], published)


def test_the_pace_of_the_machine_is_a_time() -> None:
    assert pace({0}) > 0
