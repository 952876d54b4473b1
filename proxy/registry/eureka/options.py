"""Keys of `registry:` for Eureka."""

from __future__ import annotations

from typing import Annotated, ClassVar

from proxy.settings.addresses import URL
from proxy.settings.declare import Distinct
from proxy.settings.read import POSITIVE, choice
from proxy.settings.registry import RemoteOptions


class Options(RemoteOptions, frozen=True, kw_only=True):
    """Servers of Eureka that are each other's peers."""

    type: ClassVar[str] = "eureka"
    form: ClassVar[str] = "http://host:port/eureka"
    in_path: ClassVar[bool] = True

    endpoints: Annotated[
        tuple[str, ...],
        URL,
        Distinct(),
        "`http://host:8761/eureka` of each server, as clients of Eureka have it. Required.",
    ] = ()
    interval: Annotated[
        float, POSITIVE, "Time between two questions for what has changed; Eureka's clients: 30 s."
    ] = 5.0
    names: Annotated[
        str,
        choice(("lower", "as-is"), "a spelling"),
        "Spelling of services: `lower`, since Eureka has them in upper case, or `as-is`.",
    ] = "lower"
    prefer: Annotated[
        str,
        choice(("ip", "host"), "an address"),
        "Which address of an instance is used, if it has both: `ip` or `host`.",
    ] = "ip"
