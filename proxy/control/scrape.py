"""The facts that one page of metrics shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.control.pool import Pool
from proxy.control.statistics import Applies, Totals
from proxy.statuses import RegistryStatus


class Exemplar(NamedTuple):
    """A request that stands for others in a histogram."""

    trace_id: str
    seconds: float
    at: float
    """Unix time."""


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
    lags: Mapping[int, float] = field(default_factory=dict)
    """Seconds by which the loop of each worker was late, by worker."""
    instances: bool = True
    """Whether there are samples of each instance."""
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
