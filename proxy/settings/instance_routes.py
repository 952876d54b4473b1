"""`routes_from_instances:`, bounds of the routes that instances may bring."""

from __future__ import annotations

from typing import Annotated

import msgspec

from proxy.settings.complaints import Report
from proxy.settings.declare import Distinct, Given, Short
from proxy.settings.filters import FilterSpec
from proxy.settings.read import SWITCH
from proxy.settings.route_values import EXACT_PATH, HOST_PATTERN


class InstanceRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """`routes_from_instances:`."""

    hosts: Annotated[
        tuple[str, ...],
        HOST_PATTERN,
        Distinct(),
        "What `metadata.route_host` may be: patterns in which `{service}` is the name of the"
        " instance's own service. Without it no host, and routes are for any.",
    ] = ()
    path_prefixes: Annotated[
        tuple[str, ...],
        EXACT_PATH,
        Distinct(),
        "What `metadata.route_prefix` may be: one of these, or below it. Without it any prefix of a"
        " permitted host.",
    ] = ()
    filters: Annotated[
        tuple[FilterSpec, ...],
        Short("name"),
        "[Filters](filters.md) of all requests by these routes, before those of the service.",
    ] = ()
    any_service: Annotated[
        bool,
        SWITCH,
        "Let patterns of `hosts` lack `{service}`: then any service may bring any host that fits.",
    ] = False


def check_instance_routes(
    given: Given | None, bounds: InstanceRoutes | None, report: Report
) -> None:
    """Complain of bounds that allow nothing, or more than anybody meant."""
    if given is None or bounds is None:
        return
    if not (bounds.hosts or bounds.path_prefixes) and report.sound(
        given.at("hosts"), given.at("path_prefixes")
    ):
        report.complain(given.path, "allows no route; allowed: with hosts, path_prefixes or both")
    for at, host in enumerate(bounds.hosts):
        if "{service}" not in host and not bounds.any_service:
            report.complain(
                given.at("hosts", at),
                f'"{host}" lacks {{service}}, so that any service could take it; allowed: a pattern'
                " with {service}, or any_service: true",
            )
