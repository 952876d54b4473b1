from __future__ import annotations

from typing import Any

import pytest

from proxy.engine.explanation import Considered, explain
from proxy.engine.match import Match
from proxy.engine.routing import RouteTable
from proxy.settings.route import RouteSpec


def no_fields(name: str) -> str | None:
    return None


def to(service: str | None = "s", **spec: Any) -> RouteSpec:
    return RouteSpec(service=service, **spec)


def find(
    routes: list[RouteSpec], host: str, path: str = "/", method: str = "GET", **fields: str
) -> Match | None:
    def field(name: str) -> str | None:
        assert name == name.lower()
        return fields.get(name.replace("-", "_"))

    return RouteTable(routes).match(host, path, method, field)


def service(*arguments: Any, **fields: str) -> str | None:
    match = find(*arguments, **fields)
    return match and match.service


def test_no_routes_no_match() -> None:
    assert find([], "a.b", "/") is None


# -- hosts


@pytest.mark.parametrize("host", ["users", "users.", "users.mesh.local", "users.a.b.c"])
def test_the_first_label_of_any_host_may_be_the_service(host: str) -> None:
    routes = [to("any"), to(None, host="{service}.*"), to("own", host="own.mesh.local")]
    assert service(routes, host) == "users"
    assert service(routes, "own.mesh.local") == "own"
    assert service(routes, ".users") == "any"


HOSTS = [
    to("any"),
    to("wide", host="*.example.com"),
    to("deep", host="*.eu.example.com"),
    to("exact", host="a.eu.example.com"),
    to(None, host="{service}.example.com"),
]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("a.eu.example.com", "exact"),
        ("b.eu.example.com", "deep"),
        ("x.b.eu.example.com", "deep"),
        ("eu.example.com", "eu"),
        ("x.us.example.com", "wide"),
        ("users.example.com", "users"),
        ("example.com", "any"),
        (".example.com", "any"),
        ("x..example.com", "any"),
        ("notexample.com", "any"),
        ("", "any"),
        ("10.0.0.1", "any"),
        ("[::1]", "any"),
        ("a.eu.example.com.", "exact"),
        ("users.example.com.", "users"),
    ],
)
def test_exact_host_then_longest_ending_then_any(host: str, expected: str) -> None:
    assert service(HOSTS, host) == expected
    assert service(HOSTS[::-1], host) == expected


def test_hosts_in_the_file_may_be_in_any_case() -> None:
    assert service([to("s", host="Users.Example.COM.")], "users.example.com") == "s"
    assert service([to("s", host="*.Example.COM")], "users.example.com") == "s"


def test_a_template_is_exactly_one_label() -> None:
    routes = [to(None, host="{service}.svc.local"), to(None, host="v1.{service}.api")]
    assert service(routes, "users.svc.local") == "users"
    assert service(routes, "a.users.svc.local") is None
    assert service(routes, "svc.local") is None
    assert service(routes, "v1.users.api") == "users"
    assert service(routes, "v2.users.api") is None


def test_a_template_may_be_the_whole_host() -> None:
    assert service([to(None, host="{service}")], "users") == "users"
    assert service([to(None, host="{service}")], "users.local") is None


def test_a_label_that_cannot_be_a_service_does_not_match() -> None:
    assert service([to(None, host="{service}.local")], "a$b.local") is None


def test_a_host_that_is_no_name_any_more_meets_no_pattern() -> None:
    routes = [to("wide", host="*.b"), to(None, host="{service}.c"), to("any")]
    for host, expected in (("a." * 255 + "b", "wide"), ("a." * 300 + "b", "any")):
        assert service(routes, host) == expected
        taken = [one.position for one in explain(routes, host, "/", "GET", no_fields) if one.taken]
        assert taken == [0 if expected == "wide" else 2]
    assert service(routes, "c" * 600 + ".c") == "any"
    assert RouteTable(routes).match_dotted("a." * 300 + "c", "/", "GET", no_fields, str) is None


def test_without_a_fitting_route_the_next_host_is_asked() -> None:
    routes = [
        to("any"),
        to("orders", host="*.example.com", path_prefix="/orders"),
        to("shop", host="shop.example.com", path_prefix="/shop"),
        to("posts", host="shop.example.com", methods=("POST",)),
    ]
    assert service(routes, "shop.example.com", "/shop") == "shop"
    assert service(routes, "shop.example.com", "/orders/1") == "orders"
    assert service(routes, "shop.example.com", "/orders/1", "POST") == "posts"
    assert service(routes, "shop.example.com", "/else") == "any"


# -- paths

PATHS = [
    to("all"),
    to("root", path_prefix="/"),
    to("old", path_prefix="/old"),
    to("under", path_prefix="/old/"),
    to("deep", path_prefix="/old/deep/er"),
]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "root"),
        ("/old", "old"),
        ("/old/", "under"),
        ("/old/x", "under"),
        ("/old//x", "under"),
        ("/older", "root"),
        ("/old%2Fx", "root"),
        ("/Old", "root"),
        ("/old/deep", "under"),
        ("/old/deep/er", "deep"),
        ("/old/deep/er/", "deep"),
        ("/old/deep/erx", "under"),
        ("//old", "root"),
        ("*", "all"),
    ],
)
def test_the_longest_prefix_of_whole_segments(path: str, expected: str) -> None:
    assert service(PATHS, "h", path) == expected
    assert service(PATHS[::-1], "h", path) == expected


def test_a_prefix_with_a_slash_matches_only_what_is_under_it() -> None:
    assert find([to(path_prefix="/old/")], "h", "/old") is None


def test_a_template_is_one_segment() -> None:
    routes = [to(None, path_prefix="/svc/{service}")]
    assert service(routes, "h", "/svc/users") == "users"
    assert service(routes, "h", "/svc/users/") == "users"
    assert service(routes, "h", "/svc/users-v1.2_b/x/y") == "users-v1.2_b"
    for path in ("/svc", "/svc/", "/svc//x", "/svc/us%65rs", "/svc/a$b", "/svc/.hidden"):
        assert find(routes, "h", path) is None


def test_a_template_at_the_root_and_in_the_middle() -> None:
    routes = [to(None, path_prefix="/{service}"), to(None, path_prefix="/v1/{service}/api")]
    assert service(routes, "h", "/users/1") == "users"
    assert service(routes, "h", "/v1/users/api/1") == "users"
    assert service(routes, "h", "/v1/users/1") == "v1"


def test_the_literal_prefix_comes_before_a_template_as_long() -> None:
    routes = [
        to(None, path_prefix="/svc/{service}"),
        to("special", path_prefix="/svc/users"),
        to("left", path_prefix="/a/{service}/c"),
        to("right", path_prefix="/{service}/b/c"),
    ]
    assert service(routes, "h", "/svc/users/1") == "special"
    assert service(routes, "h", "/svc/orders/1") == "orders"
    assert service(routes, "h", "/a/b/c") == "left"
    assert service(routes, "h", "/x/b/c") == "right"


def test_a_template_that_reaches_further_comes_first() -> None:
    routes = [to("users", path_prefix="/users"), to(None, path_prefix="/{service}/v2")]
    assert service([to("users", path_prefix="/users"), routes[1]], "h", "/users/v2") == "users"
    match = find(routes, "h", "/users/v2")
    assert match is not None
    assert match.position == 1


def test_a_literal_branch_that_leads_nowhere_gives_way_to_the_template() -> None:
    routes = [to("x", path_prefix="/users/only/here"), to(None, path_prefix="/{service}")]
    assert service(routes, "h", "/users/only") == "users"


def test_a_named_service_may_stand_beside_a_template() -> None:
    match = find([to("gateway", path_prefix="/t/{service}", strip_prefix=True)], "h", "/t/x/y")
    assert match is not None
    assert (match.service, match.templated, match.rewrite("/t/x/y")) == ("gateway", False, "/y")


def test_a_name_from_the_request_is_marked() -> None:
    match = find([to(None, host="{service}.l", path_prefix="/a")], "users.l", "/a/b")
    assert match is not None
    assert (match.service, match.templated) == ("users", True)
    assert match.prefix_length == 2


def test_a_long_path_costs_no_more_than_the_longest_prefix() -> None:
    assert service([to("s", path_prefix="/a/b")], "h", "/a/b" + "/x" * 4000) == "s"


def test_an_exact_path_comes_before_every_prefix_and_matches_nothing_else() -> None:
    routes = [to("under", path_prefix="/a/b"), to("exact", path="/a"), to("all", path_prefix="/a")]
    for path, expected in (("/a", "exact"), ("/a/", "all"), ("/a/b", "under"), ("/ab", None)):
        assert service(routes, "h", path) == expected
    assert service([to("wide"), to("exact", host="h", path="/a")], "h", "/b") == "wide"


def test_an_exact_path_that_does_not_accept_gives_way_to_prefixes() -> None:
    routes = [to("exact", path="/a", methods=("POST",)), to("all", path_prefix="/a")]
    assert service(routes, "h", "/a") == "all"
    assert service(routes, "h", "/a", "POST") == "exact"


def test_any_of_several_hosts_paths_and_prefixes_fits() -> None:
    route = to("s", hosts=("a.b", "*.c"), paths=("/x", "/y"), path_prefixes=("/z/", "/p"))
    for host, path in (
        ("a.b", "/x"),
        ("q.c", "/y"),
        ("a.b", "/z/1"),
        ("q.c", "/p/1"),
        ("a.b", "/p"),
    ):
        assert service([route], host, path) == "s"
    for host, path in (("c", "/x"), ("a.b", "/x/1"), ("a.b", "/z"), ("q.c", "/"), ("h", "/p")):
        assert service([route], host, path) is None


def test_a_prefix_of_several_is_the_one_that_is_cut_off() -> None:
    route = to("s", path_prefixes=("/a", "/b/c"), paths=("/whole",), strip_prefix=True)
    for path, rest in (("/a/1", "/1"), ("/b/c/1", "/1"), ("/b/c", "/"), ("/whole", "/whole")):
        match = find([route], "h", path)
        assert match is not None
        assert match.rewrite(path) == rest


def test_parameters_of_the_query_are_conditions() -> None:
    routes = [to("debug", query={"debug": "1"}), to("all")]
    for query, expected in (("1", "debug"), ("2", "all"), (None, "all")):
        fields = {"query:debug": query}
        match = RouteTable(routes).match("h", "/", "GET", fields.get)
        assert match is not None
        assert match.service == expected


# -- methods, fields, order


def test_the_first_in_the_file_that_fits() -> None:
    routes = [
        to("reads", path_prefix="/x", methods=("GET", "HEAD")),
        to("beta", path_prefix="/x", headers={"X-Beta": "1"}),
        to("first", path_prefix="/x"),
        to("second", path_prefix="/x"),
    ]
    assert service(routes, "h", "/x", "GET") == "reads"
    assert service(routes, "h", "/x", "PUT") == "first"
    assert service(routes, "h", "/x", "PUT", x_beta="1") == "beta"
    assert service(routes, "h", "/x", "PUT", x_beta="2") == "first"


def test_a_shorter_prefix_serves_what_the_longer_one_does_not_accept() -> None:
    routes = [to("all", path_prefix="/x"), to("reads", path_prefix="/x/y", methods=("GET",))]
    assert service(routes, "h", "/x/y", "DELETE") == "all"


def test_fields_are_asked_for_only_by_candidates() -> None:
    asked = []

    def field(name: str) -> str | None:
        asked.append(name)
        return None

    table = RouteTable(
        [
            to("a", host="a", headers={"X-A": "1"}),
            to("b", host="b", headers={"X-B": "1"}),
            to("get", host="b", methods=("GET",), headers={"X-C": "1"}),
        ]
    )
    assert table.match("b", "/", "POST", field) is None
    assert asked == ["x-b"]


# -- rewriting


@pytest.mark.parametrize(
    ("spec", "path", "expected"),
    [
        ({}, "/a/b", "/a/b"),
        ({"path_prefix": "/a"}, "/a/b", "/a/b"),
        ({"path_prefix": "/a", "strip_prefix": True}, "/a/b", "/b"),
        ({"path_prefix": "/a", "strip_prefix": True}, "/a", "/"),
        ({"path_prefix": "/a", "strip_prefix": True}, "/a/", "/"),
        ({"path_prefix": "/a/", "strip_prefix": True}, "/a/b", "/b"),
        ({"path_prefix": "/a", "strip_prefix": True}, "/a//evil.example/x", "/evil.example/x"),
        ({"path_prefix": "/", "strip_prefix": True}, "/a/b", "/a/b"),
        ({"strip_prefix": True}, "/a/b", "/a/b"),
        ({"path_prefix": "/{service}", "strip_prefix": True}, "/users/1", "/1"),
        ({"path_prefix": "/x/{service}/y", "strip_prefix": True}, "/x/users/y/1", "/1"),
        ({"path_prefix": "/old", "rewrite_prefix": "/new"}, "/old", "/new"),
        ({"path_prefix": "/old", "rewrite_prefix": "/new"}, "/old/", "/new/"),
        ({"path_prefix": "/old", "rewrite_prefix": "/new"}, "/old/x", "/new/x"),
        ({"path_prefix": "/old", "rewrite_prefix": "/new/"}, "/old/x", "/new/x"),
        ({"path_prefix": "/old/", "rewrite_prefix": "/new"}, "/old/x", "/new/x"),
        ({"path_prefix": "/old", "rewrite_prefix": "/"}, "/old/x", "/x"),
        ({"path_prefix": "/old", "rewrite_prefix": "/"}, "/old", "/"),
        ({"path_prefix": "/old", "rewrite_prefix": ""}, "/old", "/"),
        ({"path_prefix": "/old", "rewrite_prefix": "/n", "strip_prefix": True}, "/old/x", "/n/x"),
        ({"rewrite_prefix": "/new"}, "/x", "/new/x"),
        ({"path_prefix": "/", "rewrite_prefix": "/new"}, "/x", "/new/x"),
        ({"path_prefix": "/{service}", "rewrite_prefix": "/new"}, "/users/x", "/new/x"),
    ],
)
def test_rewrite(spec: dict[str, Any], path: str, expected: str) -> None:
    match = find([to("s", **spec)], "h", path)
    assert match is not None
    assert match.rewrite(path) == expected
    assert match.changes_path or expected == path


# -- what cannot be read


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (to(None), "service: missing"),
        (to(None, host="a", path_prefix="/b"), "service: missing"),
        (to("s", path_prefix="old"), "must begin with /"),
        (to("s", path_prefix=""), "must begin with /"),
        (to("s", rewrite_prefix="new"), "rewrite_prefix: 'new'"),
        (to("s", host="a.*.b"), r"\* may only"),
        (to("s", host="a*"), r"\* may only"),
        (to("s", host="*"), r"\* may only"),
        (to("s", host=""), "must be a name"),
        (to("s", host="*."), "must be a name"),
        (to("s", host="a..b"), "must be a name"),
        (to("s", host="*.{service}.b"), "has both"),
        (to(None, host="api-{service}.b"), "whole part"),
        (to(None, path_prefix="/x-{service}"), "whole part"),
        (to("s", path_prefix="/{id}"), "whole part"),
        (to(None, host="{service}.b", path_prefix="/{service}"), "only once"),
        (to(None, path_prefix="/{service}/{service}"), "only once"),
    ],
)
def test_a_route_that_cannot_be_read_is_named(spec: RouteSpec, complaint: str) -> None:
    with pytest.raises(ValueError, match=rf"^routes\[1\]: .*{complaint}"):
        RouteTable([to("fine"), spec])


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("*", ["", "x"], [None]),
        ("v2*", ["v2", "v2.1"], ["v", "xv2", None]),
        ("*beta", ["beta", "a-beta"], ["beta1"]),
        ("*x*y*", ["xy", "-x-y-"], ["yx", "x"]),
        ("a*a", ["aa", "aba"], ["a"]),
        (r"\*/\*", ["*/*"], ["a/b", ""]),
        (r"*/\*", ["text/*", "/*"], ["*/x"]),
    ],
)
def test_a_star_in_a_field_stands_for_any_text(
    pattern: str, fitting: list[str | None], others: list[str | None]
) -> None:
    table = RouteTable([to("s", headers={"X-A": pattern})])
    for value in (*fitting, *others):
        match = table.match("h", "/", "GET", lambda name, value=value: value)  # type: ignore[misc]
        assert (match is not None) == (value in fitting), value


def test_a_route_of_other_listeners_is_passed_over() -> None:
    routes = [to("inside", listeners=("private", "local")), to("any")]
    by_listener = [
        RouteTable(routes).match("h", "/", "GET", {"listener:": name}.get)
        for name in ("private", "public")
    ]
    assert [match and match.service for match in by_listener] == ["inside", "any"]


# -- explain


def explained(routes: list[RouteSpec], *request: str) -> list[str]:
    considered: list[Considered] = explain(routes, *request, no_fields)
    assert all(entry.spec is routes[entry.position] for entry in considered)
    assert all(entry.taken == (entry.reason == "taken") for entry in considered)
    return [f"{entry.position} {entry.reason}" for entry in considered]


def test_explain_tells_why_each_route_was_passed_over() -> None:
    routes = [
        to("any"),
        to("other", host="other.example.com"),
        to("beta", host="*.example.com", headers={"X-Beta": "1"}),
        to("write", host="shop.example.com", path_prefix="/a", methods=("POST", "PUT")),
        to("deep", host="shop.example.com", path_prefix="/a/b"),
    ]
    assert explained(routes, "shop.example.com", "/a/c", "GET") == [
        "3 method is not POST or PUT",
        "2 no field X-Beta",
        "0 taken",
        "1 host is not other.example.com",
        "4 path does not begin with /a/b",
    ]
    assert explained(routes, "shop.example.com", "/a/b", "PUT") == [
        "4 taken",
        "3 route 4 comes first",
        "2 no field X-Beta",
        "0 route 4 comes first",
        "1 host is not other.example.com",
    ]


def test_explain_shows_the_value_that_did_not_fit() -> None:
    specs = [to("beta", headers={"X-Beta": "1"})]
    [considered] = explain(specs, "h", "/", "GET", lambda name: "2")
    assert considered.reason == "field X-Beta is '2', not '1'"
