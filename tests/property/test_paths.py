"""No path gets round a route because an instance reads it in another way than the proxy."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.http1.parser import parse_request
from proxy.engine.routing import RouteTable
from proxy.engine.second_look import Asked, ServiceNames, look_again
from proxy.errors import Refused
from proxy.http.target import resolve
from proxy.settings.route import RouteSpec

# -- programs that read paths, written anew


def decode(path: str) -> str:
    for escape, char in (("%2F", "/"), ("%5C", "/"), ("%3B", ";"), ("%40", "@"), ("%3A", ":")):
        path = path.replace(escape, char).replace(escape.lower(), char)
    return path


def cut_parameters(path: str) -> str:
    return "/".join(segment.partition(";")[0] for segment in path.split("/"))


def merge(path: str) -> str:
    while "//" in path:
        path = path.replace("//", "/")
    return path


def walk(path: str) -> str:
    """As RFC 3986 §5.2.4 has it, step by step."""
    out = ""
    while path:
        if path.startswith("/./") or path == "/.":
            path = "/" + path[3:]
        elif path.startswith("/../") or path == "/..":
            path = "/" + path[4:]
            out = out.rpartition("/")[0]
        else:
            match = re.match("/?[^/]*", path)
            assert match is not None
            out += match[0]
            path = path[len(match[0]) :]
    return out


PROGRAMS: list[tuple[Callable[[str], str], ...]] = [
    order
    for count in range(5)
    for order in permutations((decode, cut_parameters, merge, walk), count)
]

pieces = st.sampled_from(
    ["/", "/", "//", "%2F", "%2f", "%5C", "..", ".", "%2e", "..;", ";x", ";", "%3B", "%252F", "%40",
     "public", "admin", "a", "b", "s", "S", "@", ":", "%3A", "%20", "..%2F", "/../", "/..;/"]
)  # fmt: skip
paths = st.lists(pieces, max_size=9).map(lambda parts: "/" + "".join(parts))
words = st.sampled_from(["public", "admin", "a", "b", "@a", "a:b", "{service}"])
prefixes = st.lists(words, max_size=3).map(lambda parts: "/" + "/".join(parts)).filter(
    lambda prefix: prefix.count("{") <= 1
)  # fmt: skip
NAMES = ServiceNames()
for name in ("a", "b", "s", "public", "a:b", "admin"):
    NAMES.add(name)


def table_of(chosen: list[str]) -> RouteTable:
    specs = [
        RouteSpec(path_prefix=prefix, service=None if "{" in prefix else f"s{number}")
        for number, prefix in enumerate(chosen)
    ]
    return RouteTable(specs)


def nothing(name: str) -> str | None:
    return None


@given(st.lists(prefixes, max_size=5), paths, st.booleans())
def test_a_request_goes_where_every_program_would_send_it(
    chosen: list[str], target: str, merging: bool
) -> None:
    table = table_of(chosen)
    request = parse_request(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode(), 9)
    try:
        path, _, _, readings = resolve(request, merging)
        asked = Asked("h", path, "GET", nothing, readings or ())
        found = table.match("h", path, "GET", nothing)
        decided = look_again(table, NAMES, asked, found, "pass")
    except Refused:
        return
    for program in PROGRAMS:
        text = path
        for step in program:
            text = step(text)
        other = table.match("h", text, "GET", nothing)
        assert other is not None, (path, text)
        assert other.position == decided.position, (path, text)
        if decided.templated:
            assert NAMES.meant_by(other.service.replace("%3A", ":")) == (decided.service,)


@given(paths, st.booleans())
def test_the_normalised_path_is_a_fixed_point(target: str, merging: bool) -> None:
    request = parse_request(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode(), 9)
    try:
        path, _, _, readings = resolve(request, merging)
    except Refused:
        return
    again = parse_request(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode(), 9)
    assert resolve(again, merging)[:3] == (path, b"", True)
    assert (resolve(again, merging)[3] or ()) == (readings or ())
    if merging:
        assert "//" not in path
