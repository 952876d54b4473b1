"""`filters:`, what is done to requests and answers on their way.

A filter stands at the top of the file under a name, or in place: a mapping of its kind to its
settings. Which keys a kind has is said by its class (`proxy/filters/`), which `catalog.py` names;
it is loaded when a file uses it. Listeners, routes and services hold their filters whole, so that a
worker needs nothing else.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path as FilePath
from typing import Annotated, Any, Final, TypeVar

import msgspec

from proxy import catalog
from proxy.settings.complaints import Report, dotted
from proxy.settings.declare import Further, Given, build, keys_of, read_section
from proxy.settings.read import TEXT, did_you_mean
from proxy.settings.tree import Path, Scalar

S = TypeVar("S", bound=msgspec.Struct)

_NAME: Final = re.compile("[A-Za-z0-9_-]{1,63}")
"""Without dots: one that stands in place is called by where it stands."""
MOST: Final = 64
"""Filters of one list: more than anybody writes, and every request goes through them."""


class FilterSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One filter: where it stands at the top of the file its name, and whole once it is read."""

    name: Annotated[str, TEXT, "Name of a filter under `filters`."] = ""
    kind: str = ""
    settings: Annotated[dict[str, Any], Further()] = {}
    shared: bool = False
    """The filter stands in a configuration that a fleet shares, whose writer is not trusted."""


class FilterReader:
    """Owns the named filters of one file, and what was complained about in them."""

    def __init__(
        self,
        given: Mapping[str, Given] | None,
        directory: FilePath,
        report: Report,
        known: Mapping[str, FilterSpec | None] | None = None,
    ) -> None:
        """`known`: of the machine's own file, whose names are not to be given to others here, where
        a fleet's is read."""
        self._shared = known is not None
        self._directory = directory
        self._report = report
        self.named: dict[str, FilterSpec | None] = dict(known or {})
        """None: it was complained about."""
        for name, section in (given or {}).items():
            if not _NAME.fullmatch(name):
                message = f'"{name}" is not a usable name; allowed: letters, digits, _ and -'
                report.complain(section.path, message)
            if name in (known or ()):
                message = f'"{name}" is a filter of the machine\'s own file; allowed: other names'
                report.complain(section.path, message)
            self.named[name] = self._read(section, name)

    def resolved(self, section: S, given: Given) -> S:
        """A listener, route or service with its filters whole, if it has a list of its own."""
        own = given.get("filters")
        if own is None:
            return section
        if len(own) > MOST:
            self._report.complain(given.at("filters"), f"has {len(own)}; allowed: up to {MOST}")
        specs = [self._used(one) for one in own]
        whole = tuple(spec for spec in specs if spec is not None)
        return msgspec.structs.replace(section, filters=whole)

    def _used(self, given: Given) -> FilterSpec | None:
        name = given.get("name")
        if name is None:
            return self._read(given, dotted(given.path))
        if given.further:
            self._report.complain(given.path, "has a name and a kind; allowed: one of the two")
            return None
        if name not in self.named:
            known = ", ".join(self.named) or "none are there"
            self._report.complain(
                given.path,
                f'"{name}" is not one of filters{did_you_mean(name, self.named)};'
                f" allowed: {known}, or a mapping of a kind to its settings",
            )
        return self.named.get(name)

    def _read(self, given: Given, name: str) -> FilterSpec | None:
        """A filter that stands in the file; None, after a complaint, if it cannot be had."""
        if len(given.further) != 1:
            if given.path not in self._report.misspelt:
                kinds = ", ".join(given.further) or "no kind"
                self._report.complain(given.path, f"has {kinds}; allowed: one kind of filter")
            return None
        [(kind, node)] = given.further.items()
        place = given.at(kind)
        one = self._class(kind, place)
        if one is None:
            return None
        if one.options is None:
            settings = self._arguments(one, node, place)
        else:
            settings = self._section(one, node, place)
        if settings is None:
            return None
        return FilterSpec(name=name, kind=kind, settings=settings, shared=self._shared)

    def _class(self, kind: str, place: Path) -> Any:
        known = ", ".join(catalog.FILTERS)
        try:
            one = catalog.plug_in("filters", kind)
        except KeyError:
            near = did_you_mean(kind, (*catalog.FILTERS, *catalog.installed("filters")))
            what = f"is not a kind of filter{near}"
        except catalog.PlugInError as error:
            what = str(error)
        else:
            for module in one.needs:
                if find_spec(module) is None:
                    extra = "fairlead-proxy[auth]"
                    self._report.complain(
                        place, f"needs {module}; allowed: once {extra} is installed"
                    )
                    return None
            return one
        self._report.complain(
            place, f'"{kind}" {what}; allowed: {known}, or "package.module:Class"'
        )
        return None

    def _section(self, one: Any, node: object, place: Path) -> dict[str, Any] | None:
        if one.short and not isinstance(node, dict):
            one_of_list = keys_of(one.options)[one.short].shape == "list"
            node = {one.short: [node] if one_of_list and isinstance(node, Scalar) else node}
        given = read_section(one.options, node, place, self._report)
        if given is None:
            return None
        options = build(one.options, given).checked(given, self._directory, self._report)
        settings: dict[str, Any] = msgspec.to_builtins(options)
        return settings

    def _arguments(self, one: Any, node: object, place: Path) -> dict[str, Any] | None:
        """The keyword arguments of a class of somebody else's, which is made once to see whether it
        takes them."""
        if isinstance(node, Scalar) and node.empty:
            node = {}
        if not isinstance(node, dict):
            self._report.complain(place, "is not a mapping; allowed: its arguments by name")
            return None
        settings = {name: _plain(value) for name, value in node.items()}
        taken = inspect.signature(one).parameters
        if not any(each.kind is each.VAR_KEYWORD for each in taken.values()):
            for name in settings:
                if name not in taken:
                    self._report.complain(
                        (*place, name),
                        f"is not a known key{did_you_mean(name, taken)}; allowed:"
                        f" {', '.join(taken) or 'none'}",
                    )
                    return None
        try:
            one(**settings)
        except Exception as error:
            self._report.complain(
                place, f"is refused by its class ({error}); allowed: what that takes"
            )
            return None
        return settings


def _plain(node: object) -> Any:
    """A tree as YAML means it."""
    if isinstance(node, dict):
        return {name: _plain(value) for name, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    assert isinstance(node, Scalar)
    if node.empty:
        return None
    words = {"true": True, "false": False}
    if node.literal and node.text.lower() in words:
        return words[node.text.lower()]
    for number in (int, float) if node.literal else ():
        try:
            return number(node.text)
        except ValueError:
            continue
    return node.text


def names_of(filters: Sequence[FilterSpec]) -> list[str]:
    """Filters as people call them: by their names, or their kinds, if they stand in place."""
    return [one.kind if "." in one.name else one.name for one in filters]
