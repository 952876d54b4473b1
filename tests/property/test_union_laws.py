"""What holds of several registries joined, whatever they say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.membership import Instance
from proxy.registry.decorators.union import joined
from tests.support.manual_provider import instance

pools = st.lists(
    st.builds(
        lambda id_, port, health: instance(id_, port=port, health=health),
        st.sampled_from("abc"),
        st.integers(1, 4),
        st.sampled_from(["healthy", "draining", "unhealthy"]),
    ),
    max_size=4,
    unique_by=lambda one: one.id,
).map(tuple)


@given(st.tuples(pools, pools, pools))
def test_every_endpoint_is_there_as_often_as_its_first_registry_names_it(
    said: tuple[tuple[Instance, ...], ...],
) -> None:
    found = joined(list(zip("xyz", said, strict=True)))
    assert {one.port for one in found} == {one.port for pool in said for one in pool}
    assert len({one.id for one in found}) == len(found)
    for port in {one.port for one in found}:
        first = next(pool for pool in said if any(one.port == port for one in pool))
        named = [one for one in first if one.port == port]
        assert len([one for one in found if one.port == port]) == len(named)
