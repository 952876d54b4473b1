"""Changes that a proxy makes to a request: the fields taken out, and those that say for whom it
speaks."""

from __future__ import annotations

import re
from typing import Final

from proxy.http.client_address import ClientAddresses
from proxy.http.client_cert import FIELDS
from proxy.http.messages import CRLF, Fields, RequestFields, RequestHead
from proxy.http.tls_facts import TlsFacts

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
_NO_NAMES: Final[frozenset[bytes]] = frozenset()


_NOT_LISTS: Final = (b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port")
"""Of several lines the last counts: a proxy adds its own behind what it was sent."""


def take_claims(fields: RequestFields, lines: list[bytes], named: frozenset[bytes]) -> None:
    """`lines`: those of the fields that only a trusted proxy may set; `named`: by `Connection`."""
    values: dict[bytes, list[bytes]] = {}
    passed = []
    for line in lines:  # ≤ 256
        name, _, value = line.partition(b": ")
        lower = name.lower()
        values.setdefault(lower, []).append(value)
        if lower not in named and lower not in WRITTEN_ANEW:
            passed.append(line + CRLF)
    claims: dict[bytes, bytes] = {}
    claims_named: dict[bytes, bytes] = {}
    for name, several in values.items():  # ≤ 256
        value = several[-1] if name in _NOT_LISTS else b", ".join(several)
        if name in named:
            claims_named[name] = value
        else:
            claims[name] = value
    fields.claims = claims
    fields.claims_named = claims_named
    fields.claim_lines = b"".join(passed)


def strip_named(fields: Fields) -> frozenset[bytes]:
    """Take plain fields that `Connection` names out of what is passed on: they end here
    (RFC 9110 §7.6.1). Done before our own are added: a client that names X-Forwarded-For
    cannot take ours away. Returns the names."""
    if fields.connection <= _NOT_NAMES:
        return _NO_NAMES  # As nearly always, and no set is made for it.
    names = fields.connection - _NOT_NAMES
    fields.plain = b"".join(
        [b"%b: %b\r\n" % pair for pair in fields.pairs if pair[0].lower() not in names]
    )
    return names


def passed_fields(fields: RequestFields) -> bytes:
    """Field lines that go on to any instance from any client."""
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
    return fields.plain + extra if extra else fields.plain


class ClientFacts:
    """Facts of one client connection for the forwarding fields.

    Owns the fields of the latest request as they went on: mostly the next one's are the same,
    or at least its Host is.
    """

    __slots__ = (
        "_addresses",
        "_after",
        "_before",
        "_fields",
        "_forwarded",
        "_host",
        "_set_host",
        "_shown",
        "_tail",
        "_via",
        "address",
        "announced",
        "caller",
        "encoded_slashes",
        "ends_loops",
        "listener",
        "merge_slashes",
        "port",
        "scheme",
        "tls",
        "transport",
        "trusted",
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
        listener: str = "",
    ) -> None:
        """`address`: the peer; `port`: ours that it connected to; `addresses`: find the
        clients that it speaks for; None = it is not trusted, and speaks for itself; `via`: our own
        `Via` line; `forwarded`: say it in the `Forwarded` field of RFC 7239, too;
        `merge_slashes`, `encoded_slashes`: what the listener does with those in paths;
        `listener`: its name."""
        self._forwarded = forwarded
        self.address = address.encode("ascii")
        self.port = b"%d" % port
        self.merge_slashes = merge_slashes
        self.encoded_slashes = encoded_slashes
        self.listener = listener
        self.trusted = addresses is not None
        """Whether the peer is believed in what it says of those before it."""
        self._addresses = addresses
        self.scheme = scheme
        self.ends_loops = True
        """Requests with our own `Via` mark are refused."""
        self.caller = ""
        """The service that the client has proved to be; empty = none that is known."""
        self.transport: object | None = None
        """The connection, whose ends nobody asks for where the PROXY protocol is not sent."""
        self.announced: tuple[str, int] | None = None
        """Where it comes from and which port it was made to, if somebody in front of us said so."""
        self.tls: TlsFacts | None = None
        self._shown = b""  # ≤ 256 KiB
        self._via = via
        self._fields: RequestFields | None = None  # ≤ _REMEMBERED
        self._host: bytes | None = None  # ≤ _REMEMBERED
        self._before = b""  # ≤ _REMEMBERED
        self._after = b""  # ≤ _REMEMBERED
        self._set_host: str | None = None
        self._tail = b""  # ≤ _REMEMBERED

    def show(self, lines: bytes) -> None:
        """Tell instances of the client's certificate, in these field lines. Whatever a trusted
        proxy says in them is of another client."""
        self._shown = lines

    def client(self, fields: RequestFields) -> bytes:
        """The address of the client that a request is from."""
        if self._addresses is None:
            return self.address
        return self._addresses.find(fields, self.address)

    def scheme_of(self, fields: RequestFields) -> bytes:
        """`http` or `https`: what the client of a request speaks, as a trusted peer says."""
        if self.trusted:
            told = fields.claims.get(b"x-forwarded-proto")
            if told == b"https" or told == b"http":
                return told
        return self.scheme

    def tail(self, fields: RequestFields, set_host: str | None) -> bytes:
        """Every field line of the request to the instance, but for its id and upgrade."""
        if set_host == self._set_host:
            if fields is self._fields:
                return self._tail
            if fields.host == self._host and not self.trusted:
                tail = b"%b%b%b" % (self._before, fields.passed, self._after)
                if fields.memory <= _REMEMBERED:
                    self._fields = fields
                    self._tail = tail
                return tail
        host = fields.host
        out = host if set_host is None else set_host.encode("ascii")
        more = b""
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
            more = _without_shown(fields) if self._shown else fields.claim_lines
        if self._forwarded:
            element = self._element(host)
            elements = element if elements is None else elements + b", " + element
        if elements is not None:
            more += b"Forwarded: %b\r\n" % elements
        before = b"Host: %b\r\n" % out
        after = (
            b"%bX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\n"
            b"X-Forwarded-Port: %b\r\n%b%b"
            % (more, for_, proto, asked, port, self._shown, self._via)
        )
        tail = b"%b%b%b" % (before, fields.passed, after)
        if fields.memory <= _REMEMBERED:
            self._fields = fields
            self._host = host
            self._set_host = set_host
            self._before = before
            self._after = after
            self._tail = tail
        return tail

    def _element(self, host: bytes) -> bytes:
        """The facts of the client as RFC 7239 §4 writes them. An address with colons, and a host
        with a port, are no tokens and therefore quoted (§6)."""
        for_ = b'"[%b]"' % self.address if b":" in self.address else self.address
        asked = host if host.translate(None, TOKEN_BYTES) == b"" else b'"%b"' % host
        parts = [b"for=%b" % for_]
        if host:
            parts.append(b"host=%b" % asked)
        return b";".join((*parts, b"proto=%b" % self.scheme))


def _without_shown(fields: RequestFields) -> bytes:
    """The claims but for those of certificates."""
    lines = fields.claim_lines.splitlines(keepends=True)
    return b"".join([one for one in lines if one.partition(b":")[0].lower() not in FIELDS])


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


def forwarded_prefix(told: bytes | None, stripped: bytes) -> bytes | None:
    """The prefix of the instance's paths for the client; None = no prefix. `told`: the prefix that
    a proxy in front says it took away. The two become one path: programs that take the last member
    of a list for all there is would make wrong links of two."""
    if told is None or not stripped:
        return told or stripped or None
    return b"".join(member.strip(b" \t").rstrip(b"/") for member in told.split(b",")) + stripped
