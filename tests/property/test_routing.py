"""`match` walks trees, `explain` compares every route: they must agree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.explanation import explain
from proxy.engine.route_lines import SERVICE
from proxy.engine.routing import RouteTable
from proxy.settings.route import RouteSpec
from proxy.settings.route_values import FIRST_LABEL

HEADERS = (
    *({"X-A": "1"}, {"X-A": "1", "X-B": "2"}),
    *({"X-A": "*"}, {"X-B": "a*b*"}, {"X-B": r"*\*"}),
)
REGEXES = ("^/(?P<x>a)", "^/(?P<x>[ab]+)$", r"^/.*(?P<x>b)", "^/a/(?P<x>[^/]+)", "^/(?:c(?P<x>))?")
words = st.sampled_from(["a", "b", "c"])
labels = st.lists(words, min_size=1, max_size=3)


@st.composite
def hosts(draw: st.DrawFn) -> str | None:
    kind = draw(st.sampled_from(["any", "exact", "wildcard", "template", "first"]))
    if kind == "any":
        return None
    if kind == "first":
        return FIRST_LABEL
    parts = draw(labels)
    if kind == "wildcard":
        parts = ["*", *parts]
    if kind == "template":
        parts.insert(draw(st.integers(0, len(parts))), SERVICE)
    return ".".join(parts)


@st.composite
def prefixes(draw: st.DrawFn, template: bool) -> str | None:
    if draw(st.integers(0, 5)) == 0:
        return None
    parts = draw(st.lists(words, max_size=3))
    if template and draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), SERVICE)
    return "/" + "/".join(parts) + (draw(st.sampled_from(["", "/", "//"])) if parts else "")


@st.composite
def routes(draw: st.DrawFn) -> RouteSpec:
    host = draw(hosts())
    prefix = draw(prefixes(template=SERVICE not in (host or "")))
    templated = SERVICE in (host or "") + (prefix or "")
    regex = None
    if SERVICE not in (prefix or "") and draw(st.integers(0, 4)) == 0:
        prefix, regex = None, draw(st.sampled_from(REGEXES))
    exact = [] if templated or regex else draw(st.lists(prefixes(template=False), max_size=2))
    return RouteSpec(
        host=host,
        hosts=() if SERVICE in (host or "") else draw(st.sampled_from([(), ("a", "*.b")])),
        paths=tuple(path for path in exact if path),
        path_prefix=prefix,
        path_prefixes=() if templated or regex else draw(st.sampled_from([(), (), ("/a/b", "/c")])),
        path_regex=regex,
        rewrite=None if regex is None else draw(st.sampled_from([None, "/new", "/{x}{x}/y"])),
        query=draw(st.sampled_from([{}, {}, {"q": "1"}])),
        listeners=draw(st.sampled_from([(), (), ("l",), ("k", "l")])),
        methods=draw(st.sampled_from([(), (), ("GET",), ("POST", "PUT")])),
        headers=draw(st.sampled_from([{}, {}, *HEADERS])),
        strip_prefix=draw(st.booleans()),
        rewrite_prefix=draw(st.sampled_from([None, None, "/", "/new", "/new/"])),
        service=None if templated and draw(st.booleans()) else "s",
    )


by_fields = st.builds(
    RouteSpec,
    service=st.just("s"),
    path_prefix=st.sampled_from([None, "/a", "/a", "/a", "/a/"]),
    methods=st.sampled_from([(), (), (), ("GET",)]),
    headers=st.sampled_from([{"X-A": "1"}, {"X-A": "2"}, {"X-B": "ab"}, {"X-B": "2"}, *HEADERS]),
    query=st.sampled_from([{}, {}, {"q": "1"}, {"q": "2"}]),
)
"""Of which many stand at the same place."""
by_regex = st.builds(
    RouteSpec,
    service=st.just("s"),
    path_regex=st.sampled_from(
        [*REGEXES, "^/a/b$", "^/(?:a/)+b/c", "^/[ab]/c/a(?:/b)?", "^/b/.*a/b$"]
    ),
    headers=st.sampled_from([{}, {}, *HEADERS]),
    methods=st.sampled_from([(), (), (), ("GET",)]),
)
segments = st.sampled_from(["a", "b", "c", "", "a", "b", "$", "..", "d"])
paths = st.lists(segments, max_size=5).map(lambda parts: "/" + "/".join(parts)) | st.just("*")
request_hosts = st.lists(st.sampled_from(["a", "b", "c", "d", ""]), max_size=4).map(".".join)
fields = st.fixed_dictionaries(
    {},
    optional={
        "x-a": st.sampled_from("12"),
        "x-b": st.sampled_from(["2", "ab", "axbx", "a*"]),
        "query:q": st.sampled_from("12"),
        "listener:": st.sampled_from("lm"),
    },
)


@given(
    st.lists(routes(), max_size=12) | st.lists(by_fields | by_regex, min_size=8, max_size=30),
    request_hosts,
    paths,
    st.sampled_from(["GET", "POST"]),
    fields,
)
def test_match_takes_what_explain_takes(
    specs: list[RouteSpec], host: str, path: str, method: str, fields: dict[str, str]
) -> None:
    table = RouteTable(specs)
    match = table.match(host, path, method, fields.get)
    considered = explain(specs, host, path, method, fields.get)
    assert sorted(entry.position for entry in considered) == list(range(len(specs)))
    taken = [entry.position for entry in considered if entry.taken]
    assert taken == ([] if match is None else [match.position])
    if match is None:
        return
    assert match.spec is specs[match.position]
    if match.templated:
        assert match.service in host.split(".") + path.split("/")
    assert 0 <= match.prefix_length <= len(path)
    assert path[match.prefix_length : match.prefix_length + 1] in ("", "/") or path == "*"
    if path.startswith("/"):
        assert match.rewrite(path).startswith("/")
    if not match.changes_path:
        assert match.rewrite(path) == path
