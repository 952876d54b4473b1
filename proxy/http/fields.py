"""Fields of heads as values, in any version of HTTP: what each means to a proxy, and what follows
from all of them together.

Whoever reads the bytes of a head sorts its fields by their kind, which a name has once and for all,
and hands over the plain ones as lines, and the others as values.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.errors import (
    BAD_ANSWER,
    BAD_REQUEST,
    CODING_NOT_SUPPORTED,
    Fault,
    Refused,
)
from proxy.http.claims import add_claim, hyphened, is_claim
from proxy.http.forwarding import passed_fields, strip_named, take_claims
from proxy.http.memo import ENTRY, Memo
from proxy.http.messages import CRLF, Fields, RequestFields, ResponseFields
from proxy.http.request_id import IdField, acceptable

_AUTHORITY: Final = re.compile(
    rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::(\d{0,5}))?"
)  # RFC 3986 §3.2.2
VALUE_BYTES: Final = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
"""RFC 9110 §5.5: field-vchar, obs-text, space and tab."""
_LENGTH: Final = re.compile(rb"\d{1,18}")
"""18 digits stay below 2**63; a longer length is an attack or a mistake."""

# What a field means to a proxy. Everything else is PLAIN.
PLAIN: Final = 0
DROP: Final = 1
HOST: Final = 2
LENGTH: Final = 3
CODING: Final = 4
CONNECTION: Final = 5
UPGRADE: Final = 6
EXPECT: Final = 7
VIA: Final = 8
TRAILER: Final = 9
TE: Final = 10
REQUEST_ID: Final = 11
MAX_FORWARDS: Final = 12
KEEP_ALIVE: Final = 13
CLAIM: Final = 14
"""Only a trusted proxy may say it. In place of its value the whole line is kept."""
UNDERSCORE: Final = 15
"""Dropped, since programs may take it for another. In place of its value its name is kept."""

_REQUEST_KINDS: Final = {
    b"host": HOST,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"expect": EXPECT,
    b"via": VIA,
    b"trailer": TRAILER,
    b"te": TE,
    b"x-request-id": REQUEST_ID,
    b"max-forwards": MAX_FORWARDS,
    # CGI programs get it as HTTP_PROXY, from which they and what they start take their own proxy
    # ("httpoxy"). No client has a use for it.
    b"proxy": DROP,
    # Hop-by-hop by RFC 9110 §7.6.1 or by long custom.
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"proxy-authenticate": DROP,
    b"proxy-authorization": DROP,
    b"http2-settings": DROP,
}
_RESPONSE_KINDS: Final = {
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"via": VIA,
    b"trailer": TRAILER,
    b"keep-alive": KEEP_ALIVE,
    b"x-request-id": REQUEST_ID,
    b"proxy-connection": DROP,
    b"proxy-authenticate": DROP,
    b"proxy-authorization": DROP,
    b"te": DROP,
}

Special = tuple[int, bytes]
"""A field that means something to a proxy: its kind and its value."""


class Kinds:
    """Owns what fields of one direction mean to a proxy, by their names in lower case."""

    def __init__(self, kinds: dict[bytes, int], of_requests: bool) -> None:
        self._kinds = dict(kinds)  # ≤ 8 KiB + 256 B per listener
        self._of_requests = of_requests
        self.changes = 0
        """How often a name has got another meaning: kinds that were noted before are old."""

    def call_a_claim(self, name: bytes) -> bool:
        """Whether fields of this name, in lower case, were something else until now."""
        if self._kinds.get(name, PLAIN) != PLAIN or not add_claim(name):
            return False
        self.changes += 1
        return True

    def of(self, lower: bytes) -> int:
        """The kind of a field by its name in lower case."""
        # X_Forwarded_For reaches CGI-like instances as the same variable as X-Forwarded-For,
        # so a name with an underscore is a way around every rule below.
        if self._of_requests and lower.find(b"_") >= 0:
            return UNDERSCORE
        kind = self._kinds.get(lower, PLAIN)
        if self._of_requests and kind == PLAIN:
            if is_claim(lower):
                return CLAIM
            means = hyphened(lower)  # Other punctuation, only where it stands for such a rule.
            if means != lower and (means in self._kinds or is_claim(means)):
                return UNDERSCORE
        return kind


REQUEST_KINDS: Final = Kinds(_REQUEST_KINDS, of_requests=True)
RESPONSE_KINDS: Final = Kinds(_RESPONSE_KINDS, of_requests=False)
USUAL_IDS: Final = IdField("X-Request-ID", bytes, bytes)
_KIB: Final = 1024
_hosts: Final[Memo[bytes, str]] = Memo(_KIB * 256, _KIB)  # ≤ _KIB * 256


def _named_by(ids: IdField, plain: bytes, special: list[Special]) -> tuple[bytes, list[Special]]:
    """The same field lines for a listener that names requests by another field, or by none: then
    the usual one is like any other."""
    kept: list[bytes] = []
    others: list[Special] = []
    for kind, line in [*((PLAIN, line) for line in plain.split(CRLF)[:-1]), *special]:  # ≤ 256
        name, _, value = line.partition(b": ")
        if kind in (PLAIN, CLAIM) and name.lower() == ids.lower:
            others.append((REQUEST_ID, value))
        elif kind == PLAIN:
            kept.append(line)
        elif kind == REQUEST_ID:
            kept.append(b"X-Request-ID: " + line)
        else:
            others.append((kind, line))
    return (CRLF.join(kept) + CRLF if kept else b""), others


def request_fields(
    plain: bytes, special: list[Special], count: int, size: int, ids: IdField
) -> RequestFields:
    """The fields of a request. `plain`: the lines of those without meaning to a proxy, each
    `Name: value` CR LF; `count`: lines of both kinds; `size`: bytes of the block that they are
    from; `ids`: how requests are named where it came in. Raises `Refused`."""
    if not ids.usual:
        plain, special = _named_by(ids, plain, special)
    fields = RequestFields(plain, count, size)
    connection: bytes | None = None
    given: list[bytes] = []
    claims: list[bytes] = []
    underscored: list[bytes] = []
    for kind, value in special:  # ≤ 256
        if kind == HOST:
            fields.hosts += 1
            fields.host = value
        elif kind == CONNECTION:
            connection = value if connection is None else connection + b"," + value
        elif kind == REQUEST_ID:
            given.append(value)
        elif kind == EXPECT:
            fields.expect = _joined(fields.expect, value)
        elif kind == CLAIM:
            claims.append(value)
        elif kind == UNDERSCORE:
            underscored.append(value)
        elif kind == TE:
            fields.te_trailers = fields.te_trailers or b"trailers" in _members(value)
        elif kind == MAX_FORWARDS:
            fields.max_forwards = value
        else:
            _common_field(fields, kind, value, BAD_REQUEST)
    fields.host_name = _hosts.young.get(fields.host) or _host_name(fields.host)
    named: frozenset[bytes] = _NO_NAMES
    if connection is not None:
        fields.set_connection(_members(connection))
        named = strip_named(fields)
    if claims:
        take_claims(fields, claims, named)
    if given and ids.lower not in named:
        fields.request_id = acceptable(given)
    if not ids.usual:
        fields.id_name = ids.lower
    if underscored:
        fields.underscored = tuple(underscored)
    fields.unusual = (
        len(fields.via) > 0
        or fields.expect is not None
        or fields.upgrade is not None
        or fields.max_forwards is not None
        or len(underscored) > 0
        or b"x-forwarded-prefix" in fields.claims
    )
    fields.passed = passed_fields(fields)
    return fields


def response_fields(
    plain: bytes, special: list[Special], count: int, size: int, ids: IdField
) -> ResponseFields:
    """The same of an answer, but for `relayed`."""
    if not ids.usual:
        plain, special = _named_by(ids, plain, special)
    fields = ResponseFields(plain, count, size)
    connection: bytes | None = None
    for kind, value in special:  # ≤ 256
        if kind == KEEP_ALIVE:
            fields.keep_alive = value
        elif kind == CONNECTION:
            connection = value if connection is None else connection + b"," + value
        elif kind != REQUEST_ID:  # The instance's own gives way to ours.
            _common_field(fields, kind, value, BAD_ANSWER)
    if connection is not None:
        fields.set_connection(_members(connection))
        strip_named(fields)
    if b"\r\nDate: " not in fields.plain:  # As most servers write it, and seldom first.
        fields.dated = b"\ndate: " in b"\n" + fields.plain.lower()
    fields.usual = fields.dated and fields.upgrade is None
    return fields


def _common_field(fields: Fields, kind: int, value: bytes, fault: Fault) -> None:
    if kind == LENGTH:
        if fields.length is not None or not _LENGTH.fullmatch(value):
            # RFC 9112 §6.3: repeated or malformed lengths are unrecoverable.
            raise Refused(fault, "Content-Length is repeated or not a plain number")
        fields.length = int(value)
    elif kind == CODING:
        _check_coding(fields, value, fault)
        fields.chunked = True
    elif kind == VIA:
        fields.via += (value,)
    elif kind == UPGRADE:
        fields.upgrade = _joined(fields.upgrade, value)
    elif kind == TRAILER:
        fields.trailer = _joined(fields.trailer, value)
    if fields.chunked and fields.length is not None:
        # RFC 9112 §6.1: the classic of request smuggling.
        raise Refused(fault, "Content-Length together with Transfer-Encoding")


def _check_coding(fields: Fields, value: bytes, fault: Fault) -> None:
    if fields.chunked:
        raise Refused(fault, "Transfer-Encoding is repeated")
    if value.lower() != b"chunked":
        last = value.lower().rstrip(b", \t").rpartition(b",")[2].strip(b" \t")
        if fault is BAD_REQUEST and last == b"chunked":
            # RFC 9112 §6.1: a coding that is not understood is answered 501.
            raise Refused(CODING_NOT_SUPPORTED, "the only transfer coding understood is chunked")
        raise Refused(fault, "Transfer-Encoding is not exactly chunked")


_NO_NAMES: Final[frozenset[bytes]] = frozenset()
_COMMON_MEMBERS: Final = {
    value: frozenset((value.lower(),))
    for value in (b"keep-alive", b"Keep-Alive", b"close", b"Upgrade", b"upgrade")
}


def _members(value: bytes) -> frozenset[bytes]:
    """The members of a comma-separated list, lower-case (RFC 9110 §5.6.1). A head may hold
    thousands: no line of Python looks at each."""
    common = _COMMON_MEMBERS.get(value)
    if common is not None:
        return common
    return frozenset(filter(None, map(bytes.strip, value.lower().split(b","))))


def _joined(before: bytes | None, value: bytes) -> bytes:
    return value if before is None else before + b", " + value


def _host_name(authority: bytes) -> str:
    """The host of `HOST[:PORT]`, lower-case, without port. Raises `Refused`."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise Refused(BAD_REQUEST, "the Host is not HOST or HOST:PORT")
    if int(match[2] or b"0") > 65535:
        raise Refused(BAD_REQUEST, "the port in Host is above 65535")
    name = match[1].decode("ascii").lower().rstrip(".")
    _hosts.put(authority, name, ENTRY + 2 * len(authority))
    return name
