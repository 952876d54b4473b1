"""From heads to bytes: what a proxy must take out, put in, and decide about framing.

Pure functions. Messages are serialised anew from what was parsed; nothing is passed on as it
was received, so no instance can read a boundary that we did not write.
"""

from __future__ import annotations

from proxy.engine.http1.messages import RequestHead, ResponseHead

VIA_CLIENT = b"Via: 1.1 fairlead\r\n"

_PLAIN_TOKENS = ((), (b"keep-alive",), (b"close",))
"""`Connection` values that name no field: the usual ones, told at one comparison."""
_NOT_NAMES = (b"close", b"keep-alive", b"upgrade", b"te")


class ClientFacts:
    """What the forwarding fields say of one client connection.

    Owns the cached tail of fields: it depends on the connection and on Host only, and Host
    seldom changes on a connection.
    """

    __slots__ = ("_host", "_tail", "_via", "address", "port", "scheme", "trusted")

    def __init__(
        self, address: str, port: int, trusted: bool, via: bytes, scheme: bytes = b"http"
    ) -> None:
        """`address`: the peer; `port`: ours that it connected to; `trusted`: what it says of
        those before it is believed; `via`: our own `Via` line."""
        self.address = address.encode("ascii")
        self.port = b"%d" % port
        self.trusted = trusted
        self.scheme = scheme
        self._via = via
        self._host: bytes | None = None
        self._tail = b""

    def tail(self, request: RequestHead) -> bytes:
        """Serialised X-Forwarded-* and Via."""
        host = request.host
        if not self.trusted:
            if host != self._host:
                self._host = host
                self._tail = self._fields(self.address, self.scheme, host, self.port)
            return self._tail
        before = request.forwarded_for
        tail = self._fields(
            self.address if before is None else before + b", " + self.address,
            request.forwarded_proto or self.scheme,
            request.forwarded_host or host,
            request.forwarded_port or self.port,
        )
        if request.forwarded is not None:
            tail = b"Forwarded: %b\r\n%b" % (request.forwarded, tail)
        if request.real_ip is not None:
            tail = b"X-Real-IP: %b\r\n%b" % (request.real_ip, tail)
        return tail

    def _fields(self, for_: bytes, proto: bytes, host: bytes, port: bytes) -> bytes:
        return (
            b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\n"
            b"X-Forwarded-Port: %b\r\n%b" % (for_, proto, host, port, self._via)
        )


def offered_upgrade(request: RequestHead) -> bytes | None:
    """The upgrade tokens that may go on, or None. `h2c`, `HTTP/*` and `TLS/*` would make the
    instance speak a protocol on the tunnel that the proxy's rules were meant for."""
    if request.upgrade is None or b"upgrade" not in request.connection:
        return None
    if request.length or request.chunked or request.minor == 0:
        return None  # A body in front of the tunnel, or a 1.0 client (RFC 9110 §7.8).
    kept = []
    for token in request.upgrade.split(b","):
        name = token.strip(b" \t")
        lower = name.lower()
        if name and lower != b"h2c" and not lower.startswith((b"http/", b"tls/")):
            kept.append(name)
    return b", ".join(kept) or None


def request_head(
    request: RequestHead,
    target: bytes,
    host: bytes,
    request_id: bytes,
    upgrade: bytes | None,
    facts: ClientFacts,
) -> bytes:
    """The head as the instance gets it."""
    if request.connection not in _PLAIN_TOKENS:
        strip_named(request)
    extra = b""
    if request.chunked:
        extra = b"Transfer-Encoding: chunked\r\n"
    elif request.length is not None:
        extra = b"Content-Length: %d\r\n" % request.length
    if request.expect is not None and (request.chunked or request.length):
        extra += b"Expect: 100-continue\r\n"
    if upgrade is not None:
        extra += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % upgrade
    if request.max_forwards is not None:
        extra += b"Max-Forwards: %b\r\n" % request.max_forwards
    for via in request.via:
        extra += b"Via: %b\r\n" % via
    return b"".join(
        (
            b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (request.method, target, host),
            *request.plain,
            extra,
            b"X-Request-ID: %b\r\n" % request_id,
            facts.tail(request),
            b"\r\n",
        )
    )


def strip_named(head: RequestHead | ResponseHead) -> None:
    """Fields that `Connection` names end here (RFC 9110 §7.6.1). Done before our own are added:
    a client that names X-Forwarded-For cannot take ours away."""
    names = tuple(token for token in head.connection if token not in _NOT_NAMES)
    if not names:
        return
    head.drop(names)
    if isinstance(head, RequestHead):
        if b"x-forwarded-for" in names:
            head.forwarded_for = None
        if b"x-forwarded-proto" in names:
            head.forwarded_proto = None
        if b"x-forwarded-host" in names:
            head.forwarded_host = None
        if b"x-forwarded-port" in names:
            head.forwarded_port = None
        if b"forwarded" in names:
            head.forwarded = None
        if b"x-real-ip" in names:
            head.real_ip = None
        if b"x-request-id" in names:
            head.request_id = None


# How a response body ends on the client's side.
NO_BODY, BY_LENGTH, BY_CHUNKS, BY_CLOSE = range(4)


def response_framing(response: ResponseHead, method: bytes, client_minor: int) -> int:
    """How the client is told where the body ends (RFC 9112 §6.3)."""
    status = response.status
    if method == b"HEAD" or status == 204 or status == 304 or status < 200:
        return NO_BODY
    if response.length is not None:
        return BY_LENGTH
    # Without a length, or chunked: a 1.1 client gets chunks and can tell a truncated answer
    # from a complete one; a 1.0 client knows only the end of the connection.
    return BY_CHUNKS if client_minor else BY_CLOSE


def response_head(
    response: ResponseHead, framing: int, client_minor: int, keep_alive: bool
) -> bytes:
    """The head as the client gets it. `keep_alive`: we mean to use the connection again."""
    if response.connection not in _PLAIN_TOKENS:
        strip_named(response)
    if framing == BY_CHUNKS:
        extra = b"Transfer-Encoding: chunked\r\n"
    elif response.length is not None and response.status >= 200 and response.status != 204:
        # Also for HEAD and 304, where it is information about the body that is not sent.
        extra = b"Content-Length: %d\r\n" % response.length
    else:
        extra = b""
    if not keep_alive:
        extra += b"Connection: close\r\n"
    elif client_minor == 0:
        extra += b"Connection: keep-alive\r\n"
    for via in response.via:
        extra += b"Via: %b\r\n" % via
    return b"".join((response.status_line, *response.plain, extra, VIA_CLIENT, b"\r\n"))


def interim_head(response: ResponseHead) -> bytes:
    """A 1xx as the client gets it (RFC 9110 §15.2)."""
    if response.connection not in _PLAIN_TOKENS:
        strip_named(response)
    return b"".join((response.status_line, *response.plain, b"\r\n"))


def switching_head(response: ResponseHead) -> bytes:
    """The 101 that turns the connection into a tunnel."""
    strip_named(response)
    return b"".join(
        (
            response.status_line,
            *response.plain,
            b"Connection: Upgrade\r\nUpgrade: %b\r\n" % (response.upgrade or b""),
            VIA_CLIENT,
            b"\r\n",
        )
    )
