"""However marks and memberships come, the pools are those of the last membership with the
marks that are left, and nobody is told of a change that is none."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.control.pool import Changes
from proxy.control.pools import PoolRegistry
from proxy.control.slots import Slots
from proxy.membership import Instance, Membership
from proxy.settings.service import PoolSettings

ids = st.sampled_from("abc")


def instance(id_: str, health: str = "healthy") -> Instance:
    return Instance(service="s", id=id_, address="10.0.0.1", port=1, health=health)


members = st.lists(
    st.builds(instance, ids, st.sampled_from(["healthy", "draining", "bad"])),
    max_size=3,
    unique_by=lambda one: one.id,
).map(tuple)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), members),
        st.tuples(st.sampled_from(["drain", "undrain", "sick", "well", "eject", "reinstate"]), ids),
        st.tuples(st.just("settle"), st.none()),
    ),
    max_size=20,
)
settings = st.sampled_from(
    [
        PoolSettings(),
        PoolSettings(panic_threshold=0.6),
        PoolSettings(fallback=(instance("z"),)),
    ]
)


def book(of: PoolSettings) -> PoolRegistry:
    return PoolRegistry({}, Slots(100, lambda slot: True), 0.0, settings={"s": of})


def do(pools: PoolRegistry, what: str, given_: Any, now: float) -> Changes | None:
    if what == "apply":
        return pools.apply(Membership(services={"s": given_} if given_ else {}), now)
    if what == "settle":
        return pools.settle(now)
    if what in ("drain", "undrain"):
        getattr(pools, what)("s", given_)
    elif what in ("sick", "well"):
        pools.check("s", instance(given_).key, "dead" if what == "sick" else None)
    elif what == "eject":
        pools.eject("s", instance(given_).key, "reset", 9.0)
    else:
        pools.reinstate("s", instance(given_).key)
    return None


def shown(pools: PoolRegistry) -> Any:
    pool = pools.by_service.get("s")
    if pool is None or not pool.members:
        return None
    return (
        pool.snapshot.panic,
        pool.fallback,
        [(node.key, node.weight, node.status) for node in pool.snapshot.nodes],
        [(member.status, member.reason) for member in pool.members],
    )


@given(steps)
def test_a_listener_knows_which_services_are_on_fallback(history: list[tuple[str, Any]]) -> None:
    pools, known = book(PoolSettings(fallback=(instance("z"),))), False
    for at, (what, given_) in enumerate(history):
        changes = do(pools, what, given_, float(at))
        if changes is None:
            continue
        assert not (changes.fallback_began and changes.fallback_ended)
        assert not changes.fallback_began or not known
        assert not changes.fallback_ended or known
        known = bool(changes.fallback_began) or (known and not changes.fallback_ended)
        if pools.complete:
            assert known == pools.by_service["s"].fallback


@given(settings, steps)
def test_the_order_does_not_matter(of: PoolSettings, history: list[tuple[str, Any]]) -> None:
    walked, direct = book(of), book(of)
    last: tuple[Instance, ...] | None = None
    marks: dict[tuple[str, str], str] = {}
    for at, (what, given_) in enumerate(history):
        do(walked, what, given_, float(at))
        if what == "apply":
            last = given_
        elif what != "settle":
            pair = {"undrain": "drain", "well": "sick", "reinstate": "eject"}.get(what, what)
            marks[pair, given_] = what
    walked.settle(100.0)
    if last is not None:
        do(direct, "apply", last, 0.0)
    for (_, id_), what in marks.items():
        do(direct, what, id_, 0.0)
    direct.settle(1.0)
    assert shown(walked) == shown(direct)
    before = walked.snapshot("s")
    assert not walked.settle(101.0)
    assert walked.snapshot("s") is before
