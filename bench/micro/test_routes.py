"""The look-up of a route among few and many."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from proxy.engine.routing import RouteTable
from proxy.settings.route import RouteSpec

CASES = ("exact host", "prefix", "no route", "prefix of any host", "host template", "path template",
         "exact path", "field", "expression")  # fmt: skip


def routes_and_request(case: str, count: int) -> tuple[list[RouteSpec], str, str]:
    """Routes, and a host and a path to look up."""
    hosts = [RouteSpec(host=f"s{n}.example.com", service=f"s{n}") for n in range(count)]
    prefixes = [
        RouteSpec(path_prefix=f"/api/v1/s{n}", strip_prefix=True, service=f"s{n}")
        for n in range(count)
    ]
    mixed = [
        *hosts[: count // 2],
        RouteSpec(host="*.example.com", path_prefix="/orders", service="orders"),
        RouteSpec(host="{service}.svc.local"),
        *prefixes[: count // 2],
        RouteSpec(path_prefix="/svc/{service}", strip_prefix=True),
    ]
    kinds = [
        route
        for n in range(count // 3)
        for route in (
            RouteSpec(path=f"/e/{n}", service="s"),
            RouteSpec(path_prefix="/api", headers={"X-Env": "b", "X-To": f"{n}"}, service="s"),
            RouteSpec(path_regex=f"^/r{n}/(?P<v>[0-9]+)/", rewrite="/{v}", service="s"),
        )
    ]
    last = count // 3 - 1
    return {
        "exact path": (kinds, "example.com", f"/e/{last}"),
        "field": (kinds, "example.com", "/api/users/17"),
        "expression": (kinds, "example.com", f"/r{last}/17/users"),
        "exact host": (hosts, f"s{count - 1}.example.com", "/users/17"),
        "prefix": (prefixes, "example.com", f"/api/v1/s{count - 1}/users/17"),
        "no route": (prefixes, "example.com", "/api/v2/users/17"),
        "prefix of any host": (mixed, "a.b.other.org", f"/api/v1/s{count // 2 - 1}/x"),
        "host template": (mixed, "users.svc.local", "/users/17"),
        "path template": (mixed, "a.other.org", "/svc/users/17"),
    }[case]


@pytest.mark.parametrize("count", [10, 1000, 10_000])
@pytest.mark.parametrize("case", CASES)
def test_look_up(benchmark: BenchmarkFixture, case: str, count: int) -> None:
    routes, host, path = routes_and_request(case, count)
    table = RouteTable(routes)
    benchmark.group = f"route look-up, {count} routes"
    fields = {"x-env": "b", "x-to": f"{count // 3 - 1}"}
    assert (table.match(host, path, "GET", fields.get) is None) == (case == "no route")
    benchmark(table.match, host, path, "GET", fields.get)
