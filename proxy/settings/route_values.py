"""Values in routes: how each is read."""

from __future__ import annotations

import re
from typing import Final

from proxy.settings.addresses import parse_host_name, parse_port
from proxy.settings.path_pattern import parse_pattern
from proxy.settings.read import Read, did_you_mean

METHODS: Final = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"),
    *("PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "SEARCH", "ACL", "QUERY"),
    *("BIND", "REBIND", "UNBIND", "REPORT", "MKACTIVITY", "CHECKOUT", "MERGE", "MKCALENDAR"),
    *("M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "PURGE", "LINK", "UNLINK", "SOURCE"),
)
"""Methods that the request parser knows; a route for any other method could never match. `CONNECT`
is missing because it is always answered with 405."""

_PATH: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
"""RFC 3986 §3.3."""
_ESCAPE: Final = re.compile("%([0-9A-Fa-f]{2})")
_NEVER: Final = re.compile("%(?:00|2f|5c)", re.IGNORECASE)


FIRST_LABEL: Final = "{service}.*"
"""The first label of any host, also of one without others."""


def _parse_host_pattern(text: str) -> str:
    """A route's host. Template and wildcard are whole labels, so that a label in a request
    either is the service's name or is not."""
    if text == FIRST_LABEL:
        return text
    rest = text.replace("{service}", "service")
    if "{" in rest or "}" in rest:
        raise ValueError("holds braces that are not {service}")
    if text.count("{service}") > 1:
        raise ValueError("holds {service} more than once")
    if "{service}" in text and "{service}" not in text.split("."):
        raise ValueError("has a label that is only partly {service}")
    if rest.startswith("*."):
        if "{service}" in text:
            raise ValueError("is a wildcard and a template at once")
        rest = rest[2:]
    if "*" in rest:
        raise ValueError("has a * that is not the whole first label")
    if re.search(r"[^\]]:[0-9]*$|\]:", rest):
        raise ValueError("has a port")
    parse_host_name(rest)
    return "{service}".join(part.lower() for part in text.split("{service}"))


def parse_path(text: str) -> str:
    """A path as it stands in a request when it is matched."""
    if not text.startswith("/"):
        raise ValueError("does not begin with /")
    if "?" in text or "#" in text:
        raise ValueError("holds a query or a fragment")
    if "{" in text or "}" in text:
        raise ValueError("holds braces")
    if not _PATH.fullmatch(text):
        raise ValueError("holds characters that a path must have percent-encoded")
    if never := _NEVER.search(text):
        raise ValueError(f"holds {never[0]}, which is refused in requests")
    segments = re.sub("%2e", ".", text, flags=re.IGNORECASE).split("/")
    if "." in segments or ".." in segments:
        raise ValueError("holds a dot segment, which requests never have when they are matched")
    return text


def _matching(text: str) -> str:
    """A path that those of requests are compared with."""
    if text.endswith("*") or "/*/" in text:
        raise ValueError("holds *, which stands for itself and not for any text")
    return parse_path(text)


def _parse_path_prefix(text: str) -> str:
    rest = text.replace("{service}", "service")
    if "{" in rest or "}" in rest:
        raise ValueError("holds braces that are not {service}")
    if text.count("{service}") > 1:
        raise ValueError("holds {service} more than once")
    if "{service}" in text and "{service}" not in text.split("/"):
        raise ValueError("has a segment that is only partly {service}")
    _matching(rest)
    return _ESCAPE.sub(_one_spelling, text)


def _one_spelling(escape: re.Match[str]) -> str:
    """An escape as paths of requests have it when they are matched (RFC 3986 §6.2.2)."""
    char = chr(int(escape[1], 16))
    return char if char.isascii() and (char.isalnum() or char in "-._~") else escape[0].upper()


def _parse_method(text: str) -> str:
    if text == "CONNECT":
        raise ValueError("is answered with 405 and never routed")
    if text not in METHODS:
        raise ValueError(f"is not a method{did_you_mean(text, METHODS)}")
    return text


def _parse_set_host(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return parse_host_name(text)
    return f"{parse_host_name(host)}:{parse_port(port, 1)}"


def _parse_sni(text: str) -> str:
    below = text.removeprefix("*.")
    return text[: len(text) - len(below)] + parse_host_name(below).removesuffix(".")


def _parse_field_value(text: str) -> str:
    if not text.isprintable() or not text.isascii():
        raise ValueError("is not printable ASCII")
    if text != text.strip():
        raise ValueError("begins or ends with a space, which a field value never does")
    return text


def _parse_exact_path(text: str) -> str:
    return _ESCAPE.sub(_one_spelling, _matching(text))


def _parse_rewrite(text: str) -> str:
    parse_path(re.sub(r"\{[A-Za-z_][A-Za-z0-9_]*\}", "x", text))
    return text


def _parse_target(text: str) -> str:
    """Where a redirect leads. What the request says stands where it is a host or a path, so that no
    client is sent to whom the request names."""
    rest = text.replace("{host}", "host").replace("{path}", "/path")
    if "{" in rest or "}" in rest:
        raise ValueError("holds braces that are neither {host} nor {path}")
    scheme, separator, where = text.partition("://")
    if separator and scheme in ("http", "https"):
        host = where.partition("{path}")[0].partition("/")[0].partition("?")[0].partition("#")[0]
        name, colon, port = host.rpartition(":")
        if colon and not host.endswith("]"):
            parse_port(port, 1)
        else:
            name = host
        parse_host_name("host" if name == "{host}" else name)
    elif not text.startswith(("/", "{path}")) or rest.startswith("//"):
        raise ValueError("is neither a URL nor a path")
    # A backslash is a slash to browsers: two of them would lead to another host.
    if not rest.isascii() or not rest.isprintable() or " " in rest or "\\" in rest:
        raise ValueError("holds characters that a URL must have percent-encoded")
    return text


def _parse_redirect_status(text: str) -> int:
    if text not in ("301", "302", "307", "308"):
        raise ValueError("is not a status of a redirect")
    return int(text)


METHOD: Final = Read(
    _parse_method, "method", ", ".join(METHODS[:7]) + " and others", json={"enum": list(METHODS)}
)
PATH: Final = Read(parse_path, "path", "a path such as /new")
HOST_PATTERN: Final = Read(
    _parse_host_pattern,
    "host pattern",
    "users.example.com, *.example.com or {service}.example.com",
)
PATH_PREFIX: Final = Read(
    _parse_path_prefix, "path prefix", "a path such as /orders or /svc/{service}"
)
PATH_REGEX: Final = Read(parse_pattern, "regular expression", "a pattern such as ^/v(?P<v>[0-9]+)/")
REWRITE: Final = Read(_parse_rewrite, "path", "a path such as /api/{v}/")
EXACT_PATH: Final = Read(_parse_exact_path, "path", "a path such as /healthz")
TARGET: Final = Read(
    _parse_target, "target", "https://new.example.com{path}, or a path such as /new"
)
REDIRECT_STATUS: Final = Read(
    _parse_redirect_status, "integer", "301, 302, 307 or 308", json={"enum": [301, 302, 307, 308]}
)
BODY: Final = Read(str, "text", "a text")
PARAMETER: Final = Read(str, "text", "the value of the parameter, without escapes")
SNI: Final = Read(_parse_sni, "host pattern", "db.example.com or *.example.com")
SET_HOST: Final = Read(_parse_set_host, "host", "upstream.internal or host:port")
FIELD_VALUE: Final = Read(_parse_field_value, "text", "the exact value of the field")


def pieces_of(pattern: str) -> tuple[str, ...]:
    """The texts between the `*` of a pattern for a field's value; a single one is the exact value.
    `\\*` is the character itself."""
    return tuple(piece.replace("\0", "*") for piece in pattern.replace("\\*", "\0").split("*"))
