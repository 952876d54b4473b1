"""Heads as HTTP/1 writes them, and how a body ends (RFC 9112).

Pure functions. Messages are serialised anew from what was parsed; nothing is passed on as it was
received, so no instance can read a boundary that we did not write.
"""

from __future__ import annotations

from typing import Final

from proxy.http.dates import http_date
from proxy.http.forwarding import ClientFacts
from proxy.http.messages import CRLF, OwnAnswer, RequestHead, ResponseFields, ResponseHead

VIA_CLIENT: Final = b"Via: 1.1 fairlead\r\n"


def request_head(
    request: RequestHead,
    target: bytes,
    set_host: str | None,
    id_line: bytes,
    extra: bytes,
    facts: ClientFacts,
) -> bytes:
    """The head as the instance gets it. `id_line`, `extra`: field lines of this request alone."""
    return b"%b %b HTTP/1.1\r\n%b%b%b\r\n" % (
        request.method,
        target,
        facts.tail(request.fields, set_host),
        extra,
        id_line,
    )


def extra_lines(upgrade: bytes | None, prefix: bytes | None) -> bytes:
    """Lines of a head beyond the usual: the upgrade it offers, the prefix it lost."""
    lines = b""
    if upgrade is not None:
        lines = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % upgrade
    return lines if prefix is None else b"%bX-Forwarded-Prefix: %b\r\n" % (lines, prefix)


# How a response body ends on the client's side.
NO_BODY: Final = 0
BY_LENGTH: Final = 1
BY_CHUNKS: Final = 2
BY_CLOSE: Final = 3


def response_framing(response: ResponseHead, method: bytes, client_minor: int) -> int:
    """How the client is told where the body ends (RFC 9112 §6.3)."""
    status = response.status
    if method == b"HEAD" or status == 204 or status == 304 or status < 200:
        return NO_BODY
    if response.fields.length is not None:
        return BY_LENGTH
    # Without a length, or chunked: a 1.1 client gets chunks and can tell a truncated answer
    # from a complete one; a 1.0 client knows only the end of the connection.
    return BY_CHUNKS if client_minor else BY_CLOSE


def response_head(
    response: ResponseHead,
    id_line: bytes,
    framing: int,
    client_minor: int,
    keep_alive: bool,
    trailers: bool = False,
) -> bytes:
    """The head as the client gets it. `id_line` names the request; `keep_alive`: we mean to use
    the connection again; `trailers`: the client takes them."""
    fields = response.fields
    head = response.status_line + id_line
    if framing == BY_LENGTH and client_minor and fields.usual:
        if keep_alive:
            return head + fields.relayed
        if not fields.closing:
            fields.closing = relayed_fields(fields, BY_LENGTH, client_minor, False)
        return head + fields.closing
    if response.status == 204 and fields.length is not None:
        # RFC 9110 §8.6: a 204 has no Content-Length.
        return head + relayed_fields(fields, BY_CLOSE, client_minor, keep_alive)
    extra = b""
    if trailers and framing == BY_CHUNKS and fields.trailer is not None:
        extra = b"Trailer: %b\r\n" % fields.trailer
    elif response.status == 426 and fields.upgrade is not None:
        # RFC 9110 §15.5.22: the answer is about this field, which `Connection` must name.
        extra = b"Upgrade: %b\r\nConnection: Upgrade\r\n" % fields.upgrade
    return head + extra + relayed_fields(fields, framing, client_minor, keep_alive)


def relayed_fields(
    fields: ResponseFields, framing: int, client_minor: int, keep_alive: bool
) -> bytes:
    """Every field line of the answer to the client, with the empty line."""
    extra = b""
    if framing == BY_CHUNKS:
        extra = b"Transfer-Encoding: chunked\r\n"
    elif fields.length is not None and framing != BY_CLOSE:
        # Also for HEAD and 304, where it is information about a body that is not sent.
        extra = b"Content-Length: %d\r\n" % fields.length
    if not keep_alive:
        extra += b"Connection: close\r\n"
    elif client_minor == 0:
        extra += b"Connection: keep-alive\r\n"
    if not fields.dated:
        # RFC 9110 §6.6.1: whoever gets an answer without one and passes it on says when.
        extra += b"Date: %b\r\n" % http_date()
    for via in fields.via:  # ≤ 256
        extra += b"Via: %b\r\n" % via
    return b"".join((fields.plain, extra, VIA_CLIENT, CRLF))


def says_hsts(response: ResponseHead) -> bool:
    """Whether the instance says itself for how long browsers are to use TLS (RFC 6797 §6.1)."""
    return b"\nstrict-transport-security:" in b"\n" + response.fields.plain.lower()


def interim_head(response: ResponseHead) -> bytes:
    """A 1xx as the client gets it (RFC 9110 §15.2)."""
    return b"".join((response.status_line, response.fields.plain, CRLF))


def switching_head(response: ResponseHead, id_line: bytes) -> bytes:
    """The 101 that turns the connection into a tunnel."""
    return b"".join(
        (
            response.status_line,
            id_line,
            response.fields.plain,
            b"Connection: Upgrade\r\nUpgrade: %b\r\n" % (response.fields.upgrade or b""),
            VIA_CLIENT,
            CRLF,
        )
    )


def own_answer(
    answer: OwnAnswer, id_line: bytes, head_only: bool, client_minor: int, keep_alive: bool
) -> bytes:
    """Head and content, without the content for HEAD. `id_line`: the field that names the
    request, or empty; `client_minor`: 1 for HTTP/1.1, 0 for 1.0."""
    connection = b""
    if not keep_alive:
        connection = b"Connection: close\r\n"
    elif client_minor == 0:
        connection = b"Connection: keep-alive\r\n"
    fields = b"".join(b"%b: %b\r\n" % pair for pair in answer.fields)
    if answer.status not in (204, 304):  # RFC 9110 §8.6
        fields += b"Content-Length: %d\r\n" % len(answer.content)
    return b"HTTP/1.1 %d %b\r\n%bDate: %b\r\n%b%b%b\r\n%b" % (
        answer.status,
        answer.phrase.encode("ascii"),
        id_line,
        http_date(),
        fields,
        connection,
        VIA_CLIENT,
        b"" if head_only else answer.content,
    )
