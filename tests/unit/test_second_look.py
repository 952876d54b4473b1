"""Names of services in other spellings, and paths that can be read in several ways."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from proxy.engine.match import Match
from proxy.engine.routing import RouteTable
from proxy.engine.second_look import Asked, ServiceNames, look_again
from proxy.errors import BAD_REQUEST, NO_INSTANCE, NO_ROUTE, UNKNOWN_SERVICE, Fault, Refused
from proxy.http.target import readings
from proxy.settings.route import RouteSpec

BY_HOST = RouteSpec(host="{service}.svc.local")
BY_PATH = RouteSpec(path_prefix="/{service}", strip_prefix=True)


def to(service: str, **spec: Any) -> RouteSpec:
    return RouteSpec(service=service, **spec)


def decide(
    routes: list[RouteSpec],
    names: list[str],
    host: str = "h",
    path: str = "/",
    complete: bool = True,
    slashes: str = "pass",
    method: str = "GET",
) -> Match:
    known = ServiceNames()
    known.complete = complete
    for name in names:
        known.add(name)
    table = RouteTable(routes)
    asked = Asked(host, path, method, {}.get, readings(path))
    found = table.match(host, path, method, {}.get)
    return look_again(table, known, asked, found, slashes)


def refused(*arguments: Any, **options: Any) -> Refused:
    with pytest.raises(Refused) as refusal:
        decide(*arguments, **options)
    return refusal.value


# -- names

ALLOWED = [
    *("users", "UserService", "a.b", "com.acme.Users", "a_b", "a~b", "a:b", "a@b", "a+b", "a-b"),
    *("9", "Ünïcode", "two words", "100%"),
]


@pytest.mark.parametrize("name", ALLOWED)
def test_every_name_is_reached_by_every_template(name: str) -> None:
    encoded = quote(name, safe="")
    for path in {quote(name, safe=":@+~"), encoded}:
        match = decide([BY_PATH], ALLOWED, path=f"/{path}/x")
        assert (match.service, match.rewrite(f"/{path}/x")) == (name, "/x")
        assert match.stripped(f"/{path}/x") == f"/{path}"
    host = quote(name, safe=".~+").lower()  # As the parser hands it on.
    assert decide([BY_HOST], ALLOWED, f"{host}.svc.local").service == name


@pytest.mark.parametrize(
    ("said", "names", "meant"),
    [
        ("users", ["users"], "users"),
        ("users", ["Users"], "Users"),
        ("USERS", ["Users"], "Users"),
        ("Users", ["Users", "users"], "Users"),
        ("users", ["Users", "users"], "users"),
        ("USERS", ["Users", "users"], None),
        ("user", ["users"], None),
    ],
)
def test_the_exact_spelling_or_else_the_only_one_that_differs_in_case(
    said: str, names: list[str], meant: str | None
) -> None:
    if meant is None:
        refusal = refused([BY_PATH], names, path=f"/{said}")
        assert refusal.fault is UNKNOWN_SERVICE
        assert ("Users, users" in refusal.detail) == (said == "USERS")
    else:
        assert decide([BY_PATH], names, path=f"/{said}").service == meant
        if said.islower():
            assert decide([BY_HOST], names, host=f"{said}.svc.local").service == meant


def test_names_come_and_go() -> None:
    names = ServiceNames()
    names.add("Users")
    names.add("users")
    names.add("users")
    assert names.meant_by("USERS") == ("Users", "users")
    names.discard("Users")
    assert names.meant_by("USERS") == ("users",)
    names.discard("users")
    names.discard("nobody")
    assert names.meant_by("users") == ()


def test_a_name_with_dots_is_reached_by_a_host_that_nothing_else_matches() -> None:
    routes = [BY_HOST, RouteSpec(host="v1.{service}.svc.local"), to("w", host="*.wide.svc.local")]
    names = ["a.b", "a", "v1.a.b", "x.wide", "w"]
    assert decide(routes, names, "a.b.svc.local").service == "a.b"
    assert decide(routes, names, "a.svc.local").service == "a"
    assert decide(routes, names, "v1.a.b.svc.local").position == 1
    assert decide(routes, names, "x.wide.svc.local").service == "w"
    assert refused(routes, names, "b.c.svc.local").fault is NO_ROUTE
    assert refused(routes, names, "svc.local").fault is NO_ROUTE
    rest = [*routes, to("rest")]
    assert decide(rest, [*names, "rest"], "a.b.svc.local").service == "rest"


def test_an_escaped_dot_is_no_part_of_a_host() -> None:
    routes = [BY_HOST, to("x", host="a.b.svc.local")]
    assert refused(routes, ["a.b"], "a%2eb.svc.local").fault is NO_ROUTE


def test_a_template_may_be_the_whole_host_of_a_name_with_dots() -> None:
    assert decide([RouteSpec(host="{service}")], ["a.b"], "a.b").service == "a.b"


def test_before_all_are_known_a_service_may_exist() -> None:
    assert refused([BY_PATH], [], path="/users", complete=False).fault is NO_INSTANCE


@pytest.mark.parametrize(
    ("routes", "host", "path"),
    [
        ([BY_PATH, to("admin", path_prefix="/admin", methods=("GET",))], "h", "/ADMIN/x"),
        ([BY_PATH, to("x", path_prefix="/a:b")], "h", "/a%3Ab"),
    ],
)
def test_another_spelling_gets_nobody_round_a_route_for_one_service(
    routes: list[RouteSpec], host: str, path: str
) -> None:
    refusal = refused(routes, ["admin", "a:b", "a.b", "x"], host, path)
    assert refusal.fault is BAD_REQUEST
    assert not refusal.closes


# -- paths

APP = [
    to("app"),
    to("public", path_prefix="/public"),
    to("admin", path_prefix="/admin"),
    to("scoped", path_prefix="/@scope"),
    to("posts", path_prefix="/posts", methods=("POST",)),
    to("inner", host="inner.h"),
    to("admin", host="inner.h", path_prefix="/admin"),
    RouteSpec(path_prefix="/svc/{service}"),
]
SERVICES = ["app", "public", "admin", "scoped", "posts", "inner", "a"]


@pytest.mark.parametrize(
    ("path", "goes_to"),
    [
        ("/admin", "admin"),
        ("/public/..%2Fadmin", None),
        ("/public%2F..%2Fadmin", None),
        ("/public/x%2F..%2F..%2Fadmin", None),
        ("/public%5C..%5Cadmin", None),
        ("/public/..%5Cadmin", None),
        ("//admin", None),
        ("///admin//", None),
        ("/public//admin", "public"),
        ("/x//admin", "app"),
        ("/admin%2F", None),
        ("/admin%2f", None),
        ("/public%5c..%5cadmin", None),
        ("/admin%2Fusers", None),
        ("/%2Fadmin", None),
        ("/admin%2F..", None),
        ("/admin/..%2Fpublic", None),
        ("/admin/..%2F..%2Fadmin/x", "admin"),
        ("/admin/x%2Fy", "admin"),
        ("/admin//x", "admin"),
        ("/admin%252F", "app"),
        ("/public%252F..%252Fadmin", "app"),
        ("/public/..;/admin", None),
        ("/public/..;x=1/admin", None),
        ("/public/.;/x", "public"),
        ("/admin;x", None),
        ("/admin;x/users", None),
        ("/;x/admin", None),
        ("/%3Bx/admin", None),
        ("/cars;color=red", "app"),
        ("/public/a;b", "public"),
        ("/%40scope/x", None),
        ("/@scope%2Fx", None),
        ("/@scope/a%2Fb", "scoped"),
        ("/ADMIN", "app"),
        ("/admin.", "app"),
        ("/admin...", "app"),
        ("/public/...//x", "public"),
        ("//posts", "app"),  # Nothing but POST has a route of its own there.
        ("/svc/a%2Fb", None),
        ("/svc//a", None),
        ("/svc/a//b", "a"),
        ("/svc/a;v=1/b", None),
        ("/svc/a/..%2Fapp", None),
    ],
)
def test_no_slash_in_disguise_gets_round_a_route(path: str, goes_to: str | None) -> None:
    if goes_to is None:
        refusal = refused(APP, SERVICES, path=path)
        assert refusal.fault is BAD_REQUEST
        assert "leads elsewhere" in refusal.detail
        assert not refusal.closes
    else:
        assert decide(APP, SERVICES, path=path).service == goes_to


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/api/..%2Fapi/x", None),
        ("/api/..%2F..%2Fapi/admin", None),
        ("/api/..;/..;/api/admin", None),
        ("/api/x%5C..%5C..%5Capi/x", None),
        ("/api/..%2F..%2Fpublic%2Fv2", None),  # Leads elsewhere as it stands.
        ("/api/a%2Fb", "/public/v2/a%2Fb"),
        ("/api/a%2F..%2Fb", "/public/v2/a%2F..%2Fb"),
        ("/api//a;b/c", "/public/v2/a;b/c"),
        ("/api;v", None),
    ],
)
def test_no_slash_in_disguise_leaves_what_a_prefix_became(path: str, sent: str | None) -> None:
    for new in ("/public/v2", "/public;1/v2//", "/public/v%3B2"):
        routes = [to("a", path_prefix="/api", rewrite_prefix=new)]
        if sent is None:
            assert refused(routes, ["a"], path=path).fault is BAD_REQUEST
        else:
            match = decide(routes, ["a"], path=path)
            assert match.rewrite(path) == sent.replace("/public/v2", new.rstrip("/"))
    # Where it became nothing there is nothing to leave.
    assert decide([to("a", path_prefix="/api", strip_prefix=True)], ["a"], path="/api/..%2Fapi/x")


def test_hosts_and_methods_count_in_every_reading() -> None:
    assert refused(APP, SERVICES, "inner.h", "//admin").fault is BAD_REQUEST
    assert decide(APP, SERVICES, "inner.h", "//public").service == "inner"
    assert refused(APP, SERVICES, path="//posts", method="POST").fault is BAD_REQUEST
    assert refused([to("a", path_prefix="/a")], ["a"], path="//a").fault is BAD_REQUEST
    assert refused([to("a", path_prefix="/a")], ["a"], path="/a%2F..%2Fb").fault is BAD_REQUEST
    assert refused([to("a", path_prefix="/a")], ["a"], path="//b").fault is NO_ROUTE


def test_hosts_with_dotted_names_are_no_way_round_either() -> None:
    routes = [BY_HOST, RouteSpec(host="{service}.svc.local", path_prefix="/admin")]
    assert decide(routes, ["a.b"], "a.b.svc.local", "/admin").position == 1
    assert refused(routes, ["a.b"], "a.b.svc.local", "//admin").fault is BAD_REQUEST


@pytest.mark.parametrize(
    ("prefix", "own", "listener", "fault"),
    [
        ("/a", None, "pass", None),
        ("/a", "refuse", "pass", BAD_REQUEST),
        ("/a", None, "refuse", BAD_REQUEST),
        ("/a", "pass", "refuse", None),
        (None, None, "refuse", None),  # The listener speaks of prefixes only.
        (None, "refuse", "pass", BAD_REQUEST),
    ],
)
@pytest.mark.parametrize("escape", ["%2F", "%5C", "%2f", "%5c"])
def test_encoded_slashes_are_refused_by_the_route_or_else_the_listener(
    prefix: str | None, own: Any, listener: str, fault: Fault | None, escape: str
) -> None:
    routes = [to("a", path_prefix=prefix, encoded_slashes=own)]
    if fault is None:
        assert decide(routes, ["a"], path=f"/a/b{escape}c", slashes=listener).service == "a"
    else:
        assert refused(routes, ["a"], path=f"/a/b{escape}c", slashes=listener).fault is fault
    assert decide(routes, ["a"], path="/a/b%252Fc%20", slashes=listener).service == "a"
