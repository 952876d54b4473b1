"""Why each route is or is not taken for a request.

Every route is compared by itself, on purpose in another way than `RouteTable.match` finds one: the
two must agree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.engine.route_lines import LISTENER, SERVICE, Fields
from proxy.engine.routing import LONGEST_HOST, is_service_name
from proxy.settings.route import RouteSpec
from proxy.settings.route_values import FIRST_LABEL, pieces_of


@dataclass(frozen=True, slots=True)
class Considered:
    """The verdict on one route for one request."""

    position: int
    """The route's place in the file, from 0."""
    spec: RouteSpec
    taken: bool
    reason: str


def explain(
    routes: Sequence[RouteSpec], host: str, path: str, method: str, fields: Fields
) -> list[Considered]:
    """Every route in the order of precedence it has for this request, with the reason why
    it is or is not taken; those that do not match host or path come last, in the order of
    the file."""
    host = host.removesuffix(".")
    candidates = []
    others = []
    for position, spec in enumerate(routes):  # ≤ explain
        if spec.sni is not None:
            reason = f"is for TLS connections to {spec.sni} as a whole"
            others.append(Considered(position, spec, False, reason))
            continue
        host_ranks = [r for one in spec.all_hosts if (r := _host_rank(one, host)) is not None]
        path_ranks = [p for one in spec.all_prefixes if (p := _path_rank(one, path)) is not None]
        if spec.path_regex is not None and re.match(spec.path_regex, path, re.ASCII):
            path_ranks.append((0, []))
        if path in spec.all_paths:
            path_ranks.append((-len(path) - 2, []))
        if not host_ranks:
            reason = f"host is not {' or '.join(map(str, spec.all_hosts))}"
            others.append(Considered(position, spec, False, reason))
        elif not path_ranks:
            wanted = [f"is not {one}" for one in spec.all_paths]
            if spec.path_regex is not None:
                wanted.append(f"does not match {spec.path_regex}")
            wanted += [f"does not begin with {one}" for one in spec.all_prefixes]
            others.append(Considered(position, spec, False, f"path {', '.join(wanted)}"))
        else:
            candidates.append(((min(host_ranks), min(path_ranks), position), spec))
    result = []
    taken: int | None = None
    for (_, _, position), spec in sorted(
        candidates, key=lambda candidate: candidate[0]
    ):  # ≤ explain
        mismatch = _mismatch(spec, method, fields)
        if mismatch is None and taken is not None:
            mismatch = f"route {taken} comes first"
        if mismatch is None:
            taken = position
        result.append(Considered(position, spec, mismatch is None, mismatch or "taken"))
    return result + others


def _host_rank(pattern: str | None, host: str) -> tuple[int, int, int] | None:
    """The rank of a host pattern for `host`: the lower, the more specific; None = does not
    match."""
    if pattern is None:
        return (2, 0, 0)
    if pattern == FIRST_LABEL:
        return (1, 1, 0) if is_service_name(host[:LONGEST_HOST].split(".")[0]) else None
    pattern = pattern.lower().removesuffix(".")
    if len(host) > LONGEST_HOST and ("*" in pattern or SERVICE in pattern):
        return None
    if pattern.startswith("*."):
        ending = pattern[1:]
        return (1, 1 - len(ending), 1) if _is_under(host, ending) else None
    if SERVICE in pattern:
        wanted, labels = pattern.split("."), host.split(".")
        if len(wanted) != len(labels):
            return None
        for want, label in zip(wanted, labels, strict=True):  # ≤ explain
            if not (is_service_name(label) if want == SERVICE else want == label):
                return None
        return (1, -len(pattern.partition(SERVICE + ".")[2]), 0)
    return (0, 0, 0) if pattern == host else None


def _is_under(host: str, ending: str) -> bool:
    return host.endswith(ending) and not host.removesuffix(ending).endswith(".") and host != ending


def _path_rank(prefix: str | None, path: str) -> tuple[int, list[bool]] | None:
    """The rank of a prefix for `path`: the lower, the more specific: how far it matches, then where
    it has templates. None = does not match."""
    if prefix is None:
        return (1, [])
    wanted, segments = prefix.removesuffix("/").split("/"), path.split("/")
    if len(segments) < len(wanted) + prefix.endswith("/"):
        return None
    for want, segment in zip(wanted, segments, strict=False):  # ≤ explain
        if not (is_service_name(segment) if want == SERVICE else want == segment):
            return None
    length = len("/".join(segments[: len(wanted)])) + prefix.endswith("/")
    return (-length, [want == SERVICE for want in wanted])


def _mismatch(spec: RouteSpec, method: str, fields: Fields) -> str | None:
    if spec.methods and method not in spec.methods:
        return f"method is not {' or '.join(spec.methods)}"
    if spec.listeners and fields(LISTENER) not in spec.listeners:
        return f"listener is not {' or '.join(spec.listeners)}"
    asked = [("field", name, name.lower(), value) for name, value in spec.headers.items()]
    asked += [("parameter", name, f"query:{name}", value) for name, value in spec.query.items()]
    for what, name, source, value in asked:  # ≤ explain
        found = fields(source)
        pieces = pieces_of(value) if what == "field" else (value,)
        if found is None or not re.fullmatch(".*".join(map(re.escape, pieces)), found):
            is_other = f"{what} {name} is {found!r}, not {value!r}"
            return f"no {what} {name}" if found is None else is_other
    return None
