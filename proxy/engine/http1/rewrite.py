"""From heads to bytes: what a proxy must take out, put in, and decide about framing.

Pure functions. Messages are serialised anew from what was parsed; nothing is passed on as it
was received, so no instance can read a boundary that we did not write.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from proxy.engine.http1.dates import http_date
from proxy.engine.http1.messages import (
    CRLF,
    Fields,
    RequestFields,
    RequestHead,
    ResponseFields,
    ResponseHead,
)

if TYPE_CHECKING:
    from proxy.engine.http1.client_address import ClientAddresses

VIA_CLIENT: Final = b"Via: 1.1 fairlead\r\n"

_PROTOCOL: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:/[!#$%&'*+.^_`|~0-9A-Za-z-]+)?")
"""RFC 9110 §7.8. Anything else might be read as several protocols."""
_NOT_OFFERED: Final = ((b"http", b"/"), (b"tls", b"/"))
_MOST_OFFERED: Final = 16
"""Protocols of one `Upgrade`. Real clients offer one; an offer may always be ignored, and one of
thousands costs more than the request."""

_REMEMBERED: Final = 32 * 1024
"""Bytes of a parsed block that a connection keeps for its next request: four times a browser's. A
head of 32 KiB would otherwise stay in memory as long as its connection, which asks nothing more."""

TOKEN_BYTES: Final = (
    b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

WRITTEN_ANEW: Final = (
    b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port",
    b"x-forwarded-prefix", b"forwarded",
)  # fmt: skip
"""Fields that say something of ours, whatever came."""

_NOT_NAMES: Final = frozenset((b"close", b"keep-alive", b"upgrade", b"te"))


def strip_named(fields: Fields) -> frozenset[bytes]:
    """Take plain fields that `Connection` names out of what is passed on: they end here
    (RFC 9110 §7.6.1). Done before our own are added: a client that names X-Forwarded-For
    cannot take ours away. Returns the names."""
    names = fields.connection - _NOT_NAMES
    if names:
        fields.plain = b"".join(
            [b"%b: %b\r\n" % pair for pair in fields.pairs if pair[0].lower() not in names]
        )
    return names


def passed_fields(fields: RequestFields) -> bytes:
    """What goes on to any instance from any client."""
    extra = b""
    if fields.chunked:
        extra = b"Transfer-Encoding: chunked\r\n"
    elif fields.length is not None:
        extra = b"Content-Length: %d\r\n" % fields.length
    if fields.expect is not None and (fields.chunked or fields.length):
        extra += b"Expect: 100-continue\r\n"
    if fields.chunked and fields.trailer is not None:
        extra += b"Trailer: %b\r\n" % fields.trailer
    if fields.te_trailers:
        extra += b"Connection: TE\r\nTE: trailers\r\n"
    if fields.max_forwards is not None:
        extra += b"Max-Forwards: %b\r\n" % _one_less(fields.max_forwards)
    for via in fields.via:  # ≤ 256
        extra += b"Via: %b\r\n" % via
    return fields.plain + extra


class ClientFacts:
    """What the forwarding fields say of one client connection.

    Owns the fields of the latest request as they went on: mostly the next one's are the same,
    or at least its Host is.
    """

    __slots__ = (
        "_addresses", "_after", "_before", "_fields", "_forwarded", "_host", "_set_host", "_tail",
        "_via", "address", "encoded_slashes", "merge_slashes", "port", "scheme", "trusted",
    )  # fmt: skip

    def __init__(
        self,
        address: str,
        port: int,
        addresses: ClientAddresses | None,
        via: bytes,
        scheme: bytes = b"http",
        forwarded: bool = False,
        merge_slashes: bool = False,
        encoded_slashes: str = "pass",
    ) -> None:
        """`address`: the peer; `port`: ours that it connected to; `addresses`: find the
        clients that it speaks for; None = it is not trusted, and speaks for itself; `via`: our own
        `Via` line; `forwarded`: say it in the `Forwarded` field of RFC 7239, too;
        `merge_slashes`, `encoded_slashes`: what the listener does with those in paths."""
        self._forwarded = forwarded
        self.address = address.encode("ascii")
        self.port = b"%d" % port
        self.merge_slashes = merge_slashes
        self.encoded_slashes = encoded_slashes
        self.trusted = addresses is not None
        """What it says of those before it is believed."""
        self._addresses = addresses
        self.scheme = scheme
        self._via = via
        self._fields: RequestFields | None = None  # ≤ _REMEMBERED
        self._host: bytes | None = None  # ≤ _REMEMBERED
        self._before = b""  # ≤ _REMEMBERED
        self._after = b""  # ≤ _REMEMBERED
        self._set_host: str | None = None
        self._tail = b""  # ≤ _REMEMBERED

    def client(self, fields: RequestFields) -> bytes:
        """The address of the client that a request is from."""
        if self._addresses is None:
            return self.address
        return self._addresses.find(fields, self.address)

    def tail(self, fields: RequestFields, set_host: str | None) -> bytes:
        """Every field line of the request to the instance, but for its id and upgrade."""
        if set_host == self._set_host:
            if fields is self._fields:
                return self._tail
            if fields.host == self._host and not self.trusted:
                tail = self._before + fields.passed + self._after
                if fields.memory <= _REMEMBERED:
                    self._fields = fields
                    self._tail = tail
                return tail
        host = fields.host
        out = host if set_host is None else set_host.encode("ascii")
        lines = []
        elements: bytes | None = None
        for_, proto, asked, port = self.address, self.scheme, host, self.port
        if self.trusted:
            claims = fields.claims
            chain = claims.get(b"x-forwarded-for")
            if chain is not None:
                for_ = chain + b", " + for_
            proto = claims.get(b"x-forwarded-proto") or proto
            asked = claims.get(b"x-forwarded-host") or asked
            port = claims.get(b"x-forwarded-port") or port
            elements = claims.get(b"forwarded")
            lines.append(fields.claim_lines)
        if self._forwarded:
            element = self._element(host)
            elements = element if elements is None else elements + b", " + element
        if elements is not None:
            lines.append(b"Forwarded: %b\r\n" % elements)
        lines.append(
            b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\n"
            b"X-Forwarded-Port: %b\r\n%b" % (for_, proto, asked, port, self._via)
        )
        before = b"Host: %b\r\n" % out
        after = b"".join(lines)
        tail = before + fields.passed + after
        if fields.memory <= _REMEMBERED:
            self._fields = fields
            self._host = host
            self._set_host = set_host
            self._before = before
            self._after = after
            self._tail = tail
        return tail

    def _element(self, host: bytes) -> bytes:
        """What we know of this client, as RFC 7239 §4 writes it. An address with colons, and a
        host with a port, are no tokens and therefore quoted (§6)."""
        for_ = b'"[%b]"' % self.address if b":" in self.address else self.address
        asked = host if host.translate(None, TOKEN_BYTES) == b"" else b'"%b"' % host
        parts = [b"for=%b" % for_]
        if host:
            parts.append(b"host=%b" % asked)
        return b";".join((*parts, b"proto=%b" % self.scheme))


def _one_less(max_forwards: bytes) -> bytes:
    """RFC 9110 §7.6.2. What is no number, or 0 and not ours to answer, goes on as it is."""
    if not max_forwards.isdigit() or len(max_forwards) > 9:
        return max_forwards
    return b"%d" % max(int(max_forwards) - 1, 0)


def offered_upgrade(request: RequestHead) -> bytes | None:
    """The upgrade tokens that may go on, or None. `h2c`, `HTTP/*` and `TLS/*` would make the
    instance speak a protocol on the tunnel that the proxy's rules were meant for."""
    fields = request.fields
    if fields.upgrade is None or b"upgrade" not in fields.connection:
        return None
    if fields.length or fields.chunked or request.minor == 0:
        return None  # A body in front of the tunnel, or a 1.0 client (RFC 9110 §7.8).
    tokens = fields.upgrade.split(b",", _MOST_OFFERED)
    if len(tokens) > _MOST_OFFERED:
        return None
    kept = []
    for token in tokens:  # ≤ _MOST_OFFERED
        name = token.strip(b" \t")
        lower = name.lower().partition(b"/")
        if _PROTOCOL.fullmatch(name) and lower[0] != b"h2c" and lower[:2] not in _NOT_OFFERED:
            kept.append(name)
    return b", ".join(kept) or None


def accepts_offer(offered: bytes, chosen: bytes | None) -> bool:
    """Whether a 101 switches to protocols that were offered (RFC 9110 §7.8). A server may choose
    several, and may name a protocol without the version that was offered with it."""
    if not chosen or chosen.count(b",") >= _MOST_OFFERED:
        return False
    offers = {token.strip(b" \t").lower() for token in offered.split(b",")}
    names = offers | {offer.partition(b"/")[0] for offer in offers}
    return all(token.strip(b" \t").lower() in names for token in chosen.split(b","))


def request_head(
    request: RequestHead,
    target: bytes,
    set_host: str | None,
    id_line: bytes,
    extra: bytes,
    facts: ClientFacts,
) -> bytes:
    """The head as the instance gets it. `id_line`, `extra`: field lines of this request alone."""
    return b"%b %b HTTP/1.1\r\n%b%b%b\r\n" % (
        request.method,
        target,
        facts.tail(request.fields, set_host),
        extra,
        id_line,
    )


def extra_lines(upgrade: bytes | None, prefix: bytes | None) -> bytes:
    """What a head has beyond the usual: the upgrade it offers, the prefix it lost."""
    lines = b""
    if upgrade is not None:
        lines = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % upgrade
    return lines if prefix is None else b"%bX-Forwarded-Prefix: %b\r\n" % (lines, prefix)


def forwarded_prefix(told: bytes | None, stripped: bytes) -> bytes | None:
    """What the instance's paths begin with for the client; None = with nothing. `told`: what a
    proxy in front says of itself. The two become one path: programs that take the last member of
    a list for all there is would make wrong links of two."""
    if told is None or not stripped:
        return told or stripped or None
    return b"".join(member.strip(b" \t").rstrip(b"/") for member in told.split(b",")) + stripped


# How a response body ends on the client's side.
NO_BODY: Final = 0
BY_LENGTH: Final = 1
BY_CHUNKS: Final = 2
BY_CLOSE: Final = 3


def response_framing(response: ResponseHead, method: bytes, client_minor: int) -> int:
    """How the client is told where the body ends (RFC 9112 §6.3)."""
    status = response.status
    if method == b"HEAD" or status == 204 or status == 304 or status < 200:
        return NO_BODY
    if response.fields.length is not None:
        return BY_LENGTH
    # Without a length, or chunked: a 1.1 client gets chunks and can tell a truncated answer
    # from a complete one; a 1.0 client knows only the end of the connection.
    return BY_CHUNKS if client_minor else BY_CLOSE


def response_head(
    response: ResponseHead,
    id_line: bytes,
    framing: int,
    client_minor: int,
    keep_alive: bool,
    trailers: bool = False,
) -> bytes:
    """The head as the client gets it. `id_line` names the request; `keep_alive`: we mean to use
    the connection again; `trailers`: the client takes them."""
    fields = response.fields
    head = response.status_line + id_line
    if framing == BY_LENGTH and client_minor and keep_alive and fields.usual:
        return head + fields.relayed
    if response.status == 204 and fields.length is not None:
        # RFC 9110 §8.6: a 204 has no Content-Length.
        return head + relayed_fields(fields, BY_CLOSE, client_minor, keep_alive)
    extra = b""
    if trailers and framing == BY_CHUNKS and fields.trailer is not None:
        extra = b"Trailer: %b\r\n" % fields.trailer
    elif response.status == 426 and fields.upgrade is not None:
        # RFC 9110 §15.5.22: the answer is about this field, which `Connection` must name.
        extra = b"Upgrade: %b\r\nConnection: Upgrade\r\n" % fields.upgrade
    return head + extra + relayed_fields(fields, framing, client_minor, keep_alive)


def relayed_fields(
    fields: ResponseFields, framing: int, client_minor: int, keep_alive: bool
) -> bytes:
    """Every field line of the answer to the client, with the empty line."""
    extra = b""
    if framing == BY_CHUNKS:
        extra = b"Transfer-Encoding: chunked\r\n"
    elif fields.length is not None and framing != BY_CLOSE:
        # Also for HEAD and 304, where it is information about a body that is not sent.
        extra = b"Content-Length: %d\r\n" % fields.length
    if not keep_alive:
        extra += b"Connection: close\r\n"
    elif client_minor == 0:
        extra += b"Connection: keep-alive\r\n"
    if not fields.dated:
        # RFC 9110 §6.6.1: whoever gets an answer without one and passes it on says when.
        extra += b"Date: %b\r\n" % http_date()
    for via in fields.via:  # ≤ 256
        extra += b"Via: %b\r\n" % via
    return b"".join((fields.plain, extra, VIA_CLIENT, CRLF))


def interim_head(response: ResponseHead) -> bytes:
    """A 1xx as the client gets it (RFC 9110 §15.2)."""
    return b"".join((response.status_line, response.fields.plain, CRLF))


def switching_head(response: ResponseHead, id_line: bytes) -> bytes:
    """The 101 that turns the connection into a tunnel."""
    return b"".join(
        (
            response.status_line,
            id_line,
            response.fields.plain,
            b"Connection: Upgrade\r\nUpgrade: %b\r\n" % (response.fields.upgrade or b""),
            VIA_CLIENT,
            CRLF,
        )
    )
