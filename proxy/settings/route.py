"""`routes:`, which request goes where."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec

from proxy.settings.addresses import NAME, NAMES, parse_name
from proxy.settings.complaints import Report, dotted
from proxy.settings.declare import Distinct, Given, Off, Short, check_filled
from proxy.settings.filters import FilterSpec
from proxy.settings.keys import ENCODED_SLASHES, parse_field_name
from proxy.settings.path_pattern import PathPattern
from proxy.settings.read import SWITCH, TEXT, Read, choice, did_you_mean, integer
from proxy.settings.route_terms import NO_RETRY, NO_TIMEOUTS, RouteRetry, RouteTimeouts
from proxy.settings.route_values import (
    BODY,
    EXACT_PATH,
    FIELD_VALUE,
    HOST_PATTERN,
    METHOD,
    PARAMETER,
    PATH,
    PATH_PREFIX,
    PATH_REGEX,
    REDIRECT_STATUS,
    REWRITE,
    SET_HOST,
    SNI,
    TARGET,
)
from proxy.settings.tree import Path

_CONDITIONS: Final = (
    *("host", "hosts", "path", "paths", "path_prefix", "path_prefixes", "path_regex"),
    *("methods", "headers", "query", "listeners"),
)
_AIMS: Final = ("service", "split", "redirect", "respond")
_FRAMING: Final = frozenset(
    (
        *("connection", "content-length", "date", "keep-alive", "proxy-connection", "te"),
        *("trailer", "transfer-encoding", "upgrade"),
    )
)
"""Fields in lower case that whoever writes an answer decides."""


DASHBOARD: Final = "@dashboard"
"""The service that is the admin server; no other name begins so."""


def _parse_service(text: str) -> str:
    return text if text == DASHBOARD else parse_name(text)


_SERVICE: Final = Read(_parse_service, "name", NAMES)


class RespondSpec(msgspec.Struct, frozen=True, kw_only=True):
    """`respond:` of a route."""

    status: Annotated[int, integer(200, 599), "Status of the answer."] = 200
    body: Annotated[str, BODY, "Its content, in UTF-8."] = ""
    headers: Annotated[
        dict[str, str],
        FIELD_VALUE,
        "Its fields. `Content-Type` is `text/plain; charset=utf-8` unless it stands here.",
    ] = {}


class RedirectSpec(msgspec.Struct, frozen=True, kw_only=True):
    """`redirect:` of a route."""

    to: Annotated[
        str,
        TARGET,
        "URL or path; `{host}` and `{path}` stand for those of the request. Its query is added"
        " unless there is one here.",
    ]
    status: Annotated[
        int, REDIRECT_STATUS, "301, 302, 307 or 308; the last two keep the method."
    ] = 302


class SplitSpec(msgspec.Struct, frozen=True, kw_only=True):
    """An item of `split:` of a route."""

    service: Annotated[str, NAME, "Where a share of the requests goes."]
    weight: Annotated[
        int, integer(0, 1_000_000), "Its share is this in the sum of all weights; 0 = none."
    ] = 1


class RouteSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `routes:` as it stands in the file."""

    sni: Annotated[
        str | None,
        SNI,
        "The name that a TLS client asks for, or `*.example.com` for the names one label below:"
        " its connection goes to `service` as it is, on listeners with `tls_passthrough`. Beside it"
        " only `service`.",
    ] = None
    host: Annotated[
        str | None,
        HOST_PATTERN,
        "An exact name, `*.example.com` for all names below it, or with `{service}` as one whole"
        " label; `{service}.*` is the first label of whatever host. Without it any host.",
    ] = None
    hosts: Annotated[
        tuple[str, ...], HOST_PATTERN, Distinct(), "Several, any of which fits; no templates."
    ] = ()
    path: Annotated[
        str | None,
        EXACT_PATH,
        "Exactly this path, which comes before all prefixes. Beside prefixes either fits.",
    ] = None
    paths: Annotated[tuple[str, ...], EXACT_PATH, Distinct(), "Several, any of which fits."] = ()
    path_prefix: Annotated[
        str | None,
        PATH_PREFIX,
        "Whole segments: `/old` matches `/old` and `/old/x`, not `/older`. May have `{service}` as"
        " one whole segment. Without it any path.",
    ] = None
    path_prefixes: Annotated[
        tuple[str, ...], PATH_PREFIX, Distinct(), "Several, any of which fits; no templates."
    ] = ()
    path_regex: Annotated[
        str | None,
        PATH_REGEX,
        "A [regular expression](forwarding.md#regular-expressions) for the path, behind exact paths"
        " and prefixes, in the order of the file. Not beside those.",
    ] = None
    methods: Annotated[tuple[str, ...], METHOD, "Methods that match. Without it any method."] = ()
    headers: Annotated[
        dict[str, str],
        FIELD_VALUE,
        "Header fields that must be there with these values. `*` stands for any text, also none:"
        " `*` alone is a field that is there at all, `v2*` one that begins so; `\\*` is the"
        " character itself.",
    ] = {}
    query: Annotated[
        dict[str, str],
        PARAMETER,
        "Parameters of the query that must be there with exactly these values, escapes resolved; of"
        " several of one name the first counts.",
    ] = {}
    listeners: Annotated[
        tuple[str, ...],
        NAME,
        Distinct(),
        "Names of listeners; for requests that come to others"
        " the route is not there. Without it all.",
    ] = ()
    where: Annotated[
        dict[str, str],
        TEXT,
        "Only of a route with `{service}`: services with an instance whose metadata say this. Any"
        " other is unknown to it (404).",
    ] = {}
    services: Annotated[
        tuple[str, ...],
        NAME,
        Distinct(),
        "Only of a route with `{service}`: the services that it may lead to. Any other is unknown"
        " to it (404).",
    ] = ()
    strip_prefix: Annotated[
        bool,
        SWITCH,
        "Take the prefix off the path before the request goes on; `X-Forwarded-Prefix` tells the"
        " instance.",
    ] = False
    rewrite_prefix: Annotated[
        str | None, PATH, "Put this in place of the prefix. Not together with `strip_prefix`."
    ] = None
    rewrite: Annotated[
        str | None,
        REWRITE,
        "Put this in place of what `path_regex` matched, or of an exact `path`; `{NAME}` is the"
        " group of that name.",
    ] = None
    rewrite_responses: Annotated[
        bool,
        SWITCH,
        "Turn back in answers what the route does to path and host: in `Location`,"
        " `Content-Location` and the `Path` of cookies.",
    ] = False
    set_host: Annotated[
        str | None, SET_HOST, "The `Host` that the instance gets. Without it the client's."
    ] = None
    encoded_slashes: Annotated[
        Literal["pass", "refuse"] | None,
        ENCODED_SLASHES,
        "What becomes of `%2F` and `%5C` in paths of this route: `pass` or `refuse` (400). Without"
        " it as the listener says.",
    ] = None
    forward_path: Annotated[
        Literal["normalised", "received"],
        choice(("normalised", "received"), "a way to forward paths"),
        "`normalised`: the instance gets the path as it is matched; `received`: byte for byte as it"
        " came, for [signatures that cover the path](forwarding.md#the-path-as-it-was-received).",
    ] = "normalised"
    timeouts: Annotated[
        RouteTimeouts, "Limits of requests by this route, in place of those of the service."
    ] = NO_TIMEOUTS
    retry: Annotated[
        RouteRetry,
        Off(off={"max_retries": 0}),
        "Further attempts of requests by this route; what stands here is in place of what the"
        " service says. `off` = never.",
    ] = NO_RETRY
    service: Annotated[
        str | None,
        _SERVICE,
        "Where matching requests go. Needs no entry under `services`. Without it, `{service}` must"
        " stand in `host` or `path_prefix`, or the route has one of the next three. `@dashboard` is"
        " the proxy's own [dashboard](operations.md#the-dashboard-in-public) behind a login.",
    ] = None
    split: Annotated[
        tuple[SplitSpec, ...], "Several services, each with a share of the requests, at random."
    ] = ()
    filters: Annotated[
        tuple[FilterSpec, ...],
        Short("name"),
        "[Filters](filters.md) of its requests, in this order, behind those of the listener: names,"
        " or mappings as under `filters`.",
    ] = ()
    redirect: Annotated[RedirectSpec | None, "Send clients elsewhere."] = None
    respond: Annotated[
        RespondSpec | None, Short("status"), "Answer here. A number is short for its `status`."
    ] = None

    @property
    def all_hosts(self) -> tuple[str | None, ...]:
        """Host patterns, any of which fits; None = any host."""
        return (*((self.host,) if self.host is not None else ()), *self.hosts) or (None,)

    @property
    def all_paths(self) -> tuple[str, ...]:
        """Paths that fit exactly."""
        return (*((self.path,) if self.path is not None else ()), *self.paths)

    @property
    def all_prefixes(self) -> tuple[str | None, ...]:
        """Prefixes that fit; None = any path."""
        some = (*((self.path_prefix,) if self.path_prefix is not None else ()), *self.path_prefixes)
        return some or (() if self.all_paths or self.path_regex is not None else (None,))

    @property
    def published(self) -> str:
        """`where` in one text; empty = every service."""
        return "&".join(f"{key}={value}" for key, value in sorted(self.where.items()))

    @property
    def is_special(self) -> bool:
        """Whether the route asks for more than a service, a path and an answer."""
        own_terms = self.timeouts != NO_TIMEOUTS or self.retry != NO_RETRY
        own_path = self.set_host is not None or self.rewrite_responses
        return own_terms or own_path or bool(self.where or self.services)


def check_routes(
    given: Sequence[Given] | None,
    routes: Sequence[RouteSpec],
    listeners: Collection[str],
    report: Report,
    needed: bool,
) -> None:
    """Complain of routes that contradict themselves, or that can never match. `listeners`: the
    names of those there are; `needed`: for some there must be a route."""
    if needed and not given and report.sound(("routes",)):
        missing = "is empty" if report.exists(("routes",)) else "is missing"
        report.complain(("routes",), f"{missing}; allowed: at least one route")
    earlier: dict[tuple[str | None, ...], list[tuple[Path, RouteSpec]]] = {}
    for place, route in zip(given or (), routes, strict=True):
        if route.sni is not None:
            _check_sni(place, route, report)
            continue
        _check_aim(place, route, report)
        _check_prefix(place, route, report)
        _check_several(place, route, report)
        check_filled(place, (*_CONDITIONS, "where", "services"), report)
        _check_rewrite(place, route, report)
        _check_names(place, "headers", route.headers, report)
        templated = "{service}" in f"{route.host}{route.path_prefix}"
        if not (route.service or route.split or templated):
            for key in ("timeouts", "retry"):
                if key in place and report.sound(*(place.at(aim) for aim in _AIMS)):
                    report.complain(
                        place.at(key), "has no instance to wait for; allowed: beside a service"
                    )
        for key in ("where", "services"):
            if key in place and not templated:
                report.complain(place.at(key), "has no {service} to narrow; allowed: beside one")
        for at, name in enumerate(route.listeners):
            if name not in listeners and report.sound(("listeners",)):
                report.complain(
                    place.at("listeners", at),
                    f'"{name}" is not a listener{did_you_mean(name, listeners)}; allowed: '
                    + ", ".join(listeners),
                )
        if route.respond is not None:
            _check_respond(place.get("respond"), route.respond, report)
        conditions = [place.at(key) for key in _CONDITIONS]
        if report.sound(*conditions) and place.path not in report.misspelt:
            # Only those with the same hosts and paths: between others the more specific
            # one goes first, wherever it stands in the file.
            paths, prefixes = route.all_paths, route.all_prefixes
            where = (*route.all_hosts, "", *paths, "", *prefixes, "", route.path_regex)
            peers = earlier.setdefault(where, [])
            for path, other in peers:
                if _shadows(other, route):
                    report.complain(
                        place.path,
                        f"can never match, because {dotted(path)} takes all its requests;"
                        " allowed: move it up, or give it other conditions",
                    )
                    break
            peers.append((place.path, route))


def _check_sni(place: Given, route: RouteSpec, report: Report) -> None:
    """A route of connections knows nothing of the requests on them."""
    for key in set(place.values) - {"sni", "service"}:
        report.complain(place.at(key), "has no meaning beside sni; allowed: sni and service alone")
    if route.service is None and place.path not in report.misspelt:
        report.complain(place.path, "leads nowhere; allowed: a service beside sni")


def _check_aim(place: Given, route: RouteSpec, report: Report) -> None:
    """A route leads to one service, by name or by one template."""
    host, prefix, service = place.at("host"), place.at("path_prefix"), place.at("service")
    if not report.sound(host, prefix, service, *(place.at(key) for key in _AIMS)):
        return
    templates = [text for text in (route.host, route.path_prefix) if text and "{service}" in text]
    aims = [key for key in _AIMS if key in place]
    if len(templates) == 2:
        report.complain(prefix, "holds {service}, and so does host; allowed: in one of them")
    elif templates and aims:
        report.complain(
            place.at(aims[0]), "stands beside a {service} template; allowed: one of the two"
        )
    elif len(aims) > 1:
        report.complain(place.at(aims[1]), f"stands beside {aims[0]}; allowed: one of the two")
    elif not templates and not aims and place.path not in report.misspelt:
        report.complain(
            place.path, "leads nowhere; allowed: a service, or {service} in host or path_prefix"
        )
    elif "split" in aims and not any(one.weight for one in route.split):
        report.complain(place.at("split"), "has no weight above 0; allowed: at least one")


def _check_several(place: Given, route: RouteSpec, report: Report) -> None:
    """Of hosts, paths and prefixes a route has one or a list."""
    for one, several, values in (
        ("host", "hosts", route.hosts),
        ("path", "paths", route.paths),
        ("path_prefix", "path_prefixes", route.path_prefixes),
    ):
        if one in place and several in place:
            report.complain(place.at(several), f"stands beside {one}; allowed: one of the two")
        for at, value in enumerate(values):
            if "{service}" in value:
                report.complain(
                    place.at(several, at), f"holds {{service}}; allowed: as {one} of its own route"
                )
    if "{service}" in (route.path_prefix or "") and route.all_paths:
        report.complain(
            place.at("path_prefix"), "holds {service} beside exact paths; allowed: one of the two"
        )


def _check_rewrite(place: Given, route: RouteSpec, report: Report) -> None:
    """A regular expression stands alone, and a rewrite has something to act on."""
    regex = place.at("path_regex")
    if "path_regex" in place:
        for key in ("path", "paths", "path_prefix", "path_prefixes"):
            if key in place:
                report.complain(place.at(key), "stands beside path_regex; allowed: one of the two")
    acts = route.strip_prefix or route.rewrite_prefix is not None or route.set_host is not None
    if route.rewrite_responses and not acts:
        report.complain(
            place.at("rewrite_responses"),
            "has nothing to turn back; allowed: with strip_prefix, rewrite_prefix or set_host",
        )
    if route.rewrite is None or not report.sound(regex):
        return
    groups: Collection[str] = ()
    if route.path_regex is not None:
        groups = PathPattern(route.path_regex).compiled.groupindex
    elif not route.all_paths or route.all_prefixes:
        message = "has nothing to act on; allowed: with path_regex, or with path alone"
        report.complain(place.at("rewrite"), message)
        return
    for name in re.findall(r"\{(.*?)\}", route.rewrite):
        if name not in groups:
            known = ", ".join(groups) or "no groups"
            report.complain(
                place.at("rewrite"), f"holds {{{name}}}; allowed of path_regex: {known}"
            )


def _check_respond(given: Given, respond: RespondSpec, report: Report) -> None:
    _check_names(given, "headers", respond.headers, report)
    for name in respond.headers:
        if name.lower() in _FRAMING:
            report.complain(
                given.at("headers", name), f"{name} is the proxy's own; allowed: others"
            )
    if respond.body and respond.status in (204, 205, 304):
        report.complain(
            given.at("body"),
            f"has no place in an answer of {respond.status}; allowed: another status, or no body",
        )


def _check_prefix(place: Given, route: RouteSpec, report: Report) -> None:
    """Complain of keys that change a prefix and have none."""
    strip, rewrite = place.at("strip_prefix"), place.at("rewrite_prefix")
    if not report.sound(strip, rewrite):
        return
    for key in ("strip_prefix", "rewrite_prefix", "rewrite"):
        if getattr(route, key) and route.forward_path == "received":
            report.complain(
                place.at("forward_path"),
                f'"received" stands beside {key}, which changes the path; allowed: one of the two',
            )
    if route.strip_prefix and route.rewrite_prefix is not None:
        report.complain(rewrite, "stands beside strip_prefix: true; allowed: one of the two")
    elif route.all_prefixes in ((), (None,)) and report.sound(place.at("path_prefix")):
        for path, given in ((strip, route.strip_prefix), (rewrite, route.rewrite_prefix)):
            if given:
                report.complain(path, "has no prefix to act on; allowed: with path_prefix")


def _check_names(place: Given, key: str, fields: Mapping[str, str], report: Report) -> None:
    names: dict[str, str] = {}
    for name in fields:
        path = place.at(key, name)
        try:
            parse_field_name(name)
        except ValueError as error:
            report.complain(path, f'"{name}" {error}; allowed: a name such as X-Beta')
            continue
        if names.setdefault(name.lower(), name) != name:
            first = names[name.lower()]
            report.complain(
                path, f'"{name}" is the same field as "{first}"; allowed: each one once'
            )


def _shadows(earlier: RouteSpec, later: RouteSpec) -> bool:
    """Whether `earlier` matches whatever `later` matches. Both have the same hosts and paths."""
    if any(later.query.get(name) != value for name, value in earlier.query.items()):
        return False
    fields = {name.lower(): value for name, value in later.headers.items()}
    if any(fields.get(name.lower()) != value for name, value in earlier.headers.items()):
        return False
    if earlier.listeners and not (later.listeners and {*later.listeners} <= {*earlier.listeners}):
        return False
    return not earlier.methods or (bool(later.methods) and {*later.methods} <= {*earlier.methods})
