# ruff: noqa: E501 - the expected lines are whole, as `fairlead check` prints them
"""`filters:`, and the lists that name them: who gets which, and what is said about bad ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy import catalog
from proxy.control.status import route
from proxy.settings.changes import changes
from proxy.settings.complaints import ConfigError
from proxy.settings.file import Settings
from proxy.settings.filters import names_of
from proxy.settings.load import parse

KINDS = ", ".join(catalog.FILTERS)
SCRIPTED = "tests.support.filters:Scripted"


def read(text: str, directory: Path | None = None) -> Settings:
    """A file with these lines, and a route if there is none."""
    if "routes:" not in text:
        text += "\nroutes: [{service: a}]"
    return parse(text, str((directory or Path()) / "p.yaml"), {})


def complaints(text: str, directory: Path | None = None) -> list[str]:
    """What is said about it, without the name of the file."""
    with pytest.raises(ConfigError) as raised:
        read(text, directory)
    return [str(one).partition("p.yaml:")[2] for one in raised.value.complaints]


FILE = """
filters:
  office: {allow: [10.0.0.0/8]}
  stamp: {headers: {request: {set: {X-Env: prod}}}}
listeners: [{name: web, filters: [stamp]}]
defaults: {filters: [office]}
services:
  a: {filters: [{deny: 10.0.0.1}]}
  b: {}
  c: {filters: []}
routes: [{service: a, filters: [office, stamp, {"tests.support.filters:Scripted": {says: x}}]}]
"""


def test_lists_name_filters_or_hold_them() -> None:
    settings = read(FILE)
    assert names_of(settings.listeners[0].filters) == ["stamp"]
    assert names_of(settings.routes[0].filters) == ["office", "stamp", SCRIPTED]
    lists = {name: names_of(one.filters) for name, one in settings.services.items()}
    assert lists == {"a": ["deny"], "b": ["office"], "c": []}
    [deny] = settings.services["a"].filters
    assert (deny.kind, deny.settings) == ("deny", {"networks": ("10.0.0.1/32",)})


def test_settings_are_shown_neither_as_changes_nor_with_routes() -> None:
    settings = read(FILE)
    assert route(settings.routes[0])["filters"] == ["office", "stamp", SCRIPTED]
    found = [str(one) for one in changes(settings, read(FILE.replace("says: x", "says: y")))]
    assert found == ["routes.0.filters.2: … → …"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (
            "{f: {allow: [10.0.0.0/99]}}",
            'f.allow.networks.0: "10.0.0.0/99" is not a network; allowed: 10.0.0.0/8, fd00::/8 or one address',
        ),
        ("{a.b: {deny: []}}", 'a.b: "a.b" is not a usable name; allowed: letters, digits, _ and -'),
        ("{f: {allow: [], deny: []}}", "f: has allow, deny; allowed: one kind of filter"),
        ("{f: {}}", "f: has no kind; allowed: one kind of filter"),
        (
            "{f: {alow: []}}",
            f'f.alow: "alow" is not a kind of filter (did you mean "allow"?); allowed: {KINDS}, or "package.module:Class"',
        ),
        (
            '{f: {"no.such:X": {}}}',
            f'f.no.such:X: "no.such:X" does not load: ModuleNotFoundError: No module named \'no\'; allowed: {KINDS}, or "package.module:Class"',
        ),
        (
            '{f: {"json:JSONDecoder": {}}}',
            f'f.json:JSONDecoder: "json:JSONDecoder" does not extend proxy.filters.base.Filter; allowed: {KINDS}, or "package.module:Class"',
        ),
        (
            '{f: {"tests.support.filters:Scripted": {say: x}}}',
            f'f.{SCRIPTED}.say: is not a known key (did you mean "says"?); allowed: says, at, does, limit',
        ),
        (
            '{f: {"tests.support.filters:Scripted": 7}}',
            f"f.{SCRIPTED}: is not a mapping; allowed: its arguments by name",
        ),
        (
            '{f: {basic_auth: {users: ["a\\x7fb:$2b$04$' + "a" * 53 + '"]}}}',
            "f.basic_auth.users.0: the value is not NAME:HASH, with bcrypt or argon2; allowed: a line of `htpasswd -B`, such as ann:$2y$05$...",
        ),
        (
            "{f: {headers: {request: {set: {Host: x}}}}}",
            'f.headers.request.set.Host: "Host" is for the proxy alone to set; allowed: another field',
        ),
        (
            "{f: {headers: {response: {remove: [Content-Length]}}}}",
            'f.headers.response.remove.0: "Content-Length" is for the proxy alone to set; allowed: the name of a field',
        ),
    ],
)
def test_a_bad_filter_is_told_of_with_its_place(filters: str, expected: str) -> None:
    assert complaints(f"filters: {filters}") == [f"1: filters.{expected}"]


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        (
            "[offise]",
            '0: "offise" is not one of filters (did you mean "office"?); allowed: office,',
        ),
        ("[{name: office, deny: []}]", "0: has a name and a kind; allowed: one of the two"),
        ("[{deny: 7}]", '0.deny.networks.0: "7" is not a network'),
    ],
)
@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("routes.0", "routes: [{service: a, filters: %s}]"),
        ("services.a", "services: {a: {filters: %s}}"),
        ("defaults", "defaults: {filters: %s}"),
        ("listeners.0", "listeners: [{filters: %s}]"),
    ],
)
def test_a_bad_use_is_told_of_where_it_is(place: str, text: str, used: str, expected: Any) -> None:
    [said] = complaints("filters: {office: {allow: []}}\n" + text % used)
    assert said.startswith(f"2: {place}.filters.{expected}")
