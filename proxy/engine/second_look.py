"""The part of routing that few requests need after the look-up: for a path that can be read in
several ways, or a service's name in another spelling.

A request whose path is plain and whose service has exactly the name that it says never comes
here. Workers and `fairlead explain` decide by the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from proxy.engine.match import Match
from proxy.engine.route_lines import SERVICE, Fields
from proxy.engine.routing import RouteTable
from proxy.errors import NO_INSTANCE, NO_ROUTE, UNKNOWN_SERVICE, Refused
from proxy.http.target import bad_path, has_dot_segments, has_encoded_slash
from proxy.http.target import readings as _readings

_PLAIN: Final = ":@+~"
"""Characters besides letters, digits and `-._` that a service's name may have unescaped in a
path."""


class ServiceNames:
    """Owns the names of the services that exist, by what is left of them without case: hosts have
    none (RFC 9110 §4.2.3)."""

    def __init__(self) -> None:
        self.complete = True
        """There are no others."""
        self._by_lower: dict[str, tuple[str, ...]] = {}  # ≤ 1 KiB + 400 B per service

    def add(self, name: str) -> None:
        """The service exists. One whose name begins with `@` is for nobody to ask for."""
        if name.startswith("@"):
            return
        alike = self._by_lower.get(name.lower(), ())
        if name not in alike:
            self._by_lower[name.lower()] = (*alike, name)

    def discard(self, name: str) -> None:
        """Note that the service does not exist any more."""
        alike = tuple(one for one in self._by_lower.get(name.lower(), ()) if one != name)
        if alike:
            self._by_lower[name.lower()] = alike
        else:
            self._by_lower.pop(name.lower(), None)

    def meant_by(self, said: str) -> tuple[str, ...]:
        """The service whose name this is, or else all that differ from it in case alone."""
        alike = self._by_lower.get(said.lower(), ())
        return (said,) if said in alike else alike


class Asked(NamedTuple):
    """The parts of a request that its route depends on: see `RouteTable.match`."""

    host: str
    path: str
    method: str
    fields: Fields
    readings: tuple[str, ...]
    """Other readings of the path (`target.readings`)."""


def look_again(
    table: RouteTable,
    names: ServiceNames,
    asked: Asked,
    found: Match | None,
    encoded_slashes: str,
    brought: RouteTable | None = None,
) -> Match:
    """The route of a request for which the table has `found`, with a service that exists.
    `brought`: routes of instances, which are asked where the table has none, and which have one
    position together, behind all others.
    `encoded_slashes`: what the listener does with them, `pass` or `refuse`. Raises `Refused`."""
    host, path, method, fields, readings = asked

    def match(path: str) -> Match | None:
        return table.match(host, path, method, fields)

    def match_dotted(path: str) -> Match | None:
        return table.match_dotted(host, path, method, fields, names.meant_by)

    def match_brought(path: str) -> Match | None:
        one = None if brought is None else brought.match(host, path, method, fields)
        return None if one is None else one._replace(position=len(table.routes))

    _check_readings(found, readings, match)
    if found is None:
        found = match_dotted(path)
        _check_readings(found, readings, match_dotted)
        if found is None and brought is not None:
            found = match_brought(path)
            _check_readings(found, readings, match_brought)
        if found is None:
            raise Refused(NO_ROUTE, f"no route for {host or '(no host)'} {path}")
    if has_encoded_slash(path) and found.refuses_slashes(encoded_slashes):
        raise bad_path("an encoded slash or backslash in the path")
    spec = found.spec
    if readings and (spec.rewrite_prefix or spec.rewrite):
        below = spec.rewrite_prefix or (spec.rewrite or "").partition("{")[0].rpartition("/")[0]
        _check_rewritten(below.rstrip("/"), found.rewrite(path))
    return found._replace(service=_service(table, names, asked, found))


def rewritten(match: Match, path: str) -> str:
    """The path for the instance. Raises `Refused` if it has dot segments, which a rewrite may put
    together of what a regular expression has found."""
    new = match.rewrite(path)
    if match.pattern is not None and has_dot_segments(new):
        raise bad_path(f"the path for the instance would be {new}")
    return new


def check_published(names: ServiceNames, match: Match, published: Collection[str]) -> None:
    """Check that a service, whose pool says `published`, is one that its template route leads to.
    Raises `Refused`."""
    if match.spec.services and match.service not in match.spec.services:
        raise Refused(UNKNOWN_SERVICE, f"{match.service} is none of the route's services")
    if match.published and match.published not in published:
        if names.complete:
            detail = f"{match.service} has no instance with {match.published}"
            raise Refused(UNKNOWN_SERVICE, detail)
        raise Refused(NO_INSTANCE, f"{match.service} has no instance")


def _check_readings(
    found: Match | None, readings: tuple[str, ...], match: Callable[[str], Match | None]
) -> None:
    """Check that all readings lead to the same route and service: otherwise the writer of a path
    gets round what one of the routes is for. Raises `Refused`."""
    for reading in readings:  # ≤ 17
        other = match(reading)
        if found is None or other is None:
            same = found is other
        else:
            same = (found.position, unquote(found.service)) == (
                other.position,
                unquote(other.service),
            )
        if not same:
            raise bad_path(f"the path may be read as {reading}, which leads elsewhere")


def _check_rewritten(prefix: str, path: str) -> None:
    """Check that all readings of the new path stay below what the route's prefix became. Raises
    `Refused`. As it was asked, `/api/..%2F..%2Fapi` never left `/api`."""
    below = [one + "/" for one in (prefix, *_readings(prefix))]
    for reading in _readings(path):  # ≤ 17
        if not any((reading + "/").startswith(one) for one in below):
            raise bad_path(f"the path for the instance may be read as {reading}, outside {prefix}")


def _service(table: RouteTable, names: ServiceNames, asked: Asked, found: Match) -> str:
    if not found.templated:
        return found.service
    said = unquote(found.service)
    meant = names.meant_by(said)
    if not meant:
        if names.complete:
            raise Refused(UNKNOWN_SERVICE, f"no service is called {said}")
        raise Refused(NO_INSTANCE, f"{said} has no instance")
    if len(meant) > 1:
        several = ", ".join(sorted(meant))
        detail = f"no service is called {said}, and case alone tells it from {several}"
        raise Refused(UNKNOWN_SERVICE, detail)
    [name] = meant
    if name != found.service:
        # By another case, or an escape, nobody gets round a route for this one service.
        host, path = _in_its_own_spelling(found, asked, name)
        other = table.match(host, path, asked.method, asked.fields)
        if other is not None and other.position != found.position:
            raise bad_path(f"{name}, spelled as it is registered, leads to another route")
    return name


def _in_its_own_spelling(found: Match, asked: Asked, name: str) -> tuple[str, str]:
    """Host and path of the request if it said the service's name as it is registered."""
    prefix = found.spec.path_prefix
    if prefix is None or SERVICE not in prefix:
        before, _, after = (found.spec.host or "").partition(SERVICE)
        if after == ".*":
            after = asked.host[len(found.service) :]
        return before + name.lower() + after, asked.path
    segments = asked.path.split("/")
    segments[prefix.split("/").index(SERVICE)] = quote(name, safe=_PLAIN)
    return asked.host, "/".join(segments)
