"""The service that a certificate names.

Two spellings count, DNS `SERVICE.DOMAIN` and URI `spiffe://DOMAIN/SERVICE` (SPIFFE-ID §2), both
without regard to case, as hosts are. A certificate is one service's: where it names two of the
domain nobody could say which rule holds, and it names none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def service_of(certificate: Mapping[str, Any], domain: str) -> str:
    """The service of a trust domain, in lower case; empty = there is not exactly one.
    `certificate`: one that was verified, as `ssl.SSLSocket.getpeercert` has it."""
    ending, beginning = f".{domain}", f"spiffe://{domain}/"
    found = set()
    for kind, name in certificate.get("subjectAltName", ()):  # ≤ 4096
        lower = name.lower()
        if kind == "DNS" and lower.endswith(ending):
            found.add(lower.removesuffix(ending))
        elif kind == "URI" and lower.startswith(beginning):
            found.add(lower.removeprefix(beginning))
    service = found.pop() if len(found) == 1 else ""
    # A star names many, and so does a path of several segments.
    return "" if "*" in service or "/" in service else service


def is_another(certificate: Mapping[str, Any], server_name: str | None, domain: str) -> str:
    """Why a server is not believed to be the service that `server_name` names in a trust domain;
    empty = it is, or there is no domain in which it had to be. `certificate`: as for
    `service_of`."""
    found = service_of(certificate, domain) if domain else ""
    expected = (server_name or "").lower().removesuffix(f".{domain}")
    if not domain or found == expected:
        return ""
    named = f"the service {found}" if found else f"no one service of {domain}"
    return f"its certificate: names {named}, not {expected}"
