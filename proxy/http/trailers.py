"""Fields behind a body, in any version of HTTP (RFC 9110 §6.5)."""

from __future__ import annotations

from typing import Final

from proxy.http.claims import hyphened, is_claim

_FORBIDDEN: Final = frozenset(
    (
        # Framing, routing, and what a proxy takes out of heads for the same reasons.
        b"transfer-encoding", b"content-length", b"host", b"trailer", b"te", b"connection",
        b"keep-alive", b"proxy-connection", b"upgrade", b"via", b"expect", b"max-forwards",
        b"x-request-id", b"proxy",
        # Who asks, and under which conditions: decided before the body is read.
        b"authorization", b"proxy-authorization", b"proxy-authenticate", b"www-authenticate",
        b"cookie", b"set-cookie", b"range", b"if-match", b"if-none-match", b"if-range",
        b"if-modified-since", b"if-unmodified-since",
        # What the body is: too late behind it.
        b"content-encoding", b"content-type", b"content-range", b"content-location",
        b"cache-control", b"age", b"expires", b"date", b"location", b"retry-after", b"vary",
    )
)  # fmt: skip
"""RFC 9110 §6.5.1: fields that would change what was decided when the head was read. Some
servers merge trailers into the head."""


def passed_trailer(name: bytes, value: bytes, named: frozenset[bytes]) -> bytes:
    """The field line of a trailer as it goes on, written anew like every field; nothing if it ends
    here. `named`: what the message's Connection names, in lower case, and other names that are
    kept back."""
    lower = name.lower()
    means = hyphened(lower)
    if means in _FORBIDDEN or b"_" in lower or means in named or lower in named or is_claim(means):
        return b""
    return b"%b: %b\r\n" % (name, value)
