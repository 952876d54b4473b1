"""Whatever is lost and however it answers: what the registry names is served, what it deleted
on purpose is not, and nobody is held for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.membership import Departure, Instance, Membership
from proxy.registry.guard import Guard
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
def test_laws(start: set[str], history: list[tuple[str, set[str], float]]) -> None:
    guard = Guard(SETTINGS)
    there = set(start)

    def say(*departures: Departure) -> None:
        members = tuple(instance(id_) for id_ in sorted(there))
        services = {"s": members} if members else {}
        guard.update(Membership(services=services, departures=departures), now)

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
                assert not gone & {one.id for one in guard.held(now)}
        elif what == "register":
            there |= ids
            say()
        elif what == "leases":
            for departure in guard.uncertain():
                guard.answered(departure, departure.id in ids)
        else:
            for one in guard.due(now):
                guard.probed(one, (what == "answer") == (one.id in ids))
        guard.step(now)
        served = [one.id for one in guard.membership().services.get("s", ())]
        held = {one.id for one in guard.held(now)}
        assert served == sorted(there | held)
        assert not held & there
    guard.step(now + SETTINGS.hold)
    assert {one.id for one in guard.membership().services.get("s", ())} == there
    assert guard.next_at is None
