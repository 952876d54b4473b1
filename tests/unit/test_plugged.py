"""Plug-ins of others in proxy.yaml: by their dotted name, and by an entry point."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy import catalog
from proxy.control.checks import build_check
from proxy.control.events import Events
from proxy.control.provider import ProviderError, build_provider
from proxy.destinations import Destinations
from proxy.settings.complaints import ConfigError
from proxy.settings.file import Settings
from proxy.settings.load import parse

MODULE = """
from typing import Annotated
from balancers.round_robin import RoundRobin
from proxy.health.base import Check
from proxy.registry.static.provider import StaticProvider
from proxy.settings.read import TEXT
from proxy.settings.registry import RegistryOptions

class Options(RegistryOptions, frozen=True, kw_only=True):
    table: Annotated[str, TEXT, "Name of the table."] = "hosts"

class Cmdb(StaticProvider):
    Options = Options
    def __init__(self, options):
        if options.table == "broken":
            raise TypeError("no such table")
        super().__init__(options)
        self.options = options

class Second(RoundRobin):
    limits = {"share": (0, 1)}
    def __init__(self, nodes, rng, *, share: float = 0.5, deep: bool = False):
        super().__init__(nodes, rng)

class Ping(Check):
    name = "ping"
    def __init__(self, *, timeout: float = 1, path: str = "/", size: int = 56, word: str = ""):
        super().__init__(timeout=timeout)
        self.given = (timeout, path, size, word)
        if word == "magic":
            raise KeyError("magic")
    async def _ask(self, endpoint):
        return True, "there"

class Unready(Check):
    name = "unready"

class Odd(RoundRobin):
    def __init__(self, nodes, rng, *, share):
        super().__init__(nodes, rng)

class Keyless(StaticProvider):
    pass

class Keyed(StaticProvider):
    Options = int
"""
ROUTE = "routes: [{service: a}]\n"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of its own for each test, because what was loaded stays loaded; and a package that
    brings what is in it by entry points."""
    name = "plugged_" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}-1.dist-info").mkdir()
    (tmp_path / f"{name}-1.dist-info/METADATA").write_text(f"Name: {name}\nVersion: 1\n")
    (tmp_path / f"{name}-1.dist-info/entry_points.txt").write_text(
        f"[fairlead.balancers]\n{name} = {name}:Second\nbroken = {name}_:Second\n"
        f"[fairlead.checks]\n{name} = {name}:Ping\n"
        f"[fairlead.registries]\n{name} = {name}:Cmdb\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return name


def settings(text: str) -> Settings:
    return parse(text + ROUTE, "proxy.yaml", {})


def complaint(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        settings(text)
    [one] = caught.value.complaints
    return str(one)


@pytest.mark.parametrize("form", ["{}", "{}:Second"])
def test_a_balancer_of_ones_own(form: str, module: str) -> None:
    name = form.format(module)
    spec = settings(f"defaults: {{balancer: {{type: '{name}', share: 0.2, deep: true}}}}\n")
    assert spec.defaults.balancer.params == {"share": 0.2, "deep": True}
    assert catalog.plug_in("balancers", name).__name__ == "Second"


def test_a_parameter_of_a_balancer_of_ones_own_has_limits(module: str) -> None:
    said = complaint(f"defaults: {{balancer: {{type: {module}, share: 2}}}}\n")
    assert said.endswith('share: "2" is out of range; allowed: a number from 0 to 1')


@pytest.mark.parametrize("form", ["{}", "{}:Ping"])
def test_a_check_of_ones_own_has_the_common_keys_and_its_parameters(form: str, module: str) -> None:
    name = form.format(module)
    built = settings(
        f"defaults: {{health_check: {{type: '{name}', size: 7, path: /p, timeout: 2s}}}}\n"
        "services: {a: {health_check: {word: hm}}, b: {health_check: {type: tcp}}}\n"
    )
    check = built.services["a"].health_check
    assert check is not None
    assert build_check(check).given == (2, "/p", 7, "hm")  # type: ignore[attr-defined]
    other = built.services["b"].health_check
    assert other is not None
    assert other.params == ()


def test_a_check_has_no_keys_but_those(module: str) -> None:
    assert complaint(f"defaults: {{health_check: {{type: {module}, expect: '200'}}}}\n").endswith(
        f"defaults.health_check.expect: has no meaning for type {module}; allowed: only for http"
    )
    assert complaint(f"defaults: {{health_check: {{type: {module}, sise: 7}}}}\n").endswith(
        f'sise: is not a known key (did you mean "size"?); allowed for {module}:'
        " type, path, interval, timeout, fall, rise, size, word"
    )


@pytest.mark.parametrize("form", ["{}", "{}:Cmdb"])
def test_a_registry_of_ones_own_has_its_keys(form: str, module: str) -> None:
    name = form.format(module)
    options = settings(f"registry: {{type: '{name}', table: racks}}\n").registry.options
    assert (options.type, options.table) == (name, "racks")  # type: ignore[attr-defined]
    provider = catalog.plug_in("registries", options.type)(options)
    assert provider.options is options


def test_a_plug_in_that_refuses_its_parameters_is_told(module: str) -> None:
    assert complaint(f"defaults: {{health_check: {{type: {module}, word: magic}}}}\n") == (
        f"proxy.yaml:1: defaults.health_check: is refused by {module}: KeyError: 'magic'; allowed:"
        " what it takes"
    )
    registry = settings(f"registry: {{type: {module}, table: broken}}\n").registry
    with pytest.raises(ProviderError, match=f"{module}: TypeError: no such table"):
        build_provider(registry, Events(), lambda _: 1, Destinations(), lambda: True, lambda: None)


def test_a_key_that_a_registry_of_ones_own_does_not_have(module: str) -> None:
    assert 'registry.tabel: is not a known key (did you mean "table"?)' in complaint(
        f"registry: {{type: {module}, tabel: racks}}\n"
    )


@pytest.mark.parametrize(
    ("key", "name", "words"),
    [
        ("balancer", "nowhere:Best", "ModuleNotFoundError: No module named 'nowhere'"),
        ("balancer", "broken", "does not load: ModuleNotFoundError: No module named '{}_'"),
        ("balancer", "{}:Third", "AttributeError: module '{}' has no attribute 'Third'"),
        ("balancer", "{}:Ping", "does not extend balancers.base.Balancer"),
        ("balancer", "{}:Odd", "has a parameter share that is no int, float, str or bool with a"),
        ("health_check", "{}:Unready", "lacks _ask of proxy.health.base.Check"),
    ],
)  # fmt: skip
def test_a_plug_in_that_will_not_do_is_told_with_its_place(
    key: str, name: str, words: str, module: str
) -> None:
    said = complaint(f"\ndefaults: {{{key}: {{type: '{name.format(module)}'}}}}\n")
    name, words = name.format(module), words.replace("{}", module)
    assert said.startswith(f'proxy.yaml:2: defaults.{key}.type: "{name[:57]}'), said
    assert words in said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Keyless", "has no class Options, with the keys that it has in registry"),
        ("Keyed", "has a class Options that does not extend RegistryOptions"),
    ],
)
def test_a_registry_of_ones_own_says_its_keys(name: str, words: str, module: str) -> None:
    assert words in complaint(f"registry: {{type: '{module}:{name}'}}\n")
