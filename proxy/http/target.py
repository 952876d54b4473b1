"""Methods and request targets: the four forms of RFC 9112 §3.2, and the one spelling in which a
path is matched and forwarded.

Routes are matched on the same path that the instance gets. Anything else is a way around a
route: a proxy that matches `/public/../admin` as `/public` and passes it on as it came has
opened `/admin`. What instances may make of a path beyond that, each in its own way, is in
`readings`; a path whose readings lead to different routes is refused.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.errors import BAD_REQUEST, METHOD_NOT_ALLOWED, Refused
from proxy.http.messages import RequestHead, Resolved

TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110 §5.6.2."""
LONGEST_METHOD: Final = 64
"""Bytes. The longest of the registered ones has 17. Without a bound a line of letters would be a
method for as long as it comes."""
TARGET_BYTES: Final = bytes(range(0x21, 0x7F)).replace(b"#", b"")
"""Visible ASCII without the fragment mark. RFC 9112 §3.2 wants less; what is left out here
(quotes, brackets, …) is sent by real browsers and is unambiguous."""
_BARE: Final = bytes(255 - byte if byte in b"%.;?\\" else byte for byte in range(256))
"""A table that changes what may make a target more than a path in its one spelling."""
_UNRESERVED: Final = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
)  # RFC 3986 §2.3
_HEX: Final = "0123456789ABCDEFabcdef"
_SLASH: Final = ord("/")


def resolve(request: RequestHead, merge_slashes: bool = False) -> Resolved:
    """The meaning of a request's target. Raises `Refused` for one that two servers could
    understand differently."""
    if merge_slashes:
        return _resolve(request, True)
    known = request.resolved
    if known is None:
        known = _resolve(request, False)
        if known[3] is None:  # Other readings are sixteen paths at most, and rare: not kept.
            request.resolved = known
    return known


def _resolve(request: RequestHead, merge_slashes: bool) -> Resolved:
    raw = request.target
    as_received = True
    if raw[0] != _SLASH or request.method == b"CONNECT":
        raw = _other_form(request, raw)
        if raw == b"*":
            return "/", b"", True, None  # About the server as a whole: routed as its root.
        as_received = False
    elif raw.translate(_BARE) == raw and raw.find(b"//") < 0:
        return raw.decode("ascii"), b"", True, None  # As most are.
    raw_path, mark, query = raw.partition(b"?")
    path = raw_path.decode("ascii")
    if "%" in path or "//" in path or "/." in path or ";" in path or "\\" in path:
        normal = _normalise(path, merge_slashes)
        as_received = as_received and normal == path
        return normal, mark + query, as_received, readings(normal)
    return path, mark + query, as_received, None


_IN_DISGUISE: Final = {f"%{ord(char):02X}": char for char in "!$&'()*+,/:;=@"} | {"%5C": "/"}
"""Reserved characters, which a route's prefix may have as they are. A backslash is a slash to many
programs."""
_DISGUISES: Final = (*_IN_DISGUISE.items(), ("%2f", "/"), ("%5c", "/"))
"""As they stand in a normalised path. They are looked for one after the other: a line of Python for
each of the thousands that a path may have would cost more than the rest of its request."""
_PARAMETER: Final = re.compile(";[^/]*")
_SLASHES: Final = re.compile("//+")


def readings(path: str) -> tuple[str, ...]:
    """Other paths that programs may make of a normalised path: they decode what stands for reserved
    characters, slashes above all, take parameters off its segments (`;x`, RFC 3986 §3.3), merge
    slashes, and resolve the dot segments that come about; each does some of these, in one order or
    another. Nothing is decoded twice. Raises `Refused` if there are more than `_MOST_READINGS`."""
    found = {path}
    new = [path]
    while new:  # ≤ _MOST_READINGS + 8
        text = new.pop()
        for step in _STEPS:  # ≤ 8 * _MOST_READINGS
            other = step(text)
            if other not in found:
                found.add(other)
                new.append(other)
        if len(found) > _MOST_READINGS:
            raise bad_path("the path may be read in too many ways")
    found.discard(path)
    return tuple(sorted(found))


def barest(path: str) -> str:
    """The reading of a normalised path that is left when all of that is done: one for all the
    spellings in which instances may take a path for the same, so that they share a bucket."""
    if "%" in path or ";" in path or "//" in path:
        for step in _STEPS:  # ≤ 4
            path = step(path)
    return path


def _undisguised(path: str) -> str:
    if "%" in path:
        for escape, char in _DISGUISES:  # ≤ 64 * _MOST_READINGS
            path = path.replace(escape, char)
    return path


def _without_parameters(path: str) -> str:
    return _PARAMETER.sub("", path)


def _merged(path: str) -> str:
    return _SLASHES.sub("/", path)


def has_dot_segments(path: str) -> bool:
    """Whether a path has any, in plain spelling."""
    return _DOTS.search(path) is not None


def has_encoded_slash(path: str) -> bool:
    """Whether a normalised path has a slash or backslash in disguise."""
    upper = path.upper()
    return "%2F" in upper or "%5C" in upper


def as_it_came(request: RequestHead, path: str) -> bytes:
    """The path of a target as it was received, byte for byte, where it was matched as `path`. If
    more than escapes of unreserved characters and the case of hex digits is different, what the
    instance gets would not be what was matched: raises `Refused`."""
    raw = request.target
    if raw[0] != _SLASH:
        raw = _other_form(request, raw)
    raw = raw.partition(b"?")[0]
    if _unescaped(raw.decode("ascii")) != path:
        raise bad_path("dot segments or repeated slashes where the path is forwarded as received")
    return raw


def bad_path(detail: str) -> Refused:
    """A path that is refused. The request itself was sound: its connection may go on."""
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


def _normalise(path: str, merge_slashes: bool) -> str:
    """Percent-encodings of unreserved characters decoded, the others but those of slashes in upper
    case (RFC 3986 §6.2.2), dot segments removed (§5.2.4)."""
    text = _unescaped(path)
    return _resolved(_merged(text) if merge_slashes else text)


def _normal(digits: str) -> str:
    """The normal form of an escape. Slashes and backslashes go on as they came: some programs
    compare these with a text of their own."""
    char = chr(int(digits, 16))
    if char in _UNRESERVED:
        return char
    return "%" + (digits if char in "/\\" else digits.upper())


_NORMAL: Final = {one + two: _normal(one + two) for one in _HEX for two in _HEX}


def _unescaped(path: str) -> str:
    if "\\" in path:
        raise bad_path("a backslash in the path")
    if "%00" in path:
        raise bad_path("an encoded NUL in the path")
    first, *escapes = path.split("%")
    parts = [first]
    for escape in escapes:  # ≤ 8192
        char = _NORMAL.get(escape[:2])
        if char is None:
            raise bad_path("a percent sign that two hex digits do not follow")
        parts += (char, escape[2:])
    return "".join(parts)


def _resolved(path: str) -> str:
    if "/." not in path:
        return path
    dots = list(_DOTS.finditer(path))
    if len(dots) > _MOST_DOTS:
        raise bad_path(f"more than {_MOST_DOTS} dot segments")
    kept, at = "", 0
    for dot in dots:  # ≤ _MOST_DOTS * _MOST_READINGS
        kept += path[at : dot.start()]
        at = dot.end()
        if dot[0] == "/..":
            kept = kept[: max(kept.rfind("/"), 0)]
    if at == len(path):
        kept += "/"  # `/a/.` and `/a/b/..` name the directory `/a/`.
    return kept + path[at:]


_DOTS: Final = re.compile(r"/\.\.?(?=/|$)")
_MOST_DOTS: Final = 256
"""Dot segments of a path. Links have a handful."""
_MOST_READINGS: Final = 16
"""Decoding, cutting and merging make eight of a path without dots in disguise. A path as long as
a target may be must not cost a hundred times what others do."""
_STEPS: Final = (_undisguised, _without_parameters, _merged, _resolved)
"""Steps that make other readings. Each changes nothing the second time, so there is an end to what
they make together."""
