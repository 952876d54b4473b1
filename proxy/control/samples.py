"""Samples of metrics for each service and instance, as text: see `metrics.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import get_args

from proxy.control.ejections import KEPT_BY
from proxy.control.pool import Member, Pool
from proxy.control.scrape import Scrape
from proxy.control.statistics import ServiceTotal
from proxy.errors import FAULTS
from proxy.latency import MIDDLES, QUANTILES, no_answers, quantiles
from proxy.messages import DURATION_BOUNDS, PoolNode, Status

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
    for result, count in total.mirrored.items():
        write("fairlead_mirrored_total", f",result={quoted(result)}", count)
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
