"""Properties of the single values: durations, sizes, numbers, and text that is anything."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from proxy.settings.complaints import Complaint, ConfigError
from proxy.settings.file import Settings
from proxy.settings.load import parse
from proxy.settings.read import parse_duration, parse_size


def outcome(text: str, **environ: str) -> Settings | tuple[Complaint, ...]:
    """Settings or complaints: there is no third thing that may come out."""
    try:
        return parse(text, "proxy.yaml", environ)
    except ConfigError as error:
        return error.complaints


def refused(read: Callable[[str], float], text: str) -> bool:
    try:
        return read(text) < 0
    except ValueError:
        return True


UNITS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
FACTORS = {"": 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
DECIMAL_FACTORS = {"KB": 1000, "MB": 1000**2, "GB": 1000**3}


@given(st.integers(0, 8000), st.sampled_from(list(UNITS)))
def test_whole_durations(count: int, unit: str) -> None:
    assert parse_duration(f"{count}{unit}") == float(count * UNITS[unit])


@given(st.decimals(0, 8000, places=3), st.sampled_from(list(UNITS)))
def test_durations_with_a_fraction(count: Decimal, unit: str) -> None:
    assert parse_duration(f"{count}{unit}") == pytest.approx(float(count * UNITS[unit]))


@pytest.mark.parametrize("text", ["0", "0.0", "0s", "0ms"])
def test_zero_needs_no_unit(text: str) -> None:
    assert parse_duration(text) == 0.0


@given(st.integers(0, 10**9), st.sampled_from(list(FACTORS | DECIMAL_FACTORS)))
def test_sizes(count: int, unit: str) -> None:
    assert parse_size(f"{count}{unit}") == count * (FACTORS | DECIMAL_FACTORS)[unit]


@given(st.text(max_size=12))
@example("1_000s")
@example("١s")
@example("1 s")
@example("+1s")
@example("1S")
@example("1e3s")
@example(".5s")
@example("infs")
@example("nan")
def test_a_text_of_another_form_is_no_duration(text: str) -> None:
    assert refused(parse_duration, text) or (text[0] in "0123456789" and text.isascii())


@given(st.text(max_size=12))
@example("1KIB")
@example("1k")
@example("-1B")
@example("٣KiB")
def test_a_text_of_another_form_is_no_size(text: str) -> None:
    assert refused(parse_size, text) or (text[0] in "0123456789" and text.isascii())


printable = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)


@given(printable)
@example("}, bind: 127.0.0.1:1")
@example("\n  bind: 127.0.0.1:1")
@example("x\nregistry: {type: etcd}")
def test_the_environment_never_changes_the_structure(value: str) -> None:
    """Whatever the variable holds, it is this one header's value or a complaint about it."""
    text = "routes:\n  - headers:\n      X-A: ${A}\n    service: a\n"
    built = outcome(text, A=value)
    if isinstance(built, Settings):
        assert [route.headers for route in built.routes] == [{"X-A": value}]
    else:
        assert [complaint.path for complaint in built] == ["routes.0.headers.X-A"]


@profile(max_examples=200)
@given(st.text(max_size=200))
@example("a: &a\n  b: *a\n")
@example("? ")
@example("!!set {a}")
@example("%YAML 3.0\n---\n")
@example("- !")
@example("<<: 1")
@example("=: =")
def test_any_text_is_settings_or_complaints(text: str) -> None:
    built = outcome(text)
    assert isinstance(built, Settings) or built


VALUES = st.sampled_from(
    ["", "off", "1", "1s", "a", '""', "[]", "{}", "[a]", "{a: 1}", "[[]]", "[{}]", "${A}", "/a"]
)
KEYS = st.sampled_from(
    [
        "listeners",
        "admin",
        "workers",
        "log",
        "access_log",
        "registry",
        "shutdown",
        "defaults",
        "services",
        "routes",
        "bind",
        "tls",
        "certificates",
        "endpoints",
        "backups",
        "timeouts",
        "balancer",
        "type",
        "key",
        "retry",
        "instances",
        "address",
        "port",
        "metadata",
        "host",
        "path_prefix",
        "methods",
        "headers",
        "service",
        "a",
        "0",
    ]
)
TREES = st.recursive(
    VALUES,
    lambda inner: (
        st.dictionaries(KEYS, inner, max_size=4).map(
            lambda tree: "{" + ", ".join(f"{key}: {value}" for key, value in tree.items()) + "}"
        )
        | st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
    ),
    max_leaves=12,
)


@profile(max_examples=200)
@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_any_tree_is_settings_or_complaints(tree: dict[str, str]) -> None:
    text = "".join(f"{key}: {value}\n" for key, value in tree.items())
    built = outcome(text, A="1")
    assert isinstance(built, Settings) or built
    assert "Input should" not in str(built)
