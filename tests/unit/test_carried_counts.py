"""Counts of the processes before an upgrade, added to those of this one."""

from __future__ import annotations

from proxy.control.carried_counts import CarriedCounts

BEFORE = b"""# HELP a_total A
# TYPE a_total counter
a_total{service="s",code="200"} 5
a_total{service="s",code="502"} 2
a_total{service="gone",code="200"} 3
a_total{service="s",upstream="i"} 4
a_total{service="s",upstream="left"} 4
a_total{service="",code="503"} 1
# HELP b_total B
# TYPE b_total counter
b_total{service_name="s",algorithm="x",instance="i"} 1
b_total{service_name="s",algorithm="x",instance="left"} 1
b_total{service_name="gone",algorithm="x"} 1
# HELP g G
# TYPE g gauge
g 7
# HELP h H
# TYPE h histogram
h_bucket{le="1"} 1
h_sum 0.5
h_count 1
# HELP process_cpu_seconds_total P
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total{process="control"} 9
"""
NOW = b"""# HELP a_total A
# TYPE a_total counter
a_total{service="s",code="200"} 1
a_total{service="new",code="200"} 1
# HELP b_total B
# TYPE b_total counter
# HELP g G
# TYPE g gauge
g 1
# HELP h H
# TYPE h histogram
h_bucket{le="1"} 2
h_sum 0.25
h_count 2
# HELP process_cpu_seconds_total P
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total{process="control"} 1
"""


def known(service: str | None, instance: str | None) -> bool:
    return service in ("s", "new", "", None) and instance in ("i", None)


def test_counters_are_added_and_keep_their_place() -> None:
    merged = b"".join(CarriedCounts(BEFORE).merge(NOW, known))
    assert (
        merged
        == b"""# HELP a_total A
# TYPE a_total counter
a_total{service="s",code="200"} 6.0
a_total{service="new",code="200"} 1
a_total{service="s",code="502"} 2.0
a_total{service="s",upstream="i"} 4.0
a_total{service="",code="503"} 1.0
# HELP b_total B
# TYPE b_total counter
b_total{service_name="s",algorithm="x",instance="i"} 1.0
# HELP g G
# TYPE g gauge
g 1
# HELP h H
# TYPE h histogram
h_bucket{le="1"} 3.0
h_sum 0.75
h_count 3.0
# HELP process_cpu_seconds_total P
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total{process="control"} 1
"""
    )


def test_a_merged_page_can_be_carried_on() -> None:
    once = b"".join(CarriedCounts(BEFORE).merge(NOW, known))
    twice = b"".join(CarriedCounts(once).merge(NOW, known))
    assert b'a_total{service="s",code="200"} 7.0\n' in twice
    assert b'a_total{service="s",code="502"} 2.0\n' in twice


def test_a_page_stays_as_it_is_if_no_counts_are_carried() -> None:
    assert b"".join(CarriedCounts(b"").merge(NOW, known)) == NOW
