"""Whatever is lost and however it answers: what the registry names is served, what it deleted
on purpose is not, and nobody is retained for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.membership import Departure, Instance, Membership
from proxy.registry.decorators.mass_loss import MassLossPolicy
from proxy.settings.registry import MassLossSettings

SETTINGS = MassLossSettings(share=0.5, window=30.0, hold=100.0)
IDS = "abcdef"

steps = st.lists(
    st.tuples(
        st.sampled_from(["expire", "delete", "register", "answer", "silence", "leases"]),
        st.sets(st.sampled_from(IDS), min_size=1),
        st.sampled_from([0.0, 1.0, 10.0, 40.0]),
    ),
    max_size=30,
)


def instance(id_: str) -> Instance:
    return Instance(service="s", id=id_, address="10.0.0.1", port=1)


@given(st.sets(st.sampled_from(IDS), min_size=1), steps)
def test_the_named_are_served_the_deleted_are_not_and_nobody_is_retained_for_ever(
    start: set[str], history: list[tuple[str, set[str], float]]
) -> None:
    policy = MassLossPolicy(SETTINGS)
    there = set(start)

    def say(*departures: Departure) -> None:
        members = tuple(instance(id_) for id_ in sorted(there))
        services = {"s": members} if members else {}
        policy.update(Membership(services=services, departures=departures), now)

    now = 0.0
    say()
    for what, ids, wait in history:
        now += wait
        if what in ("expire", "delete"):
            gone = ids & there
            there -= gone
            lease = 7 if what == "expire" else 0
            say(*(Departure(service="s", id=id_, lease=lease) for id_ in sorted(gone)))
            if what == "delete":
                assert not gone & {one.id for one in policy.retained(now)}
        elif what == "register":
            there |= ids
            say()
        elif what == "leases":
            for departure in policy.uncertain():
                policy.answered(departure, departure.id in ids)
        else:
            for one in policy.due(now):
                policy.probed(one, (what == "answer") == (one.id in ids))
        policy.step(now)
        served = [one.id for one in policy.membership().services.get("s", ())]
        retained = {one.id for one in policy.retained(now)}
        assert served == sorted(there | retained)
        assert not retained & there
    policy.step(now + SETTINGS.hold)
    assert {one.id for one in policy.membership().services.get("s", ())} == there
    assert policy.next_at is None
