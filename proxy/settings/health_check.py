"""`health_check:` of a service."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec

from proxy import catalog
from proxy.settings.complaints import Report
from proxy.settings.declare import Further, Given, keys_of
from proxy.settings.plugged import PlugIn, parameters_of, read_parameters
from proxy.settings.read import POSITIVE, TEXT, Read, integer
from proxy.settings.route_values import PATH, SET_HOST


def _parse_status_codes(text: str) -> str:
    codes = r"[1-5][0-9]{2}(?:-[1-5][0-9]{2})?"
    if not re.fullmatch(rf"{codes}(?:,{codes})*", text):
        raise ValueError("is not a list of status codes")
    return text


_STATUS_CODES: Final = Read(_parse_status_codes, "status codes", "200, 200-299 or 200,204")


class HealthCheckSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the control process checks every instance of a service."""

    type: Annotated[
        str,
        PlugIn("checks", "a kind of check"),
        f"Kind of check: {', '.join(f'`{name}`' for name in catalog.CHECKS)}.",
    ] = "http"
    path: Annotated[str, PATH, "Only `http`: the path to ask for."] = "/health"
    interval: Annotated[
        float,
        POSITIVE,
        "Time between two checks, ± 10 %; 1 s at most while results speak against the standing.",
    ] = 5.0
    timeout: Annotated[float, POSITIVE, "How long a check may take."] = 1.0
    fall: Annotated[int, integer(1, 100), "Failures in a row until an instance is unhealthy."] = 3
    rise: Annotated[int, integer(1, 100), "Successes in a row until it is healthy again."] = 2
    expect: Annotated[
        str,
        _STATUS_CODES,
        "Only `http`: status codes that are a success, such as `200-299` or `200,204`.",
    ] = "200-299"
    command: Annotated[
        str,
        TEXT,
        "Only `exec`, required: a line for `/bin/sh`, run by the proxy; exit code 0 is a success."
        " The endpoint is in `FAIRLEAD_ADDRESS` and `FAIRLEAD_PORT`.",
    ] = ""
    service: Annotated[
        str,
        TEXT,
        "Only `grpc`: the name whose health is asked for; by default the server's own.",
    ] = ""
    host: Annotated[
        str,
        SET_HOST,
        "Only `http` and `grpc`: the Host field; by default the instance's address and port.",
    ] = ""
    port: Annotated[
        int,
        integer(0, 65535, "0 = the instance's own"),
        "Not `exec`: another port of the instance, such as that of its management.",
    ] = 0
    params: Annotated[tuple[tuple[str, bool | int | float | str], ...], Further()] = ()
    """Of somebody's own kind of check: passed to its constructor as they are."""


_KEYS_OF_CHECKS: Final = {
    "path": ("http",),
    "expect": ("http",),
    "service": ("grpc",),
    "host": ("http", "grpc"),
    "port": ("http", "tcp", "grpc"),
    "command": ("exec",),
}


def inherit_check(
    given: Given, check: HealthCheckSettings, above: HealthCheckSettings | None, report: Report
) -> HealthCheckSettings:
    """The check of a service with the parameters of its kind, after complaints of keys that mean
    nothing together. A different kind inherits none of them."""
    if not report.sound(given.at("type")):
        return check
    takes = parameters_of(catalog.plug_in("checks", check.type))
    for key, types in _KEYS_OF_CHECKS.items():
        if key in given and key not in takes and report.sound(given.at(key)):
            only = " and ".join(types)
            report.complain(
                given.at(key), f"has no meaning for type {check.type}; allowed: only for {only}"
            )
    if check.type == "exec" and not check.command and report.sound(given.at("command")):
        report.complain(
            given.at("command"), "is missing; allowed for type exec: a line for the shell"
        )
    keys = keys_of(HealthCheckSettings)
    others = [key for key in keys if key in takes or key not in _KEYS_OF_CHECKS]
    # What a service's own side-car may ask of a check of ours is no key.
    own = {} if check.type in catalog.CHECKS else takes
    params = read_parameters(given, check.type, own, others, report)
    if above is not None and above.type == check.type:
        params = {**dict(above.params), **params}
    check = msgspec.structs.replace(check, params=tuple(params.items()))
    if own:
        try:  # Or the control process would find out.
            catalog.plug_in("checks", check.type)(**arguments(check))
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            report.complain(
                given.path, f"is refused by {check.type}: {said}; allowed: what it takes"
            )
    return check


def arguments(check: HealthCheckSettings) -> dict[str, Any]:
    """Arguments of the constructor of its kind: such of the keys as it takes, and its own."""
    keys = parameters_of(catalog.plug_in("checks", check.type)).keys()
    return {key: getattr(check, key) for key in check.__struct_fields__ if key in keys} | dict(
        check.params
    )
