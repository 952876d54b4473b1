"""`protocol:` of a service, and `metadata.protocol` of an instance: what is spoken to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from proxy.membership import Instance
from proxy.settings.complaints import Report
from proxy.settings.declare import Given
from proxy.settings.read import choice
from proxy.settings.upstream_tls import UpstreamTls

_WORDS: Final = ("h1", "h2c", "h2", "grpc")
PROTOCOL: Final = choice(_WORDS, "a protocol")
_PLAIN: Final = ("http", "http/1.1")
"""Words of others for what is spoken where nothing else is said."""
_H2C: Final = ("kubernetes.io/h2c", "h2c")
"""`appProtocol` of Kubernetes (KEP-3726), and `scheme` of Traefik's labels, that mean h2c."""


def stated_protocol(metadata: Mapping[str, str]) -> str:
    """The protocol that an instance says that it speaks; "" = none. ValueError for a word that
    nobody knows: requests would go astray."""
    stated = metadata.get("protocol", "")
    if stated.lower() in _PLAIN:
        stated = ""
    if stated and stated not in _WORDS:
        raise ValueError(f'metadata.protocol "{stated[:40]}" is none of {", ".join(_WORDS)}')
    if not stated and (metadata.get("appProtocol") in _H2C or metadata.get("scheme") == "h2c"):
        return "h2c"
    return stated


def spoken(protocol: str, tls: UpstreamTls, instance: Instance) -> tuple[str, str | None]:
    """Protocol that is spoken to an instance, `h1`, `h2c` or `h2`, and the name that it must prove
    under TLS; None: it is spoken to without. `protocol`, `tls`: of its service."""
    stated = stated_protocol(instance.metadata) or protocol
    name = tls.name_of(instance, stated == "h2")
    if stated == "h1":
        return "h1", name
    return ("h2c" if name is None else "h2"), name


def check_protocol(protocol: str, tls: UpstreamTls, given: Given, report: Report) -> None:
    """Complain of a protocol that contradicts what is said of TLS."""
    place = given.at("protocol")
    if protocol == "h2c" and tls.mode == "on":
        report.complain(place, "is HTTP/2 without TLS, and `tls` is on; allowed: h2, or no tls")
    elif protocol == "h2" and tls.mode == "off":
        report.complain(place, "is HTTP/2 under TLS, and `tls` is off; allowed: h2c, or tls")
