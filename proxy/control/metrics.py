"""The metrics, built at each scrape from live state. The only importer of `prometheus_client`.

Nothing is counted here: workers count, the registry's tallies are in the pools, in-flight
numbers are on the board. So an instance that left takes its series with it, and a scrape is
the only thing that pays for labels.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

import proxy
from proxy.control.families import FAMILIES
from proxy.control.registry_samples import Sample, registry_samples
from proxy.control.samples import cumulative, quoted, write_pool, write_traffic
from proxy.control.scrape import Exemplar, Scrape
from proxy.messages import APPLY_BOUNDS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what every scraper takes; the package's latest, 1.0.0, is for who asks for it."""
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
        self._families: dict[str, list[str]] = {name: [] for name in FAMILIES}
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
            _samples(scrape), registry_samples(scrape.registry), scrape.samples
        ):
            shown = ",".join(f"{label}={quoted(text)}" for label, text in labels.items())
            family = name if name in families else name.rpartition("_")[0]
            families[family].append(f"{name}{f'{{{shown}}}' if shown else ''} {value}\n")
        for name, pid in scrape.processes.items():
            _add_process(self._processes, name, pid)
            yield

    def text(self) -> bytes:
        """The whole, once all steps are done."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collected(self._processes.values()))
        parts = [generate_latest(registry).decode()]
        for name, lines in self._families.items():
            kind, help_, _ = FAMILIES[name]
            parts.append(f"# HELP {name} {help_}\n# TYPE {name} {kind}\n")
            parts += lines
        return "".join(parts).encode()


class _Collected(Collector):
    def __init__(self, collected: Iterable[Metric]) -> None:
        self._collected = collected

    def collect(self) -> Iterable[Metric]:
        return self._collected


def _samples(scrape: Scrape) -> Iterator[Sample]:
    """The samples of which there are a few, however many instances there are."""
    sums = scrape.totals.sums
    yield "fairlead_build_info", _build(), 1
    for name, value in (
        ("client_connections", scrape.client_connections),
        ("tunnels", scrape.tunnels),
        ("admin_connections", scrape.admin_connections),
        ("workers", scrape.workers),
        ("access_log_dropped_total", sums.access_log_dropped),
        ("log_dropped_total", sums.log_dropped + scrape.log_dropped),
        ("fields_dropped_total", sums.underscored),
        ("name_failures_total", sums.name_failures),
        ("name_outdated_seconds", scrape.totals.names_outdated),
    ):
        yield f"fairlead_{name}", {}, value
    for why, times in scrape.admin_closed.items():
        yield "fairlead_admin_connections_closed_total", {"reason": why}, times
    for index, seen in scrape.applies.items():
        worker, so_far, name = {"worker": str(index)}, 0, "fairlead_snapshot_apply_seconds"
        for bound, so_far in cumulative(seen.buckets, APPLY_BOUNDS):
            # Processes before an upgrade have the labels in this order.
            yield f"{name}_bucket", {"le": bound, **worker}, so_far
        yield f"{name}_count", worker, so_far
        yield f"{name}_sum", worker, seen.seconds
        yield "fairlead_snapshot_apply_longest_seconds", worker, seen.worst
    for index, lag in scrape.lags.items():
        yield "fairlead_worker_lag_seconds", {"worker": str(index)}, lag
    for name, of, label, found in (
        ("fairlead_tls_handshakes_total", "listener", "result", sums.handshakes),
        ("fairlead_http2_closed_total", "listener", "reason", sums.http2_closed),
        ("fairlead_filter_ends_total", "filter", "outcome", sums.filters),
    ):
        for whose, counts in found.items():
            for result, count in counts.items():
                yield name, {of: whose, label: result}, count


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


def rows() -> str:
    """The table of `docs/metrics.md`."""
    found = dict(FAMILIES)
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
