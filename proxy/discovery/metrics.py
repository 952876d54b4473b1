"""The library's metrics, built at each scrape from live state, on a registry of the user's.

Names, labels and meaning are those of the proxy's own `/metrics`, so one dashboard shows both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.control.judging import judge
from proxy.membership import Instance
from proxy.messages import Status

STATUSES: tuple[Status, ...] = ("ready", "unhealthy", "draining")
"""Of `messages.Status`, those that follow from a record. Nobody ejects here."""

Selections = dict[tuple[str, str, str], int]
"""(service, algorithm, instance id) → picks."""


class DiscoveryMetrics(Collector):
    """Owns what is counted: how often a service was learnt anew, and picks of instances.

    An instance that left takes its series with it, and a service that left, its own; counts
    start again when they return, which Prometheus takes for what it is, a reset.
    """

    def __init__(self, services: Callable[[], Mapping[str, tuple[Instance, ...]]]) -> None:
        """`services`: who is registered now."""
        self._services = services
        self.discoveries: dict[str, int] = {}
        self.selections: Selections = {}

    def learnt(self, service: str, instances: tuple[Instance, ...]) -> None:
        """A service's instances are others than before; () = it left."""
        if not instances:
            self.discoveries.pop(service, None)
        else:
            self.discoveries[service] = self.discoveries.get(service, 0) + 1
        ids = {instance.id for instance in instances}
        for pick in [pick for pick in self.selections if pick[0] == service and pick[2] not in ids]:
            del self.selections[pick]

    def selected(self, service: str, algorithm: str, instance: str) -> None:
        """A balancer picked an instance."""
        pick = (service, algorithm, instance)
        self.selections[pick] = self.selections.get(pick, 0) + 1

    # ------------------------------------------------------------------------- scraping

    def describe(self) -> Iterable[Metric]:
        """The names alone: `register` refuses a second collector that has any of them."""
        return self._families()

    def collect(self) -> Iterable[Metric]:
        discoveries, instances, selections = self._families()
        for service, count in self.discoveries.items():
            discoveries.add_metric([service], count)
        for service, known in self._services().items():
            statuses = Counter(judge(instance)[0] for instance in known)
            for status in STATUSES:
                instances.add_metric([service, status], statuses[status])
        for pick, count in self.selections.items():
            selections.add_metric(list(pick), count)
        return (discoveries, instances, selections)

    def _families(self) -> tuple[CounterMetricFamily, GaugeMetricFamily, CounterMetricFamily]:
        return (
            CounterMetricFamily(
                "service_discoveries",
                "Times a service's set of instances was learnt anew.",
                labels=["service_name"],
            ),
            GaugeMetricFamily(
                "service_instances", "Instances by status.", labels=["service_name", "status"]
            ),
            CounterMetricFamily(
                "load_balancer_selections",
                "Picks of an instance.",
                labels=["service_name", "algorithm", "instance"],
            ),
        )
