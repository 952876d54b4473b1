"""ZooKeeper's protocol as bytes: jute, in which it is written, and the few messages that are used.
No I/O.

Integers are big-endian and signed, texts and buffers begin with their length (-1 = none), and each
message is a frame with its length in front. Requests and replies as of `zookeeper.jute` in 3.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from struct import Struct, error, pack
from typing import NamedTuple

from proxy.registry.base import BadReply, LeaseLost, Refused, RegistryError

MAX_FRAME = 16 * 2**20
"""Bytes of a frame. Servers refuse more than 1 MiB from clients (`jute.maxbuffer`); a list of
children may be longer, here up to half a million with names of 30 bytes."""

_INT = Struct(">i")
_LONG = Struct(">q")
_FLAG = Struct(">b")
_STAT = Struct(">qqqqiiiqiiq")
_REPLY = Struct(">iqi")


class Op(IntEnum):
    """Kinds of requests."""

    CREATE = 1
    DELETE = 2
    EXISTS = 3
    GET_DATA = 4
    SET_DATA = 5
    SYNC = 9
    PING = 11
    GET_CHILDREN = 12
    MULTI = 14
    AUTH = 100
    ADD_WATCH = 106
    CLOSE = -11


NOTIFICATION, PING, AUTH = -1, -2, -4
"""Xids of frames that answer no request of ours, or one outside of their order."""

RECURSIVE = 1
"""Mode of a watch: it stays, and covers all that is below."""
_FAILED = -1
"""Kind of a result of `MULTI` that says an error, also 0 for what came before it."""
EPHEMERAL = 1
"""Flag of a node that goes with the session."""

Right = tuple[int, str, str]
"""Permissions (`READ`, `ALL`), and who has them: scheme and id."""
READ, ALL = 1, 31
ANYBODY: tuple[Right, ...] = ((ALL, "world", "anyone"),)
OURS: tuple[Right, ...] = ((ALL, "auth", ""), (READ, "world", "anyone"))
"""Rights to all for the user that the session showed; others may look."""

NO_NODE, BAD_VERSION, NODE_EXISTS, SESSION_EXPIRED = -101, -103, -110, -112

_WORDS = {
    -6: "the server does not know the request (Unimplemented), as ZooKeeper does since 3.6",
    NO_NODE: "there is no such node (NoNode)",
    -102: "no right to do that (NoAuth)",
    BAD_VERSION: "the node has another version (BadVersion)",
    -108: "ephemeral nodes have no children (NoChildrenForEphemerals)",
    NODE_EXISTS: "the node is there already (NodeExists)",
    SESSION_EXPIRED: "the session has expired (SessionExpired)",
    -115: "the user or the password is wrong (AuthFailed)",
    -118: "the session is at another server (SessionMoved)",
}


class Failed(BadReply):
    """A reply that says no; `code` is ZooKeeper's."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(f"{what}: {_WORDS.get(code, f'error {code}')}")
        self.code = code


class Denied(Failed, Refused):
    """No rights, no such user, or no such request."""


class Expired(Failed, LeaseLost):
    """The session is no more."""


class Stat(NamedTuple):
    """Facts about a node beside its data."""

    czxid: int
    mzxid: int
    ctime: int
    mtime: int
    version: int
    cversion: int
    aversion: int
    owner: int
    """Session that the node is an ephemeral of; 0 = it is none."""
    size: int
    children: int
    pzxid: int
    """Of the last change of its children."""


CREATED, DELETED = 1, 2
"""Kinds of notifications."""


class Event(NamedTuple):
    """A notification. What has happened is to be read."""

    kind: int
    path: str
    zxid: int
    """0 where the server does not tell, as before 3.9."""


class Accepted(NamedTuple):
    """The reply to a connection's first request."""

    timeout: int
    """Milliseconds until the session ends without a request; 0 = it has ended."""
    session: int
    password: bytes


class Reader:
    """Owns a frame and the place up to which it was read. RegistryError beyond its end."""

    def __init__(self, frame: bytes) -> None:
        self.zxid = 0
        """Of a reply: that of the write, or the newest that the server knew."""
        self._frame = frame
        self._at = 0

    def small(self) -> int:
        return self._take(_INT)[0]

    def flag(self) -> bool:
        return self._take(_FLAG)[0] != 0

    def long(self) -> int:
        return self._take(_LONG)[0]

    def buffer(self) -> bytes:
        size = max(0, self.small())
        piece = self._frame[self._at : self._at + size]
        if len(piece) != size:
            raise RegistryError("a frame ends in the middle of a text")
        self._at += size
        return piece

    def text(self) -> str:
        return self.buffer().decode(errors="replace")

    def texts(self) -> list[str]:
        size = self.small()
        if size > len(self._frame):
            raise RegistryError("a frame ends in the middle of a list")
        return [self.text() for _ in range(max(0, size))]

    def stat(self) -> Stat:
        return Stat(*self._take(_STAT))

    def reply(self) -> tuple[int, int, int]:
        """Xid, zxid and error of a reply's header."""
        xid, self.zxid, code = self._take(_REPLY)
        return xid, self.zxid, code

    def event(self, zxid: int) -> Event:
        kind = self.small()
        self.small()  # state of the connection, which is known
        return Event(kind, self.text(), max(0, zxid))

    def accepted(self) -> Accepted:
        self.small()  # version of the protocol, always 0
        return Accepted(self.small(), self.long(), self.buffer())

    def _take(self, shape: Struct) -> tuple[int, ...]:
        try:
            values = shape.unpack_from(self._frame, self._at)
        except error:
            raise RegistryError("a frame ends too early") from None
        self._at += shape.size
        return values


def text(value: str | bytes) -> bytes:
    """A text or a buffer."""
    known = value.encode() if isinstance(value, str) else value
    return _INT.pack(len(known)) + known


def framed(message: bytes) -> bytes:
    return _INT.pack(len(message)) + message


def request(xid: int, op: Op, body: bytes) -> bytes:
    """The frame of a request."""
    return framed(_INT.pack(xid) + _INT.pack(op) + body)


def connect(zxid: int, timeout: int, session: int = 0, password: bytes = b"") -> bytes:
    """The first frame: `zxid` is the last one seen, and a server that is behind it hangs up;
    `timeout` in milliseconds; `session` 0 = a new one."""
    return framed(pack(">iqiq", 0, zxid, timeout, session) + text(password or bytes(16)) + b"\0")


def auth(scheme: str, credentials: str) -> bytes:
    return _INT.pack(0) + text(scheme) + text(credentials)


def read(path: str) -> bytes:
    """Body of `GET_DATA`, `GET_CHILDREN` and `EXISTS`, without a watch."""
    return text(path) + b"\0"


def watch(path: str) -> bytes:
    """Body of `ADD_WATCH`, for all that is below the path."""
    return text(path) + _INT.pack(RECURSIVE)


def create(path: str, value: bytes, rights: Sequence[Right], flags: int) -> bytes:
    """Body of `CREATE`."""
    acl = b"".join(_INT.pack(what) + text(scheme) + text(id_) for what, scheme, id_ in rights)
    return text(path) + text(value) + _INT.pack(len(rights)) + acl + _INT.pack(flags)


def write(path: str, value: bytes, version: int) -> bytes:
    """Body of `SET_DATA`, if the node has this version."""
    return text(path) + text(value) + _INT.pack(version)


def delete(path: str, version: int) -> bytes:
    """Body of `DELETE`, if the node has this version; -1 = whichever."""
    return text(path) + _INT.pack(version)


def multi(*requests: tuple[Op, bytes]) -> bytes:
    """Body of `MULTI`: all of these, or none."""
    parts = (pack(">i?i", op, False, -1) + body for op, body in requests)
    return b"".join(parts) + pack(">i?i", -1, True, -1)


def refusal(reply: Reader) -> int:
    """Code of the first error in the reply to `MULTI`; 0 = all was done."""
    kind, done, _ = reply.small(), reply.flag(), reply.small()
    while not done and kind == _FAILED:
        if code := reply.small():
            return code
        kind, done, _ = reply.small(), reply.flag(), reply.small()
    return 0


def failed(code: int, what: str) -> Failed:
    """The error of a reply; `what` was asked."""
    if code in (-102, -115, -6):
        return Denied(code, what)
    return (Expired if code == SESSION_EXPIRED else Failed)(code, what)
