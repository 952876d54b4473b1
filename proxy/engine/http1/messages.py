"""Heads as values: what a parsed request or response says, before anything is decided.

The defaults stand on the class, so that a head costs one attribute store for each thing that
is special about it and nothing for what is not. `plain` is a flat list of serialised field
lines (`name`, `": "`, `value`, CRLF, …): fields that mean nothing to a proxy go from the
parser to the wire without being looked at again.
"""

from __future__ import annotations

from collections.abc import Iterator

COLON = b": "
CRLF = b"\r\n"


class Head:
    """What requests and responses have in common."""

    minor: int
    """1 for HTTP/1.1, 0 for HTTP/1.0."""
    plain: list[bytes]
    length: int | None = None
    """`Content-Length`; None = no such field."""
    chunked: bool = False
    connection: tuple[bytes, ...] = ()
    """Lower-case tokens of `Connection`."""
    upgrade: bytes | None = None
    via: tuple[bytes, ...] = ()
    trailer: bytes | None = None

    def fields(self) -> Iterator[tuple[bytes, bytes]]:
        """The plain fields as (name as received, value). For the slow path."""
        plain = self.plain
        for at in range(0, len(plain), 4):
            yield plain[at], plain[at + 2]

    def field(self, name: bytes) -> bytes | None:
        """Value of a plain field by lower-case name; several lines are joined by a comma
        (RFC 9110 §5.2). None when it is absent."""
        values = [value for seen, value in self.fields() if seen.lower() == name]
        return b", ".join(values) if values else None

    def drop(self, names: tuple[bytes, ...]) -> None:
        """Take plain fields out by lower-case name."""
        kept: list[bytes] = []
        for name, value in self.fields():
            if name.lower() not in names:
                kept += (name, COLON, value, CRLF)
        self.plain = kept

    @property
    def keeps_alive(self) -> bool:
        """Whether the sender is willing to use the connection again (RFC 9112 §9.3)."""
        if b"close" in self.connection:
            return False
        return self.minor == 1 or b"keep-alive" in self.connection


class RequestHead(Head):
    """A request before routing."""

    method: bytes
    target: bytes
    host: bytes = b""
    expect: bytes | None = None
    te_trailers: bool = False
    request_id: bytes | None = None
    forwarded_for: bytes | None = None
    forwarded_proto: bytes | None = None
    forwarded_host: bytes | None = None
    forwarded_port: bytes | None = None
    forwarded: bytes | None = None
    real_ip: bytes | None = None
    max_forwards: bytes | None = None

    def __init__(self, method: bytes, target: bytes, minor: int, plain: list[bytes]) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        self.plain = plain

    def __repr__(self) -> str:
        return f"<{self.method.decode()} {self.target.decode()} HTTP/1.{self.minor}>"


class ResponseHead(Head):
    """A response as the instance sent it."""

    status: int
    status_line: bytes
    """`HTTP/1.1 200 OK` CRLF, as it goes to the client."""
    keep_alive: bytes | None = None

    def __init__(self, status: int, status_line: bytes, minor: int, plain: list[bytes]) -> None:
        self.status = status
        self.status_line = status_line
        self.minor = minor
        self.plain = plain

    def __repr__(self) -> str:
        return f"<{self.status_line.strip().decode('latin-1')}>"
