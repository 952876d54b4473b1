"""The beginning of a request whose head is not whole: can it still become one?

What cannot is refused with the byte that shows it. Garbage, TLS, the greetings of other protocols
and lines that end in a bare LF would else wait for the end of a head that never comes, until the
client's time is over. Bytes are judged from left to right, each by those before it alone, so that
the answer cannot depend on how they were cut; and nothing is refused here that `parser` would not
refuse in a whole head.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.errors import (
    BAD_REQUEST,
    HEAD_TOO_LARGE,
    TARGET_TOO_LONG,
    VERSION_NOT_SUPPORTED,
    Refused,
)
from proxy.http.target import LONGEST_METHOD, TOKEN
from proxy.settings.listener import ListenerLimits

_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]*+"
_NAME: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_FIELDS: Final = rb"(?:%b:%b\r\n)*+(?:\r\n?|%b(?::%b\r?)?)?" % (_NAME, _VALUE, _NAME, _VALUE)
"""Whole field lines, and the beginning of one or of the empty line behind them."""
_FROM_LINE: Final = re.compile(_FIELDS)
_FROM_VALUE: Final = re.compile(rb"%b(?:\r(?:\n%b)?)?" % (_VALUE, _FIELDS))
_TARGET: Final = re.compile(rb"[\x21\x22\x24-\x7e]*")
"""`TARGET_BYTES`."""
_SCHEMES: Final = (b"http://", b"https://")
_SHAPE: Final = "the request line is not METHOD SP TARGET SP VERSION"
_BARE: Final = "a line that does not end in CR LF"
_LINE_END: Final = b"\r\n"
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+")
_VERSION: Final = b"HTTP/1.0\r\n"
_DIGITS: Final = (5, 7)
"""Where in it."""


def reject_early(start: bytes, seen: int, longest_target: int) -> None:
    """The beginning of a request, behind empty lines. Raises `Refused` if nothing that may follow
    makes a request of it. `seen`: so many bytes of it were looked at before; a head that comes
    byte by byte must not be searched whole for each."""
    line_end = start.find(b"\n") + 1
    if start[:1] in (b"\r", b"\n"):
        if start != b"\r":  # Half an empty line is still one.
            raise Refused(BAD_REQUEST, _BARE)
        return
    if line_end == 0 or line_end > seen:
        _check_request_line(start[:line_end] if line_end else start, longest_target)
    if line_end == 0 or line_end == len(start):
        return
    # The line that was being read, and whether its value had begun: that may be as long as a head.
    line = max(start.rfind(b"\n", 0, seen) + 1, line_end)
    colon = start.find(b":", line, seen) + 1
    pattern, at = (_FROM_VALUE, max(colon, seen - 1)) if colon else (_FROM_LINE, line)
    if pattern.fullmatch(start, at) is None:
        raise Refused(BAD_REQUEST, _what_is_wrong(start, pattern, at))


def first_refusal(head: bytes, refusal: Refused, longest_target: int) -> Refused:
    """The refusal that would be found first if the bytes of a head that is refused had come one by
    one."""
    try:
        reject_early(head, 0, longest_target)
    except Refused as first:
        return first
    return refusal


def too_large(data: bytes, limits: ListenerLimits) -> Refused:
    """The refusal of a head whose beginning is longer than it may be."""
    line_end = data.find(_LINE_END)
    if line_end < 0 or line_end > limits.target + 64:
        detail = f"the request line is longer than {limits.target} bytes"
        return Refused(TARGET_TOO_LONG, detail)
    return Refused(HEAD_TOO_LARGE, f"the request head is longer than {limits.head} bytes")


def without_empty_lines(data: bytes) -> bytes:
    """RFC 9112 §2.2: those in front of a request are ignored. Only whole ones, or it would matter
    how they were cut into reads. Mostly without a look at each: there may be 100,000 in a read."""
    whole = (len(data) - len(data.lstrip(_LINE_END))) // 2
    if data.startswith(_LINE_END * whole):
        return data[2 * whole :]
    return _EMPTY_LINES.sub(b"", data, 1)


def _check_request_line(line: bytes, longest_target: int) -> None:
    """The request line or its beginning, with its line end if that is here."""
    method, space, rest = line.partition(b" ")
    match = TOKEN.match(method)
    end = 0 if match is None else match.end()
    if end > LONGEST_METHOD:
        raise Refused(BAD_REQUEST, f"the method is longer than {LONGEST_METHOD} bytes")
    if end < len(method) or (space and not end):
        raise Refused(BAD_REQUEST, _no_method(line, end))
    if not space:
        return
    target, space, version = rest.partition(b" ")
    match = _TARGET.match(target)
    end = 0 if match is None else match.end()
    whole = bool(space) or end < len(target)
    check_form(method, target[:end], whole)
    if end > longest_target:
        raise Refused(TARGET_TOO_LONG, f"the target is longer than {longest_target} bytes")
    if end < len(target):
        raise Refused(BAD_REQUEST, _SHAPE if target[end] in _LINE_END else "a byte that no URI has")
    if space:
        _check_version(version)


def check_form(method: bytes, target: bytes, whole: bool) -> None:
    """The target, or (not `whole`) its beginning, is of one of the forms of RFC 9112 §3.2 that
    the method may have. Raises `Refused`."""
    if target[:1] == b"/" or not (target or whole):
        return
    if target and method == b"CONNECT":
        return  # Whatever it is, CONNECT is not served.
    if target[:1] == b"*":
        # PRI is what an HTTP/2 connection begins with (RFC 9113 §3.4): its version will tell.
        if method in (b"OPTIONS", b"PRI") and target == b"*":
            return
        raise Refused(BAD_REQUEST, "the target * is for OPTIONS only")
    lower = target[: len(_SCHEMES[1])].lower()
    for scheme in _SCHEMES:  # ≤ 8
        if lower.startswith(scheme) or (not whole and scheme.startswith(lower)):
            return
    if method == b"PROXY":
        raise Refused(BAD_REQUEST, "the PROXY protocol, which this listener does not expect")
    raise Refused(BAD_REQUEST, "the target is not a path, an absolute http URI or *")


def _check_version(version: bytes) -> None:
    """`HTTP/1.x` with its line end, or the beginning of that."""
    for at, byte in enumerate(version):  # ≤ 12
        wanted = _VERSION[at]
        if at in _DIGITS:
            if not 0x30 <= byte <= 0x39:
                break
        elif byte != wanted:
            if at >= len(_VERSION) - 2:
                bare = byte in _LINE_END or at == len(_VERSION) - 1
                raise Refused(BAD_REQUEST, _BARE if bare else _SHAPE)
            break
        elif at == _DIGITS[0] + 1 and version[at - 1] != 0x31:
            raise Refused(
                VERSION_NOT_SUPPORTED, f"HTTP/{version[at - 1] - 0x30} is not spoken here"
            )
    else:
        return
    raise Refused(BAD_REQUEST, "the version is not HTTP/DIGIT.DIGIT")


def _no_method(line: bytes, end: int) -> str:
    """A description of a line whose byte at `end` ends no method."""
    if line[:1] == b"\x16":
        return "a TLS handshake, and this listener speaks plain HTTP"
    if end == 0:
        return f"not HTTP: it begins with the byte 0x{line[0]:02x}"
    if line.startswith(b"SSH-"):
        return "the greeting of SSH, and this listener speaks HTTP"
    return _SHAPE if line[end] in _LINE_END else "the method is not a token"


def _what_is_wrong(start: bytes, pattern: re.Pattern[bytes], at: int) -> str:
    """With the first byte behind which nothing could become a field any more. What comes before
    the first such byte always could, so it is looked for by halving."""
    good, bad = at, len(start)
    while bad - good > 1:  # ≤ 32
        middle = (good + bad) // 2
        if pattern.fullmatch(start, at, middle) is None:
            bad = middle
        else:
            good = middle
    if start[good] == _LINE_END[1] or start[good - 1] == _LINE_END[0]:
        return _BARE
    return f"a field line is not NAME: VALUE, at the byte 0x{start[good]:02x}"
