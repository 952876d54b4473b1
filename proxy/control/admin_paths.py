"""The path of the admin API that a request means. Pure.

Paths are matched on the bytes of the request, segment by segment: a name of a service or an
instance may hold any character, a brace, a percent sign or two dots too, and is decoded once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

Handler = TypeVar("Handler")

_STRAY = re.compile("%(?![0-9A-Fa-f]{2})")


class BadPath(ValueError):
    """The path holds a name that there cannot be. The text says why."""


@dataclass(frozen=True, slots=True)
class Found(Generic[Handler]):
    """The handlers that a path leads to."""

    handlers: Mapping[str, Handler]
    """By method."""
    names: tuple[str, ...] = ()
    """Segments of the path in the place of each `{…}`."""

    @property
    def allow(self) -> str:
        """The value of the field Allow (RFC 9110 section 10.2.1)."""
        head = ["HEAD"] if "GET" in self.handlers else []
        return ", ".join(sorted({*self.handlers, *head, "OPTIONS"}))


class Paths(Generic[Handler]):
    """The paths that there are."""

    def __init__(self, table: Mapping[str, Mapping[str, Handler]]) -> None:
        """Pattern → method → handler. In a pattern `{…}` is any one segment, but an empty one."""
        self.patterns = sorted(table)
        self._table = [(pattern.split("/"), handlers) for pattern, handlers in table.items()]

    def find(self, path: str) -> Found[Handler] | None:
        """The handlers of a path, or None if it is not there. Raises `BadPath` if it can be
        none."""
        given = [_decoded(segment) for segment in path.split("/")]
        for pattern, handlers in self._table:
            if len(pattern) == len(given) and all(map(_fits, pattern, given)):
                pairs = zip(pattern, given, strict=True)
                return Found(handlers, tuple(name for part, name in pairs if part[:1] == "{"))
        return None


def split_target(target: str) -> tuple[str | None, str]:
    """A request's target → its authority, if it is in absolute form, and its path (RFC 9112
    section 3.2)."""
    target = re.split("[?#]", target, maxsplit=1)[0]
    scheme, colon, rest = target.partition("://")
    if not (colon and scheme.isalpha()):
        return None, target
    authority, _, path = rest.partition("/")
    return authority.rpartition("@")[2], f"/{path}"


def _fits(pattern: str, given: str) -> bool:
    return pattern == given or (pattern[:1] == "{" and given != "")


def _decoded(segment: str) -> str:
    if _STRAY.search(segment):
        raise BadPath(f"{segment[:80]!r} in the path: a percent sign itself is %25")
    try:
        # What is no UTF-8 in the request is a surrogate here, or percent-encoded.
        return unquote_to_bytes(segment.encode(errors="surrogateescape")).decode()
    except UnicodeDecodeError:
        raise BadPath(f"{segment[:80]!r} in the path is not UTF-8") from None
