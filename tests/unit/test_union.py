"""Memberships of several registries → one."""

from __future__ import annotations

from proxy.membership import Instance, Membership
from proxy.registry.decorators.union import Union, joined
from tests.support.manual_provider import instance


def ids(*pools: tuple[str, tuple[Instance, ...]]) -> list[tuple[str, int, str, str]]:
    return [(one.id, one.port, one.health, one.origin) for one in joined(pools)]


def test_a_service_has_the_instances_of_all_registries_and_says_whose_they_are() -> None:
    old, new = instance("a", port=1), instance("b", port=2, origin="grpc")
    assert ids(("old", (old,)), ("new", (new,))) == [
        ("a", 1, "healthy", "old"),
        ("b", 2, "healthy", "new/grpc"),
    ]


def test_an_instance_that_stands_in_two_is_one_as_the_first_has_it() -> None:
    old, new = instance("a", weight=2), instance("b", weight=3)
    [one] = joined((("old", (old,)), ("new", (new,))))
    assert (one.id, one.weight, one.origin) == ("a", 2, "old")


def test_an_instance_is_draining_if_one_registry_says_so() -> None:
    well, leaving = instance("a"), instance("a", health="draining")
    assert ids(("old", (well,)), ("new", (leaving,))) == [("a", 80, "draining", "old")]
    assert ids(("old", (leaving,)), ("new", (well,))) == [("a", 80, "draining", "old")]
    idle = instance("a", weight=0)
    assert ids(("old", (well,)), ("new", (idle,))) == [("a", 80, "draining", "old")]
    ill = instance("a", health="unhealthy")
    assert ids(("old", (ill,)), ("new", (leaving,))) == [("a", 80, "unhealthy", "old")]


def test_an_id_that_another_one_has_tells_its_registry() -> None:
    assert ids(("old", (instance("a", port=1),)), ("new", (instance("a", port=2),))) == [
        ("a", 1, "healthy", "old"),
        ("a@new", 2, "healthy", "new"),
    ]


def test_an_endpoint_that_one_registry_names_twice_stays_twice() -> None:
    twice = instance("a"), instance("b")
    assert [one[0] for one in ids(("old", twice), ("new", ()))] == ["a", "b"]


def test_services_of_which_nothing_changed_are_the_identical_tuples() -> None:
    union = Union(["old", "new"])
    users, orders = (instance("a"),), (instance("b", service="orders"),)
    union.take("old", Membership(services={"users": users}))
    assert union.missing == ["new"]
    union.take("new", Membership(services={"orders": orders, "users": (instance("c", port=3),)}))
    before = union.membership()
    assert union.membership() is before
    union.take("new", Membership(services={"orders": orders}))
    after = union.membership()
    assert after.services["orders"] is before.services["orders"]
    assert [one.id for one in after.services["users"]] == ["a"]
    assert union.origins() == {"new": 1, "old": 1}


def test_a_registry_that_says_nothing_yet_is_as_the_one_before_had_it() -> None:
    before, union = Union(["a", "b"]), Union(["b", "c"])
    before.take("b", Membership(services={"users": (instance("1"),)}))
    union.adopt(before)
    assert union.missing == ["c"]
    assert [one.id for one in union.membership().services["users"]] == ["1"]
