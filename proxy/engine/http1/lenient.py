"""Heads of old servers: the two liberties that the RFCs allow a recipient, and no other. With
`lenient_answers: true` all of them; by default those in which nothing can hide, see decision 0020.

A head is written strictly here and then read by `parse_response` like every other: what it says is
framed anew towards the client, and nothing of it stays in the parser's memories but what any
service's instance could have sent.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.engine.http1.parser import HEAD_END
from proxy.http.messages import CRLF

_END: Final = re.compile(rb"\n\r?\n")
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_DIGITS: Final = re.compile(rb"[0-9]+")
_CR: Final = 13


def lenient_end(data: bytes) -> int:
    """Where a head ends whose lines may end in a bare LF; 0 = it is not whole."""
    match = _END.search(data)
    return 0 if match is None else match.end()


def harmless_end(data: bytes) -> int:
    """Where a head ends all of whose lines end in the same way, be it a bare LF; 0 = it is not
    whole, or they do not. One line that ends otherwise than the others is how a value looks into
    which somebody put a line of his own."""
    first = data.find(b"\n")
    if first <= 0 or data[first - 1] == _CR:
        end = data.find(HEAD_END) + 4
        return end if end > 3 and _BARE_LF.search(data, 0, end) is None else 0
    end = data.find(b"\n\n", first) + 2
    return end if end > 1 and data.find(b"\r", 0, end) < 0 else 0


def strict(head: bytes, lists: bool = True) -> bytes:
    """A whole head with every line ended by CR LF (RFC 9112 §2.2 lets a recipient take a bare LF
    for that), and with one Content-Length where the same one is said several times (RFC 9110 §8.6),
    with `lists` also in one line. Lengths that differ, and a bare CR, stay what they are: refused
    by the parser."""
    lines = _BARE_LF.sub(CRLF, head).split(CRLF)
    lengths = [line for line in lines if _is_length(line)]
    values = [line[15:] for line in lengths]
    if lists:
        values = b",".join(values).split(b",")
    said = [value.strip(b" \t") for value in values]
    if len(said) > 1 and len(set(said)) == 1 and _DIGITS.fullmatch(said[0]):
        first = lines.index(lengths[0])
        lines = [line for line in lines if not _is_length(line)]
        lines.insert(first, b"Content-Length: " + said[0])
    return CRLF.join(lines)


def harmless(head: bytes) -> bytes:
    """The head as `strict` makes it without lists, and as the last one of its connection: whatever
    else comes over that, it must not be the answer to the next question."""
    return strict(head, lists=False)[:-2] + b"Connection: close\r\n\r\n"


def _is_length(line: bytes) -> bool:
    return line[:15].lower() == b"content-length:"
