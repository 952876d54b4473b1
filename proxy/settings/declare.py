"""Keys of proxy.yaml: each is a field of a frozen struct that is annotated with how it is read and
what it means.

    connect: Annotated[float, UNLIMITED, "How long connecting to an instance may take."] = 3.0

The struct is what the rest of the program gets, and the annotation is all there is to say of the
key: the reader, inheritance (`overlay`), complaints, the tables of docs/configuration.md and the
JSON Schema come from it. A field without a sentence is no key; rules set it.

Reading is lenient on purpose: what is wrong with one place is complained about and left out, the
rest is read all the same, so that a file's mistakes are told all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from proxy.settings.complaints import Report
from proxy.settings.read import Read, did_you_mean, shown
from proxy.settings.tree import Path, Scalar

S = TypeVar("S", bound=msgspec.Struct)

_NO = ("off", "false", "no")


@dataclass(frozen=True)
class Off:
    """The section may be `off`: then these fields of the inherited value are set, and the others
    stay; none = the value is None. A mapping sets the fields of `on`."""

    off: Mapping[str, object] = field(default_factory=dict)
    on: Mapping[str, object] = field(default_factory=dict)
    words: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Other words than `off`, and the fields that each sets."""


@dataclass(frozen=True)
class Short:
    """A scalar, also one of a list, is short for a mapping with this one key."""

    key: str


@dataclass(frozen=True)
class Further:
    """The section has keys beyond those that are declared, which its rules read."""


@dataclass(frozen=True)
class Inline:
    """The keys of another struct stand among those of the section: which struct, the value of the
    key `by` says. The field holds that struct."""

    by: str
    choices: Callable[[], Mapping[str, type[msgspec.Struct]]]
    """Value of `by` → struct."""


@dataclass(frozen=True)
class MayBeEmpty:
    """A section, or a mapping of sections, whose every line is commented out is an empty one."""


@dataclass(frozen=True)
class Distinct:
    """No two items of the list are the same."""


@dataclass(frozen=True)
class Key:
    """One key, as it was declared."""

    name: str
    meaning: str
    shape: str
    """`one`, `list` or `mapping` of what `read` or `section` describe."""
    read: Read[Any] | None
    section: type[msgspec.Struct] | None
    default: object
    """`msgspec.NODEFAULT` when the key is required."""
    off: Off | None = None
    short: Short | None = None
    off_word: bool = False
    """A scalar that may be `off`, which is None."""
    may_be_empty: bool = False
    distinct: bool = False
    attribute: str = ""
    """Name of the struct's field, where the key's is a word of Python."""

    @property
    def required(self) -> bool:
        """The key has no default."""
        return self.default is msgspec.NODEFAULT


@cache
def keys_of(section: type[msgspec.Struct]) -> Mapping[str, Key]:
    """The keys of a section by name, in the order of their declaration."""
    hints = get_type_hints(section, include_extras=True)
    return {
        info.encode_name: key
        for info in msgspec.structs.fields(section)
        if (key := _key(info, hints[info.name])) is not None
    }


@cache
def takes_further(section: type[msgspec.Struct]) -> bool:
    """Whether unknown keys are for the section's rules to judge."""
    hints = get_type_hints(section, include_extras=True)
    return any(isinstance(item, Further) for hint in hints.values() for item in get_args(hint))


@cache
def inline_of(section: type[msgspec.Struct]) -> tuple[str, Inline] | None:
    """The field that holds inlined keys, and how they are chosen; None if there are none."""
    for name, hint in get_type_hints(section, include_extras=True).items():
        for item in get_args(hint):
            if isinstance(item, Inline):
                return name, item
    return None


def _key(info: msgspec.structs.FieldInfo, hint: object) -> Key | None:
    if get_origin(hint) is not Annotated:
        return None
    annotation, *metadata = get_args(hint)
    meaning = next((item for item in metadata if isinstance(item, str)), None)
    if meaning is None:
        return None
    inner = next((arg for arg in _alternatives(annotation) if arg is not type(None)), annotation)
    origin = get_origin(inner)
    off = next((item for item in metadata if isinstance(item, Off)), None)
    default = info.default
    if info.default_factory is not msgspec.NODEFAULT:
        default = info.default_factory()
    section = _struct_in(inner)
    return Key(
        name=info.encode_name,
        attribute=info.name,
        meaning=meaning,
        shape="mapping" if origin is dict else "list" if get_args(inner)[-1:] == (...,) else "one",
        read=next((item for item in metadata if isinstance(item, Read)), None),
        section=section,
        default=default,
        off=off if section is not None else None,
        short=next((item for item in metadata if isinstance(item, Short)), None),
        off_word=off is not None and section is None,
        may_be_empty=any(isinstance(item, MayBeEmpty) for item in metadata),
        distinct=any(isinstance(item, Distinct) for item in metadata),
    )


def _alternatives(annotation: object) -> tuple[object, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _struct_in(annotation: object) -> type[msgspec.Struct] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
            return candidate
    return None


def walk(section: type[msgspec.Struct], above: str = "") -> Iterator[tuple[str, Key]]:
    """Every key below a section as `services.*.timeouts.connect`, depth first."""
    for key in keys_of(section).values():
        name = above + key.name
        yield name, key
        if key.section is not None:
            yield from walk(key.section, name + (".*." if key.shape != "one" else "."))
        inline = inline_of(section)
        if inline is not None and inline[1].by == key.name:
            yield from _walk_choices(inline[1].choices(), above)


def _walk_choices(
    choices: Mapping[str, type[msgspec.Struct]], above: str
) -> Iterator[tuple[str, Key]]:
    """The keys of all choices, each once, saying whose they are. Choices may mean different things
    by the same name."""
    found: dict[str, list[tuple[Key, list[str]]]] = {}
    for value, one in choices.items():
        for name, key in walk(one, above):
            known = found.setdefault(name, [])
            having = next((values for same, values in known if same == key), None)
            if having is None:
                known.append((key, having := []))
            having.append(f"`{value}`")
    for name, known in found.items():
        for key, having in known:
            if len(having) < len(choices) and name == above + key.name:
                key = replace(key, meaning=f"Only for {', '.join(having)}: {key.meaning}")
            yield name, key


# ------------------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Given:
    """The sound part of a section as it stands in the file."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    """A scalar's value, a tuple, a dict, `Given` for a section, None for one that is off."""
    further: dict[str, object] = field(default_factory=dict)
    """Keys that are not declared, of a section that takes them, as they were written."""

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str) -> Any:
        """The value of a key; None when it is not given."""
        return self.values.get(name)

    def at(self, *steps: str | int) -> Path:
        """The place of something below."""
        return (*self.path, *steps)


def check_filled(given: Given, keys: Iterable[str], report: Report) -> None:
    """Complain of conditions that are there and empty: without one anything fits, and who writes
    none means nothing."""
    for key in keys:
        if key in given and not given.get(key) and report.sound(given.at(key)):
            report.complain(
                given.at(key), "is empty; allowed: at least one, or leave it out, and any will do"
            )


class _Unsound(Exception):
    """The value cannot be had; it was complained about."""


def read_section(
    section: type[msgspec.Struct], tree: object, path: Path, report: Report
) -> Given | None:
    """Read a section as it is given. None, after a complaint, if it is no mapping or lacks a
    key."""
    if not isinstance(tree, dict):
        report.complain(path, _wrong_shape(tree, "a mapping"))
        return None
    keys, others = _keys_for(section, tree)
    given = Given(path)
    for name, node in tree.items():
        place = (*path, name)
        if place in report.broken:
            continue
        key = keys.get(name)
        if key is None:
            if name in others:
                report.complain(place, others[name])
            elif takes_further(section):
                given.further[name] = node
            else:
                _unknown(name, sorted(keys), place, report)
            continue
        try:
            given.values[name] = _read(key, node, place, report)
        except _Unsound:
            continue
    missing = [name for name, key in keys.items() if key.required and name not in given]
    for name in missing:
        # A key that stands in the file is missing only because it was complained about.
        if not report.exists((*path, name)):
            report.complain((*path, name), f"is missing; allowed: {_allowed(keys[name])}")
    return None if missing else given


def _keys_for(
    section: type[msgspec.Struct], tree: Mapping[str, object]
) -> tuple[Mapping[str, Key], Mapping[str, str]]:
    """The keys that a mapping may have; and those that it may not, because of what chooses them,
    with a complaint for each."""
    keys = keys_of(section)
    inline = inline_of(section)
    if inline is None:
        return keys, {}
    by, choices = inline[1].by, inline[1].choices()
    chosen = keys[by].default
    read = keys[by].read
    if by in tree and read is not None:
        try:
            chosen = read(tree[by])
        except ValueError:
            chosen = None  # That is complained about; what would follow from it is not.
    inlined = [keys_of(choice) for choice in choices.values()]
    allowed = inlined if chosen is None else [keys_of(choices[str(chosen)])]
    keys = {**keys, **{name: key for some in allowed for name, key in some.items()}}
    message = f"has no meaning for {by} {chosen}; allowed: leave it out, or another {by}"
    every = {name for some in inlined for name in some}
    return keys, dict.fromkeys(every - keys.keys(), message)


def _unknown(name: str, known: list[str], place: Path, report: Report) -> None:
    report.misspelt.add(place[:-1])
    report.complain(
        place, f"is not a known key{did_you_mean(name, known)}; allowed: {', '.join(known)}"
    )


def _read(key: Key, node: object, place: Path, report: Report) -> Any:
    if key.may_be_empty and isinstance(node, Scalar) and node.empty:
        node = {}
    if key.off is not None and isinstance(node, Scalar):
        # In quotes as well, as JSON and many writers of YAML have it: no other text has a meaning.
        if node.text.lower() in _NO:
            return None
        if node.text in key.off.words:
            return node.text
        if node.literal and not node.empty:
            words = ", ".join(("a mapping", *key.off.words))
            report.complain(place, f"{shown(node)} is not a mapping; allowed: {words}, or off")
            raise _Unsound
    if key.off_word and isinstance(node, Scalar) and node.literal and node.text.lower() in _NO:
        return None
    if key.shape == "one":
        return _item(key, node, place, report)
    if key.shape == "list":
        if not isinstance(node, list):
            report.complain(place, _wrong_shape(node, "a list"))
            raise _Unsound
        return tuple(_items(key, enumerate(node), place, report).values())
    if not isinstance(node, dict):
        report.complain(place, _wrong_shape(node, "a mapping"))
        raise _Unsound
    return _items(key, iter(node.items()), place, report)


def _items(
    key: Key, nodes: Iterator[tuple[Any, object]], place: Path, report: Report
) -> dict[Any, Any]:
    items: dict[Any, Any] = {}
    for step, node in nodes:
        if (*place, step) in report.broken:
            continue
        if key.may_be_empty and isinstance(node, Scalar) and node.empty:
            node = {}
        try:
            item = _item(key, node, (*place, step), report)
            if key.distinct and item in items.values():
                message = f'"{item}" stands here a second time; allowed: each one once'
                report.complain((*place, step), message)
            items[step] = item
        except _Unsound:
            continue
    return items


def _item(key: Key, node: object, place: Path, report: Report) -> Any:
    if key.section is not None:
        if key.short is not None and isinstance(node, Scalar) and not node.empty:
            name = key.short.key
            return Given(place, {name: _item(keys_of(key.section)[name], node, place, report)})
        given = read_section(key.section, node, place, report)
        if given is None:
            raise _Unsound
        return given
    assert key.read is not None, key
    try:
        return key.read(node)
    except ValueError as error:
        report.complain(place, str(error))
        raise _Unsound from None


def _allowed(key: Key) -> str:
    if key.read is not None:
        return key.read.allowed
    return "a list" if key.shape == "list" else "a mapping"


def _wrong_shape(node: object, expected: str) -> str:
    if isinstance(node, Scalar) and node.empty:
        return f"is empty; allowed: {expected}, or leave the key out"
    return f"is {shown(node)}; allowed: {expected}"


# ------------------------------------------------------------------------------ building


def overlay(base: S, given: Given) -> S:
    """`base` with what is given in place of its own, sections key by key."""
    return msgspec.structs.replace(base, **_fields(type(base), base, given))


def build(section: type[S], given: Given) -> S:
    """A section with its defaults, and what is given."""
    return section(**_fields(section, None, given))


def _fields(section: type[msgspec.Struct], base: object, given: Given) -> dict[str, Any]:
    fields = {}
    for name, value in given.values.items():
        key = keys_of(section).get(name)
        if key is None:
            continue
        inherited = key.default if base is None else getattr(base, key.attribute)
        fields[key.attribute] = _value(key, inherited, value)
    if (inline := inline_of(section)) is not None:
        name, how = inline
        chosen = fields.get(how.by, keys_of(section)[how.by].default)
        fields[name] = build(how.choices()[chosen], given)
    return fields


def _value(key: Key, inherited: Any, value: Any) -> Any:
    if key.section is None:
        return value
    if key.shape == "list":
        return tuple(build(key.section, item) for item in value)
    if key.shape == "mapping":
        return {name: build(key.section, item) for name, item in value.items()}
    if value is None:
        assert key.off is not None
        return msgspec.structs.replace(inherited, **key.off.off) if key.off.off else None
    if isinstance(value, str):
        assert key.off is not None
        return msgspec.structs.replace(inherited, **key.off.words[value])
    built = build(key.section, value) if inherited is None else overlay(inherited, value)
    if key.off is not None and key.off.on:
        return msgspec.structs.replace(built, **key.off.on)
    return built
