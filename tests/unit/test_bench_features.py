"""What features cost: which there are, and the table."""

from __future__ import annotations

from pathlib import Path

from bench.features import features, table
from proxy.catalog import BALANCERS, FILTERS


def test_each_kind_of_filter_and_balancer_is_counted_or_left_out_for_a_reason(
    tmp_path: Path,
) -> None:
    asks_others = {"forward_auth"}
    like_another = {"allow", "maintenance"}
    filters, balancers = set(), set()
    for one in features():
        settings = one.settings(tmp_path)
        filters |= {each.kind for each in settings.routes[0].filters}
        balancers.add(settings.services["bench"].balancer.type)
    assert filters == set(FILTERS) - asks_others - like_another
    # By weight is round robin where weights are equal, and random is what others do without a key.
    assert balancers == set(BALANCERS) - {"weighted_round_robin", "random"}


def test_the_table_says_how_much_more_than_a_plain_request() -> None:
    counted = {one.name: 100_000.0 for one in features()} | {"`sticky`": 150_000.0}
    rows = table(counted).splitlines()
    assert len(rows) == len(features()) + 1
    assert "| on | instructions more | of a plain request (100 thousand) |" in rows
    [row] = [row for row in rows if "`sticky`" in row]
    assert row == "| [`sticky`](balancing.md#sticky-clients) | 50,000 | +50% |"
