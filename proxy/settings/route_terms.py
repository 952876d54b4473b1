"""`timeouts:` and `retry:` of a route, which take the place of those of its service key by key."""

from __future__ import annotations

from typing import Annotated

import msgspec

from proxy.settings.read import UNLIMITED, choice, integer
from proxy.settings.route_values import METHOD
from proxy.settings.service import RETRY_REASONS, ServiceSettings


class RouteTimeouts(msgspec.Struct, frozen=True, kw_only=True):
    """`timeouts:` of a route; None = as the service says."""

    connect: Annotated[float | None, UNLIMITED, "As `services.*.timeouts.connect`."] = None
    first_byte: Annotated[float | None, UNLIMITED, "As `services.*.timeouts.first_byte`."] = None
    idle: Annotated[float | None, UNLIMITED, "As `services.*.timeouts.idle`."] = None
    total: Annotated[float | None, UNLIMITED, "As `services.*.timeouts.total`."] = None
    tunnel_idle: Annotated[float | None, UNLIMITED, "As `services.*.timeouts.tunnel_idle`."] = None
    queue: Annotated[float | None, UNLIMITED, "As `services.*.timeouts.queue`."] = None


class RouteRetry(msgspec.Struct, frozen=True, kw_only=True):
    """`retry:` of a route; None = as the service says. The budget is the service's: it is there to
    protect its instances."""

    max_retries: Annotated[
        int | None, integer(0, 5, "0 = off"), "As `services.*.retry.max_retries`."
    ] = None
    on: Annotated[
        tuple[str, ...] | None,
        choice(RETRY_REASONS, "a reason to retry"),
        "As `services.*.retry.on`.",
    ] = None
    methods: Annotated[tuple[str, ...] | None, METHOD, "As `services.*.retry.methods`."] = None


NO_TIMEOUTS = RouteTimeouts()
NO_RETRY = RouteRetry()


def on_route(
    settings: ServiceSettings, timeouts: RouteTimeouts, retry: RouteRetry
) -> ServiceSettings:
    """The settings of a service for requests by a route."""
    return msgspec.structs.replace(
        settings,
        timeouts=msgspec.structs.replace(settings.timeouts, **_given(timeouts)),
        retry=msgspec.structs.replace(settings.retry, **_given(retry)),
    )


def _given(section: msgspec.Struct) -> dict[str, object]:
    return {
        name: value for name, value in msgspec.structs.asdict(section).items() if value is not None
    }
