"""Laws of histograms of latency: both, native and plain, count what is reckoned place by place."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy import latency


def native() -> Any:
    try:
        return importlib.import_module("proxy._latency").Histogram()
    except ImportError:
        pytest.skip("histograms are not native here; `make test-compiled` builds them")


twins = pytest.mark.parametrize("make", [latency.PlainHistogram, native])
EDGES = [units / latency.UNITS for units in range(4096)] + [
    (8 + rest << octave) / latency.UNITS for octave in range(18) for rest in range(8)
]
"""Where places begin, the last ones beyond the last place."""


@twins
@given(st.lists(st.floats(-1.0, 1e9) | st.sampled_from(EDGES) | st.floats(0.0, 0.1), max_size=40))
@example([edge + off for edge in EDGES for off in (-1e-9, 0.0, 1e-9)])
@example([float("inf")])
def test_answers_are_counted_at_their_places(make: Callable[[], Any], took: list[float]) -> None:
    histogram = make()
    assert histogram.told() == ({}, 0.0)
    seconds = 0.0
    for one in took:
        assert histogram.count(one) is None
        seconds += one
    places = (
        latency.place_of(int(min(max(one, 0.0), latency.MOST) * latency.UNITS)) for one in took
    )
    assert histogram.told() == (Counter(places), seconds)


def test_a_word_is_no_number_and_not_counted() -> None:
    histogram = native()
    with pytest.raises(TypeError):
        histogram.count("1")
    assert histogram.told() == ({}, 0.0)
