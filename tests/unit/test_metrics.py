"""The metrics: names and labels as promised, sums that never go back, series that end."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from proxy import latency
from proxy.control import metrics
from proxy.control.metrics_page import of_http2
from proxy.control.pools import PoolRegistry
from proxy.control.scrape import Exemplar
from proxy.control.slots import Slots
from proxy.control.statistics import Applies, Reported, Retired, Totals
from proxy.membership import Membership
from proxy.messages import NodeStats, PolicyState
from proxy.settings.service import PoolSettings
from proxy.statuses import RegistrySource, RegistryStatus
from tests.support.scraping import book, instance, report, samples, scrape, several, total

PROMISED = {
    "service_registrations_total": ("service_name", "status"),
    "service_discoveries_total": ("service_name",),
    "health_checks_total": ("service_name", "status"),
    "service_instances": ("service_name", "status"),
    "load_balancer_selections_total": ("service_name", "algorithm", "instance"),
    "fairlead_unreachable": ("service", "upstream"),
    "fairlead_instances_on_probation": ("service", "upstream"),
    "fairlead_requests_total": ("service", "method", "code"),
    "fairlead_request_duration_seconds": ("service",),
    "fairlead_inflight_requests": ("service", "upstream"),
    "fairlead_upstream_attempts_total": ("service", "upstream", "outcome"),
    "fairlead_upstream_latency_seconds": ("service", "upstream"),
    "fairlead_retries_total": ("service", "reason"),
    "fairlead_ejections_total": ("service", "upstream"),
    "fairlead_ejections_refused_total": ("service", "rule"),
    "fairlead_proxy_errors_total": ("service", "error", "fault"),
    "fairlead_client_connections": (),
    "fairlead_tunnels": (),
    "fairlead_tunnels_closed_total": ("service",),
    "fairlead_registry_up": ("registry",),
    "fairlead_registry_age_seconds": ("registry",),
    "fairlead_registry_instances": ("registry",),
    "fairlead_registry_invalid_records": ("registry",),
    "fairlead_registry_connects_total": ("registry",),
    "fairlead_registry_sessions_total": ("registry",),
    "fairlead_registry_answers_total": ("registry",),
    "fairlead_registry_errors_total": ("registry",),
    "fairlead_registry_resyncs_total": ("registry", "reason"),
    "fairlead_registry_source_active": ("registry", "source"),
    "fairlead_registry_source_up": ("registry", "source"),
    "fairlead_registry_switches_total": ("registry",),
    "fairlead_registry_held_instances": ("registry",),
    "fairlead_registry_holds_total": ("registry",),
    "fairlead_registry_snapshot_age_seconds": ("registry",),
    "fairlead_registry_snapshot_failures_total": ("registry",),
    "fairlead_panic": ("service",),
    "fairlead_fallback": ("service",),
    "fairlead_slow_start_instances": ("service",),
    "fairlead_breaker_open": ("service",),
    "fairlead_breaker_opened_total": ("service",),
    "fairlead_grpc_calls_total": ("service", "grpc_status"),
    "fairlead_hedges_total": ("service", "result"),
    "fairlead_mirrored_total": ("service", "result"),
    "fairlead_caller_requests_total": ("service", "caller", "code"),
    "fairlead_caller_seconds_total": ("service", "caller"),
    "fairlead_queue_waiting": ("service",),
    "fairlead_limited_total": ("service", "limit"),
    "fairlead_certificate_expiry_timestamp_seconds": ("listener", "service", "certificate"),
    "fairlead_certificate_loads_total": ("listener", "service", "result"),
    "fairlead_tls_generation": ("listener",),
    "fairlead_tls_handshakes_total": ("listener", "result"),
    "fairlead_http2_closed_total": ("listener", "reason"),
    "fairlead_filter_ends_total": ("filter", "outcome"),
    "fairlead_acme_orders_total": ("name", "result"),
    "fairlead_config_reloads_total": ("result",),
    "fairlead_config_last_reload_success": (),
    "fairlead_config_hash": ("hash",),
    "fairlead_config_timestamp_seconds": (),
    "fairlead_shared_config_up": (),
    "fairlead_shared_config_good": (),
    "fairlead_shared_config_revision": (),
    "fairlead_fleet_share": (),
    "fairlead_instance_routes": (),
    "fairlead_instance_routes_refused": (),
    "fairlead_relay_up": (),
    "fairlead_relay_followers": (),
    "fairlead_relay_cut_total": ("reason",),
    "fairlead_spans_total": ("result",),
    "fairlead_control_lag_seconds": (),
    "fairlead_http2_sessions": ("side",),
    "fairlead_http2_streams": ("side",),
    "fairlead_admin_connections": (),
    "fairlead_admin_connections_closed_total": ("reason",),
    "fairlead_workers": (),
    "fairlead_build_info": ("version", "python", "compiled"),
    "process_virtual_memory_bytes": ("process",),
    "process_resident_memory_bytes": ("process",),
    "process_start_time_seconds": ("process",),
    "process_cpu_seconds_total": ("process",),
    "process_open_fds": ("process",),
    "process_max_fds": ("process",),
    "fairlead_access_log_dropped_total": (),
    "fairlead_log_dropped_total": (),
    "fairlead_fields_dropped_total": (),
    "fairlead_name_failures_total": (),
    "fairlead_name_outdated_seconds": (),
    "fairlead_snapshot_apply_seconds": ("worker",),
    "fairlead_snapshot_apply_longest_seconds": ("worker",),
    "fairlead_worker_lag_seconds": ("worker",),
}
NOT_COUNTED_YET = {
    "fairlead_snapshot_apply_seconds",
    "fairlead_snapshot_apply_longest_seconds",
    "fairlead_worker_lag_seconds",
    "fairlead_ejections_total",
    "fairlead_ejections_refused_total",
    "fairlead_config_reloads_total",
    "fairlead_config_last_reload_success",
    "fairlead_config_hash",
    "fairlead_config_timestamp_seconds",
    "fairlead_shared_config_up",
    "fairlead_shared_config_good",
    "fairlead_shared_config_revision",
    "fairlead_fleet_share",
    "fairlead_instance_routes",
    "fairlead_instance_routes_refused",
    "fairlead_relay_up",
    "fairlead_relay_followers",
    "fairlead_relay_cut_total",
    "fairlead_spans_total",
    "fairlead_control_lag_seconds",
    "fairlead_http2_sessions",
    "fairlead_http2_streams",
    "fairlead_registry_snapshot_age_seconds",
}


def test_the_page_of_metrics_is_what_the_code_says() -> None:
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text("utf-8")
    assert page[page.index("| name |") :] == metrics.rows(), "run `make docs`"
    told = re.findall(r"^\| `(\w+)` \| \w+ \| (.*?) \|", page, re.MULTILINE)
    assert {name: tuple(re.findall(r"\w+", labels)) for name, labels in told} == PROMISED


def test_sessions_of_http2_are_summed_over_workers_for_each_side() -> None:
    found = {(name, of["side"]): value for name, of, value in of_http2([(1, 2, 3, 4), (10,) * 4])}
    assert found == {
        ("fairlead_http2_sessions", "client"): 11,
        ("fairlead_http2_streams", "client"): 12,
        ("fairlead_http2_sessions", "instance"): 13,
        ("fairlead_http2_streams", "instance"): 14,
    }


def test_openmetrics_say_the_same() -> None:
    text = scrape(book(instance("a")), total(Retired(), [report(5, "a")]))
    open_ = metrics.openmetrics(text.encode()).decode()
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse_openmetrics(open_)
        for sample in family.samples
    }
    assert found == {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_openmetrics_show_a_trace_for_a_bucket() -> None:
    text = scrape(book(instance("a")), total(Retired(), [report(5, "a")]))
    (service, bound), *_ = re.findall(r'duration_seconds_bucket{service="(.*)",le="(.*)"}', text)
    exemplars = {
        (service, bound): Exemplar("0af7651916cd43dd", 0.0005, 12.5),
        ("gone", bound): Exemplar("b7ad6b7169203331", 0.0005, 12.5),
    }
    open_ = metrics.openmetrics(text.encode(), exemplars).decode()
    (found,) = (
        (sample.labels["le"], sample.exemplar)
        for family in parse_openmetrics(open_)
        for sample in family.samples
        if sample.exemplar is not None
    )
    assert (found[0], found[1].labels) == (bound, {"trace_id": "0af7651916cd43dd"})
    assert (found[1].value, float(found[1].timestamp)) == (0.0005, 12.5)


def test_a_page_without_instances_has_nothing_of_each() -> None:
    pools, totals = book(instance("a")), total(Retired(), [report(5, "a")])
    text = scrape(pools, totals, instances=False)
    assert "upstream=" not in text
    assert "instance=" not in text
    assert 'fairlead_requests_total{service="users"' in text


def shown_names(text: str) -> Iterable[str]:
    return re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)


def test_every_promised_name_is_there_and_no_other() -> None:
    text = scrape(book(instance("a")), total(Retired(), [report(5, "a")]))
    assert set(shown_names(text)) == set(PROMISED)
    assert sorted(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE)) == sorted(PROMISED)


def test_every_sample_has_exactly_the_promised_labels() -> None:
    text = scrape(book(instance("a")), total(Retired(), [report(5, "a")]), registry=several())
    seen = set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = re.sub(r"_(bucket|sum|count)$", "", sample.name)
            assert set(sample.labels) - {"le", "quantile"} == set(PROMISED[name]), sample
            seen.add(name)
    assert seen == set(PROMISED) - NOT_COUNTED_YET


def test_counts_of_listeners_are_summed() -> None:
    found = samples(scrape(book(), total(Retired(), [report(5), report(7)])))
    assert found['fairlead_tls_handshakes_total{listener="https",result="full"}'] == 6
    assert found['fairlead_http2_closed_total{listener="https",reason="rapid_reset"}'] == 2
    assert found['fairlead_filter_ends_total{filter="staff",outcome="denied"}'] == 4


def test_workers_are_summed() -> None:
    pools = book(instance("a"), instance("b"))
    found = samples(scrape(pools, total(Retired(), [report(5, "a"), report(7, "a", "b")])))
    assert found['fairlead_requests_total{code="200",method="GET",service="users"}'] == 12
    assert found['fairlead_requests_total{code="502",method="POST",service="users"}'] == 2
    selections = 'load_balancer_selections_total{algorithm="round_robin",instance="%s",'
    assert found[selections % "a" + 'service_name="users"}'] == 12
    assert found[selections % "b" + 'service_name="users"}'] == 7
    attempts = 'fairlead_upstream_attempts_total{outcome="%s",service="users",upstream="a"}'
    assert (found[attempts % "ok"], found[attempts % "dns_failed"]) == (10, 2)
    labels = 'error="connection_refused",fault="connect_refused",service="users"'
    assert found[f"fairlead_proxy_errors_total{{{labels}}}"] == 2
    assert found['fairlead_retries_total{reason="connect_refused",service="users"}'] == 4


@pytest.mark.parametrize(
    ("name", "doubts"), [("unreachable", (True, False)), ("instances_on_probation", (False, True))]
)
def test_doubts_of_workers_that_live_are_counted(name: str, doubts: tuple[bool, bool]) -> None:
    pools = book(instance("a"), instance("b"))
    name = "fairlead_" + name + '{service="users",upstream="%s"}'
    told = [NodeStats("users", "a@10.0.0.1:80", 5, {"connect_refused": 1}, *doubts)]
    messages = [replace(report(5, "b"), nodes=[*told, *report(5, "b").nodes]) for _ in range(2)]
    found = samples(scrape(pools, total(Retired(), messages)))
    assert (found[name % "a"], found[name % "b"]) == (2, 0)
    dead = Reported()
    dead.take(messages[0])
    retired = Retired().plus(dead, {("users", "a@10.0.0.1:80")})
    found = samples(scrape(pools, total(retired, [messages[1]])))
    assert found[name % "a"] == 1
    selections = 'load_balancer_selections_total{algorithm="round_robin",instance="a",'
    assert found[selections + 'service_name="users"}'] == 10


def test_the_histogram_is_cumulative_and_complete() -> None:
    found = samples(scrape(book(instance("a")), total(Retired(), [report(5), report(1)])))
    bucket = 'fairlead_request_duration_seconds_bucket{le="%s",service="users"}'
    assert [found[bucket % le] for le in ("0.001", "0.0025", "60.0", "+Inf")] == [6, 8, 8, 12]
    assert found['fairlead_request_duration_seconds_count{service="users"}'] == 12
    assert found['fairlead_request_duration_seconds_sum{service="users"}'] == 3.0


def test_counters_do_not_go_back_when_a_worker_is_replaced() -> None:
    name = 'fairlead_requests_total{code="200",method="GET",service="users"}'
    pools = book(instance("a"))
    retired = Retired()
    before = samples(scrape(pools, total(retired, [report(5, "a"), report(7, "a")])))[name]
    dead = Reported()
    dead.take(report(7, "a"))
    retired = retired.plus(dead, {("users", "a@10.0.0.1:80")})
    after = samples(scrape(pools, total(retired, [report(5, "a"), report(0, "a")])))[name]
    assert before == after == 12


def test_latency_of_an_instance_is_summed_over_workers_dead_and_alive() -> None:
    pools = book(instance("a"))
    dead = Reported()
    dead.take(report(5, "a"))
    retired = Retired().plus(dead, {("users", "a@10.0.0.1:80")})
    found = samples(scrape(pools, total(retired, [report(5, "a"), report(7, "a")])))
    name = 'fairlead_upstream_latency_seconds%s{service="users",upstream="a"}'
    assert (found[name % "_count"], found[name % "_sum"]) == (17, 3 * 0.25)


def test_quantiles_of_latency_are_those_of_the_live_workers_of_late() -> None:
    pools = book(instance("a"))
    node = NodeStats("users", "a@10.0.0.1:80", 9, {"ok": 9}, latency={96: 9})
    late = replace(report(9, "a"), nodes=[node])
    worker = Reported()
    worker.take(report(0, "a"), 0.0)
    worker.take(late, 1.0)
    totals = Totals(Retired(), [worker])
    name = 'fairlead_upstream_latency_seconds{quantile="0.95",service="users",upstream="a"}'
    assert samples(scrape(pools, totals))[name] == latency.seconds_of(96)
    worker.take(late, 31.0)
    assert samples(scrape(pools, totals))[name] == latency.seconds_of(96)
    worker.take(replace(late, nodes=[]), 62.0)
    assert name not in samples(scrape(pools, totals))


def test_an_instance_that_left_takes_its_series_with_it() -> None:
    pools = book(instance("a"), instance("b"))
    totals = total(Retired(), [report(5, "a", "b")])
    assert '="b"' in scrape(pools, totals)
    pools.apply(Membership(services={"users": (instance("a"),)}), 1.0)
    assert '="b"' not in scrape(pools, totals)
    assert '="a"' in scrape(pools, totals)


def test_dead_workers_counts_of_instances_that_left_are_dropped() -> None:
    dead = Reported()
    dead.take(report(5, "a", "b"))
    retired = Retired().plus(dead, {("users", "a@10.0.0.1:80")})
    assert set(retired.nodes) == {("users", "a@10.0.0.1:80")}
    assert retired.services["users"].requests["GET 200"] == 5


def test_instances_by_status_and_panic() -> None:
    pools = book(
        instance("a", health="bad"), instance("b", health="draining"), instance("c", weight=0)
    )
    found = samples(scrape(pools, Totals(Retired())))
    shown = 'service_instances{service_name="users",status="%s"}'
    statuses = ("ready", "unhealthy", "ejected", "draining")
    assert [found[shown % status] for status in statuses] == [0, 1, 0, 2]
    assert found['fairlead_panic{service="users"}'] == 1
    pools.apply(Membership(services={"users": (instance("a"),)}), 1.0)
    assert samples(scrape(pools, Totals(Retired())))['fairlead_panic{service="users"}'] == 0


def test_a_service_that_its_fallback_serves() -> None:
    settings = {"users": PoolSettings(fallback=(instance("z"),))}
    pools = PoolRegistry({}, Slots(100, lambda slot: True), 0.0, settings=settings)
    name = 'fairlead_fallback{service="users"}'
    assert samples(scrape(pools, Totals(Retired())))[name] == 1
    pools.apply(Membership(services={"users": (instance("a"),)}), 1.0)
    assert samples(scrape(pools, Totals(Retired())))[name] == 0
    pools.apply(Membership(services={}), 2.0)
    assert samples(scrape(pools, Totals(Retired())))[name] == 1


def test_a_breaker_that_tries_is_not_open() -> None:
    """It was open, and may wait for a request for as long as none comes."""
    name = 'fairlead_breaker_open{service="users"}'
    trying = replace(report(1), states={"users": PolicyState("trying", 0)})
    pools = book(instance("a"))
    assert samples(scrape(pools, total(Retired(), [trying, report(1)])))[name] == 1
    assert samples(scrape(pools, total(Retired(), [trying])))[name] == 0


def test_where_limits_stand_and_what_they_refused() -> None:
    name = '{service="users"}'
    dead = Reported()
    dead.take(report(1))
    retired = Retired().plus(dead, set())
    found = samples(scrape(book(instance("a")), total(retired, [report(1), report(1)])))
    assert found["fairlead_breaker_open" + name] == 2  # of those that live
    assert found["fairlead_queue_waiting" + name] == 6
    assert found["fairlead_breaker_opened_total" + name] == 3
    assert found['fairlead_limited_total{limit="rate_limit",service="users"}'] == 12
    assert found["fairlead_tunnels_closed_total" + name] == 6  # of the dead one as well


def test_ejections_that_were_refused_by_rule() -> None:
    pools = book(instance("a"))
    refused = {("users", "max_share"): 3, ("users", "last_ready"): 2, ("gone", "max_share"): 9}
    text = scrape(pools, Totals(Retired()), refused_ejections=refused)
    name = 'fairlead_ejections_refused_total{rule="%s",service="users"}'
    assert samples(text)[name % "max_share"] == 3
    assert samples(text)[name % "last_ready"] == 2
    assert "gone" not in text


def test_instances_in_slow_start() -> None:
    pools = PoolRegistry(
        {}, Slots(100, lambda slot: True), 0.0, defaults=PoolSettings(slow_start=30.0)
    )
    pools.apply(Membership(services={"users": (instance("a"),)}), 0.0)
    name = 'fairlead_slow_start_instances{service="users"}'
    assert samples(scrape(pools, Totals(Retired())))[name] == 0
    pools.apply(Membership(services={"users": (instance("a"), instance("b"))}), 100.0)
    assert samples(scrape(pools, Totals(Retired())))[name] == 1
    pools.step(131.0)
    assert samples(scrape(pools, Totals(Retired())))[name] == 0


def test_changes_seen_in_the_registry_are_counted() -> None:
    pools = book(instance("a"), instance("b", health="bad"))
    pools.apply(Membership(services={"users": (instance("a", weight=3),)}), 1.0)
    found = samples(scrape(pools, Totals(Retired())))
    registrations = 'service_registrations_total{service_name="users",status="%s"}'
    statuses = ("registered", "updated", "deregistered")
    assert [found[registrations % status] for status in statuses] == [2, 1, 1]
    assert found['service_discoveries_total{service_name="users"}'] == 2
    checks = 'health_checks_total{service_name="users",status="%s"}'
    assert (found[checks % "healthy"], found[checks % "unhealthy"]) == (2, 1)


def test_in_flight_comes_from_the_board() -> None:
    found = samples(scrape(book(instance("a"), instance("b")), Totals(Retired())))
    assert found['fairlead_inflight_requests{service="users",upstream="a"}'] == 10
    assert found['fairlead_inflight_requests{service="users",upstream="b"}'] == 20


def test_an_instance_beyond_the_board_has_no_in_flight_series() -> None:
    pools = PoolRegistry({}, Slots(1, lambda slot: True), 0.0)
    pools.apply(Membership(services={"users": (instance("a"),)}), 0.0)
    assert "fairlead_inflight_requests{" not in scrape(pools, Totals(Retired()))


def test_registry_gauges() -> None:
    found = samples(scrape(book(), Totals(Retired())))
    assert found["fairlead_registry_up"] == 1
    assert found["fairlead_registry_age_seconds"] == 1.5
    assert found['fairlead_registry_resyncs_total{reason="compacted"}'] == 2
    assert found["fairlead_registry_invalid_records"] == 1
    never = RegistryStatus(provider="etcd", connected=False)
    down = samples(scrape(book(), Totals(Retired()), registry=never))
    assert down["fairlead_registry_up"] == 0
    assert "fairlead_registry_age_seconds" not in down


def test_one_registry_is_told_of_without_a_name() -> None:
    text = scrape(book(), Totals(Retired()))
    assert re.search(r"^fairlead_registry_up 1$", text, re.MULTILINE)
    assert "registry=" not in text


def test_each_of_several_registries_is_told_of_by_its_name() -> None:
    found = samples(scrape(book(), Totals(Retired()), registry=several()))
    old, new = '{registry="old"}', '{registry="new"}'
    assert (found["fairlead_registry_up" + old], found["fairlead_registry_up" + new]) == (1, 0)
    assert found["fairlead_registry_age_seconds" + old] == 1.5
    assert "fairlead_registry_age_seconds" + new not in found
    assert "fairlead_registry_up" not in found
    assert found['fairlead_registry_resyncs_total{reason="compacted",registry="old"}'] == 2
    counted = {
        what: found[f"fairlead_registry_{what}{new}"]
        for what in ("instances", "sessions_total", "connects_total", "answers_total")
    }
    assert counted == {
        "instances": 3, "sessions_total": 5, "connects_total": 2, "answers_total": 40,
    }  # fmt: skip
    assert found["fairlead_registry_errors_total" + new] == 4


def test_of_a_registry_with_backups_is_told_which_answers_and_which_is_in_use() -> None:
    found = samples(scrape(book(), Totals(Retired()), registry=several()))
    of = '{registry="old",source="%d"}'
    active, up = (f"fairlead_registry_source_{what}{of}" for what in ("active", "up"))
    assert [found[active % source] for source in (0, 1)] == [0, 1]
    assert [found[up % source] for source in (0, 1)] == [0, 1]
    never = RegistryStatus(
        provider="etcd", connected=False, sources=(RegistrySource(provider="etcd"),)
    )
    told = samples(scrape(book(), Totals(Retired()), registry=never))
    assert told['fairlead_registry_source_active{source="0"}'] == 0
    assert 'fairlead_registry_source_up{source="0"}' not in told


def test_reloads_are_counted_by_result() -> None:
    more = [("fairlead_config_reloads_total", {"result": "changed"}, 2.0)]
    found = samples(scrape(book(), Totals(Retired()), samples=more))
    assert found['fairlead_config_reloads_total{result="changed"}'] == 2


def test_label_values_are_escaped() -> None:
    odd = instance('a"\\b\nc')
    found = samples(scrape(book(odd), Totals(Retired())))
    assert any(odd.id in name for name in found)


def test_how_long_changes_held_a_worker_is_a_histogram_and_the_longest() -> None:
    applies = Applies()
    for seconds in (0.0003, 0.0003, 0.004, 0.2):
        applies.add(seconds)
    found = samples(scrape(book(), Totals(Retired()), applies={1: applies}))
    name = "fairlead_snapshot_apply_seconds"
    assert found[f'{name}_bucket{{le="0.0005",worker="1"}}'] == 2
    assert found[f'{name}_bucket{{le="0.005",worker="1"}}'] == 3
    assert found[f'{name}_bucket{{le="+Inf",worker="1"}}'] == 4
    assert found[f'{name}_sum{{worker="1"}}'] == pytest.approx(0.2046)
    assert found['fairlead_snapshot_apply_longest_seconds{worker="1"}'] == 0.2
