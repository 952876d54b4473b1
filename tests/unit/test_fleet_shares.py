"""Shares of rate limits over a fleet, and instances that most proxies have ejected."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.control.fleet_share import Rate
from proxy.engine.resilience.limits import SIZE, BucketTable
from proxy.fleet.shares import LIST_EVERY, ejected_by_most, loads_of, pause, share_of


def told(id_: str, load: Any, ready: Any = True, **more: Any) -> dict[str, Any]:
    return {"id": id_, "ready": ready, "load": load, **more}


def test_shares_are_half_even_and_half_by_load() -> None:
    loads = {"a": 300.0, "b": 100.0}
    assert share_of("a", loads) == 0.5 * 0.5 + 0.5 * 0.75
    assert share_of("b", loads) == 0.5 * 0.5 + 0.5 * 0.25
    assert share_of("alone", {}) == 1.0
    assert share_of("a", {"a": 0.0, "b": 0.0}) == 0.5


@pytest.mark.parametrize(
    "load",
    [
        *(None, "many", {}, {"requests": "9"}, {"requests": -1}),
        *({"requests": float("nan")}, {"requests": float("inf")}, {"requests": 10**400}),
    ],
)
def test_a_load_that_is_none_counts_as_nothing(load: Any) -> None:
    assert loads_of([told("a", load), told("b", {"requests": 5})]) == {"a": 0.0, "b": 5.0}


def test_a_proxy_that_does_not_serve_has_no_share() -> None:
    assert loads_of([told("a", {}, ready=False), told("b", {}, ready="yes"), told("c", {})]) == {
        "c": 0.0
    }


def test_a_large_fleet_looks_less_often() -> None:
    assert pause(0) == pause(150) == LIST_EVERY
    assert pause(1000) == 100.0


def test_a_share_of_a_limit_is_never_less_than_a_token() -> None:
    table = BucketTable(memoryview(bytearray(SIZE)))
    table.share = 0.25
    taken = sum(table.take_share(7, 1.0, 40.0, 0.0) == 0 for _ in range(100))
    assert taken == 10
    # A token a second of the whole limit is one in four here.
    assert table.take_share(7, 1.0, 40.0, 3.9) > 0
    assert table.take_share(7, 1.0, 40.0, 4.0) == 0
    table.share = 0.001
    assert [table.take_share(8, 1.0, 40.0, 0.0) == 0 for _ in range(3)] == [True, False, False]


def test_an_instance_is_named_when_more_than_half_have_ejected_it() -> None:
    proxies = [
        told("a", {}, ejected=["users/1", "users/2", "users/2"]),
        told("b", {}, ejected=["users/1", 7]),
        told("c", {}, ejected="users/1"),
        told("d", {}, ready=False, ejected=["users/2"]),
    ]
    assert ejected_by_most(proxies) == [{"instance": "users/1", "proxies": 2, "of": 3}]
    assert ejected_by_most(proxies[:1]) == []


def test_a_rate_is_of_five_seconds_and_never_below_nothing() -> None:
    rate = Rate()
    assert rate.at(10.0, lambda: 1000) == 0.0
    assert rate.at(12.0, lambda: 9999) == 0.0
    assert rate.at(15.0, lambda: 1100) == 20.0
    assert rate.at(20.0, lambda: 0) == 0.0
