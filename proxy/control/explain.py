"""What would become of a request: `GET /api/v1/explain` and `fairlead explain`.

The request is put together as bytes and read by the engine's own parser, target rules and
route table, so that the explanation cannot differ from what a worker does. Pure: the answer
is a JSON-ready document, nothing is sent anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from proxy import catalog
from proxy.control import status
from proxy.control.pools import Member, Pool
from proxy.control.statistics import Totals
from proxy.engine.http1.messages import RequestFields
from proxy.engine.http1.parser import TooManyFields, parse_request
from proxy.engine.http1.properties import field, property_of, source_of
from proxy.engine.http1.target import refuse_encoded_separators, resolve
from proxy.engine.routing import Match, RouteTable
from proxy.errors import HEAD_TOO_LARGE, NO_INSTANCE, NO_ROUTE, UNKNOWN_SERVICE, Fault, Refused
from proxy.settings.file import Settings
from proxy.settings.listener import ListenerLimits, ListenerSettings

CLIENT_SIDE = "of the client that asks"
"""Said in place of a value that only a real connection has."""


class Target(NamedTuple):
    """Where the request wants to go, as the engine reads it."""

    fields: RequestFields
    path: str
    query: bytes
    """With its question mark, or empty."""
    trusted: bool
    """Some listener believes what proxies in front say; here everybody is taken for one."""


def explain(
    method: str,
    url: str,
    fields: Sequence[tuple[str, str]],
    pools: Mapping[str, Pool],
    settings: Settings,
    totals: Totals,
    complete: bool,
    now: float,
) -> dict[str, Any]:
    """The whole story of one request. `url` is absolute, or a path for any host; `totals`: what
    workers told of the limits; `complete`: the first full set of instances is known; `now`:
    monotonic seconds. ValueError if these cannot be
    put into one request at all."""
    given = _request_fields(url, fields)
    document: dict[str, Any] = {
        "request": {"method": method, "url": url},
        "answer": None,
        "service": None,
        "route": None,
        "routes": [],
    }
    try:
        target = _read(method, url, given, settings.listeners)
    except Refused as refusal:
        return {**document, "answer": _own_answer(refusal.fault, refusal.detail)}

    def get(name: str) -> str | None:
        value = field(target.fields, name.encode("utf-8"), target.trusted)
        return None if value is None else _text(value)

    document["request"] |= {"host": target.fields.host_name, "path": target.path}
    table = RouteTable(settings.routes)
    document["routes"] = [
        {"index": one.position, "taken": one.taken, "reason": one.reason, **status.route(one.spec)}
        for one in table.explain(target.fields.host_name, target.path, method, get)
    ]
    match = table.match(target.fields.host_name, target.path, method, get)
    if match is None:
        return {**document, "answer": _own_answer(NO_ROUTE, "no route matches")}
    document["route"] = match.position
    document["service"] = match.service
    document["path_for_instance"] = match.rewrite(target.path) + _text(target.query)
    if match.spec.path_prefix is not None:
        try:
            refuse_encoded_separators(target.path)
        except Refused as refusal:
            return {**document, "answer": _own_answer(refusal.fault, refusal.detail)}
    return {**document, **_choice(match, target, pools, settings, totals, complete, now)}


def _request_fields(url: str, fields: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The fields of the request, with Host first."""
    own_host = any(name.lower() == "host" for name, _ in fields)
    result = list(fields)
    if not own_host:
        result.insert(0, ("Host", urlsplit(url).netloc))
    for name, value in result:
        if not (name + value).isprintable():
            raise ValueError(f"header: {name!r}: has characters that no header may have")
    return result


def _read(
    method: str,
    url: str,
    fields: Sequence[tuple[str, str]],
    listeners: Sequence[ListenerSettings],
) -> Target:
    """As a listener would. Raises `Refused`; ValueError if it would be several requests."""
    parts = urlsplit(url)
    line = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not (method + line).isprintable() or " " in method + line:
        raise ValueError(f"url: {url!r}: has spaces or characters that no URL may have")
    lines = [f"{method} {line} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
    head = "\r\n".join(lines).encode("utf-8")
    try:
        request = parse_request(head, ListenerLimits().fields)
        path, query, _ = resolve(request)
        trusted = any(listener.trusted_proxies for listener in listeners)
        return Target(request.fields, path, query, trusted)
    except TooManyFields:
        raise Refused(HEAD_TOO_LARGE, "too many header fields") from None


def _own_answer(fault: Fault, detail: str) -> dict[str, Any]:
    """What the proxy answers by itself."""
    return {
        "status": fault.status,
        "error": fault.error,
        "fault": fault.code,
        "detail": detail,
    }


def _choice(
    match: Match,
    target: Target,
    pools: Mapping[str, Pool],
    settings: Settings,
    totals: Totals,
    complete: bool,
    now: float,
) -> dict[str, Any]:
    """The part about the service: balancer, key, what stands in the way, who may be picked and
    who not."""
    pool = pools.get(match.service)
    members = () if pool is None else pool.members
    panic = pool is not None and pool.snapshot.panic
    own = status.settings_of(settings, match.service)
    spec = own.balancer
    uses_key = catalog.load(catalog.BALANCERS, spec.type).uses_key
    candidates = [_instance(member, now) for member in members if _served(member, panic)]
    document: dict[str, Any] = {
        "balancer": spec.type,
        "key": _key(spec.key, target) if uses_key and spec.key else None,
        "source": None if pool is None else status.source(pool),
        "panic": panic,
        "limits": status.standing(match.service, own, totals),
        "candidates": candidates,
        "others": [_instance(member, now) for member in members if not _served(member, panic)],
    }
    if pool is None and match.templated and complete and match.service not in settings.services:
        detail = f"no service is called {match.service}"
        return {**document, "answer": _own_answer(UNKNOWN_SERVICE, detail)}
    if not candidates:
        what = "has no instance" if not members else "has no usable instance"
        return {**document, "answer": _own_answer(NO_INSTANCE, f"{match.service} {what}")}
    return document


def _served(member: Member, panic: bool) -> bool:
    return member.status == "ready" or (panic and member.status != "draining")


def _instance(member: Member, now: float) -> dict[str, Any]:
    known = member.instance
    return {
        "id": known.id,
        "address": known.address,
        "port": known.port,
        "weight": known.weight,
        "status": member.status,
        "reason": member.told(now),
        "back_in": member.back_in(now),
    }


def _key(word: str, target: Target) -> dict[str, Any]:
    """What is hashed, and its value in this request; null = nothing to hash, a random pick."""
    source = source_of(word)
    if source[0] == "client_ip":
        value = CLIENT_SIDE
    else:
        found = property_of(source, target.fields, target.path, target.query, target.trusted)
        value = _text(found or b"")
    return {"source": word, "value": value or None}


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
