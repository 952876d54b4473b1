"""Samples of metrics for each service and instance, as text: see `metrics.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import get_args

from proxy.control.ejections import KEPT_BY
from proxy.control.pool import Member, Pool
from proxy.control.registry_samples import REGISTRY
from proxy.control.scrape import Scrape
from proxy.control.statistics import ServiceTotal
from proxy.errors import FAULTS
from proxy.latency import MIDDLES, QUANTILES, no_answers, quantiles
from proxy.messages import DURATION_BOUNDS, PoolNode, Status

MANY = {
    **REGISTRY,
    "service_registrations_total": (
        "counter",
        "Registrations seen in the registry, by what happened to the record.",
        ("service_name", "status"),
    ),
    "service_discoveries_total": (
        "counter",
        "Times a service's set of instances was learnt anew.",
        ("service_name",),
    ),
    "health_checks_total": (
        "counter",
        "Health statements about instances: those of the registry, and our own checks that "
        "passed or failed.",
        ("service_name", "status"),
    ),
    "service_instances": (
        "gauge",
        "Instances by status.",
        ("service_name", "status"),
    ),
    "fairlead_inflight_requests": (
        "gauge",
        "Requests and tunnels in flight, all workers.",
        ("service", "upstream"),
    ),
    "fairlead_slow_start_instances": (
        "gauge",
        "Instances without their full weight so far.",
        ("service",),
    ),
    "fairlead_breaker_open": (
        "gauge",
        "Workers in which the circuit breaker is open: its time is not over.",
        ("service",),
    ),
    "fairlead_breaker_opened_total": (
        "counter",
        "Times a circuit breaker opened.",
        ("service",),
    ),
    "fairlead_tunnels_closed_total": (
        "counter",
        "Tunnels closed because their instance drains or left (drain.tunnels: close).",
        ("service",),
    ),
    "fairlead_grpc_calls_total": (
        "counter",
        "Calls of gRPC, by what became of them.",
        ("service", "grpc_status"),
    ),
    "fairlead_hedges_total": (
        "counter",
        "Second attempts beside slow first ones: won, lost to the first, or failed.",
        ("service", "result"),
    ),
    "fairlead_caller_requests_total": (
        "counter",
        "Requests of services that have proved which they are, by the hundreds of their status.",
        ("service", "caller", "code"),
    ),
    "fairlead_caller_seconds_total": (
        "counter",
        "What these took in all, from the head to the last byte of the answer.",
        ("service", "caller"),
    ),
    "fairlead_queue_waiting": (
        "gauge",
        "Requests that wait for an instance with room.",
        ("service",),
    ),
    "fairlead_limited_total": (
        "counter",
        "Requests (for retry.budget: retries) that a limit of the service refused, by its key"
        " in the configuration.",
        ("service", "limit"),
    ),
    "fairlead_panic": (
        "gauge",
        "1 while too few instances are ready and health is ignored.",
        ("service",),
    ),
    "fairlead_fallback": (
        "gauge",
        "1 while the registry knows no instance and fallback_instances are served.",
        ("service",),
    ),
    "fairlead_unreachable": (
        "gauge",
        "Workers that cannot connect to the instance.",
        ("service", "upstream"),
    ),
    "fairlead_instances_on_probation": (
        "gauge",
        "Workers that have yet to see the instance answer after its ejection.",
        ("service", "upstream"),
    ),
    "load_balancer_selections_total": (
        "counter",
        "Picks of an instance.",
        ("service_name", "algorithm", "instance"),
    ),
    "fairlead_upstream_attempts_total": (
        "counter",
        "Attempts by outcome: ok, the code of a fault, or a status against the instance.",
        ("service", "upstream", "outcome"),
    ),
    "fairlead_upstream_latency_seconds": (
        "summary",
        "From a request to the head of the instance's answer; quantiles of the last half to "
        "whole minute.",
        ("service", "upstream"),
    ),
    "fairlead_ejections_total": (
        "counter",
        "Instances taken out for failing requests.",
        ("service", "upstream"),
    ),
    "fairlead_ejections_refused_total": (
        "counter",
        "Times an instance that fails requests stayed, by the rule: max_share of the pool is "
        "out, or it is the last_ready one.",
        ("service", "rule"),
    ),
    "fairlead_requests_total": (
        "counter",
        "Requests answered, those the proxy answered itself included.",
        ("service", "method", "code"),
    ),
    "fairlead_request_duration_seconds": (
        "histogram",
        "From the request head to the last byte of the answer.",
        ("service",),
    ),
    "fairlead_proxy_errors_total": (
        "counter",
        "Answers the proxy made itself or had to cut off, by fault and its RFC 9209 error type.",
        ("service", "error", "fault"),
    ),
    "fairlead_retries_total": (
        "counter",
        "Attempts beyond the first, by reason.",
        ("service", "reason"),
    ),
    "fairlead_certificate_expiry_timestamp_seconds": (
        "gauge",
        "When a certificate expires.",
        ("listener", "service", "certificate"),
    ),
    "fairlead_certificate_loads_total": (
        "counter",
        "Pairs of certificate and key that were loaded, failed, or were refused by a worker.",
        ("listener", "service", "result"),
    ),
    "fairlead_acme_orders_total": (
        "counter",
        "Orders of certificates that were issued, or failed.",
        ("name", "result"),
    ),
    "fairlead_config_reloads_total": (
        "counter",
        "Reloads of the configuration, by result.",
        ("result",),
    ),
    "fairlead_config_last_reload_success": (
        "gauge",
        "1: the latest reload was put in force.",
        (),
    ),
    "fairlead_config_hash": (
        "gauge",
        "1; a digest of the configuration in force.",
        ("hash",),
    ),
    "fairlead_http2_sessions": (
        "gauge",
        "Open connections of HTTP/2, by whom with: client, or instance.",
        ("side",),
    ),
    "fairlead_http2_streams": (
        "gauge",
        "Requests that are under way on connections of HTTP/2.",
        ("side",),
    ),
    "fairlead_control_lag_seconds": (
        "gauge",
        "Seconds by which the control process's loop was late for its latest tick.",
        (),
    ),
    "fairlead_spans_total": (
        "counter",
        "Spans that a collector has taken (exported), or that were dropped.",
        ("result",),
    ),
    "fairlead_config_timestamp_seconds": (
        "gauge",
        "When the configuration in force came in force.",
        (),
    ),
    "fairlead_tls_generation": (
        "gauge",
        "How often a listener's certificates, or keys, changed.",
        ("listener",),
    ),
    "fairlead_tls_handshakes_total": (
        "counter",
        "TLS handshakes of clients, by how they ended.",
        ("listener", "result"),
    ),
    "fairlead_http2_closed_total": (
        "counter",
        "Connections that ended for what a client did.",
        ("listener", "reason"),
    ),
    "fairlead_shared_config_up": (
        "gauge",
        "1: the key of the configuration is followed.",
        (),
    ),
    "fairlead_shared_config_good": (
        "gauge",
        "1: what the key holds now is in force.",
        (),
    ),
    "fairlead_shared_config_revision": (
        "gauge",
        "Revision of the shared text in force.",
        (),
    ),
    "fairlead_fleet_share": ("gauge", "Part of the limits of the fleet that is this proxy's.", ()),
    "fairlead_instance_routes": ("gauge", "Routes in force that instances bring.", ()),
    "fairlead_instance_routes_refused": (
        "gauge",
        "Routes that instances bring and that are not in force.",
        (),
    ),
    "fairlead_relay_up": ("gauge", "1: followers are told what the registry says.", ()),
    "fairlead_relay_followers": ("gauge", "Proxies that follow this relay.", ()),
    "fairlead_relay_cut_total": (
        "counter",
        "Followers that were sent away, by reason.",
        ("reason",),
    ),
}
"""Families with samples of each service or instance: name → type, help and labels."""


STEP = 100
"""Instances in one step: a millisecond."""
_TEXTS: dict[float | None, str] = {took: repr(took) for took in MIDDLES}
"""Latencies as they are written: digits of a float cost as much as the rest of a line."""
_SHARES = [f'"{share}"' for share in QUANTILES]


def write_pool(
    families: Mapping[str, list[str]], scrape: Scrape, service: str, pool: Pool
) -> Iterator[None]:
    """Write the samples of one service and its instances, some at a time. Only those of members: an
    instance that left is still in the counters."""
    name = quoted(service)
    of_service, of_service_name = f"{{service={name}", f"{{service_name={name}"

    def write(family: str, labels: str, value: float) -> None:
        families[family].append(f"{family}{labels}}} {value}\n")

    checks = {**scrape.checks.get(service, {})}
    if not pool.static:
        tally = pool.tally
        for status, count in (
            ("registered", tally.registered),
            ("updated", tally.updated),
            ("deregistered", tally.deregistered),
        ):
            write("service_registrations_total", f'{of_service_name},status="{status}"', count)
        write("service_discoveries_total", of_service_name, tally.discoveries)
        checks |= tally.health
    for result, count in checks.items():
        write("health_checks_total", f"{of_service_name},status={quoted(result)}", count)
    statuses = Counter(member.status for member in pool.members)
    for status in get_args(Status):
        write("service_instances", f'{of_service_name},status="{status}"', statuses[status])
    write("fairlead_panic", of_service, int(pool.snapshot.panic))
    write("fairlead_fallback", of_service, int(pool.fallback))
    write("fairlead_slow_start_instances", of_service, pool.warming)
    for rule in KEPT_BY.values():
        times = scrape.refused_ejections.get((service, rule))
        if times is not None:
            write("fairlead_ejections_refused_total", f"{of_service},rule={quoted(rule)}", times)
    states = scrape.totals.states(service)
    if any(state.breaker for state in states):
        open_ = sum(state.breaker == "open" for state in states)
        write("fairlead_breaker_open", of_service, open_)
    if states:
        write("fairlead_queue_waiting", of_service, sum(state.waiting for state in states))
    if not scrape.instances:
        return
    # Both as they are now: a pool may change between two steps.
    members = list(zip(pool.members, pool.snapshot.nodes, strict=True))
    for begin in range(0, len(members), STEP):
        _write_instances(families, scrape, service, members[begin : begin + STEP])
        yield


def _write_instances(
    families: Mapping[str, list[str]],
    scrape: Scrape,
    service: str,
    members: Sequence[tuple[Member, PoolNode]],
) -> None:
    """Write the samples of some instances of a service. There may be twenty thousand, each with a
    dozen lines: hence no calls that could be left out."""
    name = quoted(service)
    of_service = f"{{service={name},upstream="
    balancer = quoted(scrape.balancer_of(service))
    of_balancer = f"{{service_name={name},algorithm={balancer},instance="
    inflight = families["fairlead_inflight_requests"].append
    unreachable = families["fairlead_unreachable"].append
    probation = families["fairlead_instances_on_probation"].append
    picks = families["load_balancer_selections_total"].append
    attempts = families["fairlead_upstream_attempts_total"].append
    latency = families["fairlead_upstream_latency_seconds"].append
    ejections = families["fairlead_ejections_total"].append
    ends: dict[str, str] = {}
    totals = scrape.totals
    for member, node in members:
        key = node.key
        instance = quoted(node.id)
        # Prometheus keeps `instance` for what it asks: as a label of ours it would be renamed, and
        # whoever reads an alert would take the proxy for the one it is about.
        labels = of_service + instance
        if member.slot:
            inflight(f"fairlead_inflight_requests{labels}}} {scrape.inflight(member.slot)}\n")
        late = no_answers()
        counted = totals.node(service, key, late)
        if counted is not None:
            unreachable(f"fairlead_unreachable{labels}}} {counted.unreachable}\n")
            probation(f"fairlead_instances_on_probation{labels}}} {counted.on_probation}\n")
            picks(f"load_balancer_selections_total{of_balancer}{instance}}} {counted.picks}\n")
            for outcome, count in counted.outcomes.items():
                end = ends.get(outcome)
                if end is None:
                    end = ends[outcome] = f",outcome={quoted(outcome)}}}"
                attempts(f"fairlead_upstream_attempts_total{labels}{end} {count}\n")
            if counted.answers:
                p50, p95, p99 = quantiles(late)
                if p50 is not None:
                    line = f"fairlead_upstream_latency_seconds{labels},quantile="
                    latency(
                        f"{line}{_SHARES[0]}}} {_TEXTS[p50]}\n"
                        f"{line}{_SHARES[1]}}} {_TEXTS[p95]}\n"
                        f"{line}{_SHARES[2]}}} {_TEXTS[p99]}\n"
                    )
                latency(
                    f"fairlead_upstream_latency_seconds_sum{labels}}} {counted.seconds}\n"
                    f"fairlead_upstream_latency_seconds_count{labels}}} {counted.answers}\n"
                )
        times = scrape.ejections.get((service, key))
        if times is not None:
            ejections(f"fairlead_ejections_total{labels}}} {times}\n")


def write_traffic(families: Mapping[str, list[str]], service: str, total: ServiceTotal) -> None:
    """Write the workers' counts for one service, or for requests that met no route."""
    of_service = f"{{service={quoted(service)}"

    def write(family: str, labels: str, value: float, suffix: str = "") -> None:
        families[family].append(f"{family}{suffix}{of_service}{labels}}} {value}\n")

    for what, count in total.requests.items():
        method, _, code = what.partition(" ")
        labels = f",method={quoted(method)},code={quoted(code)}"
        write("fairlead_requests_total", labels, count)
    duration, so_far = "fairlead_request_duration_seconds", 0
    for bound, so_far in cumulative(total.duration_buckets, DURATION_BOUNDS):
        write(duration, f',le="{bound}"', so_far, "_bucket")
    write(duration, "", so_far, "_count")
    write(duration, "", total.duration_sum, "_sum")
    for code, count in total.faults.items():
        # A worker of the version before, or after, may know faults that are not in our table.
        error = FAULTS[code].error if code in FAULTS else ""
        labels = f",error={quoted(error)},fault={quoted(code)}"
        write("fairlead_proxy_errors_total", labels, count)
    for reason, count in total.retries.items():
        write("fairlead_retries_total", f",reason={quoted(reason)}", count)
    for limit, count in total.limited.items():
        write("fairlead_limited_total", f",limit={quoted(limit)}", count)
    for status, count in total.calls.items():
        write("fairlead_grpc_calls_total", f",grpc_status={quoted(status)}", count)
    for result, count in total.hedges.items():
        write("fairlead_hedges_total", f",result={quoted(result)}", count)
    for what, count in total.callers.items():
        caller, _, code = what.rpartition(" ")
        labels = f",caller={quoted(caller)},code={quoted(code)}"
        write("fairlead_caller_requests_total", labels, count)
    for caller, seconds in total.caller_seconds.items():
        write("fairlead_caller_seconds_total", f",caller={quoted(caller)}", seconds)
    if total.breaker_opened:
        write("fairlead_breaker_opened_total", "", total.breaker_opened)
    if total.tunnels_closed:
        write("fairlead_tunnels_closed_total", "", total.tunnels_closed)


def quoted(text: str) -> str:
    """A label's value, which may hold anything that a registry does."""
    if '"' in text or "\\" in text or "\n" in text:
        text = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'"{text}"'


def cumulative(buckets: Iterable[int], bounds: Iterable[float]) -> Iterator[tuple[str, int]]:
    """`le` label and count of everything up to it."""
    so_far = 0
    for bound, count in zip([*map(repr, bounds), "+Inf"], buckets, strict=True):
        so_far += count
        yield bound, so_far
