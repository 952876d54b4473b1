"""Look-ups among many routes: how much is looked at, and which one counts."""

from __future__ import annotations

from typing import Any

import pytest

from bench.inprocess import count_bytecodes
from proxy.engine.routing import RouteTable
from proxy.settings.route import RouteSpec
from tests.unit.test_routing import service, to


def many(count: int) -> list[RouteSpec]:
    """Routes of every kind, so many of each."""
    numbers = range(count)
    return [
        *(to(host=f"h{n:04}.example.com") for n in numbers),
        *(to(path_prefix=f"/api/v1/p{n:04}") for n in numbers),
        *(to(paths=(f"/exact/{n:04}",)) for n in numbers),
        *(to(path_prefix="/fields", headers={"X-A": "1", "X-B": f"{n:04}"}) for n in numbers),
        *(to(path_prefix="/fields", query={"q": f"{n:04}"}) for n in numbers),
        *(to(path_regex=f"^/r{n:04}/(?P<x>[0-9]+)/", rewrite="/{x}") for n in numbers),
        *(to(path_regex=f"^/shop/(?P<x>[0-9]+)/[a-z]+-{n:04}$") for n in numbers),
        *(to(path_prefix="/agents", headers={"X-C": f"*agent-{n:04}/*"}) for n in numbers),
    ]


class Cut(str):
    """A text that counts the pieces that are cut from it."""

    cuts = 0

    def __getitem__(self, key: Any) -> str:
        self.cuts += 1
        return super().__getitem__(key)


def test_a_long_value_is_not_cut_for_a_few_routes() -> None:
    """Clients may send a field of 32 KiB to a place at which eight routes look at it."""
    table = RouteTable([to(headers={"X-A": f"*ab{n}*"}) for n in range(8)])
    value = Cut("x" * 31_000 + "ab7")
    found = table.match("a", "/", "GET", {"x-a": value}.get)
    assert found is not None
    assert found.position == 7
    assert value.cuts < 100


@pytest.mark.parametrize(
    ("kind", "host", "path", "fields"),
    [
        (0, "h{}.example.com", "/x", {}),
        (1, "a", "/api/v1/p{}/x", {}),
        (2, "a", "/exact/{}", {}),
        (3, "a", "/fields/x", {"x-a": "1", "x-b": "{}"}),
        (4, "a", "/fields/x", {"query:q": "{}"}),
        (5, "a", "/r{}/12/x", {}),
        (6, "a", "/shop/12/x-{}", {}),
        (7, "a", "/agents/x", {"x-c": "an agent-{}/1.0"}),
    ],
)
def test_a_look_up_among_ten_thousand_routes_is_as_long_as_among_some(
    kind: int, host: str, path: str, fields: dict[str, str]
) -> None:
    looks = {}
    for count in (10, 1250):
        table, last = RouteTable(many(count)), f"{count - 1:04}"
        told = {name: value.format(last) for name, value in fields.items()}
        asked: list[str] = []

        def field(name: str, told: dict[str, str] = told, asked: list[str] = asked) -> str | None:
            asked.append(name)
            return told.get(name)

        def look_up(table: RouteTable = table, last: str = last, field: Any = field) -> Any:
            return table.match(host.format(last), path.format(last), "GET", field)

        found = look_up()
        assert found is not None
        assert found.position == kind * count + count - 1
        asked.clear()
        looks[count] = count_bytecodes(look_up), len(asked)
    # Another route may have the same piece of text in it, and is looked at as well.
    assert looks[1250][0] <= looks[10][0] * 1.2
    assert looks[1250][1] == looks[10][1]


def test_of_many_routes_with_fields_the_first_that_fits_counts() -> None:
    routes = [
        *(to(f"a{n}", headers={"X-A": f"{n}"}) for n in range(20)),
        *(to(f"b{n}", headers={"X-B": f"{n}"}, methods=("POST",)) for n in range(20)),
        *(to(f"c{n}", headers={"X-B": f"{n}", "X-A": "7"}) for n in range(20)),
        to("rest"),
        *(to(f"d{n}", headers={"X-D": f"{n}"}) for n in range(20)),
    ]
    assert service(routes, "h", x_a="7", x_b="3") == "a7"
    assert service(routes, "h", x_b="3", method="POST", x_a="99") == "b3"
    assert service(routes, "h", x_b="3") == "rest"
    assert service(routes, "h", x_a="7", x_b="3", method="POST") == "a7"
    assert service(routes[20:], "h", x_a="7", x_b="3", method="POST") == "b3"
    assert service(routes[20:], "h", x_a="7", x_b="3") == "c3"
    assert service(routes, "h", x_d="3") == "rest"
    assert service(routes[61:], "h", x_d="3") == "d3"
    assert service(routes[61:], "h", x_d="99") is None
