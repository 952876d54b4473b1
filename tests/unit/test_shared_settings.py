"""The configuration that a fleet shares: what is taken from where, and hostile writers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from proxy.settings.callers import CallersSettings
from proxy.settings.complaints import ConfigError
from proxy.settings.file import Settings
from proxy.settings.fleet import MAX_TEXT, SharedText
from proxy.settings.load import parse

PLACE = "etcd:/fairlead/config/main"
ETCD = 'registry: {type: etcd, endpoints: ["http://127.0.0.1:2379"]}\n'
LOCAL = ETCD + "config: {source: etcd}\n"
ROUTE = "routes: [{service: a}]\n"


def merged(shared: str | None, local: str = LOCAL, **environ: str) -> Settings:
    text = None if shared is None else SharedText(shared, PLACE)
    return parse(local, "proxy.yaml", environ, text)


def complaints(shared: str, local: str = LOCAL, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        merged(shared, local, **environ)
    return [str(one) for one in caught.value.complaints]


def test_services_and_routes_are_the_keys_and_all_else_is_the_files() -> None:
    shared = ROUTE + "defaults: {max_inflight: 3}\nservices: {a: {balancer: random}}\n"
    settings = merged(shared, LOCAL + "workers: 3\n")
    assert settings.workers == 3
    assert settings.routes[0].service == "a"
    assert (settings.services["a"].balancer.type, settings.services["a"].max_inflight) == (
        "random",
        3,
    )


def test_a_key_that_is_not_known_yet_serves_nobody() -> None:
    settings = merged(None)
    assert settings.config is not None
    assert not settings.shared_known
    assert (settings.routes, settings.services) == ((), {})
    # Connections without HTTP and routes of instances need no route of the key.
    assert settings.defaults.callers == CallersSettings()


def test_a_key_may_have_no_routes_where_there_is_no_http_and_is_known_all_the_same() -> None:
    local = LOCAL + "listeners: [{name: db, mode_tcp: db}]\n"
    settings = merged("services: {db: {balancer: random}}\n", local)
    assert settings.shared_known
    assert (settings.routes, settings.defaults.callers) == ((), None)


def test_filters_of_the_file_are_there_for_routes_of_the_key_and_cannot_be_replaced() -> None:
    local = LOCAL + "filters: {office: {allow: [10.0.0.0/8]}}\n"
    local += "listeners: [{name: web, filters: [office]}]\n"
    settings = merged("routes: [{service: a, filters: [office]}]\n", local)
    assert settings.routes[0].filters == settings.listeners[0].filters
    [said] = complaints(ROUTE + "filters: {office: {allow: [0.0.0.0/0]}}\n", local)
    assert said.startswith(f"{PLACE}:2: filters.office: ")


def test_a_file_with_config_has_no_services_and_needs_an_etcd() -> None:
    said = complaints(ROUTE, "config: {registry: other}\nservices: {a: }\n" + ROUTE)
    assert [line.split(": ")[1] for line in said] == ["config.registry", "services", "routes"]


def test_complaints_of_both_are_told_together_the_files_first() -> None:
    said = complaints("routes: [\n", LOCAL + "workers: 0\n")
    assert [line.split(": ")[0] for line in said] == ["proxy.yaml:3", f"{PLACE}:2"]


HOSTILE = {
    "a listener": ("listeners: [{bind: 0.0.0.0:22}]", "listeners"),
    "an admin server for all": ("admin: {bind: 0.0.0.0:9900}", "admin"),
    "trust in itself": ("config: {allow: [exec]}", "config"),
    "plug-ins": ('plugins: ["os:system"]', "plugins"),
    "a command": (
        "services: {a: {health_check: {type: exec, command: id}}}",
        "services.a.health_check.type",
    ),
    "a command for all": (
        'defaults: {health_check: {"type": "exec", command: id}}',
        "defaults.health_check.type",
    ),
    "a command by an alias": (
        "defaults: {health_check: {type: &x exec, command: id}}\n"
        "services: {a: {health_check: {type: *x, command: id}}}",
        "defaults.health_check.type",
        "services.a.health_check.type",
    ),
    "an import as a balancer": (
        'services: {a: {balancer: "hostile_module:Class"}}',
        "services.a.balancer",
    ),
    "an import as a balancer's type": (
        'services: {a: {balancer: {type: "hostile_module:Class"}}}',
        "services.a.balancer.type",
    ),
    "an import as a check": (
        'defaults: {health_check: {type: "hostile_module:Class"}}',
        "defaults.health_check.type",
    ),
    "an import as a filter": (
        'filters: {x: {"hostile_module:Class": {}}}',
        "filters.x.hostile_module:Class",
    ),
    "an import as a service's filter": (
        'services: {a: {filters: [{"hostile_module:Class": {}}]}}',
        "services.a.filters.0.hostile_module:Class",
    ),
    "a file to be told of": (
        "services: {a: {tls: {ca: /etc/shadow}}}",
        "services.a.tls.ca",
    ),
    "a key of the machine": (
        "defaults: {tls: {cert: /etc/ssl/own.pem, key: /etc/ssl/own.key}}",
        "defaults.tls.cert",
        "defaults.tls.key",
    ),
    "values without end": (
        "x: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"y{n}: &{b} [{','.join(['*' + a] * 10)}]\n" for n, (a, b) in
                  enumerate(zip("abcdefg", "bcdefgh", strict=True))),
        "",
    ),
    "a text without end": ("#" * MAX_TEXT, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_writer_is_refused_with(case: str) -> None:
    text, *places = HOSTILE[case]
    said = complaints(ROUTE + text)
    assert all(line.startswith(PLACE) for line in said)
    if places != [""]:
        assert [line.split(": ")[1] for line in said] == places
    assert "hostile_module" not in sys.modules


def test_a_hostile_route_is_refused_with_an_import_as_its_filter() -> None:
    [said] = complaints('routes: [{service: a, filters: [{"hostile_module:Class": {}}]}]')
    assert ": routes.0.filters.0.hostile_module:Class: " in said


def test_a_hostile_route_is_refused_that_publishes_the_dashboard() -> None:
    local = LOCAL + 'filters: {login: {forward_auth: {url: "http://127.0.0.1:1/"}}}\n'
    [said] = complaints('routes: [{service: "@dashboard", filters: [login]}]', local)
    assert (
        said
        == f'{PLACE}:1: routes.0.service: "@dashboard" is the machine\'s own; allowed: services'
    )


def test_filters_of_the_key_are_known_as_such_and_those_of_the_file_are_not() -> None:
    local = LOCAL + 'filters: {mine: {forward_auth: {url: "http://127.0.0.1:1/"}}}\n'
    shared = (
        'filters: {theirs: {forward_auth: {url: "http://127.0.0.1:1/"}}}\n'
        "defaults: {filters: [theirs]}\n"
        'routes: [{service: a, filters: [mine, theirs, {jwt: {jwks_url: "http://x/", '
        "algorithms: [RS256]}}]}]\n"
    )
    settings = merged(shared, local)
    assert [one.shared for one in settings.routes[0].filters] == [False, True, True]
    assert [one.shared for one in settings.defaults.filters] == [True]
    alone = parse(ETCD + 'routes: [{service: a, filters: [{allow: ["::/0"]}]}]', "x", {})
    assert not alone.routes[0].filters[0].shared


def test_variables_of_the_machine_are_not_told() -> None:
    shared = 'routes: [{service: a, headers: {X-A: "${SECRET}", X-B: "$${SECRET}"}}]'
    headers = merged(shared, SECRET="s3cret").routes[0].headers
    assert headers == {"X-A": "${SECRET}", "X-B": "$${SECRET}"}


@pytest.mark.parametrize(
    ("trust", "text"),
    [
        ("exec", "services: {a: {health_check: {type: exec, command: id}}}"),
        ("python", 'services: {a: {balancer: "balancers.p2c:PowerOfTwoChoices"}}'),
        ("files", "services: {a: {tls: {ca: /etc/hostname}}}"),
    ],
)
def test_trust_is_given_by_the_machines_own_file(trust: str, text: str) -> None:
    assert complaints(ROUTE + text)
    assert merged(ROUTE + text, f"{ETCD}config: {{allow: [{trust}]}}\n").routes


def test_a_python_name_among_plugins_may_be_used() -> None:
    text = 'services: {a: {balancer: "balancers.p2c:PowerOfTwoChoices"}}'
    for name in ("balancers.p2c:PowerOfTwoChoices", "balancers.p2c"):
        settings = merged(ROUTE + text, f'{LOCAL}plugins: ["{name}"]\n')
        assert settings.services["a"].balancer.type.startswith("balancers.p2c:")
    for name in ("balancers.peak_ewma:PeakEwma", "balancers.peak_ewma", "balancers"):
        assert complaints(ROUTE + text, f'{LOCAL}plugins: ["{name}"]\n')


def test_a_module_among_plugins_lends_nobody_elses_classes_and_no_files() -> None:
    """A module that extends a class has imported that: one that runs commands, or reads files."""
    mine = f'{LOCAL}plugins: ["balancers.round_robin", "proxy.filters.basic_auth"]\n'
    for name, sound in (("RoundRobin", True), ("WeightedRoundRobin", False)):
        text = f'services: {{a: {{balancer: "balancers.round_robin:{name}"}}}}'
        if sound:
            assert merged(ROUTE + text, mine).services["a"].balancer.type.endswith(name)
        else:
            assert complaints(ROUTE + text, mine)
    long = '"proxy.filters.basic_auth:BasicAuth": {users_file: /etc/passwd}'
    found = complaints(f"{ROUTE}filters: {{f: {{{long}}}}}", mine)
    assert any("is a file of this machine" in str(one) for one in found)


def test_files_of_every_filter_are_found_by_what_their_keys_are_called(tmp_path: Path) -> None:
    # Kinds of filters come and go; none may have a file under a name that nobody looks for.
    from proxy import catalog
    from proxy.settings.declare import walk
    from proxy.settings.read import FILE

    for kind in catalog.FILTERS:
        for name, key in walk(catalog.plug_in("filters", kind).options):
            if "file" in key.meaning.lower():
                last = name.rpartition(".")[2]
                known = key.read is FILE or last == "file" or last.endswith("_file")
                assert known or key.read is None, (kind, name)
