"""The bound on what a fleet lets through: as many times a limit as there are lists in use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.fleet.shares import EVEN, share_of

IDS = st.sampled_from([f"p{number}" for number in range(12)])
LISTS = st.dictionaries(IDS, st.floats(0.0, 1e9, allow_nan=False), min_size=1)


@given(LISTS)
def test_proxies_that_go_by_one_list_have_one_limit_together(loads: dict[str, float]) -> None:
    shares = [share_of(id_, loads) for id_ in loads]
    assert abs(sum(shares) - 1.0) < 1e-9
    assert all(EVEN / len(loads) - 1e-9 <= share <= 1.0 for share in shares)


@given(st.lists(LISTS, min_size=1, max_size=4), st.data())
def test_proxies_that_go_by_several_lists_have_a_limit_for_each(
    lists: list[dict[str, float]], data: st.DataObject
) -> None:
    everybody = {id_ for loads in lists for id_ in loads}
    # Each has read one of the lists, which names it: one that it is not on it has not read.
    known = {
        id_: data.draw(st.sampled_from([loads for loads in lists if id_ in loads]))
        for id_ in sorted(everybody)
    }
    total = sum(share_of(id_, loads) for id_, loads in known.items())
    assert total <= len(lists) + 1e-9
