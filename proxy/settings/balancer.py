"""`balancer:`, how an instance is picked for each request."""

from __future__ import annotations

import inspect
from typing import Annotated, Final, NamedTuple

import msgspec

from balancers.base import Balancer
from proxy import catalog
from proxy.settings.complaints import Report
from proxy.settings.declare import Further, Given
from proxy.settings.keys import SOURCE
from proxy.settings.read import Read, choice, did_you_mean, parameter

DEFAULT_KEY: Final = "client_ip"
"""Hash key of a balancer that hashes when the file does not say."""


class BalancerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The balancer of a service: its type, its parameters, its hash key."""

    type: Annotated[
        str,
        choice(tuple(catalog.BALANCERS), "a balancer"),
        f"{', '.join(f'`{name}`' for name in catalog.BALANCERS)}. `balancer: random` is short for"
        " `balancer: {type: random}`.",
    ] = "round_robin"
    key: Annotated[
        str,
        SOURCE,
        "What `consistent_hash` hashes: `client_ip`, `host`, `path`, `header:NAME`, `cookie:NAME`"
        " or `query:NAME`. Without it `client_ip`; for other balancers it is refused.",
    ] = ""
    params: Annotated[dict[str, int | float], Further()] = {}
    """Passed to the balancer's constructor as they are."""


class Parameter(NamedTuple):
    """One parameter of a balancer."""

    read: Read[int | float]
    default: int | float


def balancer_parameters(name: str) -> dict[str, Parameter]:
    """The keyword-only arguments of a balancer's constructor, bounded by its `limits`."""
    balancer: type[Balancer] = catalog.load(catalog.BALANCERS, name)
    parameters: dict[str, Parameter] = {}
    for argument, declared in inspect.signature(balancer.__init__).parameters.items():
        if declared.kind is inspect.Parameter.KEYWORD_ONLY:
            whole = declared.annotation in (int, "int")
            read = parameter(whole, declared.default, balancer.limits.get(argument))
            parameters[argument] = Parameter(read, declared.default)
    return parameters


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
    balancer: type[Balancer] = catalog.load(catalog.BALANCERS, base.type)
    key = own.get("key") or base.key or (DEFAULT_KEY if balancer.uses_key else "")
    if "key" in own and not balancer.uses_key:
        keyed = [name for name in catalog.BALANCERS
                 if catalog.load(catalog.BALANCERS, name).uses_key]  # fmt: skip
        report.complain(
            own.at("key"), f"has no meaning for {base.type}; allowed: only for {', '.join(keyed)}"
        )
    parameters = balancer_parameters(base.type)
    params = dict(base.params)
    for name, node in own.further.items():
        if name not in parameters:
            known = ["type", *(["key"] if balancer.uses_key else []), *parameters]
            report.complain(
                own.at(name),
                f"is not a known key{did_you_mean(name, known)}; allowed for {base.type}: "
                + ", ".join(known),
            )
            continue
        try:
            params[name] = parameters[name].read(node)
        except ValueError as error:
            report.complain(own.at(name), str(error))
    return BalancerSpec(type=base.type, key=key, params=params)
