"""The admin API's documents, built from live state. Pure: state in, JSON-ready values out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import msgspec

from proxy.control.acme import Standing
from proxy.control.certificate_files import Item
from proxy.control.certificates import Certificates, ListenerFiles
from proxy.control.judging import DRAINED
from proxy.control.part import LEFT, Part
from proxy.control.pool import Member, Pool, node_of
from proxy.control.recent import Recent
from proxy.control.slots import Left
from proxy.control.statistics import NodeTotal, Reported, Totals
from proxy.control.watched_files import State, WatchedFiles
from proxy.control.worker_process import WorkerProcess
from proxy.control.worker_slot import WorkerSlot
from proxy.messages import NO_ERRORS, PoolNode
from proxy.settings.file import Settings
from proxy.settings.filters import names_of
from proxy.settings.route import RouteSpec
from proxy.settings.service import ServiceSettings
from proxy.statuses import InvalidRecord, OddRecord, RegistryStatus
from proxy.tls.certificates import CertificateFacts

Inflight = Callable[[int], int]
"""Requests in flight in all workers, by board column."""

MAX_ZONE, MAX_ZONES = 64, 100
"""Characters of a zone, and zones of a service, in the list of all services: more than any cloud
has."""
_NOTHING = NodeTotal()
_LEFT = "is registered no more, and finishes"
_QUIET = Recent()


def settings_of(settings: Settings, service: str) -> ServiceSettings:
    """A service's settings, or the defaults for one that the file does not name."""
    return settings.services.get(service, settings.defaults)


def known(
    pools: Mapping[str, Pool],
    settings: Settings,
    registry: RegistryStatus,
    left: Iterable[tuple[str, str]] = (),
) -> dict[str, Pool]:
    """The pools, and an empty one for each service that has none: those of the configuration that
    nobody registered, those of which no record could be read, and those that `left`, (service,
    key), while they were busy."""
    configured = {*settings.services, *(route.service for route in settings.routes)}
    others = {*(record.service for record in registry.invalid), *(name for name, _ in left)}
    names = (configured | others) - pools.keys() - {None, ""}
    return {**pools, **{name: Pool(name, static=False) for name in names if name}}


def services(
    pools: Mapping[str, Pool],
    settings: Settings,
    totals: Totals,
    registry: RegistryStatus,
    left: Mapping[tuple[str, str], Left] = MappingProxyType({}),
) -> dict[str, Any]:
    """`GET /api/v1/services`: a summary of each service, by name."""
    refused = _by_service(registry.invalid)
    shown = known(pools, settings, registry, left)
    recent = totals.recent_services(shown)
    return {
        "services": [
            {
                **service_summary(pool, settings_of(settings, name), totals),
                **of_late(recent.get(name, _QUIET)),
                "refused": refused.get(name, []),
            }
            for name, pool in sorted(shown.items())
        ]
    }


def of_late(recent: Recent) -> dict[str, Any]:
    """Rates per second, and seconds within which so many in a hundred answers came."""
    latency = zip(("p50", "p95", "p99"), recent.quantiles(), strict=True)
    return {
        "rate": round(recent.rate, 3),
        "error_rate": round(recent.error_rate, 3),
        "latency": {name: None if took is None else round(took, 6) for name, took in latency},
    }


def service_summary(pool: Pool, settings: ServiceSettings, totals: Totals) -> dict[str, Any]:
    """One service in a list."""
    statuses = Counter(member.status for member in pool.members)
    return {
        "name": pool.service,
        "balancer": settings.balancer.type,
        "source": source(pool),
        "generation": pool.snapshot.generation,
        "panic": pool.snapshot.panic,
        "total": len(pool.members),
        "ready": statuses["ready"],
        "unhealthy": statuses["unhealthy"],
        "ejected": statuses["ejected"],
        "draining": statuses["draining"],
        "zones": zones(pool),
        "limits": {**standing(pool.service, settings, totals), **callers(pool.service, totals)},
    }


def zones(pool: Pool) -> list[str]:
    """Zones of its instances, those that are no texts of somebody who writes at length."""
    found = {member.instance.metadata.get("zone", "") for member in pool.members}
    return sorted(zone for zone in found if 0 < len(zone) <= MAX_ZONE)[:MAX_ZONES]


def source(pool: Pool) -> str:
    """Where its instances are from."""
    return "file" if pool.static else "fallback" if pool.fallback else "registry"


def service(
    pool: Pool,
    settings: ServiceSettings,
    totals: Totals,
    inflight: Inflight,
    now: float,
    registry: RegistryStatus,
    part: Part | None = None,
    left: Mapping[tuple[str, str], Left] = MappingProxyType({}),
) -> dict[str, Any]:
    """`GET /api/v1/services/{s}`: the summary and every instance, in the registry's order, behind
    them those that `left` and are busy still; or those of a `part`, of which there are `matching`;
    `refused` are its records that cannot be read, `odd` those that were understood in part."""
    retained = {one.id for one in registry.retained if one.service == pool.service}
    recent = totals.recent_services((pool.service,))
    part = part or Part()
    pairs = zip(pool.members, pool.snapshot.nodes, strict=True)
    rows: list[tuple[Member, PoolNode, str]] = [(*pair, pair[0].status) for pair in pairs]
    for (name, _), one in left.items():
        if name == pool.service:
            gone = Member(one.instance, "draining", _LEFT, one.slot, None, one.since)
            node = msgspec.structs.replace(node_of(gone, pool.local, settings), weight=0)
            rows.append((gone, node, LEFT))
    shown = [row for row in rows if part.has(row[0].instance, row[2])]
    return {
        **service_summary(pool, settings, totals),
        **of_late(recent.get(pool.service, _QUIET)),
        "slow_start": pool.warming,
        "limits": limits(pool.service, settings, totals),
        "instances": [
            {
                **instance(member, totals.node(pool.service, member.instance.key), inflight, now),
                **of_late(totals.recent_node(pool.service, member.instance.key)),
                "status": status,
                "protocol": node.protocol,
                "effective_weight": (node.weight and member.instance.weight)
                * (node.share if pool.scaled else 1),
                "held": member.instance.id in retained,
            }
            for member, node, status in shown[part.first : part.end]
        ],
        "matching": len(shown),
        "refused": _by_service(registry.invalid).get(pool.service, []),
        "odd": _by_service(registry.odd).get(pool.service, []),
    }


def _by_service(
    records: Iterable[InvalidRecord | OddRecord],
) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        fields = msgspec.to_builtins(record)
        found.setdefault(fields.pop("service"), []).append(fields)
    return found


def standing(service: str, settings: ServiceSettings, totals: Totals) -> dict[str, Any]:
    """Where the limits of a service stand. `breaker`: state → workers in which it is in it; null =
    there is none. `queue_full`: workers in which nobody more may wait."""
    states = totals.states(service)
    breakers = Counter(state.breaker for state in states if state.breaker)
    return {
        "breaker": None if settings.circuit_breaker is None else breakers,
        "waiting": sum(state.waiting for state in states),
        "queue_full": sum(0 < settings.queue.size <= state.waiting for state in states),
    }


def limits(service: str, settings: ServiceSettings, totals: Totals) -> dict[str, Any]:
    """Where the limits of a service stand and what they have refused so far, by their keys in
    the configuration."""
    counted = totals.service(service)
    return {
        **standing(service, settings, totals),
        "breaker_opened": counted.breaker_opened,
        "refused": counted.limited,
        **callers(service, totals),
        "retries": counted.retries,
    }


def callers(service: str, totals: Totals) -> dict[str, Any]:
    """Counts of calls by proven caller and the hundreds of the status, and seconds that those of
    each caller took; of whoever has proved nothing as those of the caller without a name."""
    counted = totals.service(service)
    rest = Counter[str]()
    for what, count in counted.requests.items():
        rest[f" {what.rpartition(' ')[2][0]}00"] += count
    for what, count in counted.callers.items():
        rest[f" {what.rpartition(' ')[2]}"] -= count
    seconds = {who: round(took, 6) for who, took in counted.caller_seconds.items()}
    if others := +rest:
        took = counted.duration_sum - sum(counted.caller_seconds.values())
        seconds[""] = round(max(0.0, took), 6)
    return {"callers": {**counted.callers, **others}, "caller_seconds": seconds}


def instance(
    member: Member, counted: NodeTotal | None, inflight: Inflight, now: float
) -> dict[str, Any]:
    """One instance. `inflight` is null for one that is not counted across workers;
    `drained`: by
    the operator, who may undo it; `unreachable_from`: workers that cannot connect to it and so
    prefer others; `on_probation_in`: workers that give it one request at a time, since it is back
    from an ejection."""
    known = member.instance
    counted = counted or _NOTHING
    return {
        "id": known.id,
        "address": known.address,
        "port": known.port,
        "weight": known.weight,
        "version": known.version,
        "metadata": known.metadata,
        "origin": known.origin,
        "status": member.status,
        "reason": member.told(now),
        "back_in": member.back_in(now),
        "drained": member.reason == DRAINED,
        "status_age": round(now - member.since, 1),
        "inflight": inflight(member.slot) if member.slot else None,
        "requests": counted.picks,
        "failures": counted.failures,
        "errors": {
            code: count for code, count in counted.outcomes.items() if code not in NO_ERRORS
        },
        "last_failure": None
        if not counted.failure
        else {"code": counted.failure, "age": round(max(0.0, now - counted.failed_at), 1)},
        "unreachable_from": counted.unreachable,
        "on_probation_in": counted.on_probation,
    }


def routes(specs: Iterable[RouteSpec]) -> dict[str, Any]:
    """`GET /api/v1/routes`: in the order of the file."""
    return {"routes": [{"index": at, **route(spec)} for at, spec in enumerate(specs)]}


_ROUTE: dict[str, Any] = msgspec.to_builtins(RouteSpec())


def route(spec: RouteSpec) -> dict[str, Any]:
    """One route: what the file says, without what it leaves out."""
    fields = msgspec.to_builtins(spec)
    fields["filters"] = names_of(spec.filters)  # Their settings may hold secrets.
    return {name: value for name, value in fields.items() if value and value != _ROUTE[name]}


def registry(status: RegistryStatus, complete: bool) -> dict[str, Any]:
    """`GET /api/v1/registry`."""
    document: dict[str, Any] = msgspec.to_builtins(status)
    parts = document.pop("parts")
    return {
        **document,
        "age": _rounded(status.age),
        "complete": complete,
        "registries": [
            {
                "name": name,
                **{field: part[field] for field in _OF_A_REGISTRY},
                "age": _rounded(part["age"]),
            }
            for name, part in parts.items()
        ],
    }


_OF_A_REGISTRY = (
    "provider", "connected", "endpoint", "revision", "instances", "sessions", "connects",
    "answers", "errors", "resyncs", "switches", "last_error",
)  # fmt: skip
"""Facts of each of several registries; records and sources name theirs in the lists of all."""


def _rounded(age: float | None) -> float | None:
    return None if age is None else round(age, 3)


def workers(all_: Iterable[WorkerSlot], now: float) -> dict[str, Any]:
    """`GET /api/v1/workers`: the worker of each index, and behind it a successor that starts or a
    predecessor that finishes."""
    return {
        "workers": [
            worker(one, life, now)
            for one in all_
            for life in (one.current, *(life for life in one.processes if life is not one.current))
        ]
    }


def pids(all_: Iterable[WorkerSlot]) -> dict[str, int]:
    """Process ids by the names that metrics have for workers: `worker-0`, and beside it
    `worker-0-draining` or `worker-0-successor`."""
    return {
        f"worker-{one.index}"
        + ("-draining" if life.draining else "" if life is one.current else "-successor"): life.pid
        for one in all_
        for life in one.processes
    }


def worker(one: WorkerSlot, life: WorkerProcess | None, now: float) -> dict[str, Any]:
    """Document of a worker process; `pid` is null while it is replaced. Ages in seconds."""
    stats = Reported() if life is None else life.stats
    return {
        "index": one.index,
        "pid": None if life is None else life.pid,
        "state": "restarting" if life is None else life.state,
        "ready": life is not None and life.ready,
        "age": None if life is None else round(now - life.started_at, 3),
        "silent": None if life is None else life.silent_ticks,
        "restarts": one.restarts,
        "revision": 0 if life is None else life.revision,
        "longest_apply": round(one.applies.worst, 6),
        "last_exit": one.last_exit,
        "client_connections": stats.last.client_connections,
        "tunnels": stats.last.tunnels,
        "requests": sum(sum(counted.requests.values()) for counted in stats.services.values()),
    }


def certificates(all_: Certificates, workers: Iterable[WorkerSlot]) -> dict[str, Any]:
    """`GET /api/v1/certificates`. `workers`: generation that each has in effect; `contexts`: how
    many generations each still has, as connections outlive them."""
    lives = {str(one.index): one.current for one in workers if one.current is not None}
    told = {
        listener.name: {
            index: life.certificates[listener.name]
            for index, life in lives.items()
            if listener.name in life.certificates
        }
        for listener in all_.listeners
    }
    return {
        "listeners": [
            {
                "listener": one.name,
                "generation": _generation(one),
                "workers": {
                    index: applied.generation
                    for index, applied in told[one.name].items()
                    if not applied.error
                },
                "contexts": {index: applied.contexts for index, applied in told[one.name].items()},
                **_files(one),
            }
            for one in all_.listeners
        ],
        "services": {
            "generation": all_.upstream.generation,
            "files": [{"service": one.name, **_files(one)} for one in all_.services],
        },
        "admin": None
        if all_.admin is None
        else {"generation": _generation(all_.admin), **_files(all_.admin)},
    }


def _generation(one: ListenerFiles) -> int:
    return 0 if one.message is None else one.message.generation


def _files(one: WatchedFiles) -> dict[str, Any]:
    return {
        "certificates": [
            _certificate(item, state) for item, state in one.states.items() if item.kind == "pair"
        ],
        "problems": [
            {"file": item.files[0], "problem": state.problem}
            for item, state in one.states.items()
            if state.problem
        ],
    }


def _certificate(item: Item, state: State) -> dict[str, Any]:
    """A pair, as it is in use; null = it never could be used. `problem`: with its files now."""
    facts = state.content if isinstance(state.content, CertificateFacts) else None
    shown = ("names", "kind", "subject", "fingerprint")
    return {
        "file": item.files[0],
        "key": item.files[1],
        **{name: getattr(facts, name, None) for name in shown},
        "not_before": None if facts is None else _date(facts.not_before),
        "not_after": None if facts is None else _date(facts.not_after),
        "problem": state.problem,
    }


def acme(names: Mapping[str, Standing]) -> list[dict[str, Any]]:
    """`acme` of the same: the names that certificates are obtained for."""
    return [
        {
            "name": name,
            "not_after": _date(one.not_after) if one.not_after else None,
            "next_order": _date(one.due) if one.due else None,
            "failures": one.failures,
            "problem": one.problem,
        }
        for name, one in names.items()
    ]


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def readiness(missing: list[str]) -> dict[str, Any]:
    """`GET /readyz`."""
    return {"ready": not missing, "missing": missing}


def problem(status: int, title: str, detail: str = "") -> dict[str, Any]:
    """The body of an error, RFC 9457. `type` is left out: it would be `about:blank`. `detail` may
    quote a field that is no UTF-8, which the HTTP library tells in halves of surrogate pairs."""
    body: dict[str, Any] = {"title": title, "status": status}
    if detail:
        body["detail"] = detail.encode(errors="backslashreplace").decode()
    return body
