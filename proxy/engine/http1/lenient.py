"""Heads of old servers, for services with `lenient_answers`: the two liberties that the RFCs allow
a recipient, and no other.

A head is written strictly here and then read by `parse_response` like every other: what it says is
framed anew towards the client, and nothing of it stays in the parser's memories but what any
service's instance could have sent.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.engine.http1.messages import CRLF

_END: Final = re.compile(rb"\n\r?\n")
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_DIGITS: Final = re.compile(rb"[0-9]+")


def lenient_end(data: bytes) -> int:
    """Where a head ends whose lines may end in a bare LF; 0 = it is not whole."""
    match = _END.search(data)
    return 0 if match is None else match.end()


def strict(head: bytes) -> bytes:
    """A whole head with every line ended by CR LF (RFC 9112 §2.2 lets a recipient take a bare LF
    for that), and with one Content-Length where the same one is said several times (RFC 9110 §8.6).
    Lengths that differ, and a bare CR, stay what they are: refused by the parser."""
    lines = _BARE_LF.sub(CRLF, head).split(CRLF)
    lengths = [line for line in lines if _is_length(line)]
    said = [value.strip(b" \t") for line in lengths for value in line[15:].split(b",")]
    if len(said) > 1 and len(set(said)) == 1 and _DIGITS.fullmatch(said[0]):
        first = lines.index(lengths[0])
        lines = [line for line in lines if not _is_length(line)]
        lines.insert(first, b"Content-Length: " + said[0])
    return CRLF.join(lines)


def _is_length(line: bytes) -> bool:
    return line[:15].lower() == b"content-length:"
