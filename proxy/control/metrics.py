"""The metrics, built at each scrape from live state. The only importer of `prometheus_client`.

Nothing is counted here: workers count, the registry's tallies are in the pools, in-flight
numbers are on the board. So an instance that left takes its series with it, and a scrape is
the only thing that pays for labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import get_args

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from proxy.control.pools import Pool
from proxy.control.statistics import Applies, Totals
from proxy.model import APPLY_BOUNDS, DURATION_BOUNDS, RegistryStatus, Status

CONTENT_TYPE = CONTENT_TYPE_LATEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """Everything one scrape shows."""

    pools: Mapping[str, Pool]
    totals: Totals
    registry: RegistryStatus
    ejections: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By service and node key."""
    checks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Service → `passed | failed` → active checks."""
    balancer_of: Callable[[str], str]
    """Name of a service's balancer."""
    inflight: Callable[[int], int]
    """Requests in flight in all workers, by board column."""
    client_connections: int
    tunnels: int
    workers: int
    """Workers that run now."""
    applies: Mapping[int, Applies] = field(default_factory=dict)
    """How long changes of the pools held workers' loops, by worker."""


def render(scrape: Scrape) -> bytes:
    """The text exposition format."""
    return text(families(scrape))


def families(scrape: Scrape) -> list[Metric]:
    """All families with their samples: the part that reads live state."""
    return [
        *_registry_families(scrape),
        *_pool_families(scrape),
        *_traffic_families(scrape),
        *_process_families(scrape),
    ]


def text(collected: list[Metric]) -> bytes:
    """The slow part, four fifths of a scrape: it touches nothing that lives, so it may run in
    a thread. 5,000 instances of 500 services take 0.4 s of it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(collected))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, collected: list[Metric]) -> None:
        self._collected = collected

    def collect(self) -> list[Metric]:
        return self._collected


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name.removesuffix("_total"), text, labels=labels)


def _registry_families(scrape: Scrape) -> Iterator[Metric]:
    registrations = _counter(
        "service_registrations_total",
        "Registrations seen in the registry, by what happened to the record.",
        "service_name",
        "status",
    )
    discoveries = _counter(
        "service_discoveries_total",
        "Times a service's set of instances was learnt anew.",
        "service_name",
    )
    checks = _counter(
        "health_checks_total",
        "Health statements about instances: those of the registry, and our own checks that"
        " passed or failed.",
        "service_name",
        "status",
    )
    for service, counted in scrape.checks.items():
        for result, count in counted.items():
            checks.add_metric([service, result], count)
    for service, pool in scrape.pools.items():
        if pool.static:
            continue
        tally = pool.tally
        registrations.add_metric([service, "registered"], tally.registered)
        registrations.add_metric([service, "updated"], tally.updated)
        registrations.add_metric([service, "deregistered"], tally.deregistered)
        discoveries.add_metric([service], tally.discoveries)
        for status, count in tally.health.items():
            checks.add_metric([service, status], count)
    yield registrations
    yield discoveries
    yield checks

    status_ = scrape.registry
    yield GaugeMetricFamily(
        "fairlead_registry_up", "1 while the registry answers.", value=int(status_.connected)
    )
    age = GaugeMetricFamily(
        "fairlead_registry_age_seconds", "Seconds since the registry last answered anything."
    )
    if status_.age is not None:
        age.add_metric([], status_.age)
    yield age
    resyncs = _counter(
        "fairlead_registry_resyncs_total", "Full lists after the first, by reason.", "reason"
    )
    for reason, count in status_.resyncs.items():
        resyncs.add_metric([reason], count)
    yield resyncs
    sources = GaugeMetricFamily(
        "fairlead_registry_source_active",
        "1 for the registry whose instances are served, in order of preference from 0.",
        labels=["source"],
    )
    for place, source in enumerate(status_.sources):
        sources.add_metric([str(place)], int(source.active))
    yield sources
    yield CounterMetricFamily(
        "fairlead_registry_switches",
        "Switches from one registry to another.",
        value=status_.switches,
    )
    yield GaugeMetricFamily(
        "fairlead_registry_held_instances",
        "Instances served although their registration expired.",
        value=len(status_.held),
    )
    yield CounterMetricFamily(
        "fairlead_registry_holds",
        "Instances whose expired registration was held.",
        value=status_.held_total,
    )
    snapshot = GaugeMetricFamily(
        "fairlead_registry_snapshot_age_seconds",
        "Seconds since what the snapshot file holds was true.",
    )
    if status_.snapshot is not None and status_.snapshot.age is not None:
        snapshot.add_metric([], status_.snapshot.age)
    yield snapshot
    yield GaugeMetricFamily(
        "fairlead_registry_invalid_records",
        "Keys whose current value cannot be read; /api/v1/registry lists them.",
        value=len(status_.invalid),
    )


def _pool_families(scrape: Scrape) -> Iterator[Metric]:
    instances = GaugeMetricFamily(
        "service_instances", "Instances by status.", labels=["service_name", "status"]
    )
    inflight = GaugeMetricFamily(
        "fairlead_inflight_requests",
        "Requests and tunnels in flight, all workers.",
        labels=["service", "instance"],
    )
    panic = GaugeMetricFamily(
        "fairlead_panic",
        "1 while too few instances are ready and health is ignored.",
        labels=["service"],
    )
    for service, pool in scrape.pools.items():
        statuses = Counter(member.status for member in pool.members)
        for status in get_args(Status):
            instances.add_metric([service, status], statuses[status])
        panic.add_metric([service], int(pool.snapshot.panic))
        for member in pool.members:
            if member.slot:
                inflight.add_metric([service, member.instance.id], scrape.inflight(member.slot))
    yield instances
    yield inflight
    yield panic


def _traffic_families(scrape: Scrape) -> Iterator[Metric]:
    requests = _counter(
        "fairlead_requests_total",
        "Requests answered, those the proxy answered itself included.",
        "service",
        "method",
        "code",
    )
    durations = HistogramMetricFamily(
        "fairlead_request_duration_seconds",
        "From the request head to the last byte of the answer.",
        labels=["service"],
    )
    errors = _counter(
        "fairlead_proxy_errors_total",
        "Answers the proxy made itself, by RFC 9209 error type.",
        "service",
        "error",
    )
    retries = _counter(
        "fairlead_retries_total", "Attempts beyond the first, by reason.", "service", "reason"
    )
    for service, total in scrape.totals.services.items():
        for what, count in total.requests.items():
            method, _, code = what.partition(" ")
            requests.add_metric([service, method, code], count)
        durations.add_metric(
            [service],
            buckets=list(_cumulative(total.duration_buckets, DURATION_BOUNDS)),
            sum_value=total.duration_sum,
        )
        for error, count in total.errors.items():
            errors.add_metric([service, error], count)
        for reason, count in total.retries.items():
            retries.add_metric([service, reason], count)
    yield requests
    yield durations
    yield errors
    yield retries

    selections = _counter(
        "load_balancer_selections_total",
        "Picks of an instance.",
        "service_name",
        "algorithm",
        "instance",
    )
    attempts = _counter(
        "fairlead_upstream_attempts_total",
        "Attempts by outcome: ok, or an RFC 9209 error type.",
        "service",
        "instance",
        "outcome",
    )
    # By the pools and not by the counters: an instance that left is still in the counters.
    for service, pool in scrape.pools.items():
        algorithm = scrape.balancer_of(service)
        for member in pool.members:
            counted = scrape.totals.nodes.get((service, member.instance.key))
            if counted is None:
                continue
            selections.add_metric([service, algorithm, member.instance.id], counted.picks)
            for outcome, count in counted.outcomes.items():
                attempts.add_metric([service, member.instance.id, outcome], count)
    yield selections
    yield attempts
    ejections = _counter(
        "fairlead_ejections_total",
        "Instances taken out for failing requests.",
        "service",
        "instance",
    )
    for service, pool in scrape.pools.items():
        for member in pool.members:
            times = scrape.ejections.get((service, member.instance.key))
            if times is not None:
                ejections.add_metric([service, member.instance.id], times)
    yield ejections


def _process_families(scrape: Scrape) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "fairlead_client_connections", "Open client connections.", value=scrape.client_connections
    )
    yield GaugeMetricFamily(
        "fairlead_tunnels", "Open tunnels (upgraded connections).", value=scrape.tunnels
    )
    yield GaugeMetricFamily("fairlead_workers", "Workers that run.", value=scrape.workers)
    yield CounterMetricFamily(
        "fairlead_access_log_dropped",
        "Lines of the access log that could not be written.",
        value=scrape.totals.access_log_dropped,
    )
    applies = HistogramMetricFamily(
        "fairlead_snapshot_apply_seconds",
        "Time for which a change of the pools held a worker's loop.",
        labels=["worker"],
    )
    worst = GaugeMetricFamily(
        "fairlead_snapshot_apply_longest_seconds",
        "The longest of these since the start.",
        labels=["worker"],
    )
    for worker, seen in scrape.applies.items():
        applies.add_metric(
            [str(worker)],
            buckets=list(_cumulative(seen.buckets, APPLY_BOUNDS)),
            sum_value=seen.seconds,
        )
        worst.add_metric([str(worker)], seen.worst)
    yield applies
    yield worst
    yield _counter(
        "fairlead_config_reloads_total", "Reloads of the configuration, by result.", "result"
    )


def _cumulative(buckets: Iterable[int], bounds: Iterable[float]) -> Iterator[tuple[str, float]]:
    """`le` label and count of everything up to it."""
    so_far = 0
    for bound, count in zip([*map(repr, bounds), "+Inf"], buckets, strict=True):
        so_far += count
        yield bound, so_far
