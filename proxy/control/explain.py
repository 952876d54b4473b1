"""The way a request would go: `GET /api/v1/explain` and `fairlead explain`.

The request is put together as bytes and read by the engine's own parser, target rules, route
table and second look, so that the explanation cannot differ from what a worker does. Pure: the
answer is a JSON-ready document, nothing is sent anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from balancers.base import hash_key
from proxy import catalog
from proxy.control import status
from proxy.control.claims import Claims
from proxy.control.pool import Member, Pool
from proxy.control.statistics import Totals
from proxy.engine import explanation
from proxy.engine.callers import Callers
from proxy.engine.http1.parser import call_a_claim, parse_request
from proxy.engine.load import Board
from proxy.engine.match import Match
from proxy.engine.resilience.limits import BucketTable
from proxy.engine.route_answers import answer_of_route
from proxy.engine.route_lines import LISTENER
from proxy.engine.routing import RouteTable
from proxy.engine.second_look import Asked, ServiceNames, check_published, look_again, rewritten
from proxy.errors import (
    BREAKER_OPEN,
    CALLER_DENIED,
    HEAD_TOO_LARGE,
    NO_INSTANCE,
    NO_ROUTE,
    QUEUE_FULL,
    RATE_LIMITED,
    Fault,
    Refused,
)
from proxy.http.client_address import ClientAddresses
from proxy.http.messages import RequestHead
from proxy.http.properties import field, parameter, property_of, source_of
from proxy.http.scanner import TooManyFields
from proxy.http.target import as_it_came, resolve
from proxy.settings.file import Settings
from proxy.settings.filters import names_of
from proxy.settings.listener import ListenerSettings
from proxy.settings.service import RateLimitSettings, ServiceSettings

CLIENT_SIDE = b"of the client that asks"
"""Said in place of a value that only a real connection has."""


class Target(NamedTuple):
    """Where the request wants to go, as the engine reads it."""

    request: RequestHead
    path: str
    query: bytes
    """With its question mark, or empty."""
    readings: tuple[str, ...]
    listener: ListenerSettings

    @property
    def trusted(self) -> bool:
        """Where a listener believes proxies in front, whoever asks is taken for one."""
        return self.listener.trusted_proxies != ()


def explain(
    method: str,
    url: str,
    fields: Sequence[tuple[str, str]],
    pools: Mapping[str, Pool],
    settings: Settings,
    totals: Totals,
    complete: bool,
    now: float,
    board: Board | None = None,
    claims: Claims | None = None,
    caller: str = "",
    share: float = 1.0,
) -> dict[str, Any]:
    """The whole story of one request. `url` is absolute, or a path for any host; `totals`: what
    workers told of the limits; `complete`: the first full set of instances is known; `now`:
    monotonic seconds; `board`: where workers count what is in flight, and tokens of rate limits;
    `claims`: routes that instances bring; `caller`: the service that the client has proved to be,
    where the listener asks for that; `share`: of the limits of the fleet, this proxy's. ValueError
    if these cannot be put into one request at all."""
    netloc, line = _split(url)
    given = _request_fields(netloc, fields)
    document: dict[str, Any] = {
        "request": {"method": method, "url": url},
        "answer": None,
        "service": None,
        "filters": [],
        "route": None,
        "routes": [],
    }
    try:
        target = _read(method, line, given, _listener(netloc, settings.listeners))
        tls = target.listener.tls
        caller = caller.lower() if tls is not None and tls.trust_domain else ""
    except Refused as refusal:
        return {**document, "answer": _own_answer(refusal.fault, refusal.detail)}

    def get(name: str) -> str | None:
        if name.startswith("query:"):
            return parameter(target.query[1:], name[6:])
        if name == LISTENER:
            return target.listener.name
        value = field(target.request.fields, name.encode("utf-8"), target.trusted)
        return None if value is None else _text(value)

    host = target.request.fields.host_name
    document["request"] |= {"host": host, "path": target.path}
    table = RouteTable(settings.routes)
    document["routes"] = [
        {"index": one.position, "taken": one.taken, "reason": one.reason, **status.route(one.spec)}
        for one in explanation.explain(settings.routes, host, target.path, method, get)
    ]
    claims = claims or Claims()
    considered = explanation.explain(claims.routes, host, target.path, method, get)
    brought = [one for one in considered if one.taken]
    document["refused_routes"] = [
        one for one in claims.document()["refused"] if one["route"].startswith((host, "any host"))
    ]
    names = ServiceNames()
    names.complete = complete
    for name in (*pools, *settings.services):
        names.add(name)
    asked = Asked(host, target.path, method, get, target.readings)
    match = table.match(host, target.path, method, get)
    try:
        if match is not None:
            _tell_match(document, match, target)
        decided = look_again(
            table, names, asked, match, target.listener.encoded_slashes, RouteTable(claims.routes)
        )
        if match is None:
            _take(document["routes"], decided, brought)
        _tell_match(document, decided, target)
        pool = pools.get(decided.service)
        check_published(names, decided, () if pool is None else pool.snapshot.published)
    except Refused as refusal:
        # Why none does is said of each route.
        detail = "no route matches" if refusal.fault is NO_ROUTE else refusal.detail
        return {**document, "answer": _own_answer(refusal.fault, detail)}
    spec = decided.spec
    own = status.settings_of(settings, decided.service) if decided.service else None
    document["filters"] = [
        *names_of(target.listener.filters),
        *names_of(spec.filters),
        *([] if own is None else names_of(own.filters)),
    ]
    try:
        answer = answer_of_route(spec, host, target.path, target.query)
    except Refused as refusal:
        return {**document, "answer": _own_answer(refusal.fault, refusal.detail)}
    if answer is not None:
        return {**document, "answer": {"status": answer.status, "by": "the route"}}
    if spec.split:
        document["split"] = {one.service: one.weight for one in spec.split}
        return document
    document |= _choice(decided, target, pools, settings, totals, now, board, share)
    document["callers"] = _callers(decided.service, own, caller, method, target)
    refused = document["callers"] is not None and document["callers"]["refused"]
    if refused and not document["callers"]["dry_run"] and decided.service in pools:
        document["answer"] = _own_answer(CALLER_DENIED, refused)
    return document


def _tell_match(document: dict[str, Any], match: Match, target: Target) -> None:
    """Route, service and path. Raises `Refused` if the path cannot go on as it came."""
    document["route"] = match.position
    document["service"] = match.service
    path = rewritten(match, target.path)
    if match.spec.forward_path == "received":
        path = _text(as_it_came(target.request, target.path))
    document["path_for_instance"] = path + _text(target.query)


def _take(
    routes: list[dict[str, Any]], match: Match, brought: Sequence[explanation.Considered]
) -> None:
    """A route that does not fit by itself, but by the name of a service; or one that instances
    bring."""
    if match.position == len(routes) and brought:
        reason = f"taken: instances of {match.service} bring it, and no route of the file fits"
        shown = status.route(brought[0].spec)
        routes.append({"index": len(routes), "taken": True, "reason": reason, **shown})
    for route in routes:
        if route["index"] == match.position:
            route |= {"taken": True, "reason": f"taken: the host holds the name {match.service}"}


def _split(url: str) -> tuple[str, str]:
    """Host and port, or nothing, and what stands in the request line. A path may begin with two
    slashes."""
    if url.startswith("/"):
        return "", url.partition("#")[0]
    parts = urlsplit(url)
    return parts.netloc, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _listener(netloc: str, listeners: Sequence[ListenerSettings]) -> ListenerSettings:
    """The one with the URL's port, or else the first."""
    port = netloc.rpartition("]")[2].rpartition(":")[2]
    for listener in listeners:
        if port and listener.bind.endswith(f":{port}"):
            return listener
    return listeners[0]


def _request_fields(netloc: str, fields: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The fields of the request, with Host first."""
    own_host = any(name.lower() == "host" for name, _ in fields)
    result = list(fields)
    if not own_host:
        result.insert(0, ("Host", netloc))
    for name, value in result:
        if not (name + value).isprintable():
            raise ValueError(f"header: {name!r}: has characters that no header may have")
    return result


def _read(
    method: str, line: str, fields: Sequence[tuple[str, str]], listener: ListenerSettings
) -> Target:
    """As the listener would. Raises `Refused`; ValueError if it would be several requests."""
    if not (method + line).isprintable() or " " in method + line:
        raise ValueError(f"url: {line!r}: has spaces or characters that no URL may have")
    lines = [f"{method} {line} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
    head = "\r\n".join(lines).encode("utf-8")
    call_a_claim(listener.client_ip.header.lower().encode("ascii"))
    try:
        request = parse_request(head, listener.limits.fields)
        path, query, _, readings = resolve(request, listener.merge_slashes)
        return Target(request, path, query, readings or (), listener)
    except TooManyFields:
        raise Refused(HEAD_TOO_LARGE, "too many header fields") from None


def _own_answer(fault: Fault, detail: str) -> dict[str, Any]:
    """An answer of the proxy itself."""
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
    now: float,
    board: Board | None,
    share: float,
) -> dict[str, Any]:
    """The part about the service: balancer, key, what stands in the way, who may be picked and
    who not."""
    pool = pools.get(match.service)
    members = () if pool is None else pool.members
    panic = pool is not None and pool.snapshot.panic
    own = status.settings_of(settings, match.service)
    spec = own.balancer
    uses_key = catalog.plug_in("balancers", spec.type).uses_key
    served = [member for member in members if _served(member, panic)]
    inflight = {
        member.instance.key: board.total(member.slot)
        for member in served
        if board is not None and member.slot
    }
    candidates = [
        {**_instance(member, now), "inflight": inflight.get(member.instance.key)}
        for member in served
    ]
    rate = own.rate_limit
    tokens = None if rate is None else _tokens(match.service, rate, target, board, now, share)
    most = own.max_inflight
    full = sum(count >= most for count in inflight.values()) if most else 0
    limits = {
        **status.standing(match.service, own, totals),
        "rate_limit": tokens,
        "max_inflight": most or None,
        "full": full,
        "queue": own.queue.size,
    }
    document: dict[str, Any] = {
        "balancer": spec.type,
        "key": _key(spec.key, target) if uses_key and spec.key else None,
        "source": None if pool is None else status.source(pool),
        "panic": panic,
        "limits": limits,
        "candidates": candidates,
        "others": [_instance(member, now) for member in members if not _served(member, panic)],
    }
    if not candidates:
        what = "has no instance" if not members else "has no usable instance"
        return {**document, "answer": _own_answer(NO_INSTANCE, f"{match.service} {what}")}
    refusal = _refused(limits, len(candidates))
    return document if refusal is None else {**document, "answer": _own_answer(*refusal)}


def _callers(
    service: str, own: ServiceSettings | None, caller: str, method: str, target: Target
) -> dict[str, Any] | None:
    """The word of `callers` on the request: the rule that refuses it, or null."""
    if own is None or own.callers is None:
        return None
    said = Callers(service, own.callers).refusal(caller, method, (target.path, *target.readings))
    return {
        "caller": caller or None,
        "dry_run": own.callers.dry_run,
        "refused": None if said is None else said.detail,
    }


def _refused(limits: dict[str, Any], candidates: int) -> tuple[Fault, str] | None:
    """The refusal by a limit, asked in the order in which a worker asks. Of the breaker and the
    queue each worker has its own: only what holds in all of them is sure."""
    tokens, breaker = limits["rate_limit"], limits["breaker"] or {}
    if tokens is not None and tokens["left"] is not None and tokens["left"] < 1:
        whose = f"{tokens['key']} {tokens['value']}"
        if tokens["value"] is None:  # They share a bucket.
            whose = f"requests without {tokens['key']}"
        return RATE_LIMITED, f"no token is left for {whose}"
    if breaker and breaker.get("open", 0) == sum(breaker.values()):
        return BREAKER_OPEN, "the circuit breaker is open in all workers that told of it"
    if limits["full"] == candidates and not limits["queue"]:
        return (
            QUEUE_FULL,
            "each instance is full, and nobody may wait",
        )
    return None


def _tokens(
    service: str,
    rate: RateLimitSettings,
    target: Target,
    board: Board | None,
    now: float,
    share: float,
) -> dict[str, Any]:
    """A rate limit as one request meets it; `left` is null for a key that only a connection has."""
    value = _property(rate.key, target) or b""
    interval, burst = rate.per / rate.requests, float(rate.burst or rate.requests)
    if rate.scope == "fleet":  # As `BucketTable.take_share` has it.
        interval, burst = interval / share, max(1.0, burst * share)
    left = None
    if value != CLIENT_SIDE and board is not None:
        buckets = BucketTable(board.buckets)
        key = buckets.key_of(hash_key(service.encode()).to_bytes(8, "big"), value)
        left = round(buckets.left(key, interval, burst, now), 2)
    told = {"burst": round(burst, 2), "left": left}
    return {"key": rate.key, "value": _text(value) or None, **told}


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
    """The source of the hash key, and its value in this request; null = nothing to hash, a random
    pick."""
    return {"source": word, "value": _text(_property(word, target) or b"") or None}


def _property(word: str, target: Target) -> bytes | None:
    """A property of the request, such as `client_ip` or `header:X-User`."""
    source = source_of(word)
    fields = target.request.fields
    if source[0] == "client_ip":
        if not target.trusted:
            return CLIENT_SIDE
        named = target.listener.client_ip
        addresses = ClientAddresses(target.listener.trusted_proxies, named.header, named.hops)
        return addresses.find(fields, CLIENT_SIDE)
    return property_of(source, fields, target.path, target.query, target.trusted)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
