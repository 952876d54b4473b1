"""What the listing commands print."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from proxy import listings
from proxy.control import status
from proxy.control.explain import explain
from proxy.control.pool import Member
from proxy.control.statistics import Retired, Totals
from proxy.membership import Instance
from proxy.settings.file import Settings
from proxy.settings.route import RedirectSpec, RespondSpec, RouteSpec, SplitSpec
from proxy.statuses import (
    InvalidRecord,
    OddRecord,
    RegistrySource,
    RegistryStatus,
    RetainedInstance,
    SnapshotStatus,
)

BAD = InvalidRecord(key="/s/users/x", reason="no port", kept=True, service="users")
ODD = OddRecord(key="/s/users/y", reason="metadata 7 is ignored", service="users")


def registry(**fields: Any) -> list[str]:
    known = RegistryStatus(provider="etcd", connected=True, endpoint="http://a:2379", age=0.25)
    document = status.registry(msgspec.structs.replace(known, **fields), fields == {})
    return list(listings.registry(msgspec.json.decode(msgspec.json.encode(document))))


def test_an_explanation_names_the_filters() -> None:
    request = {"method": "GET", "url": "/x"}
    document = {"request": request, "routes": [], "service": None, "answer": None}
    assert list(listings.explained({**document, "filters": ["office", "stamp"]}))[-1] == (
        "filters    office, stamp"
    )
    callers = {"caller": "web", "dry_run": True, "refused": "callers of users: web is not"}
    assert list(listings.explained({**document, "filters": [], "callers": callers}))[-1] == (
        "caller     web: callers of users: web is not (dry_run: counted, and let through)"
    )
    assert len(list(listings.explained({**document, "filters": []}))) == 1


@pytest.mark.parametrize(
    ("route", "told"),
    [
        (RouteSpec(redirect=RedirectSpec(to="/new")), ["answer     302 by the route"]),
        (
            RouteSpec(redirect=RedirectSpec(to="https://{host}/")),
            ["answer     400 bad_request: the request names no host to be sent to"],
        ),
        (RouteSpec(respond=RespondSpec(status=204)), ["answer     204 by the route"]),
        (
            RouteSpec(split=(SplitSpec(service="a", weight=9), SplitSpec(service="b"))),
            ["split      a 9, b 1", "path       /x?y"],
        ),
    ],
)
def test_an_explanation_of_a_route_that_has_no_one_service(
    route: RouteSpec, told: list[str]
) -> None:
    settings = Settings(routes=(route,))
    document = explain("GET", "/x?y", [], {}, settings, Totals(Retired()), True, 0.0)
    assert list(listings.explained(document)) == [
        "request    GET /x?y",
        "route   0 -> everything: taken",
        *told,
    ]


def test_a_registry_that_is_well() -> None:
    assert registry() == [
        "registry   etcd",
        "connected  yes, http://a:2379",
        "age        0.2 s",
        "revision   0",
        "instances  0",
    ]


def test_a_registry_that_was_never_reached() -> None:
    lines = registry(connected=False, endpoint=None, age=None, last_error="refused\x1b[2J")
    assert lines[1:4] == [
        "connected  no",
        "error      refused�[2J",
        "age        never answered",
    ]
    assert "           the first full set is not known yet" in lines


def test_records_that_cannot_be_read_and_those_that_are_odd() -> None:
    other = msgspec.structs.replace(BAD, key="/s/\nusers", kept=False)
    assert registry(invalid=(BAD, other), odd=(ODD,))[-3:] == [
        "refused    /s/users/x: no port; what it said before is served",
        "refused    /s/�users: no port",
        "odd        /s/users/y: metadata 7 is ignored",
    ]


def test_backups_the_file_and_the_held() -> None:
    lines = registry(
        sources=(
            RegistrySource(provider="etcd", endpoints=("http://a:2379",), active=True),
            RegistrySource(provider="etcd", endpoints=("http://b:2379",), alive=False),
        ),
        snapshot=SnapshotStatus(path="/var/p.json", in_use=True, age=61.2, error="damaged"),
        retained=(RetainedInstance(service="users", id="1", why="its lease ended", age=9.7),),
    )
    assert lines[-4:] == [
        "source     etcd http://a:2379: in use",
        "source     etcd http://b:2379: does not answer",
        "snapshot   /var/p.json, in use, 61 s old: damaged",
        "held       users/1: its lease ended, 10 s ago",
    ]


ROW: dict[str, Any] = {
    "name": "users",
    "ready": 0,
    "total": 0,
    "unhealthy": 0,
    "ejected": 0,
    "draining": 0,
    "balancer": "random",
    "source": "registry",
    "refused": [],
}


def test_rates_and_times_are_told_of_services_and_instances() -> None:
    late = {
        "rate": 12.34,
        "error_rate": 0.5,
        "latency": {"p50": 0.00123456, "p95": 0.0456789, "p99": 1.2345},
    }
    head, row = listings.services({"services": [{**ROW, **late}]})
    assert head.split()[-5:] == ["RATE", "ERRORS", "P50", "P95", "P99"]
    assert row.endswith("12.3/s  0.5/s   1.23 ms  45.7 ms  1230 ms")


@pytest.mark.parametrize(
    ("refused", "last"), [(0, ""), (1, "1 RECORD REFUSED"), (2, "2 RECORDS REFUSED")]
)
def test_a_list_of_services_counts_the_records_that_are_refused(refused: int, last: str) -> None:
    _, row = listings.services({"services": [{**ROW, "refused": [{}] * refused}]})
    assert row.startswith("users    0/0")
    assert row.endswith(last if refused else "-")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ""),
        ({"reason": "weight 0"}, "weight 0"),
        ({"unreachable_from": 1}, "no connection from 1 worker"),
        ({"on_probation_in": 2}, "on probation in 2 workers"),
        ({"last_failure": {"code": "503", "age": 7.2}, "reason": "late"}, "503, 7 s ago  late"),
    ],
)
def test_a_line_says_in_words_what_holds_of_an_instance(fields: dict[str, Any], words: str) -> None:
    instance = Instance(service="users", id="one", address="10.0.0.1", port=80)
    row = status.instance(Member(instance, "ready", "", 1), None, lambda slot: 0, 0.0)
    _, line = listings.instances({"instances": [{**row, **fields}]})
    assert line.endswith(words or "-")


def test_the_origin_of_each_instance_is_told_if_there_are_several() -> None:
    def listed(*origins: str) -> list[str]:
        instances = [
            Instance(service="users", id="i", address="a", port=80, origin=one) for one in origins
        ]
        members = [Member(one, "ready", "", 1) for one in instances]
        rows = [status.instance(one, None, lambda slot: 0, 0.0) for one in members]
        head, *lines = listings.instances({"instances": rows})
        return [head.split()[-2], *(line.split()[-1] for line in lines)]

    assert listed("old", "new/text", "") == ["FROM", "old", "new/text", "-"]
    assert listed("fairlead", "fairlead")[0] != "FROM"


def test_formats_and_registries_are_told_of_a_registry() -> None:
    sources = (RegistrySource(name="old", provider="file", endpoints=("/x",), active=True),)
    lines = registry(formats={"new/text": 1, "old": 2}, sources=sources)
    assert "formats    new/text 1, old 2" in lines
    assert "source     old: file /x: in use" in lines


def test_the_records_of_a_service_stand_below_its_instances() -> None:
    document = {"instances": [], "refused": [msgspec.to_builtins(BAD)], "odd": []}
    assert list(listings.instances(document)) == [
        "no instances",
        "refused    /s/users/x: no port; what it said before is served",
    ]


def test_an_ipv6_endpoint_stands_in_brackets_and_a_long_text_is_cut() -> None:
    long = Instance(service="users", id="i" * 255, address="::1", port=80, version="v" * 60_000)
    row = status.instance(Member(long, "ready", "", 1), None, lambda slot: 0, 0.0)
    head, line = listings.instances({"instances": [row]})
    assert line.split()[:2] == ["i" * 255, "[::1]:80"]
    assert "v" * 255 + "…" in line
    assert max(len(head), len(line)) < 700


def test_a_route_is_told_by_all_its_conditions() -> None:
    route = {
        "path_regex": "^/v[0-9]",
        "headers": {"X-A": "1*"},
        "where": {"public": "true"},
        "listeners": ["web", "inside"],
    }
    said = "path ^/v[0-9], X-A: 1*, public=true of an instance, by web or inside"
    assert listings._route_words(route) == said


def test_a_fleet_is_listed_with_what_is_unusual_and_what_all_drain() -> None:
    config = {"hash": "abc", "canary": True, "good": False}
    document = {
        "proxies": [
            {"id": "a", "version": "1", "ready": True, "config": None, "load": {"connections": 3}},
            {"id": "b", "ready": False, "missing": ["stopping"], "config": config},
            {"id": "c", "problem": "cannot be read"},
        ],
        "marks": [{"service": "users", "instance": "x", "by": "ann", "until": None}],
    }
    _, first, second, third, mark = listings.fleet(document)
    assert first.split() == ["a", "1", "yes", "its", "own", "3", "-"]
    assert second.split() == [
        "b", "stopping", "abc", "canary", "(the", "newest", "is", "bad)", "-",
    ]  # fmt: skip
    assert third.split() == ["c", "no", "its", "own", "-"]
    assert mark == "drained everywhere: users/x, by ann"


def test_each_of_several_registries_has_a_line() -> None:
    part = RegistryStatus(provider="etcd", connected=True, age=0.25, instances=1, connects=2)
    never = RegistryStatus(provider="file", connected=False, errors=1)
    lines = registry(provider="merged", parts={"old": part, "new": never})
    assert lines[-2:] == [
        "of old     1 instance, last answer 0.2 s ago, 2 connects, 0 errors",
        "of new     0 instances, never answered, 0 connects, 1 error",
    ]
