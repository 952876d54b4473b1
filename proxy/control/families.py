"""Families of metrics that the proxy writes itself: all but those of its processes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_TABLE: Final = """\
fairlead_build_info gauge version,python,compiled
    1; the versions of the proxy and of Python, and whether the data plane is compiled.
fairlead_client_connections gauge
    Open client connections.
fairlead_tunnels gauge
    Open tunnels (upgraded connections).
fairlead_admin_connections gauge
    Open connections to the admin server.
fairlead_admin_connections_closed_total counter reason
    Connections that the admin server closed early: there was no_room, one made_room for
    another, or a slow_head, a slow_request, a large_head, no_handshake.
fairlead_workers gauge
    Workers that run.
fairlead_access_log_dropped_total counter
    Lines of the access log that could not be written.
fairlead_log_dropped_total counter
    Lines of the log that could not be written, by all processes.
fairlead_fields_dropped_total counter
    Fields of requests that were left out because their name has a _.
fairlead_name_failures_total counter
    Questions for instances' names that brought no address.
fairlead_name_outdated_seconds gauge
    Seconds by which the oldest answer for a name that had to be used on is past its time.
fairlead_snapshot_apply_seconds histogram worker
    Time for which a change of the pools held a worker's loop.
fairlead_snapshot_apply_longest_seconds gauge worker
    The longest of these since the start.
fairlead_worker_lag_seconds gauge worker
    Seconds by which a worker's loop was late for its latest report.
fairlead_registry_up gauge registry
    1 while the registry answers.
fairlead_registry_age_seconds gauge registry
    Seconds since the registry last answered anything.
fairlead_registry_instances gauge registry
    Instances that the registry names and whose records can be read.
fairlead_registry_invalid_records gauge registry
    Keys whose current value cannot be read; /api/v1/registry lists them.
fairlead_registry_connects_total counter registry
    Times that the registry answered after it had not: at the start, and after each outage.
fairlead_registry_sessions_total counter registry
    Times that following the registry began: with a list, or a watch of what changes.
fairlead_registry_answers_total counter registry
    Answers of the registry: lists, changes, proofs that nothing changed.
fairlead_registry_errors_total counter registry
    Sessions with the registry, and attempts to begin one, that ended by an error.
fairlead_registry_resyncs_total counter registry,reason
    Full lists after the first, by reason.
fairlead_registry_source_active gauge registry,source
    1 for the source (the registry, or one of its backups) whose instances are served, in order
    of preference from 0.
fairlead_registry_source_up gauge registry,source
    1 for a source that passed its latest check.
fairlead_registry_switches_total counter registry
    Switches from one source to another.
fairlead_registry_held_instances gauge registry
    Instances served although the registry does not name them.
fairlead_registry_holds_total counter registry
    Instances whose expired registration was held.
fairlead_registry_snapshot_age_seconds gauge registry
    Seconds since what the snapshot file holds was true.
fairlead_registry_snapshot_failures_total counter registry
    Times that the snapshot file could not be read or written.
service_registrations_total counter service_name,status
    Registrations seen in the registry, by what happened to the record.
service_discoveries_total counter service_name
    Times a service's set of instances was learnt anew.
health_checks_total counter service_name,status
    Health statements about instances: those of the registry, and our own checks that passed or
    failed.
service_instances gauge service_name,status
    Instances by status.
fairlead_inflight_requests gauge service,upstream
    Requests and tunnels in flight, all workers.
fairlead_slow_start_instances gauge service
    Instances without their full weight so far.
fairlead_breaker_open gauge service
    Workers in which the circuit breaker is open: its time is not over.
fairlead_breaker_opened_total counter service
    Times a circuit breaker opened.
fairlead_tunnels_closed_total counter service
    Tunnels closed because their instance drains or left (drain.tunnels: close).
fairlead_grpc_calls_total counter service,grpc_status
    Calls of gRPC, by what became of them.
fairlead_hedges_total counter service,result
    Second attempts beside slow first ones: won, lost to the first, or failed.
fairlead_mirrored_total counter service,result
    Copies of requests for a mirror: sent, of those failed, or dropped: of them there were too
    many, the mirror did not keep up with the body, or the client left in the middle of it.
fairlead_caller_requests_total counter service,caller,code
    Requests of services that have proved which they are, by the hundreds of their status (100:
    upgrades).
fairlead_caller_seconds_total counter service,caller
    What these took in all, from the head to the last byte of the answer.
fairlead_queue_waiting gauge service
    Requests that wait for an instance with room.
fairlead_limited_total counter service,limit
    Requests (for retry.budget: retries) that a limit of the service refused, by its key in the
    configuration.
fairlead_panic gauge service
    1 while too few instances are ready and health is ignored.
fairlead_fallback gauge service
    1 while the registry knows no instance and fallback_instances are served.
fairlead_unreachable gauge service,upstream
    Workers that cannot connect to the instance.
fairlead_instances_on_probation gauge service,upstream
    Workers that have yet to see the instance answer after its ejection.
load_balancer_selections_total counter service_name,algorithm,instance
    Picks of an instance.
fairlead_upstream_attempts_total counter service,upstream,outcome
    Attempts by outcome: ok, the code of a fault, or a status against the instance.
fairlead_upstream_latency_seconds summary service,upstream
    From a request to the head of the instance's answer; quantiles of the last half to whole
    minute.
fairlead_ejections_total counter service,upstream
    Instances taken out for failing requests.
fairlead_ejections_refused_total counter service,rule
    Times an instance that fails requests stayed, by the rule: max_share of the pool is out, or
    it is the last_ready one.
fairlead_requests_total counter service,method,code
    Requests answered, those the proxy answered itself included; connections that are passed on
    are CONNECT.
fairlead_request_duration_seconds histogram service
    From the request head to the last byte of the answer.
fairlead_proxy_errors_total counter service,error,fault
    Answers the proxy made itself or had to cut off, by fault and its RFC 9209 error type.
fairlead_retries_total counter service,reason
    Attempts beyond the first, by reason.
fairlead_certificate_expiry_timestamp_seconds gauge listener,service,certificate
    When a certificate expires.
fairlead_certificate_loads_total counter listener,service,result
    Pairs of certificate and key that were loaded, failed, or were refused by a worker.
fairlead_acme_orders_total counter name,result
    Orders of certificates that were issued, or failed.
fairlead_config_reloads_total counter result
    Reloads of the configuration, by result.
fairlead_config_last_reload_success gauge
    1: the latest reload was put in force.
fairlead_config_hash gauge hash
    1; a digest of the configuration in force.
fairlead_http2_sessions gauge side
    Open connections of HTTP/2, by whom with: client, or instance.
fairlead_http2_streams gauge side
    Requests that are under way on connections of HTTP/2.
fairlead_control_lag_seconds gauge
    Seconds by which the control process's loop was late for its latest tick.
fairlead_spans_total counter result
    Spans that a collector has taken (exported), or that were dropped.
fairlead_config_timestamp_seconds gauge
    When the configuration in force came in force.
fairlead_tls_generation gauge listener
    How often a listener's certificates, or keys, changed.
fairlead_tls_handshakes_total counter listener,result
    TLS handshakes of clients, by how they ended.
fairlead_http2_closed_total counter listener,reason
    Connections that ended for what a client did.
fairlead_filter_ends_total counter filter,outcome
    Requests that a filter answered, refused or failed, by fault, or by status without one.
fairlead_shared_config_up gauge
    1: the key of the configuration is followed.
fairlead_shared_config_good gauge
    1: what the key holds now is in force.
fairlead_shared_config_revision gauge
    Revision of the shared text in force.
fairlead_fleet_share gauge
    Part of the limits of the fleet that is this proxy's.
fairlead_instance_routes gauge
    Routes in force that instances bring.
fairlead_instance_routes_refused gauge
    Routes that instances bring and that are not in force.
fairlead_relay_up gauge
    1: followers are told what the registry says.
fairlead_relay_followers gauge
    Proxies that follow this relay.
fairlead_relay_cut_total counter reason
    Followers that were sent away, by reason.
"""

FAMILIES: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    name: (kind, " ".join(text.split()), tuple(labels.split(",")) if labels else ())
    for name, kind, labels, text in re.findall(
        r"^(\S+) (\S+) ?(\S*)\n((?:    .*\n)+)", _TABLE, re.MULTILINE
    )
}
"""Name → kind, help and labels, in the order of the page."""
