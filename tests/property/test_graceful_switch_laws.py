"""Whatever registries say and however often they are switched: nothing is ever emptied by a
switch, and without one the registry's word is served."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.membership import Instance, Membership
from proxy.registry.decorators.failover import GRACE, GracefulSwitch

memberships = st.dictionaries(
    st.sampled_from("st"), st.sets(st.sampled_from("abcd"), min_size=1), max_size=2
).map(
    lambda services: Membership(
        services={
            name: tuple(
                Instance(service=name, id=id_, address="10.0.0.1", port=1) for id_ in sorted(ids)
            )
            for name, ids in services.items()
        }
    )
)
histories = st.lists(
    st.tuples(st.sampled_from(["update", "switch"]), memberships, st.floats(0, 2 * GRACE)),
    min_size=1,
    max_size=12,
)


def ids(membership: Membership | None, service: str) -> set[str]:
    assert membership is not None
    return {one.id for one in membership.services.get(service, ())}


@given(memberships, histories)
def test_a_switch_empties_nothing_and_else_the_word_of_the_registry_is_served(
    first: Membership, history: list[tuple[str, Membership, float]]
) -> None:
    switch = GracefulSwitch()
    switch.update(first, 0.0)
    now, switched_at = 0.0, -2 * GRACE
    for what, membership, wait in history:
        now += wait
        switch.step(now)
        before = switch.membership()
        if what == "update":
            switch.update(membership, now)
        else:
            switch.begin(membership, now)
            switched_at = now
        served = switch.membership()
        for service in "st":
            known = ids(membership, service)
            assert known <= ids(served, service)
            if what == "switch":
                assert ids(before, service) <= ids(served, service)
            if known and now - switched_at >= GRACE:
                assert ids(served, service) == known
        keys = [one.key for of in (served.services.values() if served else ()) for one in of]
        assert len(keys) == sum(len(of) for of in (served.services.values() if served else ()))
    switch.step(now + GRACE)
    for service in "st":
        if ids(history[-1][1], service):
            assert ids(switch.membership(), service) == ids(history[-1][1], service)
