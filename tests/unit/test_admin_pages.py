"""Who is logged in, and which part of a service a page shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict, MultiDict

from proxy.control.admin_pages import FILES, Sessions, quality
from proxy.control.part import Part, part_of
from proxy.control.registrations import Refusal
from proxy.membership import Instance


def test_a_session_stands_for_its_token_until_it_ends() -> None:
    sessions = Sessions(life=10.0)
    one, other = sessions.begin("t", 0.0), sessions.begin("u", 5.0)
    assert (sessions.token(one, 9.0), sessions.token(other, 9.0)) == ("t", "u")
    assert (sessions.token(one, 10.0), sessions.token(other, 10.0)) == ("", "u")
    sessions.end(other)
    assert sessions.token(other, 10.0) == ""
    assert sessions.token("", 0.0) == ""


def test_a_session_too_many_ends_the_oldest() -> None:
    sessions = Sessions(most=2)
    names = [sessions.begin("t", 0.0) for _ in range(3)]
    assert [sessions.token(name, 1.0) for name in names] == ["", "t", "t"]
    assert len(set(names)) == 3


@pytest.mark.parametrize(
    ("accepts", "share"),
    [
        ("", 0.0), ("*/*", 0.0), ("x/a-b", 0.0), ("x/a", 1.0), ("X/A", 1.0), ("y/b,x/a", 1.0),
        ("x/a;q=0", 0.0), ("x/a; q=0.000", 0.0), ("x/a;version=1.0.0;Q=0.5 , y/b", 0.5),
        ("x/a;version=2;q=0.5,x/a;version=1;q=0.4", 0.5), ("x/a;q=none", 1.0), ("x/ab;q=1", 0.0),
        ("y/x/a", 0.0), ("y/b;q=0.1, x/a", 1.0), ("y/b\nx/a;q=0.2", 0.2), ("x/a\ny/b;q=0.2", 1.0),
    ],
)  # fmt: skip
def test_a_kind_of_answer_is_wanted_as_much_as_is_said(accepts: str, share: float) -> None:
    lines = CIMultiDict(("accept", line) for line in accepts.split("\n"))
    assert quality(make_mocked_request("GET", "/", lines), "x/a") == share


def test_files_of_the_dashboard_are_those_that_are_there() -> None:
    directory = Path(__file__).parents[2] / "proxy/control/dashboard"
    assert {path.name for path in directory.iterdir()} == set(FILES)


@pytest.mark.parametrize(
    ("query", "has"),
    [
        ({}, True),
        ({"name": "WEB-1"}, True),
        ({"name": "0.7:80"}, True),
        ({"name": "web-2"}, False),
        ({"status": "ready"}, True),
        ({"status": "ejected"}, False),
        ({"zone": "a"}, True),
        ({"zone": "b"}, False),
    ],
)
def test_a_part_is_chosen_by_name_status_and_zone(query: dict[str, str], has: bool) -> None:
    one = Instance(service="s", id="web-1", address="10.0.0.7", port=8080, metadata={"zone": "a"})
    assert part_of(MultiDict(query)).has(one, "ready") is has


def test_a_part_is_counted_from_an_offset_to_a_limit() -> None:
    assert part_of(MultiDict(offset="20", limit="10")) == Part(first=20, end=30)
    assert part_of(MultiDict(offset="20")) == Part(first=20, end=None)


@pytest.mark.parametrize(
    "query", [{"offset": "-1"}, {"limit": "x"}, {"limit": "²"}, {"status": "gone"}]
)
def test_a_part_that_cannot_be_is_refused_with_its_name(query: dict[str, str]) -> None:
    with pytest.raises(Refusal, match=f"{next(iter(query))}: .*must be"):
        part_of(MultiDict(query))
