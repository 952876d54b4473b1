"""Heads of answers that no strict reader makes out: old servers', and what is none."""

from __future__ import annotations

from typing import Final

from proxy.engine.http1.lenient import harmless, harmless_end, lenient_end, strict
from proxy.engine.http1.parser import parse_response
from proxy.errors import BAD_ANSWER, Refused
from proxy.http.messages import ResponseHead
from proxy.http.request_id import IdField

MAX_HEAD: Final = 64 * 1024
"""Twice what a client may send: instances set large cookies, and are trusted a little more."""
_BEGINNING: Final = b"HTTP/1."


def lenient_head(
    data: bytes, lenience: bool | None, ids: IdField, refusal: Refused | None
) -> tuple[int, ResponseHead | None]:
    """Where the head ends that `data` begins with, and the head, if no strict reader finds one, or
    accepts it (`refusal` says why), but the service does: `lenience` is its `lenient_answers`.
    None: the head is not whole. Raises `Refused`."""
    end = 0
    if lenience is not False:
        end = lenient_end(data) if lenience else harmless_end(data)
    if not 0 < end <= MAX_HEAD:
        if refusal is not None:
            raise refusal
        return 0, None
    if lenience:
        return end, parse_response(strict(data[:end]), ids)
    head = parse_response(harmless(data[:end]), ids)
    if head.status < 200:
        raise Refused(BAD_ANSWER, "an interim answer that no strict reader accepts")
    return end, head


def refuse_part(data: bytes) -> None:
    """Raise `Refused` if nothing that may follow makes a head of this beginning. Not when the time
    for an answer is over, which it never becomes."""
    if len(data) > MAX_HEAD:
        raise Refused(BAD_ANSWER, f"the answer's head is longer than {MAX_HEAD} bytes")
    if not _BEGINNING.startswith(data[: len(_BEGINNING)]):
        tls = data[:1] in (b"\x15", b"\x16")
        raise Refused(BAD_ANSWER, "TLS, not HTTP" if tls else "not HTTP/1.x")
