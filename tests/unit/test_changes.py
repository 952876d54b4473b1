"""The difference of two configurations, and the part of it that a running proxy takes."""

from __future__ import annotations

from proxy.settings.changes import changes
from proxy.settings.file import Settings
from proxy.settings.load import parse

BASE = """
listeners: [{name: web, bind: 127.0.0.1:1}, {name: two, bind: 127.0.0.1:2}]
registry: {type: etcd, endpoints: [http://127.0.0.1:3]}
services:
  users: {timeouts: {connect: 1s}}
  orders: {rate_limit: {requests: 5}}
routes: [{path_prefix: /, service: users}]
"""


def settings(*replaced: tuple[str, str]) -> Settings:
    text = BASE
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    return parse(text, "p.yaml", {})


def told(*replaced: tuple[str, str]) -> list[str]:
    return [str(one) for one in changes(settings(), settings(*replaced))]


def test_the_same_file_changes_nothing() -> None:
    assert told() == []


def test_keys_are_named_with_both_values() -> None:
    assert told(("connect: 1s", "connect: 2s"), ("{requests: 5}", "off")) == [
        "services.users.timeouts.connect: 1 → 2",
        "services.orders.rate_limit: removed",
    ]


def test_services_and_routes_come_and_go() -> None:
    assert told(("  orders: {rate_limit: {requests: 5}}\n", "  news: {}\n")) == [
        "services.orders: removed",
        "services.news: added",
    ]
    assert told(("{path_prefix: /,", "{path_prefix: /x,")) == ["routes.0.path_prefix: / → /x"]
    assert told(("users}]", "users}, {host: h, service: x}]")) == ["routes.1: added"]


def test_secrets_are_not_shown() -> None:
    found = told(("endpoints: [http", "username: u, password: hidden, endpoints: [http"))
    assert any(one.startswith("registry.password: ") for one in found)
    assert not any("hidden" in one for one in found)


def test_keys_of_registries_are_those_of_the_file() -> None:
    one = "registry: {type: etcd, endpoints: [http://127.0.0.1:3]}"
    assert told((one, one.replace("3]", "4]"))) == [
        "registry.endpoints: [http://127.0.0.1:3] → [http://127.0.0.1:4]"
    ]
    several = "registries: [{type: etcd, endpoints: [http://127.0.0.1:3], prefix: a}]"
    found = changes(settings((one, several)), settings((one, several.replace("x: a", "x: b"))))
    assert [str(change) for change in found] == ["registries.0.prefix: a → b"]
    assert told((one, several)) == ["registry.type: etcd → merged", "registry: … → …"]


def test_listeners_are_compared_by_name() -> None:
    found = changes(
        settings(),
        settings(
            ("bind: 127.0.0.1:1}", "bind: 127.0.0.1:9, limits: {fields: 9}}"),
            (", {name: two, bind: 127.0.0.1:2}", ", {name: three, bind: 127.0.0.1:4}"),
        ),
    )
    assert {one.key for one in found} == {
        "listeners.web.bind",
        "listeners.web.limits.fields",
        "listeners.two",
        "listeners.three",
    }
