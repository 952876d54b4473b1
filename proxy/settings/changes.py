"""The difference between two configurations, key by key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from proxy.settings.declare import inline_of, keys_of
from proxy.settings.file import Settings
from proxy.settings.filters import FilterSpec


class Change(msgspec.Struct, frozen=True):
    """A key whose value is another one than before."""

    key: str
    """As in `services.users.timeouts.connect`."""
    before: str
    """The value; empty = it was not there."""
    after: str
    """The value; empty = it is there no more."""

    def __str__(self) -> str:
        text = f"{self.key}: {self.before or 'added'} → {self.after or 'removed'}"
        if not self.before:
            text = f"{self.key}: added" + (f" ({self.after})" if self.after != _THERE else "")
        elif not self.after:
            text = f"{self.key}: removed"
        return text


_THERE: Final = "…"
"""A value that is not shown: secret, or many lines."""


def changes(before: Settings, after: Settings) -> list[Change]:
    """All keys that differ, in the order of the settings."""
    found = []
    for name in Settings.__struct_fields__:
        old, new = getattr(before, name), getattr(after, name)
        if name == "listeners":
            old, new = ({one.name: one for one in some} for some in (old, new))
        for key, left, right in _differences(name, old, new):
            found.append(Change(key.replace("registry.parts.", "registries."), left, right))
    return found


def _differences(key: str, old: Any, new: Any) -> Iterator[tuple[str, str, str]]:
    if old == new:
        return
    if isinstance(old, FilterSpec) or isinstance(new, FilterSpec):
        yield key, _THERE * (old is not None), _THERE * (new is not None)  # May hold secrets.
    elif isinstance(old, msgspec.Struct) and type(old) is type(new):
        secret = _secrets(type(old))
        inline = inline_of(type(old))
        for name in old.__struct_fields__:
            left, right = getattr(old, name), getattr(new, name)
            place = key if inline is not None and inline[0] == name else f"{key}.{name}"
            if name in secret and left != right:
                yield place, _THERE * bool(left), _THERE * bool(right)
            else:
                yield from _differences(place, left, right)
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in {**old, **new}:
            yield from _differences(f"{key}.{name}", old.get(name), new.get(name))
    elif _are_sections(old) and _are_sections(new):
        for index in range(max(len(old), len(new))):
            left, right = ((some[index : index + 1] or (None,))[0] for some in (old, new))
            yield from _differences(f"{key}.{index}", left, right)
    else:
        yield key, _shown(old), _shown(new)


def without_secrets(value: Any) -> Any:
    """Settings as JSON has them, with `…` in the place of secrets."""
    if isinstance(value, FilterSpec):
        return {"name": value.name, "kind": value.kind, "settings": _THERE}
    if isinstance(value, msgspec.Struct):
        secret = _secrets(type(value))
        return {
            name: _THERE if name in secret and one else without_secrets(one)
            for name, one in ((name, getattr(value, name)) for name in value.__struct_fields__)
        }
    if isinstance(value, Mapping):
        return {str(name): without_secrets(one) for name, one in value.items()}
    if isinstance(value, (tuple, list, set, frozenset)):
        return [without_secrets(one) for one in value]
    if isinstance(value, str):
        return re.sub("(?<=://)[^/@]*@", f"{_THERE}@", value)
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _are_sections(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, msgspec.Struct) for one in value)


def _secrets(section: type[msgspec.Struct]) -> set[str]:
    return {
        key.attribute
        for key in keys_of(section).values()
        if key.read is not None and key.read.secret
    }


def _shown(value: Any) -> str:
    """A value in few words."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float, str)):
        return f"{value:g}" if isinstance(value, float) else str(value) or '""'
    if isinstance(value, tuple) and all(isinstance(one, (int, str)) for one in value):
        return f"[{', '.join(map(str, value))}]"
    return f"{len(value)} of them" if isinstance(value, tuple) else _THERE
