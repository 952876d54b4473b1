"""From a request to a pool, and to what an instance of it will get."""

from __future__ import annotations

from typing import Final

from balancers.base import NO_KEY, hash_key
from proxy.engine.admission import admit, check_caller
from proxy.engine.match import Match
from proxy.engine.request_state import RequestState
from proxy.engine.route_answers import answer_of_route
from proxy.engine.second_look import Asked, check_published, look_again, rewritten
from proxy.engine.services import Services
from proxy.errors import EXPECTATION_FAILED, LOOP, NO_INSTANCE, Refused
from proxy.http.forwarding import forwarded_prefix, offered_upgrade
from proxy.http.messages import OwnAnswer, RequestFields
from proxy.http.target import as_it_came, resolve
from proxy.settings.route import SplitSpec

_METHODS: Final = {
    name.encode(): name
    for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")
}


def prepare(state: RequestState, services: Services) -> OwnAnswer | None:
    """Find route and pool, ask whether the request is let in, and say what the instance gets. What
    is known of the request is set as soon as it is, so that a refusal can be told of. Returns the
    answer to one that goes no further. Raises `Refused`. Done once more if filters have changed the
    request: the service of a split, and what has let it in, stay."""
    request, client = state.request, state.client
    fields, facts = request.fields, client.facts
    method = request.method
    path, query, as_received, readings = resolve(request)
    if readings is not None and facts.merge_slashes:
        path, query, as_received, readings = resolve(request, True)
    if services.challenges is not None or client.edge is not None:
        answer = early_answer(state, services, path, query)
        if answer is not None:
            return answer
    match = services.routes.match(
        fields.host_name, path, _METHODS.get(method) or method.decode("ascii"), state.field
    )
    state.match = match
    if match is None or readings:
        state.match = match = _look_again(state, services, path, readings or ())
    pool = services.pools.get(match.service)
    if pool is None and not match.service and not match.templated:
        answer = answer_of_route(match.spec, fields.host_name, path, query)
        if answer is not None:
            return answer
        chosen = state.pool.service if state.routed else _one_of(state, services, match.spec.split)
        state.match = match = match._replace(service=chosen)
        pool = services.pools.get(match.service)
    if pool is None:
        state.match = match = _look_again(state, services, path, ())
        pool = services.pools.get(match.service)
        if pool is None:
            raise Refused(NO_INSTANCE, f"{match.service} has no instance")
    terms = pool.terms
    if match.special:
        check_published(services.pools.names, match, pool.published)
        spec = match.spec
        state.set_host = spec.set_host
        terms = pool.route_terms.of(spec.timeouts, spec.retry)
        if spec.rewrite_responses:
            state.way_back = match.way_back(path, fields.host, facts.scheme_of(fields))
            state.has_extras = True
    state.pool = pool
    state.terms = terms
    state.routed = True
    if pool.callers is not None:
        paths = (path, *(readings or ()))
        check_caller(pool, facts.caller, method.decode("ascii"), paths)
    if fields.unusual:
        _look_closer(fields, services.via_token if facts.ends_loops else b"")
        if fields.upgrade is not None:
            state.upgrade = offered_upgrade(request)
    if pool.policies.has_admission and not state.admitted:
        state.admitted = True
        limited = pool.policies.rate_key is not None
        value = state.value_of(pool.rate_source, path, query) if limited else None
        state.admission = admit(pool, value or b"", state.began)
        state.has_extras = state.has_extras or state.admission is not None
    if pool.uses_key:
        value = state.value_of(pool.key_source, path, query)
        state.key = hash_key(value) if value else NO_KEY
    stripped = ""
    if as_received and not match.changes_path:
        state.target = request.target
    elif match.spec.forward_path == "received":
        state.target = as_it_came(request, path) + query
    else:
        if match.changes_path:
            stripped = match.stripped(path)
        state.target = rewritten(match, path).encode("ascii") + query
    if stripped or fields.unusual:
        told = fields.claims.get(b"x-forwarded-prefix") if facts.trusted else None
        state.prefix = forwarded_prefix(told, stripped.encode("ascii"))
    given = fields.request_id
    ids = client.ids
    state.id_line = ids.new() if given is None else ids.line(given)
    return None


def early_answer(
    state: RequestState, services: Services, path: str, query: bytes
) -> OwnAnswer | None:
    """The answer to a request that is not for routes. Raises `Refused`."""
    request, client = state.request, state.client
    if services.challenges is not None:
        answer = services.challenges.answer(request.method, path)
        if answer is not None:
            return answer
    if client.edge is None:
        return None
    return client.edge.answer(request.fields.host_name, path, query)


def path_of(state: RequestState) -> tuple[str, bytes]:
    """Path and query as they are matched. Raises `Refused`."""
    path, query, _, readings = resolve(state.request)
    if readings is not None and state.client.facts.merge_slashes:
        path, query, _, _ = resolve(state.request, True)
    return path, query


def _one_of(state: RequestState, services: Services, split: tuple[SplitSpec, ...]) -> str:
    """The service of a split where the client's cookie names an instance, or one at random."""
    pools = services.pools
    for one in split:  # ≤ routes
        pool = pools.get(one.service)
        if one.weight and pool is not None and pool.sticky is not None:
            value = state.value_of(pool.key_source, "", b"")
            if value and pool.sticky.holds(pool.balancer, hash_key(value)):
                return one.service
    return pools.one_of(split)


def _look_again(
    state: RequestState, services: Services, path: str, readings: tuple[str, ...]
) -> Match:
    """See `second_look.py`. Raises `Refused`."""
    request = state.request
    method = request.method.decode("ascii")
    asked = Asked(request.fields.host_name, path, method, state.field, readings)
    slashes = state.client.facts.encoded_slashes
    return look_again(
        services.routes, services.pools.names, asked, state.match, slashes, services.brought
    )


def _look_closer(fields: RequestFields, via_token: bytes) -> None:
    """Check for properties that few requests have; `via_token`: empty = a loop is not our affair.
    Raises `Refused`."""
    if fields.via and via_token and any(via_token in via for via in fields.via):
        raise Refused(LOOP, "the request carries this proxy's own Via mark")
    if fields.expect is not None and fields.expect.lower() != b"100-continue":
        raise Refused(EXPECTATION_FAILED, "the only expectation understood is 100-continue")
