"""gRPC-Web, which browsers speak (its PROTOCOL-WEB), to gRPC and back: heads, and content in order.

Scripts see no trailers. So these are a last frame of the content, marked as such, and the whole may
be written in base64. Calls of streams are of the answer alone.
"""

from __future__ import annotations

import binascii
import re
from typing import Final

from proxy.errors import BAD_REQUEST, Refused
from proxy.http.edits import request_with, response_with
from proxy.http.forwarding import passed_fields
from proxy.http.messages import CRLF, RequestHead, ResponseHead

_WEB: Final = re.compile(rb"application/grpc-web(-text)?((?:\+[^;\s]+)?)(?:;.*)?")
_GRPC: Final = re.compile(rb"application/grpc((?:\+[^;\s]+)?)(?:;.*)?")
_TYPE: Final = re.compile(rb"(?m)^content-type:[^\r\n]*\r\n", re.IGNORECASE)
_PADDED: Final = re.compile(rb"[^=]+={0,2}|=+")
_MOST_PADDED: Final = 256
"""Parts with an end of their own in one piece of base64: clients may end one with each message."""
_TRAILERS: Final = b"\x80%b%b"


def is_web(content_type: bytes) -> bool:
    """Whether a request of this content type is a call of gRPC-Web."""
    return _WEB.fullmatch(content_type) is not None


class WebCoding:
    """Owns where in the content of one call its two translations are."""

    __slots__ = ("_rest", "_text", "content_type")

    def __init__(self, content_type: bytes) -> None:
        """`content_type`: the client's."""
        match = _WEB.fullmatch(content_type)
        assert match is not None
        self._text = match[1] is not None
        self.content_type = content_type
        self._rest = b""  # ≤ 64 B
        """Less than a group of base64."""

    # -- to the instance

    def request(self, request: RequestHead) -> RequestHead:
        """The head of the call."""
        was = request.fields
        match = _WEB.fullmatch(was.grpc)
        assert match is not None
        content_type = b"application/grpc" + match[2]
        kept = _TYPE.sub(b"", was.plain) + b"content-type: %b\r\n" % content_type
        fields = request_with(was, kept)
        fields.unusual, fields.upgrade = False, None
        fields.chunked = was.chunked or (self._text and bool(was.length))
        fields.length = None if fields.chunked else was.length
        fields.te_trailers = True
        fields.grpc = content_type
        fields.passed = passed_fields(fields)
        return RequestHead(request.method, request.target, request.minor, fields)

    def body(self, pieces: list[bytes], done: bool) -> list[bytes]:
        """Content of the request. Raises `Refused`."""
        if not self._text:
            return pieces
        data = self._rest + b"".join(pieces)
        whole = len(data) if done else len(data) & ~3
        self._rest = data[whole:]
        parts = _PADDED.findall(data[:whole])
        if len(parts) > _MOST_PADDED:
            raise Refused(BAD_REQUEST, f"more than {_MOST_PADDED} ends of base64 in one piece")
        try:
            decoded = b"".join([binascii.a2b_base64(part, strict_mode=True) for part in parts])
        except binascii.Error:
            raise Refused(BAD_REQUEST, "the body is not base64") from None
        return [decoded] if decoded else []

    # -- to the client

    def answer(self, response: ResponseHead) -> ResponseHead | None:
        """The head of the answer; None: it is none of gRPC, and goes as it is."""
        was = response.fields
        match = _GRPC.fullmatch(was.get(b"content-type") or b"")
        if match is None:
            return None
        kind = b"-web-text" if self._text else b"-web"
        content_type = b"application/grpc%b%b" % (kind, match[1])
        kept = _TYPE.sub(b"", was.plain) + b"content-type: %b\r\n" % content_type
        fields = response_with(was, kept)
        fields.length = 0 if was.length == 0 else None  # Of trailers alone; or there is a frame.
        return ResponseHead(response.status, response.status_line, response.minor, fields)

    def content(self, pieces: list[bytes], trailers: bytes) -> list[bytes]:
        """Content of the answer, behind which there are `trailers`, or more of it."""
        if trailers:
            lines = b"".join(
                [name.lower() + b": " + value + CRLF for name, value in _pairs(trailers)]
            )
            pieces = [*pieces, _TRAILERS % (len(lines).to_bytes(4, "big"), lines)]
        if self._text and any(pieces):
            # What is written ends for itself: a message must not wait for the next one.
            return [binascii.b2a_base64(b"".join(pieces), newline=False)]
        return pieces


def _pairs(lines: bytes) -> list[tuple[bytes, bytes]]:
    parts = [line.partition(b":") for line in lines.split(CRLF)[:-1]]
    return [(name, value.strip(b" \t")) for name, _, value in parts]
