"""An endpoint in one text, as most registrars write it → the fields of a record. Pure."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

from proxy.registry.records import Unreadable

_SCHEMES = {"http": 80, "https": 443, "grpc": 0, "grpcs": 0, "h2c": 0, "tcp": 0}
"""Schemes of URLs that name a server, with their default port; 0 = none."""

_PAIR = re.compile(r"(\[[^\]]*\]|[^:\[\]\s/]+):([0-9]{1,5})\Z")


def endpoint(text: str) -> dict[str, Any]:
    """`10.0.0.5:8080`, `[fd00::5]:8080`, `name:8080`, or a URL → `address`, `port`, and `metadata`
    with what the scheme says. Whether address and port are sound is for `records.py` to judge."""
    text = text.strip()
    if "://" in text:
        return _url(text)
    pair = _PAIR.match(text)
    if pair is None:
        raise Unreadable(f"{shown(text)} is not host:port, and no URL")
    return {"address": pair[1], "port": pair[2]}


def _url(text: str) -> dict[str, Any]:
    try:
        url = urlsplit(text)
        port, host = url.port, url.hostname
    except ValueError:
        raise Unreadable(f"{shown(text)} is not a URL") from None
    scheme = url.scheme.lower()
    if scheme not in _SCHEMES:
        raise Unreadable(
            f"{shown(text)} has the scheme {scheme[:20]!r}; read are {', '.join(_SCHEMES)}"
        )
    if port is None:  # 0 is one, and none to connect to.
        port = _SCHEMES[scheme]
    if not host or not port:
        raise Unreadable(f"{shown(text)} is a URL without a {'port' if host else 'host'}")
    # Kratos says of TLS in the query what others say in the scheme.
    secure = parse_qs(url.query).get("isSecure") == ["true"] or scheme in ("https", "grpcs")
    metadata = {"scheme": "https"} if secure else {}
    if scheme in ("grpc", "grpcs", "h2c"):
        metadata["protocol"] = "h2c" if scheme == "h2c" else "grpc"
    return {"address": f"[{host}]" if ":" in host else host, "port": port, "metadata": metadata}


def readable(text: str) -> bool:
    """Whether `endpoint` reads this."""
    try:
        return bool(endpoint(text))
    except Unreadable:
        return False


def is_http(text: str) -> bool:
    """Whether this is a URL of HTTP, with TLS or without."""
    return text.strip().lower().startswith(("http://", "https://"))


def shown(text: str) -> str:
    """Short, for a complaint."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
