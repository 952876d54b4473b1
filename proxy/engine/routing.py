"""The route table: host, path, method and header fields → route and service.

Precedence, in this order:

1. The host. An exact name comes first, then patterns by the length of their literal ending,
   then routes for any host. `*.example.com` matches every name below `example.com`, at any
   depth, and not `example.com` itself; `{service}.example.com` matches exactly one label
   there and comes before the `*` of the same ending. `{service}.*`, the first label of whatever
   host, comes behind all of these.
2. The path: routes for exactly this path come first, then those by prefix: the one that
   matches the longest part of the path. Prefixes match whole
   segments: `/old` matches `/old` and `/old/x`, not `/older`; `/old/` matches `/old/` and
   what is under it, not `/old`. `{service}` matches one segment that can be a service's
   name; among prefixes that match equally far, a literal segment comes before `{service}`,
   compared from the left. Then come regular expressions, in the order of the file, then routes for
   any path.
3. The order in the file.

A route whose methods, fields or parameters do not fit is passed over as if it were not there. When
no route of a host fits, the next less specific host is asked: `*.example.com` with
`/orders` serves the orders of `shop.example.com` too, unless that host has a route that fits.

The table is immutable; a reload builds a new one. `match` does not depend on the number of
routes: it looks a host up by its endings and walks the path by segments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

from proxy.engine.match import Match
from proxy.engine.route_lines import SERVICE, Fields, Line, add_line
from proxy.settings.route import RouteSpec
from proxy.settings.route_values import FIRST_LABEL
from proxy.tls.names import NameTable

_ESCAPE: Final = r"%(?!2[DEF]|3[0-9]|4[1-9A-F]|5[0-9ACF]|6[1-9A-F]|7[0-9AE])[0-9A-F]{2}"
"""Of neither an unreserved character (paths have them as they are) nor a slash or backslash."""
is_service_name: Final = re.compile(
    rf"(?:[A-Z0-9_-]|{_ESCAPE})[A-Z0-9._~:@+-]*(?:{_ESCAPE}[A-Z0-9._~:@+-]*)*",
    re.ASCII | re.IGNORECASE,
).fullmatch
"""Whether a service's name, as it stands in the request, is one that a template may take; what it
means is found out in `second_look.py`. No name begins with a dot, so that `/.well-known` goes
elsewhere."""

LONGEST_HOST: Final = 512
"""Characters; a name in the DNS has 253, of which some may be escaped. Looking up the endings of
one costs its labels times its length: 0.3 s for a Host of 30 KB that is all dots."""


class _Segment:
    """One place in the tree of path prefixes."""

    __slots__ = ("ends", "literal", "service", "under")

    def __init__(self) -> None:
        self.literal: dict[str, _Segment] = {}  # ≤ 1 KiB + 4 KiB per route
        self.service: _Segment | None = None
        self.ends: list[Line] = []  # ≤ 1 KiB + 2 KiB per route
        """Routes whose prefix ends here."""
        self.under: list[Line] = []  # ≤ 1 KiB + 2 KiB per route
        """Routes whose prefix ends here with a slash."""

    def next(self, segment: str) -> _Segment:
        if segment == SERVICE:
            self.service = self.service or _Segment()
            return self.service
        return self.literal.setdefault(segment, _Segment())


class _Host:
    """All routes of one host pattern."""

    def __init__(self) -> None:
        self.exact: dict[str, list[Line]] = {}  # ≤ 1 KiB + 4 KiB per route
        """Path → routes for it alone."""
        self.root = _Segment()
        self.depth = 0
        """Segments of the longest prefix: no path is cut into more."""

    def add(self, position: int, spec: RouteSpec) -> None:
        """Keep a route under all its paths and prefixes."""
        for path in spec.all_paths:  # ≤ routes
            add_line(self.exact.setdefault(path, []), Line(position, spec, None, True))
        for prefix in spec.all_prefixes:  # ≤ routes
            self._add(Line(position, spec, prefix, False))

    def _add(self, route: Line) -> None:
        prefix = route.prefix
        place = self.root
        segments = [] if prefix is None else prefix.removesuffix("/").split("/")[1:]
        for segment in segments:  # ≤ routes
            place = place.next(segment)
        self.depth = max(self.depth, len(segments) + 1)
        add_line(place.under if prefix is not None and prefix.endswith("/") else place.ends, route)

    def match(self, path: str, method: str, fields: Fields, label: str | None) -> Match | None:
        """`label` is what `{service}` stood for in the host."""
        if self.exact:
            exact = self.exact.get(path)
            found = None if exact is None else _first(exact, path, method, fields, label, 0)
            if found is not None:
                return found
        if self.depth <= 1 and path.startswith("/"):
            # The whole host goes one way, which is the most common kind of host.
            for lines in (self.root.under, self.root.ends):
                found = _first(lines, path, method, fields, label, 0)
                if found is not None:
                    return found
            return None
        segments = path.split("/", self.depth)
        reached: list[_Reached] = []
        forks = _follow(self.root, segments, 1, "", reached)
        if forks:
            # A prefix has at most one `{service}`, so a branch does not fork again. Where two
            # reach equally far the one that forked later has the longer literal beginning,
            # and sorting keeps this order.
            for place, at in reversed(forks):  # ≤ 256
                if is_service_name(segments[at]):
                    _follow(place, segments, at + 1, segments[at], reached)
            reached.sort(key=itemgetter(0), reverse=True)
        else:
            reached.reverse()
        for _, routes, captured in reached:  # ≤ routes
            found = _first(routes, path, method, fields, captured or label, len(captured))
            if found is not None:
                return found
        return None


def _first(
    routes: list[Line],
    path: str,
    method: str,
    fields: Fields,
    captured: str | None,
    in_path: int,
) -> Match | None:
    """The match of the first of these that fits: see `Line.at`."""
    for route in routes:  # ≤ routes
        if route.accepts_all:
            return route.fixed or route.at(captured, in_path)
        fits = route.accepting(method, fields, path)
        if fits is not None:
            return fits.fixed or fits.at(captured, in_path)
    return None


class _PatternHost(_Host):
    """All routes of one host pattern, if some go by regular expressions: those come behind exact
    paths and prefixes, and before routes for any path."""

    def __init__(self) -> None:
        super().__init__()
        self._rest = _Host()
        """Routes for any path."""
        self._patterns: list[Line] = []  # ≤ 1 KiB + 8 KiB per route

    def add(self, position: int, spec: RouteSpec) -> None:
        if spec.path_regex is not None:
            add_line(self._patterns, Line(position, spec, None, False))
        elif spec.all_prefixes == (None,):
            self._rest.add(position, spec)
        else:
            super().add(position, spec)

    def match(self, path: str, method: str, fields: Fields, label: str | None) -> Match | None:
        found = super().match(path, method, fields, label)
        if found is not None:
            return found
        for route in self._patterns:  # ≤ routes
            fits = route.accepting(method, fields, path)
            if fits is not None:
                return fits.fixed or fits.at(label, 0)
        return self._rest.match(path, method, fields, label)


_Reached = tuple[int, list[Line], str]
"""(how far into the path, routes whose prefix reaches there, what `{service}` stood for)."""


def _follow(
    place: _Segment, segments: list[str], at: int, captured: str, reached: list[_Reached]
) -> list[tuple[_Segment, int]]:
    """Follow the literal segments from `at` on, noting what is reached, nearest first. Returns
    the `{service}` branches passed on the way, each with the segment it would take."""
    forks: list[tuple[_Segment, int]] = []
    while True:  # ≤ 256
        if place.ends:
            reached.append((2 * at, place.ends, captured))
        if at == len(segments):
            return forks
        if place.under:
            reached.append((2 * at + 1, place.under, captured))
        if place.service is not None:
            forks.append((place.service, at))
        below = place.literal.get(segments[at])
        if below is None:
            return forks
        place = below
        at += 1


@dataclass(slots=True)
class _Ending:
    """The host patterns with one literal ending."""

    templates: dict[str, _Host] = field(default_factory=dict)
    """Text before `{service}`, with its dot or empty → routes."""
    wildcard: _Host | None = None


class RouteTable:
    """`routes:` in the order of the file. ValueError names a route that cannot be read."""

    def __init__(self, routes: Sequence[RouteSpec]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[str, _Host] = {}  # ≤ 1 KiB + 8 KiB per route
        self._endings: dict[str, _Ending] = {}  # ≤ 1 KiB + 8 KiB per route
        self._first_label: _Host | None = None
        self._any: _Host | None = None
        names = [spec for spec in self.routes if spec.sni is not None]
        self._names = NameTable([(str(spec.sni),) for spec in names])
        self._services = [spec.service for spec in names]  # ≤ 1 KiB per route
        self._with_patterns = {
            host for spec in self.routes if spec.path_regex is not None for host in spec.all_hosts
        }  # ≤ 1 KiB per route
        for position, spec in enumerate(self.routes):  # ≤ routes
            if spec.sni is not None:
                continue
            try:
                _check(spec)
                for host in spec.all_hosts:  # ≤ routes
                    self._host(host).add(position, spec)
            except ValueError as error:
                raise ValueError(f"routes[{position}]: {error}") from None

    def passthrough(self, name: str) -> str | None:
        """The service that gets connections for this name (SNI) as they are; None: no such."""
        found = self._names.find(name)
        return self._services[found[0]] if found else None

    def _host(self, pattern: str | None) -> _Host:
        """Where the routes of a host pattern are kept."""
        new = _PatternHost if pattern in self._with_patterns else _Host
        if pattern is None:
            self._any = self._any or new()
            return self._any
        pattern = pattern.lower().removesuffix(".")
        if pattern == FIRST_LABEL:
            self._first_label = self._first_label or new()
            return self._first_label
        if pattern.startswith("*."):
            ending = self._endings.setdefault(pattern[2:], _Ending())
            ending.wildcard = ending.wildcard or new()
            return ending.wildcard
        before, template, after = pattern.partition(SERVICE)
        if template:
            ending = self._endings.setdefault(after[1:], _Ending())
            return ending.templates.setdefault(before, new())
        return self._exact.setdefault(pattern, new())

    def match(self, host: str, path: str, method: str, fields: Fields) -> Match | None:
        """The route of a request, or None.

        `host` in lower case and without port; `path` as it will be forwarded, dot segments
        resolved, without query; `fields` is asked only for what a candidate route needs.
        """
        if host.endswith("."):
            host = host[:-1]  # the same name, fully qualified
        routes = self._exact.get(host)
        if routes is not None:
            found = routes.match(path, method, fields, None)
            if found is not None:
                return found
        if self._endings:
            for routes, label in self._by_ending(host):  # ≤ LONGEST_HOST
                found = routes.match(path, method, fields, label)
                if found is not None:
                    return found
        if self._first_label is not None:
            label = host[:LONGEST_HOST].partition(".")[0]
            if is_service_name(label):
                found = self._first_label.match(path, method, fields, label)
                if found is not None:
                    return found
        return None if self._any is None else self._any.match(path, method, fields, None)

    def match_dotted(
        self, host: str, path: str, method: str, fields: Fields, exists: Callable[[str], object]
    ) -> Match | None:
        """The route of a request that has no other one, by a host in which `{service}` stands for
        several labels: the name of a service that `exists`, and that has dots."""
        host = host.removesuffix(".")
        if len(host) > LONGEST_HOST:
            return None
        stop = 0
        while stop < len(host):  # ≤ LONGEST_HOST
            dot = host.find(".", stop + 1)
            stop = len(host) if dot < 0 else dot
            ending = self._endings.get(host[stop + 1 :])
            templates = {} if ending is None else ending.templates
            for before in sorted(templates, key=len, reverse=True):  # ≤ routes
                name = host[len(before) : stop]
                if (
                    host.startswith(before)
                    and "." in name
                    and is_service_name(name)
                    and exists(name)
                ):
                    found = templates[before].match(path, method, fields, name)
                    if found is not None:
                        return found
        return None

    def _by_ending(self, host: str) -> Iterator[tuple[_Host, str | None]]:
        """The host patterns that match, longest ending first, each with its label."""
        if len(host) > LONGEST_HOST:
            return
        start = 0
        while start <= len(host):  # ≤ LONGEST_HOST
            dot = host.find(".", start)
            stop = len(host) if dot < 0 else dot
            ending = self._endings.get(host[stop + 1 :])
            if ending is not None and stop > start:
                template = ending.templates.get(host[:start])
                if template is not None and is_service_name(host, start, stop):
                    yield template, host[start:stop]
                if ending.wildcard is not None and dot >= 0:
                    yield ending.wildcard, None
            start = stop + 1


def _check(spec: RouteSpec) -> None:
    """The configuration refuses these with line and column; here they would silently match
    nothing or the wrong thing."""
    host, prefix = spec.host, spec.path_prefix
    if host == FIRST_LABEL:
        host = SERVICE
    labels = [] if host is None else host.split(".")
    segments = [] if prefix is None else prefix.split("/")
    if host is not None:
        if "" in host.removeprefix("*.").removesuffix(".").split("."):
            raise ValueError(f"host: {host!r}: must be a name, a *.wildcard or absent")
        if "*" in host.removeprefix("*."):
            raise ValueError(f"host: {host!r}: * may only stand for the first labels, as in *.a.b")
        if SERVICE in host and "*" in host:
            raise ValueError(f"host: {host!r}: has both * and {SERVICE}")
    if prefix is not None and not prefix.startswith("/"):
        raise ValueError(f"path_prefix: {prefix!r}: must begin with /")
    templates = 0
    for place, text, parts in (("host", host, labels), ("path_prefix", prefix, segments)):
        templates += (text or "").count(SERVICE)
        if sum("{" in part or "}" in part for part in parts) != parts.count(SERVICE):
            raise ValueError(f"{place}: {text!r}: {SERVICE} must be a whole part")
    if templates > 1:
        raise ValueError(f"{SERVICE} may stand only once in host and path_prefix together")
    if not templates and not (spec.service or spec.split or spec.redirect or spec.respond):
        raise ValueError(f"service: missing, and neither host nor path_prefix has {SERVICE}")
    if spec.forward_path == "received" and (spec.strip_prefix or spec.rewrite_prefix is not None):
        raise ValueError("forward_path: received, and the path is to be changed")
    if spec.rewrite_prefix and not spec.rewrite_prefix.startswith("/"):
        raise ValueError(f"rewrite_prefix: {spec.rewrite_prefix!r}: must begin with /")
