"""Samples of metrics for each registry: see `metrics.py`.

One registry has no name, so its samples have no label `registry`, which is to Prometheus one that
is empty; of several each has its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from proxy.statuses import RegistryStatus

Sample = tuple[str, Mapping[str, str], float]

REGISTRY = {
    "fairlead_registry_up": ("gauge", "1 while the registry answers.", ("registry",)),
    "fairlead_registry_age_seconds": (
        "gauge",
        "Seconds since the registry last answered anything.",
        ("registry",),
    ),
    "fairlead_registry_instances": (
        "gauge",
        "Instances that the registry names and whose records can be read.",
        ("registry",),
    ),
    "fairlead_registry_invalid_records": (
        "gauge",
        "Keys whose current value cannot be read; /api/v1/registry lists them.",
        ("registry",),
    ),
    "fairlead_registry_connects_total": (
        "counter",
        "Times that the registry answered after it had not: at the start, and after each outage.",
        ("registry",),
    ),
    "fairlead_registry_sessions_total": (
        "counter",
        "Times that following the registry began: with a list, or a watch of what changes.",
        ("registry",),
    ),
    "fairlead_registry_answers_total": (
        "counter",
        "Answers of the registry: lists, changes, proofs that nothing changed.",
        ("registry",),
    ),
    "fairlead_registry_errors_total": (
        "counter",
        "Sessions with the registry, and attempts to begin one, that ended by an error.",
        ("registry",),
    ),
    "fairlead_registry_resyncs_total": (
        "counter",
        "Full lists after the first, by reason.",
        ("registry", "reason"),
    ),
    "fairlead_registry_source_active": (
        "gauge",
        "1 for the source (the registry, or one of its backups) whose instances are served, in "
        "order of preference from 0.",
        ("registry", "source"),
    ),
    "fairlead_registry_source_up": (
        "gauge",
        "1 for a source that passed its latest check.",
        ("registry", "source"),
    ),
    "fairlead_registry_switches_total": (
        "counter",
        "Switches from one source to another.",
        ("registry",),
    ),
    "fairlead_registry_held_instances": (
        "gauge",
        "Instances served although the registry does not name them.",
        ("registry",),
    ),
    "fairlead_registry_holds_total": (
        "counter",
        "Instances whose expired registration was held.",
        ("registry",),
    ),
    "fairlead_registry_snapshot_age_seconds": (
        "gauge",
        "Seconds since what the snapshot file holds was true.",
        ("registry",),
    ),
    "fairlead_registry_snapshot_failures_total": (
        "counter",
        "Times that the snapshot file could not be read or written.",
        ("registry",),
    ),
}
"""Families: name → type, help and labels."""


def registry_samples(status: RegistryStatus) -> Iterator[Sample]:
    """The samples of one registry, or of each of several: name, labels, value."""
    for name, one in (status.parts or {"": status}).items():
        labels = {"registry": name} if name else {}
        for what, value in _of_one(one):
            yield f"fairlead_registry_{what}", labels, value
        for reason, count in one.resyncs.items():
            yield "fairlead_registry_resyncs_total", {**labels, "reason": reason}, count
        for place, source in enumerate(one.sources):
            of_source = {**labels, "source": str(place)}
            yield "fairlead_registry_source_active", of_source, int(source.active)
            if source.alive is not None:
                yield "fairlead_registry_source_up", of_source, int(source.alive)


def _of_one(one: RegistryStatus) -> Iterator[tuple[str, float]]:
    yield "up", int(one.connected)
    if one.age is not None:
        yield "age_seconds", one.age
    yield "instances", one.instances
    yield "invalid_records", len(one.invalid)
    yield "connects_total", one.connects
    yield "sessions_total", one.sessions
    yield "answers_total", one.answers
    yield "errors_total", one.errors
    yield "switches_total", one.switches
    yield "held_instances", len(one.retained)
    yield "holds_total", one.retained_total
    if one.snapshot is not None and one.snapshot.age is not None:
        yield "snapshot_age_seconds", one.snapshot.age
    yield "snapshot_failures_total", 0 if one.snapshot is None else one.snapshot.failures
