"""The metrics, built at each scrape from live state. The only importer of `prometheus_client`.

Nothing is counted here: workers count, the registry's tallies are in the pools, in-flight
numbers are on the board. So an instance that left takes its series with it, and a scrape is
the only thing that pays for labels.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from itertools import chain
from typing import get_args

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import proxy
from proxy.control.ejections import KEPT_BY
from proxy.control.pool import Pool
from proxy.control.statistics import Applies, ServiceTotal, Totals
from proxy.errors import FAULTS
from proxy.messages import APPLY_BOUNDS, DURATION_BOUNDS, Status
from proxy.statuses import RegistryStatus

CONTENT_TYPE = CONTENT_TYPE_LATEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """The facts that one scrape shows."""

    pools: Mapping[str, Pool]
    totals: Totals
    registry: RegistryStatus
    ejections: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By service and node key."""
    refused_ejections: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By service and rule."""
    checks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Service → `passed | failed | skipped` → active checks."""
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
    log_dropped: int = 0
    """Lines of its log that the control process could not write."""
    admin_connections: int = 0
    """To the admin server, open now."""
    admin_closed: Mapping[str, int] = field(default_factory=dict)
    """Reason → connections that the admin server closed early."""
    samples: Iterable[tuple[str, Mapping[str, str], float]] = ()
    """Further ones, of certificates and reloads: name, labels, value."""
    processes: Mapping[str, int] = field(default_factory=dict)
    """Process ids of the control process and of the workers that run, by name."""


class Page:
    """Owns one scrape's text, in the text exposition format, while it is being written.

    Most of it are samples of services and instances, hundreds of thousands where there are many
    instances. The library takes ten microseconds for each, so those are written here, and service
    by service: whoever asks can do something else in between.
    """

    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape
        self._families: dict[str, list[str]] = {name: [] for name in _MANY}
        self._processes: dict[str, Metric] = {}

    def steps(self) -> Iterator[None]:
        """Write it, in steps of a fraction of a millisecond each."""
        scrape, families = self._scrape, self._families
        for service, pool in list(scrape.pools.items()):
            _write_pool(families, scrape, service, pool)
            yield
        for service in scrape.totals.services:
            _write_traffic(families, service, scrape.totals.service(service))
            yield
        for name, labels, value in chain(scrape.samples, _of_listeners(scrape.totals)):
            shown = ",".join(f"{label}={_quoted(text)}" for label, text in labels.items())
            families[name].append(f"{name}{{{shown}}} {value}\n")
        for name, pid in scrape.processes.items():
            _add_process(self._processes, name, pid)
            yield

    def text(self) -> bytes:
        """The whole, once all steps are done."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collected([*families(self._scrape), *self._processes.values()]))
        parts = [generate_latest(registry)]
        for name, lines in self._families.items():
            kind, help_ = _MANY[name]
            parts.append(f"# HELP {name} {help_}\n# TYPE {name} {kind}\n".encode())
            parts.append("".join(lines).encode())
        return b"".join(parts)


def families(scrape: Scrape) -> list[Metric]:
    """The families of which there are a few samples, however many instances there are."""
    return [*_registry_families(scrape), *_process_families(scrape)]


class _Collected(Collector):
    def __init__(self, collected: list[Metric]) -> None:
        self._collected = collected

    def collect(self) -> list[Metric]:
        return self._collected


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name.removesuffix("_total"), text, labels=labels)


def _registry_families(scrape: Scrape) -> Iterator[Metric]:
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
        "Instances served although the registry does not name them.",
        value=len(status_.retained),
    )
    yield CounterMetricFamily(
        "fairlead_registry_holds",
        "Instances whose expired registration was held.",
        value=status_.retained_total,
    )
    snapshot = GaugeMetricFamily(
        "fairlead_registry_snapshot_age_seconds",
        "Seconds since what the snapshot file holds was true.",
    )
    if status_.snapshot is not None and status_.snapshot.age is not None:
        snapshot.add_metric([], status_.snapshot.age)
    yield snapshot
    yield CounterMetricFamily(
        "fairlead_registry_snapshot_failures",
        "Times that the snapshot file could not be read or written.",
        value=0 if status_.snapshot is None else status_.snapshot.failures,
    )
    yield GaugeMetricFamily(
        "fairlead_registry_invalid_records",
        "Keys whose current value cannot be read; /api/v1/registry lists them.",
        value=len(status_.invalid),
    )


_MANY = {
    "service_registrations_total": (
        "counter",
        "Registrations seen in the registry, by what happened to the record.",
    ),
    "service_discoveries_total": (
        "counter",
        "Times a service's set of instances was learnt anew.",
    ),
    "health_checks_total": (
        "counter",
        "Health statements about instances: those of the registry, and our own checks that passed"
        " or failed.",
    ),
    "service_instances": ("gauge", "Instances by status."),
    "fairlead_inflight_requests": ("gauge", "Requests and tunnels in flight, all workers."),
    "fairlead_slow_start_instances": ("gauge", "Instances without their full weight so far."),
    "fairlead_breaker_open": (
        "gauge",
        "Workers in which the circuit breaker is open: its time is not over.",
    ),
    "fairlead_breaker_opened_total": ("counter", "Times a circuit breaker opened."),
    "fairlead_tunnels_closed_total": (
        "counter",
        "Tunnels closed because their instance drains or left (drain.tunnels: close).",
    ),
    "fairlead_grpc_calls_total": ("counter", "Calls of gRPC, by what became of them."),
    "fairlead_queue_waiting": ("gauge", "Requests that wait for an instance with room."),
    "fairlead_limited_total": (
        "counter",
        "Requests (for retry.budget: retries) that a limit of the service refused, by its key in"
        " the configuration.",
    ),
    "fairlead_panic": ("gauge", "1 while too few instances are ready and health is ignored."),
    "fairlead_fallback": (
        "gauge",
        "1 while the registry knows no instance and fallback_instances are served.",
    ),
    "fairlead_unreachable": ("gauge", "Workers that cannot connect to the instance."),
    "fairlead_instances_on_probation": (
        "gauge",
        "Workers that have yet to see the instance answer after its ejection.",
    ),
    "load_balancer_selections_total": ("counter", "Picks of an instance."),
    "fairlead_upstream_attempts_total": (
        "counter",
        "Attempts by outcome: ok, the code of a fault, or a status against the instance.",
    ),
    "fairlead_ejections_total": ("counter", "Instances taken out for failing requests."),
    "fairlead_ejections_refused_total": (
        "counter",
        "Times an instance that fails requests stayed, by the rule: max_share of the pool is out,"
        " or it is the last_ready one.",
    ),
    "fairlead_requests_total": (
        "counter",
        "Requests answered, those the proxy answered itself included.",
    ),
    "fairlead_request_duration_seconds": (
        "histogram",
        "From the request head to the last byte of the answer.",
    ),
    "fairlead_proxy_errors_total": (
        "counter",
        "Answers the proxy made itself or had to cut off, by fault and its RFC 9209 error type.",
    ),
    "fairlead_retries_total": ("counter", "Attempts beyond the first, by reason."),
    "fairlead_certificate_expiry_timestamp_seconds": ("gauge", "When a certificate expires."),
    "fairlead_certificate_loads_total": (
        "counter",
        "Pairs of certificate and key that were loaded, failed, or were refused by a worker.",
    ),
    "fairlead_acme_orders_total": (
        "counter",
        "Orders of certificates that were issued, or failed.",
    ),
    "fairlead_config_reloads_total": ("counter", "Reloads of the configuration, by result."),
    "fairlead_config_last_reload_success": ("gauge", "1: the latest reload was put in force."),
    "fairlead_config_hash": ("gauge", "1; a digest of the configuration in force."),
    "fairlead_tls_generation": ("gauge", "How often a listener's certificates, or keys, changed."),
    "fairlead_tls_handshakes_total": ("counter", "TLS handshakes of clients, by how they ended."),
    "fairlead_http2_closed_total": ("counter", "Connections that ended for what a client did."),
}
"""Families with samples of each service or instance: name → type and help."""


def _write_pool(
    families: Mapping[str, list[str]], scrape: Scrape, service: str, pool: Pool
) -> None:
    """The samples of one service and its instances. Only those of members: one that left is
    still in the counters."""
    name = _quoted(service)
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
        write("health_checks_total", f"{of_service_name},status={_quoted(result)}", count)
    statuses = Counter(member.status for member in pool.members)
    for status in get_args(Status):
        write("service_instances", f'{of_service_name},status="{status}"', statuses[status])
    write("fairlead_panic", of_service, int(pool.snapshot.panic))
    write("fairlead_fallback", of_service, int(pool.fallback))
    write("fairlead_slow_start_instances", of_service, pool.warming)
    for rule in KEPT_BY.values():
        times = scrape.refused_ejections.get((service, rule))
        if times is not None:
            write("fairlead_ejections_refused_total", f"{of_service},rule={_quoted(rule)}", times)
    states = scrape.totals.states(service)
    if any(state.breaker for state in states):
        open_ = sum(state.breaker == "open" for state in states)
        write("fairlead_breaker_open", of_service, open_)
    if states:
        write("fairlead_queue_waiting", of_service, sum(state.waiting for state in states))
    algorithm = f"{of_service_name},algorithm={_quoted(scrape.balancer_of(service))},instance="
    for member in pool.members:
        instance = _quoted(member.instance.id)
        key = member.instance.key
        # Prometheus keeps `instance` for what it asks: as a label of ours it would be renamed, and
        # whoever reads an alert would take the proxy for the one it is about.
        labels = f"{of_service},upstream={instance}"
        if member.slot:
            write("fairlead_inflight_requests", labels, scrape.inflight(member.slot))
        counted = scrape.totals.node(service, key)
        if counted is not None:
            write("fairlead_unreachable", labels, counted.unreachable)
            write("fairlead_instances_on_probation", labels, counted.on_probation)
            write("load_balancer_selections_total", algorithm + instance, counted.picks)
            for outcome, count in counted.outcomes.items():
                labelled = f"{labels},outcome={_quoted(outcome)}"
                write("fairlead_upstream_attempts_total", labelled, count)
        times = scrape.ejections.get((service, key))
        if times is not None:
            write("fairlead_ejections_total", labels, times)


def _write_traffic(families: Mapping[str, list[str]], service: str, total: ServiceTotal) -> None:
    """Write the workers' counts for one service, or for requests that met no route."""
    of_service = f"{{service={_quoted(service)}"

    def write(family: str, labels: str, value: float, suffix: str = "") -> None:
        families[family].append(f"{family}{suffix}{of_service}{labels}}} {value}\n")

    for what, count in total.requests.items():
        method, _, code = what.partition(" ")
        labels = f",method={_quoted(method)},code={_quoted(code)}"
        write("fairlead_requests_total", labels, count)
    duration, so_far = "fairlead_request_duration_seconds", 0
    for bound, so_far in _cumulative(total.duration_buckets, DURATION_BOUNDS):
        write(duration, f',le="{bound}"', so_far, "_bucket")
    write(duration, "", so_far, "_count")
    write(duration, "", total.duration_sum, "_sum")
    for code, count in total.faults.items():
        # A worker of the version before, or after, may know faults that are not in our table.
        error = FAULTS[code].error if code in FAULTS else ""
        labels = f",error={_quoted(error)},fault={_quoted(code)}"
        write("fairlead_proxy_errors_total", labels, count)
    for reason, count in total.retries.items():
        write("fairlead_retries_total", f",reason={_quoted(reason)}", count)
    for limit, count in total.limited.items():
        write("fairlead_limited_total", f",limit={_quoted(limit)}", count)
    for status, count in total.calls.items():
        write("fairlead_grpc_calls_total", f",grpc_status={_quoted(status)}", count)
    if total.breaker_opened:
        write("fairlead_breaker_opened_total", "", total.breaker_opened)
    if total.tunnels_closed:
        write("fairlead_tunnels_closed_total", "", total.tunnels_closed)


def _of_listeners(totals: Totals) -> Iterator[tuple[str, dict[str, str], int]]:
    for name, label, found in (
        ("fairlead_tls_handshakes_total", "result", totals.handshakes),
        ("fairlead_http2_closed_total", "reason", totals.http2_closed),
    ):
        for listener, counts in found.items():
            for value, count in counts.items():
                yield name, {"listener": listener, label: value}, count


def _quoted(text: str) -> str:
    """A label's value, which may hold anything that a registry does."""
    if '"' in text or "\\" in text or "\n" in text:
        text = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'"{text}"'


def _add_process(found: dict[str, Metric], name: str, pid: int) -> None:
    """Add the system's figures for one process; none where the system has none, or the process is
    gone. The names are those that every Prometheus client has, but each process is a series: in a
    sum the memory that they share would count several times, a limit that holds for each would mean
    nothing, and the CPU time would go back when a worker is replaced."""
    for family in ProcessCollector(registry=None, pid=lambda: pid).collect():
        shown = found.setdefault(
            family.name, Metric(family.name, family.documentation, family.type)
        )
        for sample in family.samples:
            shown.add_sample(sample.name, {"process": name}, sample.value)


@cache
def _build() -> dict[str, str]:
    """Versions of the proxy and of Python, and whether the data plane is compiled."""
    worker = find_spec("proxy.engine.worker")
    assert worker is not None
    return {
        "version": proxy.__version__,
        "python": platform.python_version(),
        "compiled": str(not (worker.origin or "").endswith(".py")).lower(),
    }


def _process_families(scrape: Scrape) -> Iterator[Metric]:
    build = GaugeMetricFamily(
        "fairlead_build_info",
        "1; the versions of the proxy and of Python, and whether the data plane is compiled.",
        labels=list(_build()),
    )
    build.add_metric(list(_build().values()), 1)
    yield build
    yield GaugeMetricFamily(
        "fairlead_client_connections", "Open client connections.", value=scrape.client_connections
    )
    yield GaugeMetricFamily(
        "fairlead_tunnels", "Open tunnels (upgraded connections).", value=scrape.tunnels
    )
    yield GaugeMetricFamily(
        "fairlead_admin_connections",
        "Open connections to the admin server.",
        value=scrape.admin_connections,
    )
    closed = _counter(
        "fairlead_admin_connections_closed_total",
        "Connections that the admin server closed early: there was no_room, one made_room for"
        " another, or a slow_head, a slow_request, a large_head, no_handshake.",
        "reason",
    )
    for why, times in scrape.admin_closed.items():
        closed.add_metric([why], times)
    yield closed
    yield GaugeMetricFamily("fairlead_workers", "Workers that run.", value=scrape.workers)
    yield CounterMetricFamily(
        "fairlead_access_log_dropped",
        "Lines of the access log that could not be written.",
        value=scrape.totals.access_log_dropped,
    )
    yield CounterMetricFamily(
        "fairlead_log_dropped",
        "Lines of the log that could not be written, by all processes.",
        value=scrape.totals.log_dropped + scrape.log_dropped,
    )
    yield CounterMetricFamily(
        "fairlead_fields_dropped",
        "Fields of requests that were left out because their name has a _.",
        value=scrape.totals.underscored,
    )
    yield CounterMetricFamily(
        "fairlead_name_failures",
        "Questions for instances' names that brought no address.",
        value=scrape.totals.name_failures,
    )
    yield GaugeMetricFamily(
        "fairlead_name_outdated_seconds",
        "Seconds by which the oldest answer for a name that had to be used on is past its time.",
        value=scrape.totals.names_outdated,
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


def _cumulative(buckets: Iterable[int], bounds: Iterable[float]) -> Iterator[tuple[str, int]]:
    """`le` label and count of everything up to it."""
    so_far = 0
    for bound, count in zip([*map(repr, bounds), "+Inf"], buckets, strict=True):
        so_far += count
        yield bound, so_far
