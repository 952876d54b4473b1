"""Plug-ins in proxy.yaml: their names, and the parameters that their constructors take."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from proxy import catalog
from proxy.settings.complaints import Report
from proxy.settings.declare import Given
from proxy.settings.read import SWITCH, TEXT, Read, did_you_mean, parameter

DOTTED: Final = "package.module:Class"
"""Form of the name of a plug-in that is not installed as one."""


def _parse_imported(text: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*)?", text):
        raise ValueError("is not the name of a module")
    catalog.imported(text)
    return text


IMPORTED: Final = Read(_parse_imported, "name", f"a name such as package.module, or {DOTTED}")


class Parameter(NamedTuple):
    """One parameter of a plug-in."""

    read: Read[Any]
    default: Any


class PlugIn(Read[str]):
    """The name of a plug-in."""

    def __init__(
        self, group: str, noun: str, usable: Callable[[str], object] | None = None
    ) -> None:
        """`noun`: what a plug-in of the group is, with its article. `usable`: called with a name
        that is none of the product's, raises ValueError if what it stands for will not do."""
        ours = catalog.GROUPS[group][1]

        def parse(text: str) -> str:
            if text in ours:
                return text
            try:
                kind = catalog.plug_in(group, text)
                usable(text) if usable else parameters_of(kind)
            except KeyError:
                near = did_you_mean(text, (*ours, *catalog.installed(group)))
                raise ValueError(f"is not {noun}{near}") from None
            return text

        super().__init__(parse, "word", ", ".join((*ours, DOTTED)))
        self._group = group

    @property
    def json(self) -> Mapping[str, Any]:
        """As the packages are installed now."""
        names = (*catalog.GROUPS[self._group][1], *catalog.installed(self._group))
        return {"anyOf": [{"enum": list(names)}, {"type": "string", "pattern": ":"}]}


def read_parameters(
    given: Given,
    name: str,
    parameters: Mapping[str, Parameter],
    others: Iterable[str],
    report: Report,
) -> dict[str, Any]:
    """The values of a plug-in's parameters among the keys of its section that are not declared.
    Complains of all further ones; `others`: the declared keys that it may have."""
    values: dict[str, Any] = {}
    for key, node in given.further.items():
        if key not in parameters:
            known = list(dict.fromkeys((*others, *parameters)))
            report.complain(
                given.at(key),
                f"is not a known key{did_you_mean(key, known)}; allowed for {name}: "
                + ", ".join(known),
            )
            continue
        try:
            values[key] = parameters[key].read(node)
        except ValueError as error:
            report.complain(given.at(key), str(error))
    return values


def parameters_of(kind: type) -> Mapping[str, Parameter]:
    """The keyword-only arguments of a plug-in's constructor, numbers bounded by its `limits`.
    PlugInError if one of them is not declared as its base asks."""
    return dict(_parameters(kind))


def _parameters(kind: type) -> Iterator[tuple[str, Parameter]]:
    limits: Mapping[str, tuple[float, float]] = getattr(kind, "limits", {})
    for name, declared in inspect.signature(kind).parameters.items():
        if declared.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        annotated = getattr(declared.annotation, "__name__", str(declared.annotation))
        default = declared.default
        if default is inspect.Parameter.empty or annotated not in ("int", "float", "str", "bool"):
            raise catalog.PlugInError(
                f"has a parameter {name} that is no int, float, str or bool with a default"
            )
        if annotated in ("str", "bool"):
            yield name, Parameter(TEXT if annotated == "str" else SWITCH, default)
        else:
            read = parameter(annotated == "int", default, limits.get(name))
            yield name, Parameter(read, default)
