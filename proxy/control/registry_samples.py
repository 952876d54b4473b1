"""Samples of metrics for each registry: see `metrics.py`.

One registry has no name, so its samples have no label `registry`, which is to Prometheus one that
is empty; of several each has its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from proxy.statuses import RegistryStatus

Sample = tuple[str, Mapping[str, str], float]


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
