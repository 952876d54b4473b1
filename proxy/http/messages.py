"""Heads as values: what a parsed request or response says, before anything is decided.

A head is a start line, which differs from message to message, and a block of field lines,
which on a busy connection is often the same to the byte as the one before. So the two are
separate objects: the fields are frozen, hold everything that follows from the block alone, and
may be shared by messages of one connection.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, NamedTuple

from proxy.http.memo import ENTRY
from proxy.http.request_id import USUAL

CRLF: Final = b"\r\n"
VERSIONS: Final = (b"1.0", b"1.1", b"2.0")
"""By `RequestHead.minor`."""
_NONE: Final[dict[bytes, bytes]] = {}  # ≤ 64 B
_NO_NAMES: Final[frozenset[bytes]] = frozenset()
_GRPC: Final = b"application/grpc"

Resolved = tuple[str, bytes, bool, tuple[str, ...] | None]
"""Path (normalised), `?query` or empty, whether the two make up the target as it was received, and
the other readings of the path; None = nothing about it is unusual."""


def phrase_of(status: int) -> str:
    """The reason phrase of a status; empty for one that nobody has given any."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def pairs_of(plain: bytes) -> list[tuple[bytes, bytes]]:
    """Name and value of each of the lines `Name: value` CR LF, in order."""
    lines = plain.split(CRLF)[:-1]
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]


def values_of(plain: bytes, name: bytes) -> list[bytes]:
    """Values of the lines `Name: value` CR LF of a name in lower case, in order."""
    mark = CRLF + name + b": "
    lower = CRLF + plain.lower()
    values: list[bytes] = []
    at = lower.find(mark)
    while at >= 0:  # ≤ 256
        at += len(mark)
        end = lower.find(CRLF, at)
        values.append(plain[at - 2 : end - 2])
        at = lower.find(mark, end)
    return values


class Fields:
    """Fields that requests and responses have in common. Frozen once parsed.

    Defaults stand on the class: a block pays only for what is special about it.
    """

    edit: object | None = None
    """The `Edit` that has made the block of another one."""
    length: int | None = None
    """`Content-Length`; None = no such field."""
    chunked = False
    connection: frozenset[bytes] = _NO_NAMES
    """Lower-case members of `Connection`."""
    keeps_alive = (False, True)
    """Whether the sender is willing to use the connection again, by its minor version."""
    upgrade: bytes | None = None
    via: tuple[bytes, ...] = ()
    trailer: bytes | None = None

    def __init__(self, plain: bytes, count: int, size: int = 0) -> None:
        """`plain`: the lines of those that mean nothing to a proxy, each `Name: value` CR LF;
        `size`: bytes of the block."""
        self.memory = 4 * ENTRY + 4 * size + 96 * count
        """Bytes that the block and what was parsed of it take, rather too many than too few: the
        block, its lines, those that are plain, and with what goes before and behind them; and what
        each is an object of."""
        self.plain = plain
        """Plain lines with their ends, without those that `Connection` names."""
        # On the instance as well: every message is asked for these, and finds them sooner there.
        self.length = None
        self.chunked = False
        self.count = count
        """Field lines, all of them."""

    @property
    def pairs(self) -> list[tuple[bytes, bytes]]:
        """(name as received, value) of the fields in `plain`, in order."""
        return pairs_of(self.plain)

    def get(self, name: bytes) -> bytes | None:
        """Value of a field without meaning to a proxy, by lower-case name; several lines are
        joined by a comma (RFC 9110 §5.2), those of Cookie by a semicolon (RFC 9113 §8.2.3). None
        when it is absent."""
        values = values_of(self.plain, name)
        return (b"; " if name == b"cookie" else b", ").join(values) if values else None

    def set_connection(self, members: frozenset[bytes]) -> None:
        """Set the members of `Connection`, and what follows from them (RFC 9112 §9.3)."""
        self.connection = members
        self.memory += 96 * len(members)
        stays = b"close" not in members
        self.keeps_alive = (stays and b"keep-alive" in members, stays)


class RequestFields(Fields):
    """The field block of a request."""

    host = b""
    host_name = ""
    """Lower-case, without port."""
    hosts = 0
    """Host lines."""
    expect: bytes | None = None
    te_trailers = False
    request_id: bytes | None = None
    """The client's own, if it is one that may be kept."""
    id_name = USUAL
    """Lower-case name of the field that holds it; empty = none does."""
    max_forwards: bytes | None = None
    claims: dict[bytes, bytes] = _NONE
    """Fields that only a trusted proxy may say (`claims.py`): lower-case name → value."""
    claims_named: dict[bytes, bytes] = _NONE
    """Claims that `Connection` names as well: they are not passed on."""
    claim_lines = b""
    """How they are passed on, without those that are written anew."""
    underscored: tuple[bytes, ...] = ()
    """Names of fields that were left out because of a `_`."""
    unusual = False
    """Whether a field needs a look: Via, Expect, Upgrade, Max-Forwards, X-Forwarded-Prefix, or a
    name that was left out. One question instead of six for each request."""
    edited: RequestFields | None = None
    """The block that was made of this one last, for an instance."""
    taken: frozenset[bytes] = _NO_NAMES
    """Names of claims that an edit has left out."""
    passed = b""
    """Field lines that go on to the instance whatever the client: plain fields, framing, Via."""
    _grpc: bytes | None = None
    logged: tuple[object, bool, bytes] | None = None
    """The lines of an access log that were asked, whether about a trusted peer, and what they say
    of the block."""

    orphan: object | None = None
    """The propagation that has found no parent of a trace in the block: see `trace_context.py`."""

    @property
    def grpc(self) -> bytes:
        """Content-Type, if it is one of gRPC's; else empty. It is looked for once."""
        found = self._grpc
        if found is None:
            found = b""
            if _GRPC in self.plain:  # In whatever field; few get as far as a look.
                content_type = self.get(b"content-type") or b""
                found = content_type if content_type.startswith(_GRPC) else b""
            self._grpc = found
        return found

    @grpc.setter
    def grpc(self, content_type: bytes) -> None:
        self._grpc = content_type


class ResponseFields(Fields):
    """The field block of a response."""

    keep_alive: bytes | None = None
    dated = True
    """Whether there is a Date."""
    usual = True
    """Whether no field depends on the answer or on the time, so that `relayed` will do."""
    relayed = b""
    """Rest of the head for the usual client: 1.1, kept alive, body by length."""
    closing = b""
    """Rest of the head where the connection ends with the answer; empty = not asked for yet."""
    block = b""
    """Field block of the head in HTTP/2; empty = not asked for yet, or the time is in it."""


class RequestHead:
    """A request before routing."""

    __slots__ = ("fields", "method", "minor", "resolved", "target")

    def __init__(self, method: bytes, target: bytes, minor: int, fields: RequestFields) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        """1 for HTTP/1.1, 0 for HTTP/1.0; 2 for HTTP/2, which has none (`VERSIONS`)."""
        self.fields = fields
        self.resolved: Resolved | None = None
        """See `target.resolve`, once that was asked."""

    def __repr__(self) -> str:
        version = VERSIONS[self.minor].decode()
        return f"<{self.method.decode()} {self.target.decode()} HTTP/{version}>"


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


class OwnAnswer(NamedTuple):
    """A whole answer that no instance gave."""

    status: int
    phrase: str
    fields: tuple[tuple[bytes, bytes], ...]
    """Fields that no stream adds by itself: not the date, the length, the id, nor `Via`."""
    content: bytes
