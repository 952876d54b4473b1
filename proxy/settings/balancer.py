"""`balancer:`, how an instance is picked for each request."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from balancers.base import Balancer
from proxy import catalog
from proxy.settings.complaints import Report
from proxy.settings.declare import Further, Given
from proxy.settings.keys import SOURCE
from proxy.settings.plugged import PlugIn, parameters_of, read_parameters

DEFAULT_KEY: Final = "client_ip"
"""Hash key of a balancer that hashes when the file does not say."""


class BalancerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The balancer of a service: its type, its parameters, its hash key."""

    type: Annotated[
        str,
        PlugIn("balancers", "a balancer"),
        f"{', '.join(f'`{name}`' for name in catalog.BALANCERS)}. `balancer: random` is short for"
        " `balancer: {type: random}`.",
    ] = "round_robin"
    key: Annotated[
        str,
        SOURCE,
        "What `consistent_hash` and `maglev` hash: `client_ip`, `host`, `path`, `header:NAME`,"
        " `cookie:NAME` or `query:NAME`. Without it `client_ip`; for other balancers it is"
        " refused.",
    ] = ""
    params: Annotated[dict[str, bool | int | float | str], Further()] = {}
    """Passed to the balancer's constructor as they are."""


def inherit_balancer(given: Given, inherited: BalancerSpec, report: Report) -> BalancerSpec:
    """The balancer of a service. A different type inherits nothing: its parameters mean something
    else."""
    own = given.get("balancer")
    if own is None:
        return inherited
    type_ = own.get("type")
    base = inherited if type_ in (None, inherited.type) else BalancerSpec(type=type_)
    if not report.sound(own.at("type")):
        return base
    balancer: type[Balancer] = catalog.plug_in("balancers", base.type)
    key = own.get("key") or base.key or (DEFAULT_KEY if balancer.uses_key else "")
    if "key" in own and not balancer.uses_key:
        keyed = [name for name in catalog.BALANCERS
                 if catalog.load(catalog.BALANCERS, name).uses_key]  # fmt: skip
        report.complain(
            own.at("key"), f"has no meaning for {base.type}; allowed: only for {', '.join(keyed)}"
        )
    others = ["type", *(["key"] if balancer.uses_key else [])]
    params = read_parameters(own, base.type, parameters_of(balancer), others, report)
    return BalancerSpec(type=base.type, key=key, params={**base.params, **params})
