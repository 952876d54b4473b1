"""The declarations in other words: the tables of docs/configuration.md, and a JSON Schema.

`python -m proxy.settings.document PAGE` writes the tables of a page anew: each stands behind a line
`<!-- keys: NAME … -->` that names the keys at the top of the file which it is to hold.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from proxy import catalog
from proxy.settings.declare import Inline, Key, inline_of, keys_of, takes_further, walk
from proxy.settings.file import File
from proxy.settings.filters import FilterSpec
from proxy.settings.plugged import parameters_of

_TABLE: Final = re.compile(r"(<!-- keys: ([a-z_ ]+) -->\n\n)(?:\|.*\n)*")
_HEADER: Final = "| key | type | default | meaning |\n|---|---|---|---|\n"
_ELSEWHERE: Final = re.compile(
    r"defaults\b.*|registry\.backups\..*|registries\.\*\.(?!name$).*|.*fallback_instances\..*"
)
"""Keys that are documented once, under the other name they have."""

# -------------------------------------------------------------------------------- tables


def table(*names: str) -> Iterator[str]:
    """The rows of the keys below these keys of the file."""
    for name, key in walk(File):
        if name.endswith("filters.*.name") or name == "filters.*.name":
            continue
        if name.split(".")[0] in names and not _ELSEWHERE.fullmatch(name) and _has_row(key):
            yield f"| `{name}` | {kind_of(key)} | {default(name, key)} | {key.meaning} |\n"
        if name == "services.*.balancer.key" and "services" in names:
            yield from _parameters()
    if "filters" in names:
        yield from _filters()


def _filters() -> Iterator[str]:
    for kind in catalog.FILTERS:
        one = catalog.plug_in("filters", kind)
        yield f"| `filters.*.{kind}` | mapping | none | {one.meaning} |\n"
        for name, key in walk(one.options, f"filters.*.{kind}."):
            if _has_row(key):
                yield f"| `{name}` | {kind_of(key)} | {default(name, key)} | {key.meaning} |\n"


def _has_row(key: Key) -> bool:
    """A section appears through its keys, unless it can be left out or switched off."""
    return key.section is None or key.off is not None or key.shape == "list"


def _parameters() -> Iterator[str]:
    for balancer in catalog.BALANCERS:
        kind = catalog.load(catalog.BALANCERS, balancer)
        for name, parameter in parameters_of(kind).items():
            row = f"| `services.*.balancer.{name}` | {parameter.read.kind} "
            yield row + f"| `{parameter.default:g}` | Only `{balancer}`: {kind.meanings[name]} |\n"


def kind_of(key: Key) -> str:
    """A key's type, as the page calls it."""
    one = key.read.kind if key.read is not None else "mapping"
    several = one + ("es" if one.endswith(("s", "x")) else "s")
    return one if key.shape == "one" else f"{key.shape} of {several}"


def default(name: str, key: Key) -> str:
    """A default, as one would write it in the file."""
    value = key.default
    if key.required or name == "routes":  # An empty list of routes is refused by a rule.
        return "required"
    if name in ("workers", "services.*.lenient_answers", "services.*.tls"):
        return "`auto`"
    if value is None:
        return "`off`" if key.off is not None else "none"
    if isinstance(value, msgspec.Struct):
        return "see below"
    if value in ((), {}, ""):
        return "none"
    if isinstance(value, tuple):
        return "one" if key.section is not None else f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    word = kind_of(key)
    if word == "duration":
        return f"`{_duration(value)}`"
    if word == "size":
        return f"`{_size(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _duration(seconds: Any) -> str:
    if seconds and seconds < 1:
        return f"{seconds * 1000:g}ms"
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def _size(size: Any) -> str:
    return f"{size // 1024}KiB" if size else "0"


def written_anew(page: str) -> str:
    """The text of a page with its tables as they are declared."""
    return _TABLE.sub(lambda m: m[1] + _HEADER + "".join(table(*m[2].split())), page)


# --------------------------------------------------------------------------- JSON Schema


_VARIABLE: Final = {"type": "string", "pattern": r"\$\{"}
"""A scalar may always be taken from the environment."""
_OFF: Final = {"enum": ["off", "no", False]}


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of proxy.yaml, for editors. Rules that relate several keys are
    not in it; `fairlead check` knows them."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Fairlead's proxy.yaml",
        **_section(File),
        "anyOf": [{"required": [one]} for one in ("routes", "config", "listeners")],
    }


def _section(section: type[msgspec.Struct]) -> dict[str, Any]:
    if section is FilterSpec:
        return _filter()
    keys = keys_of(section)
    schema: dict[str, Any] = {"type": "object"}
    properties = {name: _property(key) for name, key in keys.items()}
    inline = inline_of(section)
    if inline is not None:
        how = inline[1]
        schema["allOf"] = _choices(how, str(keys[how.by].default), keys)
        # Of any type here: a choice says of its own keys what they are.
        every = {name for choice in how.choices().values() for name in keys_of(choice)}
        schema["properties"] = {**properties, **dict.fromkeys(sorted(every), True)}
    else:
        schema["properties"] = properties
        schema["additionalProperties"] = takes_further(section)
    required = [name for name, key in keys.items() if key.required]
    return {**schema, "required": required} if required else schema


def _filter() -> dict[str, Any]:
    """One kind of filter and its settings; those of classes that are somebody's own are theirs."""
    kinds = {}
    for kind in catalog.FILTERS:
        one = catalog.plug_in("filters", kind)
        settings = _section(one.options)
        short = keys_of(one.options).get(one.short)
        kinds[kind] = settings if short is None else {"anyOf": [settings, _value(short)]}
    return {
        "type": "object",
        "properties": {"name": {"type": "string"}, **kinds},
        "patternProperties": {"[:.]": True},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }


def _property(key: Key) -> dict[str, Any]:
    return {"description": key.meaning, **_value(key)}


def _choices(how: Inline, default: str, beside: Iterable[str]) -> list[dict[str, Any]]:
    """For each choice, its keys; others are refused, unless they stand `beside` the choice. What
    is none of the choices is a plug-in, whose keys are not known."""
    choices = {
        value: {name: _property(key) for name, key in keys_of(choice).items()}
        for value, choice in how.choices().items()
    }
    return [
        {
            "if": {
                "properties": {how.by: {"const": value}},
                **({} if value == default else {"required": [how.by]}),
            },
            "then": {
                "properties": keys,
                "propertyNames": {"enum": sorted({*beside, *keys})},
            },
        }
        for value, keys in choices.items()
    ]


def _value(key: Key) -> dict[str, Any]:
    one: Mapping[str, Any]
    if key.section is not None:
        one = _section(key.section)
    else:
        assert key.read is not None
        one = {"anyOf": [dict(key.read.json), _VARIABLE]}
    if key.short is not None and key.section is not None:
        one = {"anyOf": [one, _value(keys_of(key.section)[key.short.key])]}
    if key.shape == "list":
        one = {"type": "array", "items": one}
    elif key.shape == "mapping":
        nothing = [{"type": "null"}] if key.may_be_empty else []
        items = {"anyOf": [one, *nothing]} if nothing else one
        one = {"type": "object", "additionalProperties": items}
    others: list[Mapping[str, Any]] = []
    if key.off is not None or key.off_word:
        others.append(_OFF)
    if key.off is not None and key.off.words:
        others.append({"enum": list(key.off.words)})
    if key.may_be_empty:
        others.append({"type": "null"})
    return {"anyOf": [one, *others]} if others else dict(one)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(written_anew(path.read_text()))
