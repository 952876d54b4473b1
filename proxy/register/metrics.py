"""Counts of a registrar, on a Prometheus registry of the user's choice."""

from __future__ import annotations

from typing import Literal
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter


class RegistrationMetrics:
    """Owns `service_registrations_total` and `health_checks_total` on one registry.

    Get it by `on`, which gives the same object for the same registry, so that any number of
    registrars can share one; a registry refuses the same name twice.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registrations = Counter(
            "service_registrations_total",
            "Attempts to register an instance, again after a loss included.",
            ["service_name", "status"],
            registry=registry,
        )
        self._checks = Counter(
            "health_checks_total",
            "Health checks of the instances that are registered here; skipped: there was no"
            " descriptor to ask with.",
            ["service_name", "status"],
            registry=registry,
        )

    @classmethod
    def on(cls, registry: CollectorRegistry) -> RegistrationMetrics:
        """The metrics on `registry`, made at the first call."""
        metrics = _existing.get(registry)
        if metrics is None:
            metrics = _existing[registry] = cls(registry)
        return metrics

    def registered(self, service: str, status: Literal["success", "failure"]) -> None:
        self._registrations.labels(service, status).inc()

    def checked(self, service: str, status: Literal["healthy", "unhealthy", "skipped"]) -> None:
        self._checks.labels(service, status).inc()


_existing: WeakKeyDictionary[CollectorRegistry, RegistrationMetrics] = WeakKeyDictionary()
