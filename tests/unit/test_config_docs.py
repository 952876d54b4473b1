"""docs/configuration.md says what the schema says: every key, its type, its default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_origin

import pytest
from pydantic.fields import FieldInfo

from proxy import catalog
from proxy.config import NOT_BUILT, balancer_parameters, parse
from proxy.config_schema import Section, keys, reader, sections

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
LATER = "*Not in this version.*"

# Documented once, although they may stand in several places.
SAME = (
    (r"defaults\.(.*)", r"services.*.\1"),
    (r"registry\.backups\.\*\.(.*)", r"registry.\1"),
    (r"services\.\*\.fallback_instances\.\*\.(.*)", r"services.*.instances.*.\1"),
)


def documented() -> dict[str, tuple[str, str, str]]:
    """Key → type, default, meaning, from the rows of the page's tables."""
    rows: dict[str, tuple[str, str, str]] = {}
    for line in PAGE.read_text().splitlines():
        if match := re.fullmatch(r"\| `([a-z_.*0-9]+)` \| (.*?) \| (.*?) \| (.*) \|", line):
            assert match[1] not in rows, f"{match[1]} is documented twice"
            rows[match[1]] = (match[2], match[3], match[4])
    return rows


def canonical(key: str) -> str:
    for pattern, replacement in SAME:
        key = re.sub(f"^{pattern}$", replacement, key)
    return key


def kind(field: FieldInfo) -> str:
    read = reader(field)
    one = read.kind if read is not None else "mapping"
    text = str(field.annotation)
    if text.startswith("list[") or get_origin(field.annotation) is list or "list[" in text:
        return f"list of {one}s"
    if get_origin(field.annotation) is dict:
        return f"mapping of {one}s"
    return one


def default(key: str, field: FieldInfo) -> str:
    """A default as one would write it in the file."""
    value = field.get_default(call_default_factory=True)
    if field.is_required() or key == "routes":  # an empty list of routes is refused by a rule
        return "required"
    if key == "workers":
        return "`auto`"
    if isinstance(value, Section):
        return "see below"
    if value is None:
        return "`off`" if kind(field) == "mapping" else "none"
    if value == [] or value == {} or value == "":
        return "none"
    if isinstance(value, list):
        return "one" if sections(field.annotation) else f"`[{', '.join(value)}]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if kind(field) == "duration":
        return f"`{as_duration(value)}`"
    if kind(field) == "size":
        return f"`{as_size(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def as_duration(seconds: float) -> str:
    if seconds and seconds < 1:
        return f"{seconds * 1000:g}ms"
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def as_size(size: int) -> str:
    return f"{size // 1024}KiB" if size else "0"


def expected() -> dict[str, tuple[str, str]]:
    """Key → type and default, from the schema. A section appears through its keys."""
    rows = {}
    for key, field in keys():
        one = sections(field.annotation)
        if one is not None and (field.annotation is one or get_origin(field.annotation) is dict):
            continue
        rows[canonical(key)] = (kind(field), default(key, field))
    for balancer in catalog.BALANCERS:
        for name, parameter in balancer_parameters(balancer).items():
            rows[f"services.*.balancer.{name}"] = (
                parameter.reader.kind,
                f"`{parameter.default:g}`",
            )
    return rows


def test_every_key_is_on_the_page_and_no_other() -> None:
    assert sorted(documented()) == sorted(expected())


@pytest.mark.parametrize("key", expected())
def test_type_and_default(key: str) -> None:
    assert documented()[key][:2] == expected()[key]


def test_the_page_says_what_is_not_in_this_version() -> None:
    later = {key for key, (_, _, meaning) in documented().items() if LATER in meaning}
    above = {re.sub(r"^service\.", "services.*.", name) for name in NOT_BUILT}
    covered = {
        key
        for key in documented()
        if any(key == name or key.startswith(f"{name}.") for name in above)
    }
    assert later == covered


def test_every_meaning_is_written() -> None:
    assert all(len(meaning) > 10 for _, _, meaning in documented().values())


def examples() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(examples())))
def test_every_example_is_valid(number: int) -> None:
    """Examples of one section are completed with a route."""
    text = examples()[number]
    if "routes:" not in text:
        text += "\nroutes: [{service: users}]\n"
    environ = {"ETCD_PASSWORD": "secret", "NODE_PORT": "8080"}
    assert parse(text, "proxy.yaml", environ).routes
