"""The metrics, built at each scrape from live state. The only importer of `prometheus_client`.

Nothing is counted here: workers count, the registry's tallies are in the pools, in-flight
numbers are on the board. So an instance that left takes its series with it, and a scrape is
the only thing that pays for labels.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

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
from proxy.control.registry_samples import registry_samples
from proxy.control.samples import MANY, cumulative, quoted, write_pool, write_traffic
from proxy.control.scrape import Exemplar, Scrape
from proxy.control.statistics import Retired, Totals
from proxy.messages import APPLY_BOUNDS
from proxy.statuses import RegistryStatus

CONTENT_TYPE = CONTENT_TYPE_LATEST
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_DURATION = b"fairlead_request_duration_seconds"
_HEAD = re.compile(rb"^(# (?:HELP|TYPE) \w+)_total ", re.MULTILINE)


def openmetrics(page: bytes, exemplars: Mapping[tuple[str, str], Exemplar] | None = None) -> bytes:
    """A page as OpenMetrics has it: a counter is called without the end of its samples' names.
    `exemplars`: service and upper bound of a bucket → a request in it, whose trace is shown."""
    if exemplars:
        page = _with_exemplars(page, exemplars)
    return _HEAD.sub(rb"\1 ", page) + b"# EOF\n"


def _with_exemplars(page: bytes, exemplars: Mapping[tuple[str, str], Exemplar]) -> bytes:
    begin = page.find(b"# TYPE %b " % _DURATION)
    end = page.find(b"\n# ", begin) + 1 or len(page)
    tails = {
        f"{_DURATION.decode()}_bucket{{service={quoted(service)},le={quoted(bound)}}}".encode(): (
            f' # {{trace_id="{one.trace_id}"}} {one.seconds} {one.at:.3f}\n'.encode()
        )
        for (service, bound), one in exemplars.items()
    }
    lines = page[begin:end].splitlines(keepends=True)
    for at, line in enumerate(lines):
        tail = tails.get(line.rpartition(b" ")[0])
        if tail is not None:
            lines[at] = line[:-1] + tail
    return b"".join((page[:begin], *lines, page[end:]))


class Page:
    """Owns one scrape's text, in the text exposition format, while it is being written.

    Most of it are samples of services and instances, hundreds of thousands where there are many
    instances. The library takes ten microseconds for each, so those are written here, and service
    by service: whoever asks can do something else in between.
    """

    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape
        self._families: dict[str, list[str]] = {name: [] for name in MANY}
        self._processes: dict[str, Metric] = {}

    def steps(self) -> Iterator[None]:
        """Write it, in steps of a fraction of a millisecond each."""
        scrape, families = self._scrape, self._families
        for service, pool in list(scrape.pools.items()):
            yield from write_pool(families, scrape, service, pool)
            yield
        for service in scrape.totals.services:
            write_traffic(families, service, scrape.totals.service(service))
            yield
        for name, labels, value in chain(
            registry_samples(scrape.registry), scrape.samples, _of_listeners(scrape.totals)
        ):
            shown = ",".join(f"{label}={quoted(text)}" for label, text in labels.items())
            families[name].append(f"{name}{f'{{{shown}}}' if shown else ''} {value}\n")
        for name, pid in scrape.processes.items():
            _add_process(self._processes, name, pid)
            yield

    def text(self) -> bytes:
        """The whole, once all steps are done."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collected([*families(self._scrape), *self._processes.values()]))
        parts = [generate_latest(registry).decode()]
        for name, lines in self._families.items():
            kind, help_, _ = MANY[name]
            parts.append(f"# HELP {name} {help_}\n# TYPE {name} {kind}\n")
            parts += lines
        return "".join(parts).encode()


def families(scrape: Scrape) -> list[Metric]:
    """The families of which there are a few samples, however many instances there are."""
    return list(_process_families(scrape))


class _Collected(Collector):
    def __init__(self, collected: list[Metric]) -> None:
        self._collected = collected

    def collect(self) -> list[Metric]:
        return self._collected


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name.removesuffix("_total"), text, labels=labels)


def _of_listeners(totals: Totals) -> Iterator[tuple[str, dict[str, str], int]]:
    for name, label, found in (
        ("fairlead_tls_handshakes_total", "result", totals.handshakes),
        ("fairlead_http2_closed_total", "reason", totals.http2_closed),
    ):
        for listener, counts in found.items():
            for value, count in counts.items():
                yield name, {"listener": listener, label: value}, count


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
            buckets=list(cumulative(seen.buckets, APPLY_BOUNDS)),
            sum_value=seen.seconds,
        )
        worst.add_metric([str(worker)], seen.worst)
    yield applies
    yield worst
    lag = GaugeMetricFamily(
        "fairlead_worker_lag_seconds",
        "Seconds by which a worker's loop was late for its latest report.",
        labels=["worker"],
    )
    for index, seconds in scrape.lags.items():
        lag.add_metric([str(index)], seconds)
    yield lag


def _labels(family: Metric) -> tuple[str, ...]:
    return tuple(getattr(family, "_labelnames", ()))


def rows() -> str:
    """The table of `docs/metrics.md`."""
    nothing = Scrape(
        pools={},
        totals=Totals(Retired()),
        registry=RegistryStatus(provider="", connected=False),
        balancer_of=lambda service: "",
        inflight=lambda slot: 0,
        client_connections=0,
        tunnels=0,
        workers=0,
    )
    found = dict(MANY)
    for family in families(nothing):
        end = "_total" if family.type == "counter" else ""
        found[family.name + end] = family.type, family.documentation, _labels(family)
    processes: dict[str, Metric] = {}
    _add_process(processes, "", os.getpid())
    for family in processes.values():
        end = "_total" if family.type == "counter" else ""
        found[family.name + end] = family.type, family.documentation, ("process",)
    lines = ["| name | kind | labels | what it says |", "|---|---|---|---|"]
    for name, (kind, text, labels) in sorted(found.items()):
        shown = ", ".join(f"`{label}`" for label in labels)
        lines.append(f"| `{name}` | {kind} | {shown} | {text} |")
    return "\n".join((*lines, ""))


if __name__ == "__main__":
    page = Path("docs/metrics.md")
    prose, _, _ = page.read_text("utf-8").partition("| name |")
    page.write_text(prose + rows(), "utf-8")
