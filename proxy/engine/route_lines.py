"""Routes as they are looked up: whether one of them fits a request, and a row of many of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Final

from proxy.engine.match import Match
from proxy.settings.path_pattern import PathPattern
from proxy.settings.route import RouteSpec
from proxy.settings.route_values import pieces_of

SERVICE: Final = "{service}"

Fields = Callable[[str], str | None]
"""Field name in lower case → value, None if the request has no such field; `query:NAME` → value of
a parameter of the query, escapes resolved; `LISTENER` → name of the listener."""
LISTENER: Final = "listener:"
FEW: Final = 8
"""Routes at one place from which on they are not asked one after the other whether they fit."""
_PATH: Final = "path:"
_WHOLE: Final = -1
_PIECE: Final = 4
"""Characters of a text that are looked for: words and numbers mostly differ in as many, and the
pieces of a path of 60 characters are looked up in three microseconds."""
_ENDS: Final = 32
"""Pieces at either end of a text that may tell routes apart: a long one differs in one of these, or
costs more memory than it saves time."""
_SEARCH: Final = 256
"""Pieces of a value that are cut and looked up in the time of a search for one text in all of it. A
client may send a field of 32 KiB: few texts are searched for in it."""


class Line:
    """A line of the file, prepared."""

    __slots__ = (
        "accepts_all",
        "conditions",
        "fixed",
        "length",
        "listeners",
        "literals",
        "methods",
        "pattern",
        "patterns",
        "position",
        "prefix",
        "published",
        "spec",
        "special",
        "strips",
    )

    def __init__(self, position: int, spec: RouteSpec, prefix: str | None, exact: bool) -> None:
        """`prefix`: the one of the route's that it is kept under; `exact`: under a path instead."""
        self.position = position
        self.spec = spec
        self.special = spec.is_special
        self.published = spec.published
        self.prefix = prefix
        self.methods = frozenset(spec.methods)
        self.listeners = frozenset(spec.listeners)
        fields = [(name.lower(), pieces_of(value)) for name, value in spec.headers.items()]
        self.conditions = (
            *((name, pieces[0]) for name, pieces in fields if len(pieces) == 1),
            *((f"query:{name}", value) for name, value in spec.query.items()),
        )
        self.patterns = tuple(one for one in fields if len(one[1]) > 1)
        literal = (prefix or "").removesuffix("/")
        templated = SERVICE in literal
        self.length = len(literal) - (len(SERVICE) if templated else 0)
        """Of the prefix's literal part."""
        self.strips = spec.rewrite is not None or (
            not exact and (spec.rewrite_prefix is not None or (spec.strip_prefix and literal != ""))
        )
        self.pattern: re.Pattern[str] | None = None
        self.literals: tuple[str, ...] = ("",)
        if spec.path_regex is not None:
            pattern = PathPattern(spec.path_regex)
            self.pattern, self.literals = pattern.compiled, tuple(pattern.literals)
        self.accepts_all = not (
            self.methods or self.conditions or self.patterns or self.listeners or self.pattern
        )
        in_host = spec.host is not None and SERVICE in spec.host
        self.fixed = None if templated or in_host else self.at(None, 0)
        """The match, where it is the same for every request."""

    def at(self, captured: str | None, in_path: int) -> Match:
        """The match for a request in which `{service}` stood for `captured`, with so many
        characters of it in the path."""
        service = self.spec.service or captured or ""
        if service.startswith("@") and self.spec.service is None:
            service = ""  # Nobody's name: such services are for routes that say so.
        templated = self.spec.service is None and captured is not None
        length = self.length + in_path
        return Match(
            self.position,
            self.spec,
            service,
            templated,
            length,
            self.strips,
            self.special,
            self.published,
            self.pattern,
        )

    def accepting(self, method: str, fields: Fields, path: str) -> Line | None:
        """The route, if it fits."""
        return self if self.accepts(method, fields, path) else None

    def accepts(self, method: str, fields: Fields, path: str) -> bool:
        if self.methods and method not in self.methods:
            return False
        if self.listeners and fields(LISTENER) not in self.listeners:
            return False
        if not all(fields(name) == value for name, value in self.conditions):
            return False
        if not all(_fits(pieces, fields(name)) for name, pieces in self.patterns):
            return False
        return self.pattern is None or self.pattern.match(path) is not None

    def clues(self) -> list[tuple[str, int, str]]:
        """Texts without which the route does not fit: name of the field or path, length of the
        text (`_WHOLE`: the value is it), text."""
        clues = [(name, _WHOLE, value) for name, value in self.conditions]
        for name, texts in (*self.patterns, (_PATH, self.literals)):
            for text in texts:  # ≤ 256
                last = max(1, len(text) - _PIECE + 1)
                for at in (
                    range(last)
                    if last <= 2 * _ENDS
                    else (*range(_ENDS), *range(last - _ENDS, last))
                ):  # ≤ 2 * _ENDS
                    piece = text[at : at + _PIECE]
                    clues.append((name, len(piece), piece))
        return clues


def _fits(pieces: tuple[str, ...], value: str | None) -> bool:
    """Whether a field has these pieces one after the other, with anything in between."""
    if value is None:
        return False
    at, stop = len(pieces[0]), len(value) - len(pieces[-1])
    if at > stop or not (value.startswith(pieces[0]) and value.endswith(pieces[-1])):
        return False
    for piece in pieces[1:-1]:  # ≤ routes
        found = value.find(piece, at, stop)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _position_of(route: Line) -> int:
    return route.position


class _Row(Line):
    """Many routes at one place: they are found by texts that few of them want."""

    __slots__ = ("_by_text", "_routes")

    def __init__(self, routes: list[Line]) -> None:
        super().__init__(routes[0].position, routes[0].spec, None, False)
        self.accepts_all = False
        self._routes = routes  # ≤ 1 KiB + 2 KiB per route
        self._by_text: dict[
            tuple[str, int], dict[str, list[Line]]
        ] = {}  # ≤ 1 KiB + 2 KiB per route
        """Name of a field and length of texts → text → routes; made when they are asked for the
        first time."""

    def add(self, route: Line) -> None:
        self._routes.append(route)

    def accepting(self, method: str, fields: Fields, path: str) -> Line | None:
        """The first of them that fits."""
        if not self._by_text:
            self._prepare()
        wanted: list[Line] = []
        for (name, length), places in self._by_text.items():  # ≤ routes
            value = path if name == _PATH else fields(name)
            if value is None:
                continue
            if length > 0:
                last = len(value) - length + 1
                if len(places) * _SEARCH < last:
                    found = {text for text in places if text in value}  # ≤ routes
                else:
                    found = places.keys() & {value[at : at + length] for at in range(last)}
                for text in found:  # ≤ routes
                    wanted += places[text]
            else:
                wanted += places.get(value if length else "", ())
        wanted.sort(key=_position_of)
        for route in wanted:  # ≤ routes
            if route.accepts(method, fields, path):
                return route
        return None

    def _prepare(self) -> None:
        clues = [(route, route.clues()) for route in self._routes]
        often = Counter(clue for _, of_one in clues for clue in of_one)
        for route, of_one in clues:  # ≤ routes
            name, length, text = min(of_one, key=often.__getitem__)
            self._by_text.setdefault((name, length), {}).setdefault(text, []).append(route)


def add_line(routes: list[Line], route: Line) -> None:
    """Have another route at a place."""
    first = routes[0] if routes else None
    if isinstance(first, _Row):
        first.add(route)
        return
    routes.append(route)
    if len(routes) == FEW:
        routes[:] = [_Row(routes.copy())]
