"""The route of one request, and what becomes of its path."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from proxy.http.way_back import WayBack
from proxy.settings.route import RouteSpec


class Match(NamedTuple):
    """A request's route. The service need not exist: of a template it is only a name, and it is
    empty where the route leads to several, or is an answer itself."""

    position: int
    """The route's place in the file, from 0."""
    spec: RouteSpec
    service: str
    templated: bool
    """The service's name came from the request: if nobody knows it, there is no route (404)."""
    prefix_length: int
    """Characters of the path that the prefix matched, without a final slash."""
    changes_path: bool
    """False: `rewrite` would return the path as it is."""
    special: bool
    """See `RouteSpec.is_special`."""
    published: str
    """See `RouteSpec.published`."""
    pattern: re.Pattern[str] | None
    """Of `path_regex`."""

    def rewrite(self, path: str) -> str:
        """The path for the instance. It always begins with `/`, and where a prefix was cut off
        or replaced there is exactly one slash, whatever the request had: a rest of
        `//host/x` would be a reference to another host in many programs' eyes."""
        if not self.changes_path:
            return path
        rest = path[self.prefix_length :]
        new = self.spec.rewrite
        if new is not None:
            return _filled(new, self.pattern, path)
        new = self.spec.rewrite_prefix
        if new is None:
            return "/" + rest.lstrip("/")
        if not rest:
            return new or "/"
        return f"{new.rstrip('/')}/{rest.lstrip('/')}"

    def way_back(self, path: str, host: bytes, scheme: bytes) -> WayBack:
        """The changes that answers have to turn back, by path, `Host` and scheme of the request."""
        spec = self.spec
        outer = path[: self.prefix_length] if self.changes_path else ""
        inner = (spec.rewrite_prefix or "").rstrip("/")
        named = host if spec.set_host is None else spec.set_host.encode("ascii")
        return WayBack(inner.encode("ascii"), outer.encode("ascii"), named, host, scheme)

    def refuses_slashes(self, otherwise: str) -> bool:
        """Whether `%2F` and `%5C` are refused in the path; `otherwise`: what the listener does with
        them under a path prefix, `pass` or `refuse`."""
        own = self.spec.encoded_slashes
        if own is None:
            return otherwise == "refuse" and self.spec.all_prefixes != (None,)
        return own == "refuse"

    def stripped(self, path: str) -> str:
        """The prefix that the instance's path lacks; empty if something took its place."""
        replaced = self.spec.rewrite_prefix not in (None, "/") or self.spec.rewrite is not None
        return "" if replaced or not self.changes_path else path[: self.prefix_length]


_GROUP: Final = re.compile(r"\{(\w+)\}", re.ASCII)


def _filled(template: str, pattern: re.Pattern[str] | None, path: str) -> str:
    """The path with `template` in place of what the pattern matched of it, or of all."""
    found = None if pattern is None else pattern.match(path)
    if found is None:
        return template
    groups = found.groupdict("")
    new = _GROUP.sub(lambda name: groups[name[1]], template)
    return "/" + (new + path[found.end() :]).lstrip("/")
