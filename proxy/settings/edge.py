"""`hsts:` and `redirect_to_https:` of a listener: what makes browsers use TLS."""

from __future__ import annotations

from typing import Annotated

import msgspec

from proxy.settings.complaints import Report
from proxy.settings.declare import Given
from proxy.settings.read import DURATION, SWITCH, integer
from proxy.settings.route_values import PATH, REDIRECT_STATUS


class Hsts(msgspec.Struct, frozen=True, kw_only=True):
    """`hsts:` of a listener (RFC 6797)."""

    max_age: Annotated[
        float, DURATION, "How long a browser uses nothing but TLS for the host it has asked."
    ] = 365 * 24 * 3600.0
    include_subdomains: Annotated[bool, SWITCH, "And for all names below that host."] = False
    preload: Annotated[
        bool,
        SWITCH,
        "The host may be built into browsers' own lists, from which there is no quick way back.",
    ] = False

    @property
    def line(self) -> bytes:
        """The field line."""
        value = f"max-age={int(self.max_age)}"
        value += "; includeSubDomains" if self.include_subdomains else ""
        value += "; preload" if self.preload else ""
        return f"Strict-Transport-Security: {value}\r\n".encode()


class Redirect(msgspec.Struct, frozen=True, kw_only=True):
    """`redirect_to_https:` of a listener."""

    port: Annotated[
        int, integer(1, 65535), "The port that clients are sent to; 443 is not written."
    ] = 443
    status: Annotated[
        int,
        REDIRECT_STATUS,
        "301, 302, 307 or 308; the last two keep the method, the first two may not.",
    ] = 308
    excepted: Annotated[
        tuple[str, ...],
        PATH,
        "Prefixes of paths that are served here, whole segments of them, such as"
        " `/.well-known/acme-challenge/`.",
    ] = msgspec.field(name="except", default=())


def check_edge(given: Given, tls: bool, report: Report) -> None:
    """Complain of a listener that demands TLS where there is some, or promises it where there is
    none."""
    if tls and given.get("redirect_to_https") is not None:
        report.complain(
            given.at("redirect_to_https"),
            "has no meaning beside tls; allowed: on a listener without it",
        )
    if not tls and given.get("hsts") is not None:
        report.complain(
            given.at("hsts"), "has no meaning without tls; allowed: on a listener with it"
        )
