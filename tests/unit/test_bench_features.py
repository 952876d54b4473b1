"""What features cost: which there are, and the table."""

from __future__ import annotations

from pathlib import Path

from bench.features import chosen, features, merged, table
from proxy.catalog import BALANCERS, FILTERS


def test_each_kind_of_filter_and_balancer_is_counted_or_left_out_for_a_reason(
    tmp_path: Path,
) -> None:
    filters, balancers = set(), set()
    for one in features():
        settings = one.settings(tmp_path)
        filters |= {each.kind for each in settings.routes[0].filters}
        balancers.add(settings.services["bench"].balancer.type)
    assert filters == set(FILTERS) | {"bench.features:Own"}
    # By weight is round robin where weights are equal, and random is what others do without a key.
    assert balancers == set(BALANCERS) - {"weighted_round_robin", "random"}


def test_all_features_are_counted_if_none_is_named() -> None:
    assert [one.name for one in chosen("")] == [one.name for one in features()]
    assert [one.name for one in chosen("basic_auth")] == ["none", "filter `basic_auth`"]


def test_the_table_says_how_much_more_than_a_plain_request() -> None:
    counted = {one.name: 100_000.0 for one in features()} | {"`sticky`": 150_000.0}
    counted |= {"none, in a loop that turns": 110_000.0, "`mirror`, of all": 220_000.0}
    rows = table(counted).splitlines()
    assert len(rows) == len([one for one in features() if one.page]) + 2
    assert "| on | instructions more | of a plain request (100 thousand) |" in rows
    [row] = [row for row in rows if "`sticky`" in row]
    assert row == "| [`sticky`](balancers.md#sticky-clients) | 50,000 | +50% |"
    [row] = [row for row in rows if "`mirror`" in row]
    assert row == "| [`mirror`, of all](operations.md#mirrors) | 110,000 | +110% |"


def test_rows_that_are_not_counted_anew_stay() -> None:
    before = table({one.name: 100_000.0 for one in features()})
    some = dict.fromkeys(("none", "none, with several instances"), 100000.0)
    after = merged(before, table({**some, "`zone`": 107_000.0}))
    [(old, new)] = [
        pair for pair in zip(before.splitlines(), after.splitlines(), strict=True)
        if pair[0] != pair[1]
    ]  # fmt: skip
    assert old.startswith("| [`zone`](")
    assert new.endswith("| 7,000 | +7% |")
