"""Request targets: the four forms of RFC 9112 §3.2, and the one spelling a path is matched and
forwarded in.

Routes are matched on the same path that the instance gets. Anything else is a way around a
route: a proxy that matches `/public/../admin` as `/public` and passes it on as it came has
opened `/admin`.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.engine.http1.messages import RequestHead
from proxy.errors import BAD_REQUEST, METHOD_NOT_ALLOWED, Refused

_UNRESERVED: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
)  # RFC 3986 §2.3
_PERCENT: Final = re.compile(rb"%(..)?", re.DOTALL)
_HEX: Final = re.compile(rb"[0-9A-Fa-f]{2}")
_SLASH: Final = ord("/")
_PERCENT_SIGN: Final = ord("%")
_BACKSLASH: Final = ord("\\")
# Asked for as numbers: `bytes in bytes` first raises an error inside and drops it.


def resolve(request: RequestHead) -> tuple[str, bytes, bool]:
    """Path (normalised), `?query` or empty, and whether the two make up the target as it was
    received. Raises `Refused` for a target that two servers could understand differently."""
    raw = request.target
    as_received = True
    if raw[0] != _SLASH or request.method == b"CONNECT":
        raw = _other_form(request, raw)
        if raw == b"*":
            return "/", b"", True  # About the server as a whole: routed as its root.
        as_received = False
    path, mark, query = raw.partition(b"?")
    if _PERCENT_SIGN in path or _BACKSLASH in path or path.find(b"/.") >= 0:
        normal = _normalise(path)
        as_received = as_received and normal == path
        path = normal
    return path.decode("ascii"), mark + query, as_received


def refuse_encoded_separators(path: str) -> None:
    """For routes with a path prefix: `%2F` and `%5C` are slashes to some instances and not to
    others, so what such a path is under cannot be said. Raises `Refused`."""
    upper = path.upper()
    if "%2F" in upper or "%5C" in upper:
        raise _bad_path("an encoded slash or backslash in the path of a prefix route")


def _bad_path(detail: str) -> Refused:
    """The request itself was sound: its connection may go on."""
    return Refused(BAD_REQUEST, detail, framed=True)


def _other_form(request: RequestHead, raw: bytes) -> bytes:
    if request.method == b"CONNECT":
        raise Refused(METHOD_NOT_ALLOWED, "CONNECT is not served here")
    if raw == b"*":
        if request.method != b"OPTIONS":
            raise Refused(BAD_REQUEST, "the target * is for OPTIONS only")
        return raw
    scheme, mark, rest = raw.partition(b"://")
    if not mark or scheme.lower() not in (b"http", b"https"):
        raise Refused(BAD_REQUEST, "the target is not a path, an absolute http URI or *")
    cut = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
    authority, path = rest[:cut], rest[cut:]
    if b"@" in authority or not authority:
        raise Refused(BAD_REQUEST, "the target's authority is empty or holds user information")
    host = request.fields.host
    if not host:
        raise Refused(BAD_REQUEST, "an absolute target without Host")
    if host.lower() != authority.lower():
        # RFC 9112 §3.2.2 lets the authority win; two servers that disagree on which wins are
        # a way around host routes, so both must say the same.
        raise Refused(BAD_REQUEST, "the target's authority is not the Host")
    if path[:1] != b"/":
        path = b"/" + path
    return path


def _normalise(path: bytes) -> bytes:
    """Percent-encodings of unreserved characters decoded, the others in upper case
    (RFC 3986 §6.2.2), dot segments removed (§5.2.4)."""
    if b"\\" in path:
        raise _bad_path("a backslash in the path")
    if b"%" in path:
        path = _PERCENT.sub(_decode, path)
    if b"/." not in path:
        return path
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")  # `/a/.` and `/a/b/..` name the directory `/a/`.
    return b"/" + b"/".join(kept)


def _decode(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    if digits is None or not _HEX.fullmatch(digits):
        raise _bad_path("a percent sign that two hex digits do not follow")
    byte = int(digits, 16)
    if byte == 0:
        raise _bad_path("an encoded NUL in the path")
    if byte in _UNRESERVED:
        return bytes((byte,))
    return b"%" + digits.upper()
