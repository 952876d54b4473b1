"""Histograms of latency, and what they say."""

from __future__ import annotations

import itertools

import pytest

from proxy import latency


def test_a_place_holds_a_latency_to_a_sixteenth() -> None:
    for units in range(1, 64 * int(latency.UNITS), 7):
        middle = latency.seconds_of(latency.place_of(units))
        seconds = (units + 0.5) / latency.UNITS
        assert abs(middle - seconds) <= max(seconds / 16, 0.5 / latency.UNITS), units


def test_places_grow_with_the_latency_one_by_one() -> None:
    places = [latency.place_of(units) for units in range(1 << 20)]
    assert {after - before for before, after in itertools.pairwise(places)} == {0, 1}
    assert latency.place_of(1 << 40) == latency.LAST


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ({}, [None, None, None]),
        ({40: 1}, [40, 40, 40]),
        ({10: 50, 50: 45, 90: 5}, [10, 50, 90]),
        ({10: 98, 90: 2}, [10, 10, 90]),
    ],
)
def test_quantiles_are_the_middle_of_the_place_where_they_fall(
    counts: dict[int, int], wanted: list[int | None]
) -> None:
    found = [None if place is None else latency.seconds_of(place) for place in wanted]
    by_place = latency.no_answers()
    latency.add_between(by_place, {}, counts)
    assert latency.quantiles(by_place) == found


def test_answers_between_two_moments_are_added_for_each_counter() -> None:
    counts = latency.no_answers()
    latency.add_between(counts, {3: 2, 9: 1}, {3: 5, 9: 1, 40: 2})
    latency.add_between(counts, {}, {3: 1})
    assert {place: count for place, count in enumerate(counts) if count} == {3: 4, 40: 2}
