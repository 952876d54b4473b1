"""A key and its value in any format → the instances of the record, or why not. Pure."""

from __future__ import annotations

from typing import Any, Final

from proxy.membership import Instance
from proxy.registry.formats.endpoints import shown
from proxy.registry.formats.shapes import SHAPES, instances_in, shape_of
from proxy.registry.records import (
    MAX_NAME,
    Unreadable,
    document,
    has_control,
    instance_of,
    text_of,
)

AUTO: Final = "auto"
FORMATS: Final = (AUTO, *SHAPES)

_NESTED: Final = frozenset({"grpc", "go-zero"})
"""Formats in which the last part of a key is the id and all before it is the service."""

_DEEP: Final = frozenset({"text", "nerve"})
"""Formats in which the first part of a key is the service and all behind it is the id."""

_NUMBERED: Final = frozenset({"serverset"})
"""Formats in which the last part of a key is another one at each registration, so that the id is
what the record leads to."""


def literal(prefix: str) -> str:
    """The prefix that is meant: who writes `services` means `services/`."""
    return prefix + "/" if prefix[-1:].isalnum() else prefix


def read_any(
    key: bytes, value: bytes, *, prefix: bytes, form: str
) -> tuple[tuple[Instance, ...], str]:
    """The instances of a record in the format `form`, and what was odd about it; Unreadable."""
    decoded = _decoded(value)
    shape = shape_of(decoded) if form == AUTO else form
    parts = _parts(key, prefix)
    service, id_ = _place(parts, shape, form, prefix)
    if max(len(service.encode()), len(id_.encode())) > MAX_NAME:
        raise Unreadable(f"key has a service or an id of more than {MAX_NAME} bytes")
    found: dict[str, Instance] = {}
    odd: list[str] = []
    wrong: list[str] = []
    unread: set[str] = set()
    each = instances_in(decoded, shape, id_)
    for place, own, one in each:
        try:
            record, *oddities = SHAPES[shape](one, parts[-1])
            instance, odder = instance_of(service, own, record, shape)
            if instance.id in found:
                raise Unreadable(f"the id {shown(instance.id)} is another one's")
            found[instance.id] = instance
            odd += [place + why for why in (*oddities, odder) if why]
        except Unreadable as error:
            if not place:
                raise
            wrong.append(f"{place}{error}")
            unread.add(own)
    instances = tuple(found.values())
    if wrong:
        # Who has no id may be any of those that are missing.
        raise Unreadable(_few(wrong), instances, None if "" in unread else unread)
    return instances, _few(odd) if each else "it holds no instance"


def service_at(key: bytes, *, prefix: bytes, form: str) -> str:
    """The service that a key is about, as far as the key says; "" = none."""
    parts = key.removeprefix(prefix).decode(errors="replace").removeprefix("/").split("/")
    if form == "fairlead" and len(parts) == 1:
        return ""
    return ".".join(parts[:-1]) if form in _NESTED and len(parts) > 1 else parts[0]


def is_record(key: bytes, value: bytes) -> bool:
    """Whether a place in a tree is a record, and no directory that nobody is in: one without a
    value is a record only if its name is an address."""
    return bool(value.strip()) or b":" in key.rpartition(b"/")[2]


def _few(complaints: list[str]) -> str:
    more = len(complaints) - 2
    return "; ".join(complaints[:2]) + (f"; and {more} more like these" if more > 0 else "")


def _decoded(value: bytes) -> Any:
    """An object, or a text, which may be one of JSON: PHP writes `http:\\/\\/` in there."""
    text = text_of(value).strip()
    if text.startswith("{"):
        return document(value)
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1].replace("\\/", "/")
    return text


def _parts(key: bytes, prefix: bytes) -> list[str]:
    """Parts of a key behind the prefix, between slashes; Unreadable."""
    try:
        rest = key.removeprefix(prefix).decode()
    except UnicodeDecodeError:
        raise Unreadable("key is not UTF-8") from None
    if has_control(rest):
        raise Unreadable("key holds control characters")
    parts = (rest if prefix.endswith(b"/") else rest.removeprefix("/")).split("/")
    if not key.startswith(prefix) or not all(parts):
        raise _misplaced(prefix)
    return parts


def _place(parts: list[str], shape: str, form: str, prefix: bytes) -> tuple[str, str]:
    """Service and id of a key; an id "" is none."""
    *above, last = parts
    if shape in _NESTED:
        # The prefix may be one service's key.
        above = above or [prefix.decode().strip("/").rpartition("/")[2] or last]
        return ".".join(above), last
    if not above and form != "fairlead":
        return last, ""
    if shape in _DEEP:
        return above[0], ":".join(parts[1:])
    if len(parts) != 2:
        raise _misplaced(prefix)
    return above[0], "" if shape in _NUMBERED else last


def _misplaced(prefix: bytes) -> Unreadable:
    return Unreadable(f"key is not of the form {prefix.decode()}<service>/<id>")
