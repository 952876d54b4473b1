"""Properties of a request that a hash key or a limit may look at, as one word in proxy.yaml."""

from __future__ import annotations

import re
from typing import Final

from proxy.settings.read import Read, choice

TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""RFC 9110 §5.6.2."""


def parse_field_name(text: str) -> str:
    """The name of a field that requests may have when they are matched."""
    if not TOKEN.fullmatch(text):
        raise ValueError("is not a field name")
    if "_" in text:
        raise ValueError("holds _, and fields with _ are dropped from requests")
    return text


def _parse_source(text: str) -> str:
    source, colon, name = text.partition(":")
    if text in ("client_ip", "host", "path"):
        return text
    if source in ("header", "cookie", "query") and not colon:
        raise ValueError("names no field")
    if source == "header":
        return f"header:{parse_field_name(name)}"
    if source == "cookie" and TOKEN.fullmatch(name):
        return text
    if source == "query" and name and name.isascii() and name.isprintable():
        return text
    raise ValueError("is not a source of keys")


ENCODED_SLASHES: Final = choice(("pass", "refuse"), "a way to treat encoded slashes")

SOURCE: Final = Read(
    _parse_source, "key", "client_ip, host, path, header:NAME, cookie:NAME or query:NAME"
)
