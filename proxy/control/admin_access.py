"""Whether the admin server listens to a request: by Host, by origin, by token. Pure.

A web page can make a visitor's browser send requests to any address, also to one that only the
visitor can reach. Two things tell such a request apart:

* **Host.** A page whose own name is made to lead to this server (DNS rebinding) may read the
  answers. Its name is in Host. So only names that an attacker cannot own are answered: addresses,
  `localhost` and those below it (RFC 6761 section 6.3), the one in `admin.bind`, and `admin.hosts`.
* **Origin and Sec-Fetch-Site.** A page of another origin may send a change that it cannot read the
  answer of. Browsers say where it comes from (RFC 6454, Fetch Metadata), and a form's content type
  says that no preflight was needed.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    Fields = CIMultiDictProxy[str]

READING = frozenset({"GET", "HEAD", "OPTIONS"})

FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""Content types that a page may send to another origin without asking (Fetch standard, "CORS-
safelisted request-header")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The rules of the admin server: which requests are let through, by Host, origin and token."""

    token: str = ""
    """May do everything; "" = nobody needs it."""
    read_token: str = ""
    """May look and not change; "" = there is none."""
    hosts: Sequence[str] = ()
    """Names under which the server may be called, in lower case; `*.x` is all below x, `*` all."""
    local: bool = True
    """Whether only this machine can reach the server."""


@dataclass(frozen=True, slots=True)
class Denial:
    """The answer to a request that is not done."""

    status: int
    detail: str


def denied_caller(authorities: Sequence[str], access: Access) -> Denial | None:
    """By the names under which a request calls the server: its Host, and the authority of a target
    in absolute form."""
    for authority in authorities:
        if not _is_ours(authority, access.hosts):
            return Denial(
                421,
                f"this server is not called {authority[:80]!r}; if it is, add the name to"
                " admin.hosts in proxy.yaml. Addresses and localhost always work",
            )
    return None


def denied_origin(method: str, fields: Fields) -> Denial | None:
    """A change that a page of another origin asks for."""
    if method in READING:
        return None
    site = _first(fields, "Sec-Fetch-Site").lower()
    if site not in ("", "same-origin", "none"):
        return Denial(403, f"changes from another site are refused (Sec-Fetch-Site: {site[:20]})")
    host = _first(fields, "Host")
    for origin in fields.getall("Origin", []):
        if not _is_same(origin, host):
            return Denial(
                403,
                f"changes from another origin are refused (Origin: {origin[:80]}, Host: {host})",
            )
    kind = _first(fields, "Content-Type").partition(";")[0].strip().lower()
    has_body = _first(fields, "Content-Length").strip("0") or _first(fields, "Transfer-Encoding")
    if method == "POST" and kind in FORMS and has_body:
        return Denial(
            403, f"{kind}: the content type of a form is refused; POST needs no body here"
        )
    return None


def denied_token(method: str, authorization: str, access: Access) -> Denial | None:
    """By what the request knows."""
    scheme, _, given = authorization.partition(" ")
    given = given.strip() if scheme.lower() == "bearer" else ""
    may_change, may_read = _equal(given, access.token), _equal(given, access.read_token)
    if access.token or access.read_token:
        if not (may_change or may_read):
            return Denial(401, "a bearer token is needed")
        if method not in READING and not may_change:
            return Denial(403, "admin.read_token may look and not change; admin.token may")
    elif method not in READING and not access.local:
        return Denial(
            403,
            "changes need admin.token in proxy.yaml, since admin.bind is no loopback address",
        )
    return None


def is_loopback(host: str) -> bool:
    """Of the address that a socket is bound to."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def _equal(given: str, wanted: str) -> bool:
    """In constant time, so that the answer's delay says nothing."""
    # Headers are decoded with surrogates for what is not UTF-8.
    same = hmac.compare_digest(
        given.encode(errors="surrogateescape"), wanted.encode(errors="surrogateescape")
    )
    return same and bool(wanted)


def _first(fields: Fields, name: str) -> str:
    return next(iter(fields.getall(name, [])), "")


def _is_ours(authority: str, hosts: Sequence[str]) -> bool:
    name = authority.strip().lower()
    host, colon, port = name.rpartition(":")
    if colon and not name.endswith("]") and (port == "" or (port.isascii() and port.isdigit())):
        name = host
    if name.startswith("[") and name.endswith("]"):
        return ":" in name and _is_ip(name[1:-1])
    if _is_ip(name):
        return ":" not in name
    name = name.removesuffix(".")
    return (name == "localhost" or name.endswith(".localhost")) or any(
        _fits(name, pattern) for pattern in hosts
    )


def _fits(name: str, pattern: str) -> bool:
    if pattern.startswith("*"):
        return bool(name) and name.endswith(pattern[1:])
    return name == pattern.removesuffix(".")


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_same(origin: str, host: str) -> bool:
    """Whether a page of this origin was loaded under this Host. The scheme is not compared: TLS
    may end in front of the server."""
    try:
        page = urlsplit(origin.strip())
        default = {"http": 80, "https": 443}[page.scheme]
        asked = urlsplit(f"//{host}")
        return bool(page.hostname) and (page.hostname, page.port or default) == (
            asked.hostname,
            asked.port or default,
        )
    except (KeyError, ValueError):
        return False  # `null`, for one.
