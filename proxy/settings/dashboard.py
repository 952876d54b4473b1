"""`service: "@dashboard"` of a route: the proxy's own dashboard and read API behind a login.

The admin server is an instance like any other then, of a service that has only this one. Requests
come to it as from this machine, so what may be asked is settled here: reading, by a route with a
filter that finds out who asks. Nothing else leads there: a template does not, whatever a path says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from proxy import catalog
from proxy.membership import Instance
from proxy.settings.complaints import Report
from proxy.settings.declare import Given
from proxy.settings.file import Settings
from proxy.settings.filters import FilterSpec
from proxy.settings.process import AdminSettings
from proxy.settings.route import DASHBOARD, RouteSpec
from proxy.settings.service import EjectionSettings, PoolSettings
from proxy.settings.upstream_tls import UpstreamTls

_READING: Final = ("GET", "HEAD")
_HERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Any address of this machine → one by which it is reached."""


def with_dashboard(
    settings: Settings, given: Sequence[Given] | None, shared: bool, report: Report
) -> Settings:
    """The settings with what routes to the dashboard need. `given`: the routes; `shared`: they are
    a fleet's."""
    places = [place for place in given or () if place.get("service") == DASHBOARD]
    if not places:
        return settings
    admin = settings.admin
    host, _, port = admin.bind.rpartition(":")
    host = host.strip("[]")
    host = _HERE.get(host, host)
    routes = []
    for place, route in zip(given or (), settings.routes, strict=True):
        if route.service == DASHBOARD:
            _check(place, route, settings, shared, report)
            route = msgspec.structs.replace(
                route,
                methods=route.methods or _READING,
                set_host=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
                filters=(*route.filters, _token(admin)),
            )
        routes.append(route)
    if port == "0":
        report.complain(places[0].at("service"), "needs a port of the admin server's own; allowed:"
                        " beside admin.bind with one")  # fmt: skip
    if admin.tls is not None and admin.tls.client_ca:
        report.complain(places[0].at("service"), "has no certificate for the admin server; allowed:"
                        " without admin.tls.client_ca")  # fmt: skip
    instance = Instance(service=DASHBOARD, id="admin", address=host, port=int(port))
    own = PoolSettings(
        ejection=EjectionSettings(enabled=False),
        tls=UpstreamTls(mode="off" if admin.tls is None else "on", verify=False),
    )
    return msgspec.structs.replace(
        settings,
        routes=tuple(routes),
        services={**settings.services, DASHBOARD: own},
        static={**settings.static, DASHBOARD: (instance,)},
    )


def with_token_anew(settings: Settings) -> Settings:
    """The settings with the token of now shown by routes to the dashboard."""
    told = _token(settings.admin)
    routes = (
        msgspec.structs.replace(one, filters=(*one.filters[:-1], told))
        if one.service == DASHBOARD
        else one
        for one in settings.routes
    )
    return msgspec.structs.replace(settings, routes=tuple(routes))


def _token(admin: AdminSettings) -> FilterSpec:
    """The last filter of a route for those who look: it knows what the admin server asks for, and
    takes away what the client has said to the filters before."""
    options = catalog.plug_in("filters", "headers").options
    token = admin.read_token or admin.token
    change = (
        {"set": {"Authorization": f"Bearer {token}"}} if token else {"remove": ["Authorization"]}
    )
    told = msgspec.to_builtins(msgspec.convert({"request": change}, options))
    return FilterSpec(name="@dashboard", kind="headers", settings=told)


def _check(
    place: Given, route: RouteSpec, settings: Settings, shared: bool, report: Report
) -> None:
    at = place.at("service")
    if shared:
        report.complain(at, f'"{DASHBOARD}" is the machine\'s own; allowed: services')
    if route.sni is not None:
        report.complain(at, f'"{DASHBOARD}" is no place for connections; allowed: services')
    if not {*route.methods} <= {*_READING}:
        report.complain(place.at("methods"), "change something; allowed: GET and HEAD")
    if "set_host" in place:
        report.complain(place.at("set_host"), "is the admin server's; allowed: no such key here")
    listeners = [
        one for one in settings.listeners if not route.listeners or one.name in route.listeners
    ]
    if _asks_who(route.filters) or all(_asks_who(one.filters) for one in listeners):
        return
    if report.sound(place.at("filters"), ("filters",)):
        kinds = [kind for kind in catalog.FILTERS if _authenticates(kind)]
        report.complain(
            at,
            f'"{DASHBOARD}" would be there for everybody; allowed: with a filter that finds out who'
            f" asks, such as {', '.join(kinds)}",
        )


def _asks_who(filters: Sequence[FilterSpec]) -> bool:
    return any(_authenticates(one.kind) for one in filters)


def _authenticates(kind: str) -> bool:
    return bool(catalog.plug_in("filters", kind).authenticates)
