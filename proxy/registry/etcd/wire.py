"""etcd's JSON gateway as bytes: replies, stream frames and error bodies. No I/O.

64-bit integers travel as strings, bytes as base64, and fields that are zero, empty or false
are left out (the proto3 JSON mapping); msgspec undoes all three while it decodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, TypeVar

import msgspec

from proxy.registry.base import LeaseLost, Refused, RegistryError

MAX_FRAME = 64 * 1024 * 1024
"""A frame beyond this is refused. etcd sends up to 1,000 revisions in one frame and 16 MB
frames are seen in practice, so the bound leaves room; without one, a peer that is not etcd
could fill the memory with a line that never ends."""


class EtcdError(RegistryError):
    """A call or a stream failed; etcd may be tried again, here or elsewhere."""

    answered: ClassVar[bool] = True


class Unreachable(EtcdError):
    """No answer, no connection, or an answer that says "not now" (no leader, shutting down)."""

    answered: ClassVar[bool] = False


class TokenRefused(EtcdError, Refused):
    """The token is stale, or the user may not read the prefix: 3.5.1 uses the same words."""


class GatewayOff(EtcdError, Refused):
    """404: the address answers HTTP but has no JSON gateway."""


class Compacted(EtcdError):
    """The asked-for revision is no longer kept."""


class LeaseNotFound(EtcdError, LeaseLost):
    """The lease ran out, was revoked, or belonged to a store that is no more."""


class BadCredentials(EtcdError, Refused):
    """Wrong user or password. Asking again gives the same answer."""


class BadTlsFiles(EtcdError, Refused):
    """A certificate or key of ours could not be loaded."""


class Header(msgspec.Struct, frozen=True, gc=False):
    cluster_id: int = 0
    revision: int = 0


class KeyValue(msgspec.Struct, frozen=True, gc=False):
    key: bytes = b""
    value: bytes = b""
    mod_revision: int = 0
    lease: int = 0


class RangeReply(msgspec.Struct, frozen=True):
    header: Header = Header()
    kvs: tuple[KeyValue, ...] = ()
    more: bool = False
    count: int = 0


class Event(msgspec.Struct, frozen=True, gc=False):
    kv: KeyValue = KeyValue()
    type: str = "PUT"

    @property
    def deleted(self) -> bool:
        return self.type == "DELETE"


class WatchFrame(msgspec.Struct, frozen=True):
    """A message of a watch: atomic, to be applied whole."""

    header: Header = Header()
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: tuple[Event, ...] = ()

    @property
    def bookmark(self) -> bool:
        """A progress notification: everything up to the header's revision was delivered."""
        return not (self.events or self.created or self.canceled)


class AuthReply(msgspec.Struct, frozen=True):
    token: str = ""


class LeaseReply(msgspec.Struct, frozen=True, rename={"id": "ID", "ttl": "TTL"}):
    """A grant, one keep-alive, or a time to live: without a lease, `ttl` is 0 or less."""

    header: Header = Header()
    id: int = 0
    ttl: int = 0
    keys: tuple[bytes, ...] = ()


class _RangeOf(msgspec.Struct, frozen=True):
    response_range: RangeReply = RangeReply()


class TxnReply(msgspec.Struct, frozen=True):
    header: Header = Header()
    succeeded: bool = False
    responses: tuple[_RangeOf, ...] = ()

    @property
    def ranges(self) -> tuple[RangeReply, ...]:
        """Replies of the operations that read, in their order; empty replies for those that
        wrote."""
        return tuple(response.response_range for response in self.responses)


class _KeptLine(msgspec.Struct, frozen=True):
    result: LeaseReply | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Line(msgspec.Struct, frozen=True):
    result: WatchFrame | None = None
    error: msgspec.Raw = msgspec.Raw()


_lines = msgspec.json.Decoder(_Line, strict=False)
_ranges = msgspec.json.Decoder(RangeReply, strict=False)
_auths = msgspec.json.Decoder(AuthReply, strict=False)
_leases = msgspec.json.Decoder(LeaseReply, strict=False)
_kept = msgspec.json.Decoder(_KeptLine, strict=False)
_txns = msgspec.json.Decoder(TxnReply, strict=False)


def decode_range(body: bytes) -> RangeReply:
    return _decode(_ranges, body)


def decode_auth(body: bytes) -> AuthReply:
    return _decode(_auths, body)


def decode_lease(body: bytes) -> LeaseReply:
    return _decode(_leases, body)


def decode_txn(body: bytes) -> TxnReply:
    return _decode(_txns, body)


def decode_kept(body: bytes) -> LeaseReply:
    """The answer to a keep-alive: a stream of one message. EtcdError for one that is an error,
    or for a stream that ended before it."""
    line = body.strip().partition(b"\n")[0]
    if not line:
        raise Unreachable("keep-alive stream ended without an answer")
    message = _decode(_kept, line)
    if message.error:
        raise error_from(0, bytes(message.error))
    if message.result is None:
        raise EtcdError(f"keep-alive without a result: {line[:200]!r}")
    return message.result


class FrameReader:
    """Owns the bytes of a watch stream that do not make a whole frame yet.

    Frames are JSON objects, one a line. Reads end anywhere: one may hold many frames or the
    tenth part of one, so the same bytes give the same frames however they are cut.
    """

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> Iterator[WatchFrame]:
        """The frames that `data` completes, in order. EtcdError for an error object, a frame
        beyond the limit or anything that is not a frame, after the frames before it."""
        searched = len(self._buffer)
        self._buffer += data
        end = self._buffer.rfind(b"\n", searched)
        if end < 0:
            if len(self._buffer) > self._limit:
                raise EtcdError(f"watch frame larger than {self._limit} bytes")
            return
        whole = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        for line in whole.split(b"\n"):
            if line.strip():
                yield _frame(line)

    def end(self) -> Iterator[WatchFrame]:
        """The stream is over, which always is an error: the last object says which one, and
        etcd sends that one without a newline. A last frame without one counts as well."""
        rest = bytes(self._buffer).strip()
        self._buffer.clear()
        if rest:
            yield _frame(rest)
        raise Unreachable("watch stream ended")


def _frame(line: bytes) -> WatchFrame:
    message = _decode(_lines, line)
    if message.error:
        raise error_from(0, bytes(message.error))
    if message.result is None:
        raise EtcdError(f"watch frame without a result: {line[:200]!r}")
    return message.result


def error_from(status: int, body: bytes) -> EtcdError:
    """The error that an error body means, by HTTP status (0 inside a stream) and whichever shape it
    has.

    Unary calls of 3.4 and 3.5 say `{"error": text, "code": n}`, 3.6 says `{"message": text,
    "code": n}`, streams nest an object under `error` with `grpc_code` (3.4, 3.5) or `code`
    (3.6), and whatever stands in front of etcd says something else entirely.
    """
    try:
        shape = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        shape = None
    if isinstance(shape, dict) and isinstance(shape.get("error"), dict):
        shape = shape["error"]
    code, text = 0, ""
    if isinstance(shape, dict):
        code = shape.get("code") or shape.get("grpc_code") or 0
        text = str(shape.get("message") or shape.get("error") or "")
    elif isinstance(shape, str):
        text = shape
    if status == 404 and not code:
        return GatewayOff("404: no JSON gateway here; is enable-grpc-gateway off on this member?")
    text = text or f"HTTP {status}: {body[:200].decode(errors='replace')}"
    if code in _TOKEN_CODES:
        return TokenRefused(text)
    if code == _UNAVAILABLE or status in (502, 503, 504):
        return Unreachable(text)
    return error_named(text)


def error_named(text: str) -> EtcdError:
    """The error that a message means when no code came with it: a watch's `cancel_reason`,
    mostly."""
    low = text.lower()
    for kind, phrases in _PHRASES.items():
        if any(phrase in low for phrase in phrases):
            return kind(text)
    return EtcdError(text)


_UNAVAILABLE = 14
_TOKEN_CODES = frozenset({7, 16})  # PermissionDenied (3.5.1's stale token), Unauthenticated
_PHRASES: dict[type[EtcdError], tuple[str, ...]] = {
    TokenRefused: (
        "invalid auth token",
        "permission denied",
        "permissiondenied",
        "auth store is old",  # users or roles changed since the token was given out,
        "revision in header is old",  # and the same from older servers
        "user name is empty",  # authentication was switched on meanwhile
    ),
    Compacted: ("has been compacted",),
    LeaseNotFound: ("requested lease not found",),
    BadCredentials: ("authentication failed",),
    Unreachable: ("no leader", "leader changed", "unavailable", "timed out", "server stopped"),
}

_T = TypeVar("_T")


def _decode(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise EtcdError(f"not an etcd answer: {error}: {body[:200]!r}") from None
