"""Pools: who is ready and why, what changes, who counts in which column."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import pytest

from proxy.control.judging import judge, panics
from proxy.control.pools import FORGET_AFTER, PoolRegistry
from proxy.control.slots import SLOT_REST, Slots
from proxy.destinations import Destinations
from proxy.membership import Instance, Membership
from proxy.messages import Status
from proxy.settings.choosing import SubsetSettings, ZoneSettings
from proxy.settings.route import RouteSpec
from proxy.settings.service import PoolSettings
from proxy.settings.upstream_tls import UpstreamTls


def instance(id_: str = "a", **fields: Any) -> Instance:
    given: dict[str, Any] = {"service": "users", "address": "10.0.0.1", "port": 80, **fields}
    return Instance(id=id_, **given)


def membership(**services: Iterable[Instance]) -> Membership:
    return Membership(services={name: tuple(members) for name, members in services.items()})


def book(
    static: dict[str, tuple[Instance, ...]] | None = None,
    capacity: int = 100,
    busy: set[int] | None = None,
) -> PoolRegistry:
    counting = busy if busy is not None else set()
    return PoolRegistry(static or {}, Slots(capacity, lambda slot: slot not in counting), 0.0)


def statuses(of: PoolRegistry, service: str = "users") -> dict[str, Status]:
    return {member.instance.id: member.status for member in of.by_service[service].members}


def test_a_service_with_the_instances_of_another() -> None:
    slots = Slots(100, lambda slot: True)
    pools = PoolRegistry({}, slots, 0.0, derived={"batch": "users"})
    users = (instance("a"), instance("b"))
    changes = pools.apply(membership(users=users), 1.0)
    assert sorted(changes.pools) == ["batch", "users"]
    assert statuses(pools, "batch") == {"a": "ready", "b": "ready"}
    pools.drain("batch", "a")
    pools.settle(1.0)
    assert statuses(pools) == {"a": "ready", "b": "ready"}
    kept = Membership(services={"users": users[:1], "else": ()})
    assert sorted(pools.apply(kept, 2.0).pools) == ["batch", "users"]
    assert statuses(pools, "batch") == {"a": "draining"}
    assert pools.apply(Membership(services=kept.services), 3.0).pools == []
    changes = pools.configure({}, {"late": PoolSettings()}, PoolSettings(), 4.0, derived=LATE)
    assert statuses(pools, "late") == {"a": "ready"}


LATE = {"late": "users"}


@pytest.mark.parametrize(
    ("otherwise", "select", "members"),
    [
        ("any", "v2", ["b"]),
        ("none", "v2", ["b"]),
        ("any", "v3", ["a", "b"]),
        ("none", "v3", []),
    ],
)
def test_a_subset_by_metadata(otherwise: str, select: str, members: list[str]) -> None:
    subset = SubsetSettings(select={"version": select}, otherwise=otherwise)
    settings = {"users": PoolSettings(subset=subset)}
    pools = PoolRegistry({}, Slots(100, lambda slot: True), 0.0, settings=settings)
    known = [instance(id_, metadata={"version": v}) for id_, v in (("a", "v1"), ("b", "v2"))]
    pools.apply(membership(users=known), 1.0)
    assert sorted(statuses(pools)) == members


def test_places_of_instances_go_to_workers() -> None:
    zone = ZoneSettings(prefer="b")
    settings = {"users": PoolSettings(zone=zone, priority_key="tier")}
    pools = PoolRegistry({}, Slots(100, lambda slot: True), 0.0, settings=settings)
    known = [
        instance(str(at), metadata=metadata)
        for at, metadata in enumerate([{}, {"zone": "b", "tier": "2"}, {"tier": "-1"}])
    ]
    pools.apply(membership(users=known), 1.0)
    nodes = pools.by_service["users"].snapshot.nodes
    assert [(one.tier, one.nearby) for one in nodes] == [(0, False), (2, True), (0, False)]
    pools.configure({}, {}, PoolSettings(), 2.0)
    nodes = pools.by_service["users"].snapshot.nodes
    assert [(one.tier, one.nearby) for one in nodes] == [(0, True)] * 3


PUBLIC = RouteSpec(path_prefix="/{service}", where={"public": "true", "tier": "web"})
NARROW = RouteSpec(host="{service}", where={"public": "true"})


def test_a_pool_says_which_demands_of_routes_it_meets() -> None:
    public = instance("a", metadata={"public": "true", "tier": "web", "zone": "b"})
    half = instance("b", metadata={"public": "true"})
    pools = PoolRegistry({}, Slots(100, lambda slot: True), 0.0, routes=(PUBLIC,))
    for members, published in (
        ((half,), ()),
        ((half, public), ("public=true&tier=web",)),
        ((), ("public=true&tier=web",)),
        ((half,), ()),
    ):
        pools.apply(membership(users=members), 1.0)
        snapshot = pools.snapshot("users")
        assert snapshot is not None
        assert snapshot.published == published
    changes = pools.configure({}, {}, PoolSettings(), 2.0, routes=(PUBLIC, NARROW))
    assert changes.pools == ["users"]
    assert pools.by_service["users"].snapshot.published == ("public=true",)


def test_instances_of_a_shared_configuration_may_lead_no_further_than_a_registrys() -> None:
    static = {"users": (instance("a", address="127.0.0.1", port=9900),)}
    fallback = instance("b", service="orders", address="169.254.169.254")
    settings = {"orders": PoolSettings(fallback=(fallback,))}
    pools = PoolRegistry(
        static,
        Slots(100, lambda slot: True),
        0.0,
        settings=settings,
        destinations=Destinations(admin_port=9900),
    )

    def told() -> list[tuple[Status, bool]]:
        of = pools.by_service
        return [(of[name].members[0].status, of[name].local) for name in ("users", "orders")]

    assert told() == [("ready", True)] * 2
    pools.configure(static, settings, PoolSettings(), 1.0, trusted=False)
    assert told() == [("unhealthy", False)] * 2
    pools.configure(static, settings, PoolSettings(), 2.0)
    assert told() == [("ready", True)] * 2


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({}, "ready", ""),
        ({"weight": 0}, "draining", "weight 0"),
        ({"health": "draining"}, "draining", "draining in the registry"),
        (
            {"health": "unhealthy", "health_message": "disk full"},
            "unhealthy",
            "'unhealthy' in the registry: disk full",
        ),
        ({"health": "starting"}, "unhealthy", "'starting' in the registry"),
        ({"health": "critical", "weight": 0}, "unhealthy", "'critical' in the registry"),
    ],
)
def test_status_and_reason(fields: dict[str, Any], status: Status, reason: str) -> None:
    assert judge(instance(**fields)) == (status, reason)


def test_an_address_that_is_refused_is_unhealthy_and_says_why() -> None:
    loopback = instance(address="127.0.0.1", port=9900)
    named = instance("b", address="localhost", port=9900)
    pools = PoolRegistry(
        {"own": (loopback,)},
        Slots(100, lambda slot: True),
        0.0,
        settings={"new": PoolSettings(fallback=(loopback,))},
        destinations=Destinations(admin_port=9900),
    )
    pools.apply(membership(users=[loopback, named]), 0.0)
    refused, unknown = pools.by_service["users"].members
    assert refused.status == "unhealthy"
    assert "registry.allow" in refused.reason
    assert unknown.status == "ready", "a name is not known before it is resolved"
    assert statuses(pools, "own") == statuses(pools, "new") == {"a": "ready"}
    local = {name: pool.snapshot.nodes[0].local for name, pool in pools.by_service.items()}
    assert local == {"own": True, "new": True, "users": False}
    pools.apply(membership(new=[loopback]), 1.0)
    assert statuses(pools, "new") == {"a": "unhealthy"}, "the registry's, no longer the file's"


def test_a_service_that_leaves_the_file_for_another_registry_is_served_from_it_until_then() -> None:
    static = {"users": (instance(),), "gone": (instance(),)}
    pools = PoolRegistry(static, Slots(100, lambda slot: True), 0.0)
    pools.apply(membership(), 0.0)
    assert not pools.configure({}, {}, PoolSettings(), 1.0, other_registry=True)
    assert statuses(pools) == statuses(pools, "gone") == {"a": "ready"}
    pools.apply(membership(users=[instance("b")]), 2.0)
    assert (statuses(pools), statuses(pools, "gone")) == ({"b": "ready"}, {})
    pools.configure(static, {}, PoolSettings(), 3.0)
    pools.configure({}, {}, PoolSettings(), 4.0)
    assert statuses(pools) == {"b": "ready"}, "it has told all"


def test_instances_are_judged_anew_where_they_may_lead_elsewhere() -> None:
    destinations = Destinations(admin_port=9900)
    pools = PoolRegistry({}, Slots(100, lambda slot: True), 0.0, destinations=destinations)
    pools.apply(membership(users=[instance(address="127.0.0.1", port=9900)]), 0.0)
    slot = pools.by_service["users"].snapshot.nodes[0].slot
    destinations.use(9900, ["127.0.0.0/8"])
    assert not pools.configure({}, {}, PoolSettings(), 0.0)
    assert pools.configure({}, {}, PoolSettings(), 0.0, other_destinations=True).pools == ["users"]
    assert statuses(pools) == {"a": "ready"}
    assert pools.by_service["users"].snapshot.nodes[0].slot == slot


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], False),
        (["ready", "unhealthy"], False),
        (["unhealthy", "unhealthy"], True),
        (["unhealthy", "draining"], True),
        (["ejected"], True),
        (["draining"], False),
    ],
)
def test_panic_needs_someone_who_could_serve(given: list[Status], expected: bool) -> None:
    assert panics(given) is expected


def test_panic_begins_and_ends_once() -> None:
    pools = book()
    assert pools.apply(membership(users=[instance()]), 0.0).panic_began == []
    sick = pools.apply(membership(users=[instance(health="bad")]), 1.0)
    assert sick.panic_began == ["users"]
    assert pools.by_service["users"].snapshot.panic
    still = pools.apply(membership(users=[instance(health="worse")]), 2.0)
    assert (still.panic_began, still.panic_ended) == ([], [])
    well = pools.apply(membership(users=[instance()]), 3.0)
    assert well.panic_ended == ["users"]


def test_only_services_with_another_tuple_are_looked_at() -> None:
    pools = book()
    users, orders = (instance(),), (instance(service="orders"),)
    first = pools.apply(Membership(services={"users": users, "orders": orders}), 0.0)
    assert set(first.pools) == {"users", "orders"}
    before = pools.snapshot("users")
    second = pools.apply(
        Membership(services={"users": users, "orders": (*orders, instance("b"))}), 1.0
    )
    assert second.pools == ["orders"]
    assert pools.snapshot("users") is before


def test_changes_workers_do_not_see_make_no_new_snapshot() -> None:
    pools = book()
    pools.apply(membership(users=[instance(version="1")]), 0.0)
    before = pools.snapshot("users")
    changes = pools.apply(membership(users=[instance(version="2", metadata={"zone": "b"})]), 1.0)
    assert changes.pools == []
    assert changes.updated == 1
    assert pools.snapshot("users") is before
    assert pools.by_service["users"].members[0].instance.version == "2"


def test_generations_grow_even_over_a_service_that_was_forgotten() -> None:
    pools = book()
    pools.apply(membership(users=[instance()]), 0.0)
    first = pools.by_service["users"].snapshot.generation
    pools.apply(membership(), 1.0)
    second = pools.by_service["users"].snapshot.generation
    pools.expire(1.0 + FORGET_AFTER)
    pools.apply(membership(users=[instance()]), 2000.0)
    assert first < second < pools.by_service["users"].snapshot.generation


def test_a_service_that_left_keeps_an_empty_pool_for_a_while() -> None:
    pools = book()
    pools.apply(membership(users=[instance()]), 0.0)
    gone = pools.apply(membership(), 10.0)
    assert gone.pools == ["users"]
    assert gone.deregistered == 1
    snapshot = pools.snapshot("users")
    assert snapshot is not None
    assert snapshot.nodes == ()
    assert pools.expire(10.0 + FORGET_AFTER - 1).gone == []
    assert pools.expire(10.0 + FORGET_AFTER).gone == ["users"]
    assert pools.snapshot("users") is None


def test_a_service_that_returns_in_time_is_not_forgotten() -> None:
    pools = book()
    pools.apply(membership(users=[instance()]), 0.0)
    pools.apply(membership(), 10.0)
    pools.apply(membership(users=[instance()]), 20.0)
    assert pools.expire(10.0 + 2 * FORGET_AFTER).gone == []
    assert statuses(pools) == {"a": "ready"}


def test_a_service_without_instances_that_was_never_known_gets_no_pool() -> None:
    pools = book()
    pools.apply(membership(users=[]), 0.0)
    assert pools.snapshot("users") is None


def test_the_first_membership_completes_the_book() -> None:
    assert not book({"users": (instance(),)}).complete
    pools = book()
    pools.apply(membership(), 0.0)
    assert pools.complete


def test_static_services_win_over_the_registry_and_never_go() -> None:
    pools = book({"users": (instance("fixed"),)})
    assert statuses(pools) == {"fixed": "ready"}
    assert pools.apply(membership(users=[instance("other")]), 0.0).pools == []
    assert statuses(pools) == {"fixed": "ready"}
    pools.apply(membership(), 1.0)
    assert pools.expire(1.0 + 2 * FORGET_AFTER).gone == []


def test_registrations_are_counted_by_what_happened() -> None:
    pools = book()
    pools.apply(membership(users=[instance("a"), instance("b", health="bad")]), 0.0)
    pools.apply(membership(users=[instance("a", port=81), instance("c", health="draining")]), 1.0)
    tally = pools.by_service["users"].tally
    assert (tally.registered, tally.updated, tally.deregistered) == (3, 1, 1)
    assert tally.discoveries == 2
    assert tally.health == {"healthy": 2, "unhealthy": 1, "draining": 1}


def test_the_same_records_in_a_new_tuple_count_as_nothing() -> None:
    pools = book()
    pools.apply(membership(users=[instance()]), 0.0)
    assert not pools.apply(membership(users=[instance()]), 1.0)
    assert pools.by_service["users"].tally.discoveries == 1


class TestSlots:
    def test_an_instance_keeps_its_column_and_no_two_share_one(self) -> None:
        pools = book()
        pools.apply(membership(users=[instance("a"), instance("b")]), 0.0)
        first = {member.instance.id: member.slot for member in pools.by_service["users"].members}
        assert sorted(first.values()) == [1, 2]
        pools.apply(membership(users=[instance("c"), instance("b", health="bad")]), 1.0)
        second = {member.instance.id: member.slot for member in pools.by_service["users"].members}
        assert second["b"] == first["b"]
        assert second["c"] not in first.values()

    def test_the_same_id_elsewhere_is_another_instance(self) -> None:
        pools = book()
        pools.apply(membership(users=[instance(port=80)]), 0.0)
        pools.apply(membership(users=[instance(port=81)]), 1.0)
        assert pools.by_service["users"].members[0].slot == 2

    def test_an_instance_that_comes_back_gets_its_column_back(self) -> None:
        slots = Slots(10, lambda slot: False)
        first = slots.take("users", "a@h:1", 0.0)
        slots.free("users", instance("a", address="h", port=1), 1.0)
        slots.take("users", "b@h:1", 1.0)
        assert slots.take("users", "a@h:1", 1.0) == first

    def test_a_freed_column_rests_and_is_reused_when_idle(self) -> None:
        busy = {1}
        slots = Slots(10, lambda slot: slot not in busy)
        assert slots.take("users", "a@h:1", 0.0) == 1
        slots.free("users", instance("a", address="h", port=1), 0.0)
        assert slots.take("users", "b@h:1", SLOT_REST - 1) == 2
        assert slots.take("users", "c@h:1", SLOT_REST) == 3
        busy.clear()
        assert slots.take("users", "d@h:1", 3 * SLOT_REST) == 1

    def test_a_full_board_means_column_0(self) -> None:
        slots = Slots(3, lambda slot: True)
        taken = [slots.take("users", f"{n}@h:1", 0.0) for n in range(4)]
        assert taken == [1, 2, 0, 0]
        slots.free("users", instance("3", address="h", port=1), 0.0)
        slots.free("users", instance("0", address="h", port=1), 0.0)
        assert slots.take("users", "4@h:1", SLOT_REST) == 1

    def test_an_instance_that_left_is_told_of_until_its_last_request_ends(self) -> None:
        busy = {1, 2}
        pools = book(busy=busy)
        pools.apply(membership(users=[instance("a"), instance("b"), instance("c")]), 0.0)
        pools.apply(membership(users=[instance("b")]), 5.0)  # `c` had nothing in flight.
        pools.apply(membership(), 6.0)
        found = pools.slots.left()
        assert [(one.instance.id, one.since) for one in found.values()] == [("a", 5.0), ("b", 6.0)]
        assert found.keys() <= pools.identities()
        pools.apply(membership(users=[instance("b")]), 7.0)
        assert [one.instance.id for one in pools.slots.left().values()] == ["a"]
        busy.clear()
        assert not pools.slots.left()

    def test_of_those_that_left_only_so_many_are_told_of(self) -> None:
        pools = book(capacity=9000, busy=set(range(1, 9000)))
        pools.apply(membership(users=[instance(str(n)) for n in range(5000)]), 0.0)
        pools.apply(membership(), 1.0)
        ids = [int(one.instance.id) for one in pools.slots.left().values()]
        assert ids == list(range(5000 - len(ids), 5000))
        assert 1000 <= len(ids) < 2000

    def test_a_column_that_another_one_got_tells_of_nobody_who_left(self) -> None:
        busy: set[int] = set()
        pools = book(busy=busy)
        pools.apply(membership(users=[instance("a")]), 0.0)
        pools.apply(membership(), 1.0)
        pools.apply(membership(users=[instance("b")]), 1.0 + SLOT_REST)
        busy.add(1)
        assert pools.by_service["users"].members[0].slot == 1
        assert not pools.slots.left()

    def test_an_instance_that_found_the_board_full_stays_uncounted(self) -> None:
        pools = book(capacity=2)
        pools.apply(membership(users=[instance("a"), instance("b")]), 0.0)
        pools.apply(membership(users=[instance("b")]), 100.0)
        pools.apply(membership(users=[instance("b", weight=5)]), 200.0)
        assert [member.slot for member in pools.by_service["users"].members] == [0]


def test_a_change_of_one_service_looks_at_no_instance_of_the_others() -> None:
    def services(count: int) -> dict[str, tuple[Instance, ...]]:
        return {
            f"s{n}": tuple(instance(f"i{m}", service=f"s{n}", port=m + 1) for m in range(10))
            for n in range(count)
        }

    def calls_for_one_change(count: int) -> int:
        known = services(count)
        pools = book(capacity=10_000)
        pools.apply(Membership(services=known), 0.0)
        changed = (*known["s0"], instance("new", service="s0", port=1000))
        calls = 0

        def called(*_: object) -> None:
            nonlocal calls
            calls += 1

        sys.setprofile(called)
        try:
            changes = pools.apply(Membership(services={**known, "s0": changed}), 1.0)
        finally:
            sys.setprofile(None)
        assert changes.pools == ["s0"]
        return calls

    # A look or two at each service, and none at its ten instances.
    more = calls_for_one_change(500) - calls_for_one_change(50)
    assert more < 5 * 450


class TestConfiguring:
    """Another configuration, for pools that are in use."""

    def configured(
        self,
        of: PoolRegistry,
        static: dict[str, tuple[Instance, ...]] | None = None,
        **settings: PoolSettings,
    ) -> list[str]:
        return of.configure(static or {}, settings, PoolSettings(), 5.0).pools

    def test_the_same_changes_nothing(self) -> None:
        of = book({"fixed": (instance(service="fixed"),)})
        of.apply(membership(users=[instance()]), 1.0)
        assert self.configured(of, {"fixed": (instance(service="fixed"),)}) == []

    def test_static_instances_come_change_and_go(self) -> None:
        of = book()
        of.apply(membership(users=[instance("r")]), 1.0)
        assert self.configured(of, {"users": (instance("s"), instance("t"))}) == ["users"]
        assert statuses(of) == {"s": "ready", "t": "ready"}
        of.apply(membership(users=[instance("other")]), 2.0)
        assert self.configured(of, {"users": (instance("t"),)}) == ["users"]
        assert statuses(of) == {"t": "ready"}
        assert self.configured(of) == ["users"]
        assert statuses(of) == {"other": "ready"}  # The registry's word counts again.

    def test_findings_about_instances_are_kept(self) -> None:
        of = book()
        of.apply(membership(users=[instance("a"), instance("b")]), 1.0)
        of.drain("users", "a")
        of.eject("users", instance("b").key, "test", 99.0)
        of.settle(2.0)
        self.configured(of, users=PoolSettings(panic_threshold=0.5))
        assert statuses(of) == {"a": "draining", "b": "ejected"}

    def test_a_threshold_shows_although_no_instance_changed(self) -> None:
        of = book()
        of.apply(membership(users=[instance("a"), instance("b", health="unhealthy")]), 1.0)
        assert not of.by_service["users"].snapshot.panic
        assert self.configured(of, users=PoolSettings(panic_threshold=0.9)) == ["users"]
        assert of.by_service["users"].snapshot.panic

    def test_tls_of_a_service_reaches_its_instances(self) -> None:
        of = book()
        of.apply(membership(users=[instance("a")]), 1.0)
        tls = UpstreamTls(mode="on", server_name="{service}.internal")
        assert self.configured(of, users=PoolSettings(tls=tls)) == ["users"]
        [node] = of.by_service["users"].snapshot.nodes
        assert node.server_name == "users.internal"

    @pytest.mark.parametrize(
        ("protocol", "mode", "metadata", "spoken"),
        [
            ("h1", "auto", {}, ("h1", None)),
            ("h2c", "auto", {}, ("h2c", None)),
            ("h2", "auto", {}, ("h2", "10.0.0.1")),
            ("grpc", "auto", {}, ("h2c", None)),
            ("grpc", "auto", {"scheme": "https"}, ("h2", "10.0.0.1")),
            ("grpc", "on", {}, ("h2", "10.0.0.1")),
            ("h1", "auto", {"protocol": "h2c"}, ("h2c", None)),
            ("h1", "off", {"protocol": "grpc"}, ("h2c", None)),
            ("h1", "on", {"protocol": "h2c"}, ("h2", "10.0.0.1")),
            ("h2c", "auto", {"protocol": "h1"}, ("h1", None)),
            ("h1", "auto", {"appProtocol": "kubernetes.io/h2c"}, ("h2c", None)),
            ("h1", "auto", {"scheme": "h2c"}, ("h2c", None)),
        ],
    )
    def test_the_protocol_of_a_service_and_an_instance_reaches_the_workers(
        self, protocol: str, mode: Any, metadata: dict[str, str], spoken: tuple[str, str | None]
    ) -> None:
        of = book()
        of.apply(membership(users=[instance("a", metadata=metadata)]), 1.0)
        self.configured(of, users=PoolSettings(protocol=protocol, tls=UpstreamTls(mode=mode)))
        [node] = of.by_service["users"].snapshot.nodes
        assert (node.protocol, node.server_name) == spoken

    def test_a_fallback_serves_where_nobody_is(self) -> None:
        of = book()
        of.apply(membership(), 1.0)
        fallback = PoolSettings(fallback=(instance("f"),))
        assert self.configured(of, users=fallback) == ["users"]
        assert statuses(of) == {"f": "ready"}
        assert self.configured(of) == ["users"]
        assert statuses(of) == {}
