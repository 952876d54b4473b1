"""Routes that instances bring: bounds, and who was first."""

from __future__ import annotations

import pytest

from proxy.control.claims import MOST, MOST_OF_ONE, Claims
from proxy.membership import Instance
from proxy.settings.instance_routes import InstanceRoutes

HOSTS = InstanceRoutes(hosts=("{service}.apps.example.com",))
PREFIXES = InstanceRoutes(path_prefixes=("/team-a",))
BOTH = InstanceRoutes(hosts=("{service}.apps.example.com",), path_prefixes=("/team-a",))
ANY = InstanceRoutes(hosts=("*.example.com",), any_service=True)


def instance(service: str, **metadata: str) -> Instance:
    return Instance(service=service, id="a", address="10.0.0.1", port=80, metadata=metadata)


def wants(service: str, host: str = "", prefix: str = "") -> tuple[str, list[Instance]]:
    return service, [instance(service, route_host=host, route_prefix=prefix)]


def made(bounds: InstanceRoutes | None) -> Claims:
    claims = Claims()
    claims.configure(bounds)
    return claims


def routes(claims: Claims) -> list[tuple[str | None, str | None, str | None]]:
    return [(one.host, one.path_prefix, one.service) for one in claims.routes]


@pytest.mark.parametrize(
    ("bounds", "host", "prefix"),
    [
        (HOSTS, "users.apps.example.com", ""),
        (HOSTS, "USERS.apps.Example.com.", "/anything"),
        (PREFIXES, "", "/team-a"),
        (PREFIXES, "", "/team-a/users"),
        (BOTH, "users.apps.example.com", "/team-a/"),
        (ANY, "www.example.com", ""),
    ],
)
def test_a_claim_within_the_bounds_is_a_route(
    bounds: InstanceRoutes, host: str, prefix: str
) -> None:
    claims = made(bounds)
    assert claims.follow([wants("users", host, prefix)])
    wanted = host.lower().removesuffix(".")
    assert routes(claims) == [(wanted or None, prefix or None, "users")]
    assert claims.refused == ()


@pytest.mark.parametrize(
    ("bounds", "host", "prefix"),
    [
        (HOSTS, "orders.apps.example.com", ""),  # Another service's.
        (HOSTS, "users.apps.example.com.evil.test", ""),
        (HOSTS, "x.users.apps.example.com", ""),
        (HOSTS, "*.apps.example.com", ""),
        (HOSTS, "{service}.apps.example.com", ""),
        (HOSTS, "users.apps.example.com:8080", ""),
        (HOSTS, "", "/"),  # Any host.
        (HOSTS, "users.apps.example.com", "no slash"),
        (HOSTS, "users.apps.example.com", "/{service}"),
        (HOSTS, "users.apps.example.com", "/a/../b"),
        (HOSTS, "users.apps.example.com", "/a/%2e%2e/b"),
        (HOSTS, "users.apps.example.com", "/a?b"),
        (HOSTS, "users.apps.example.com", "/" + "a" * 5_000),
        (HOSTS, "a" * 70_000, ""),
        (PREFIXES, "", "/team-ab"),
        (PREFIXES, "", "/"),
        (PREFIXES, "", "/team-a/../team-b"),
        (PREFIXES, "bank.example.com", "/team-a"),
        (BOTH, "users.apps.example.com", ""),
        (BOTH, "", "/team-a"),
        (ANY, "example.com", ""),
        (ANY, "evilexample.com", ""),
        (None, "users.apps.example.com", ""),
    ],
)
def test_a_claim_outside_the_bounds_is_none(
    bounds: InstanceRoutes | None, host: str, prefix: str
) -> None:
    claims = made(bounds)
    claims.follow([wants("users", host, prefix)])
    assert routes(claims) == []
    assert len(claims.refused) == (bounds is not None)


def test_the_first_of_two_services_keeps_a_route_until_it_wants_it_no_more() -> None:
    claims = made(PREFIXES)
    claims.follow([wants("users", prefix="/team-a/x")])
    claims.follow([wants("another", prefix="/team-a/x")])
    assert routes(claims) == [(None, "/team-a/x", "users")]
    [refused] = claims.refused
    assert (refused.service, refused.held_by, refused.reason) == (
        "another",
        "users",
        "users has it",
    )
    # Nor does it lose the route while it has no instance for a moment, by an outage or a reload.
    assert not claims.follow([("users", [])])
    assert claims.configure(HOSTS)
    assert claims.configure(PREFIXES)
    assert routes(claims) == [(None, "/team-a/x", "users")]
    assert claims.follow([("users", None)])
    assert routes(claims) == [(None, "/team-a/x", "another")]


@pytest.mark.parametrize(
    ("first", "other"),
    [("/team-a/x", "/team-a/x/"), ("/team-a/x/", "/team-a/x"), ("/team-a/x", "/team-a/%78")],
)
def test_a_claim_in_another_spelling_takes_no_route_away(first: str, other: str) -> None:
    claims = made(PREFIXES)
    claims.follow([wants("users", prefix=first)])
    claims.follow([wants("another", prefix=other)])
    assert routes(claims) == [(None, first, "users")]
    assert claims.refused[0].held_by == "users"


def test_a_claim_of_all_paths_takes_no_host_away() -> None:
    claims = made(ANY)
    claims.follow([wants("users", "www.example.com")])
    claims.follow([wants("another", "www.example.com", "/")])
    assert routes(claims) == [("www.example.com", None, "users")]


def test_a_prefix_is_as_requests_have_it() -> None:
    claims = made(PREFIXES)
    claims.follow([wants("users", prefix="/team-a/%7e%c3%a4")])
    assert routes(claims) == [(None, "/team-a/~%C3%A4", "users")]


def test_services_that_are_heard_of_at_once_come_by_their_names() -> None:
    one, other = made(PREFIXES), made(PREFIXES)
    some = [wants("b", prefix="/team-a"), wants("a", prefix="/team-a")]
    one.follow(some)
    other.follow(some[::-1])
    assert routes(one) == routes(other) == [(None, "/team-a", "a")]


def test_a_successor_goes_on_with_the_order_of_the_one_before() -> None:
    claims = made(PREFIXES)
    claims.follow([wants("b", prefix="/team-a")])
    claims.follow([wants("a", prefix="/team-a")])
    successor = made(PREFIXES)
    successor.restore(claims.order())
    successor.follow([wants("a", prefix="/team-a"), wants("b", prefix="/team-a")])
    assert routes(successor) == [(None, "/team-a", "b")]


def test_a_service_outside_the_bounds_holds_up_nobody_who_is_within() -> None:
    claims = made(HOSTS)
    claims.follow([wants("a", "users.apps.example.com")])
    claims.follow([wants("users", "users.apps.example.com")])
    assert routes(claims) == [("users.apps.example.com", None, "users")]


def test_no_service_has_more_routes_than_it_may_nor_all_together() -> None:
    claims = made(PREFIXES)
    many = [instance("users", route_prefix=f"/team-a/{number:03}") for number in range(300)]
    claims.follow([("users", many)])
    assert len(claims.routes) == MOST_OF_ONE
    assert claims.refused
    claims.follow([wants(f"s{n:04}", prefix=f"/team-a/x{n}") for n in range(MOST + 5)])
    assert len(claims.routes) == MOST


def test_routes_stay_the_same_object_while_nothing_changes() -> None:
    claims = made(PREFIXES)
    claims.follow([wants("users", prefix="/team-a")])
    before = claims.routes
    assert not claims.follow([wants("users", prefix="/team-a")])
    assert not claims.configure(PREFIXES)
    assert claims.routes is before
