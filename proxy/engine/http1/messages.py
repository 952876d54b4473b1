"""Heads as values: what a parsed request or response says, before anything is decided.

A head is a start line, which differs from message to message, and a block of field lines,
which on a busy connection is often the same to the byte as the one before. So the two are
separate objects: the fields are frozen, hold everything that follows from the block alone, and
may be shared by any number of messages.
"""

from __future__ import annotations

from typing import Final

CRLF: Final = b"\r\n"

Pairs = tuple[tuple[bytes, bytes], ...]
"""(name as received, value) of the fields that mean nothing to a proxy, in order."""


def serialise(pairs: Pairs) -> bytes:
    """Field lines."""
    return b"".join([b"%b: %b\r\n" % pair for pair in pairs])


class Fields:
    """What requests and responses have in common. Frozen once it is parsed."""

    __slots__ = (
        "chunked", "connection", "count", "keeps_alive", "length", "pairs", "plain", "trailer",
        "upgrade", "via",
    )  # fmt: skip

    def __init__(self, pairs: Pairs, count: int) -> None:
        self.pairs = pairs
        self.count = count
        """Field lines, all of them."""
        self.plain = b""
        """`pairs` serialised, without those that `Connection` names."""
        self.length: int | None = None
        """`Content-Length`; None = no such field."""
        self.chunked = False
        self.connection: tuple[bytes, ...] = ()
        """Lower-case tokens of `Connection`."""
        self.keeps_alive = (False, True)
        """Whether the sender is willing to use the connection again, by its minor version."""
        self.upgrade: bytes | None = None
        self.via: tuple[bytes, ...] = ()
        self.trailer: bytes | None = None

    def get(self, name: bytes) -> bytes | None:
        """Value of a field without meaning to a proxy, by lower-case name; several lines are
        joined by a comma (RFC 9110 §5.2). None when it is absent."""
        values = [value for seen, value in self.pairs if seen.lower() == name]
        return b", ".join(values) if values else None

    def set_connection(self, tokens: tuple[bytes, ...]) -> None:
        """What `Connection` says, and what follows from it (RFC 9112 §9.3)."""
        self.connection = tokens
        stays = b"close" not in tokens
        self.keeps_alive = (stays and b"keep-alive" in tokens, stays)


class RequestFields(Fields):
    """The field block of a request."""

    __slots__ = (
        "expect", "forwarded", "forwarded_for", "forwarded_host", "forwarded_port",
        "forwarded_proto", "host", "host_name", "hosts", "max_forwards", "passed", "real_ip",
        "request_id", "te_trailers",
    )  # fmt: skip

    def __init__(self, pairs: Pairs, count: int) -> None:
        super().__init__(pairs, count)
        self.host = b""
        self.host_name = ""
        """Lower-case, without port."""
        self.hosts = 0
        """Host lines."""
        self.expect: bytes | None = None
        self.te_trailers = False
        self.request_id: bytes | None = None
        self.forwarded_for: bytes | None = None
        self.forwarded_proto: bytes | None = None
        self.forwarded_host: bytes | None = None
        self.forwarded_port: bytes | None = None
        self.forwarded: bytes | None = None
        self.real_ip: bytes | None = None
        self.max_forwards: bytes | None = None
        self.passed = b""
        """What goes on to the instance whatever the client: plain fields, framing, Via."""


class ResponseFields(Fields):
    """The field block of a response."""

    __slots__ = ("keep_alive", "relayed")

    def __init__(self, pairs: Pairs, count: int) -> None:
        super().__init__(pairs, count)
        self.keep_alive: bytes | None = None
        self.relayed = b""
        """The rest of the head for the usual client: 1.1, kept alive, body by length."""


class RequestHead:
    """A request before routing."""

    __slots__ = ("fields", "method", "minor", "target")

    def __init__(self, method: bytes, target: bytes, minor: int, fields: RequestFields) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        """1 for HTTP/1.1, 0 for HTTP/1.0."""
        self.fields = fields

    def __repr__(self) -> str:
        return f"<{self.method.decode()} {self.target.decode()} HTTP/1.{self.minor}>"


class ResponseHead:
    """A response as the instance sent it."""

    __slots__ = ("fields", "minor", "status", "status_line")

    def __init__(self, status: int, status_line: bytes, minor: int, fields: ResponseFields) -> None:
        self.status = status
        self.status_line = status_line
        """`HTTP/1.1 200 OK` CRLF, as it goes to the client."""
        self.minor = minor
        self.fields = fields

    def __repr__(self) -> str:
        return f"<{self.status_line.strip().decode('latin-1')}>"
