"""First lines of heads: what is asked, and how it went (RFC 9112 §3, §4)."""

from __future__ import annotations

import re
from typing import Final

from proxy.engine.http1.beginnings import check_form
from proxy.errors import BAD_ANSWER, BAD_REQUEST, VERSION_NOT_SUPPORTED, Refused
from proxy.http.target import LONGEST_METHOD, TARGET_BYTES, TOKEN

_METHODS: Final = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT")
)
_TARGET: Final = bytes(byte if byte in TARGET_BYTES else 255 - byte for byte in range(256))
"""A table that changes what no target holds: nothing is deleted, which takes five times as long."""
_VERSION: Final = re.compile(rb"HTTP/(\d)\.(\d)")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?")

StatusLine = tuple[int, int, bytes]
"""Status, minor version, and the line as it goes to the client."""


def split_request_line(line: bytes) -> tuple[bytes, bytes, int]:
    """Method, target and minor version. Exactly one space between them (RFC 9112 §3)."""
    try:
        method, target, version = line.split(b" ")
    except ValueError:
        shape = "the request line is not METHOD SP TARGET SP VERSION"
        raise Refused(BAD_REQUEST, shape) from None
    if method not in _METHODS and not (len(method) <= LONGEST_METHOD and TOKEN.fullmatch(method)):
        raise Refused(BAD_REQUEST, "the method is not a token, or too long")
    if version == b"HTTP/1.1":
        minor = 1
    elif version == b"HTTP/1.0":
        minor = 0
    else:
        match = _VERSION.fullmatch(version)
        if match is None:
            raise Refused(BAD_REQUEST, "the version is not HTTP/DIGIT.DIGIT")
        if match[1] != b"1":
            raise Refused(VERSION_NOT_SUPPORTED, f"{version.decode()} is not spoken here")
        minor = 1  # RFC 9110 §2.5: a higher minor version is handled as the highest we know.
    if target.translate(_TARGET) != target:
        raise Refused(BAD_REQUEST, "the target holds bytes that no URI has")
    if not target.startswith(b"/"):
        check_form(method, target, True)
    return method, target, minor


def split_status_line(line: bytes) -> StatusLine:
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise Refused(BAD_ANSWER, "the status line is not HTTP/1.x SP CODE SP REASON")
    reason = match[3] or b""
    return int(match[2]), int(match[1]), b"HTTP/1.1 %b %b\r\n" % (match[2], reason)
