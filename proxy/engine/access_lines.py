"""Lines of the access log: one request as bytes. Pure; `access_log.py` has the rest.

A line is made with one `%` from what the exchange has anyway. Requests repeat themselves, so what
depends on the field block, the instance or the second alone is formatted once and remembered.

Whatever a client sends, a line stays one line and its values stay values: a byte that is not
plain printable ASCII never gets into it as it is, and no value is longer than its limit.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from time import gmtime
from typing import Final, NamedTuple

from proxy.engine.node import Node
from proxy.engine.request_state import RequestState
from proxy.errors import FAULTS
from proxy.http.memo import ENTRY, Memo
from proxy.http.messages import VERSIONS, RequestFields, RequestHead

_Values = tuple[bytes | None, bytes | None, bytes | None, bytes | None]
"""Host, user agent, referer, and the chain of proxies before."""

TARGET, HOST, AGENT, REFERER, FORWARDED, ID, NAME, METHOD = 1750, 255, 300, 400, 200, 128, 128, 32
"""Bytes of a value in a line, at most; longer ones are cut and end in `...`. All of them together
with the rest of a line fit into 4,096, which is what a pipe takes without letting another writer
in between (PIPE_BUF)."""
LONGEST = 4096

_SAFE = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')
_ESCAPED = {n: f"\\x{n:02X}" for n in range(256) if n not in _SAFE}
_CUT = b"..."
_JSON_UNITS = re.compile(rb"(?:[^\\]|\\ud[89ab]..\\ud[c-f]..|\\u(?!d[89ab])....|\\[^u])*")
_CLF_UNITS = re.compile(rb"(?:[^\\]|\\x..)*")
_THREE: Final = b"".join(b"%03d" % number for number in range(1000))
"""Three digits at three times the number. With floating point, or leading zeros, in it the `%`
would cost twice as much; a list of them would be ten times as large, and seldom in the cache."""
_SMALL: Final = tuple(b"%d" % number for number in range(1000))  # ≤ 64 KiB
_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()

_SECONDS = 128
_LARGEST = 16 * 1024
_TEXTS_ROOM = 512 * 1024
"""Bytes of other texts that are remembered."""


class Entry(NamedTuple):
    """Facts of one request."""

    began: float
    """Unix time."""
    client: bytes
    """Address."""
    trusted: bool
    """Whether the client is believed in what it says of those before it."""
    request: RequestHead | None
    """Head of the request; None: it could not be read."""
    status: int
    received: int
    """Bytes of content from the client."""
    sent: int
    """Bytes of content to the client."""
    seconds: float
    first_byte: float
    """Seconds until the head of the instance's answer; below 0 = there was none."""
    route: int
    """Place in the file; below 0 = none matched."""
    service: str | None
    node: Node | None
    """The instance of the last attempt."""
    attempts: int
    fault: str
    """Code of the fault; empty = none."""
    request_id: bytes
    grpc_status: int = -1
    """Of a call of gRPC; below 0 = it is none."""
    trace_id: bytes = b""
    """Of a request that is traced."""


def json_text(value: bytes, longest: int) -> bytes:
    """A value between the quotes of JSON, in ASCII. Bytes that are not UTF-8 become `\\xNN`."""
    if len(value) <= longest and not value.translate(None, _SAFE):
        return value
    # What is escaped is never shorter: no need to look at more.
    text = value[: longest + 1].decode("utf-8", "backslashreplace")
    return _within(json.dumps(text)[1:-1].encode(), longest, _JSON_UNITS)


def clf_text(value: bytes, longest: int) -> bytes:
    """A value between the quotes of the common log format, escaped as nginx does: `\\xNN`."""
    if len(value) <= longest and not value.translate(None, _SAFE):
        return value
    escaped = value[: longest + 1].decode("latin-1").translate(_ESCAPED)
    return _within(escaped.encode("ascii"), longest, _CLF_UNITS)


def _within(escaped: bytes, longest: int, units: re.Pattern[bytes]) -> bytes:
    if len(escaped) <= longest:
        return escaped
    whole = units.match(escaped, 0, longest - len(_CUT))
    assert whole is not None  # It matches nothing, too.
    return whole[0] + _CUT


def _three(number: int) -> bytes:
    at = 3 * number
    return _THREE[at : at + 3]


def _decimal(number: int) -> bytes:
    """A number that is mostly below a thousand, and never below 0."""
    return _SMALL[number] if number < 1000 else b"%d" % number


class Lines(ABC):
    """Owns what it remembers of earlier lines."""

    def __init__(self, query: bool) -> None:
        """`query`: targets and referers with theirs."""
        self._query = query
        self._seconds: dict[int, bytes] = {}  # ≤ _SECONDS * 256

    @abstractmethod
    def line(self, entry: Entry, state: RequestState | None = None) -> bytes:
        """The line of an exchange, with its end. `state`: of the request, unless it never became
        one."""

    @abstractmethod
    def _second(self, second: int) -> bytes:
        """A second as the format writes it."""

    def _time(self, second: int) -> bytes:
        known = self._seconds.get(second)
        if known is None:
            if len(self._seconds) >= _SECONDS:
                self._seconds.clear()
            known = self._seconds[second] = self._second(second)
        return known

    def _shown(self, uri: bytes) -> bytes:
        return uri if self._query else uri.partition(b"?")[0]


# As numbers: `bytes in bytes` raises an error inside and drops it, which costs more than the look.
_PERCENT: Final = ord("%")
_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")
_ANY = (
    b'{"time":"%b.%bZ","client":"%b",%b,'
    b'"status":%d,"bytes_received":%d,"bytes_sent":%d,"duration_ms":%b,"first_byte_ms":%b,'
    b'"route":%b,%b,"attempts":%d,%b,"request_id":"%b",%b}\n'
)


_FAULTS: Final = {  # ≤ 32 KiB
    code: b'"error":"%b","fault":"%b"' % (fault.error.encode(), code.encode())
    for code, fault in FAULTS.items()
}
_FAULTS[""] = b'"error":null,"fault":null'


class JsonLines(Lines):
    """One JSON object a line."""

    def __init__(self, query: bool) -> None:
        super().__init__(query)
        self._texts: Memo[_Values, bytes] = Memo(_TEXTS_ROOM, _LARGEST)  # ≤ _TEXTS_ROOM
        self._nodes: Memo[Node, bytes] = Memo(_TEXTS_ROOM, _LARGEST)  # ≤ _TEXTS_ROOM

    def line(self, entry: Entry, state: RequestState | None = None) -> bytes:
        (
            began, client, trusted, request, status, received, sent, seconds, first_byte,
            route, service, node, attempts, fault, request_id, grpc_status,
            trace_id,
        ) = entry  # fmt: skip
        second = int(began)
        time = self._seconds.get(second) or self._time(second)
        milliseconds = _three(int((began - second) * 1000))
        if _PERCENT in client:  # The zone of an address: a name that is given on this machine.
            client = json_text(client, NAME)
        if node is None:
            to = b'"service":%b,"instance":null,"upstream":null' % name_of(service)
        else:
            to = self._nodes.young.get(node) or self._node(service, node)
        if request is None:
            return _ANY % (
                time, milliseconds, client, b'"method":null,"target":null,"protocol":null',
                status, received, sent, in_milliseconds(seconds), b"null", b"null", to, attempts,
                _FAULTS[fault], request_id,
                b'"host":null,"user_agent":null,"referer":null,"forwarded_for":null',
            )  # fmt: skip
        target, method, fields = request.target, request.method, request.fields
        # The parser has let nothing else through that would have to be escaped.
        if len(target) > TARGET or _QUOTE in target or _BACKSLASH in target or not self._query:
            target = json_text(self._shown(target), TARGET)
        if len(method) > METHOD:
            method = json_text(method, METHOD)
        logged = fields.logged
        if logged is not None and logged[0] is self and logged[1] == trusted:
            block = logged[2]
        else:
            block = self._new_block(fields, trusted)
            fields.logged = self, trusted, block
        if grpc_status >= 0:
            block = b'%b,"grpc_status":%d' % (block, grpc_status)
        if trace_id:
            block = b'%b,"trace_id":"%b"' % (block, trace_id)
        if first_byte >= 0 and route >= 0 and not fault:
            # An instance answered, and nothing went wrong. A literal, and of `%b` alone: where this
            # is compiled, bytes are copied one behind the other, and nobody reads the format.
            lasted, first = int(seconds * 1e6 + 0.5), int(first_byte * 1e6 + 0.5)
            return (
                b'{"time":"%b.%bZ","client":"%b","method":"%b","target":"%b","protocol":"HTTP/%b",'
                b'"status":%b,"bytes_received":%b,"bytes_sent":%b,"duration_ms":%b.%b,'
                b'"first_byte_ms":%b.%b,"route":%b,%b,"attempts":%b,"error":null,"fault":null,'
                b'"request_id":"%b",%b}\n'
            ) % (
                time, milliseconds, client, method, target, VERSIONS[request.minor],
                _decimal(status), _decimal(received), _decimal(sent),
                _decimal(lasted // 1000), _three(lasted % 1000),
                _decimal(first // 1000), _three(first % 1000),
                _decimal(route), to, _decimal(attempts), request_id, block,
            )  # fmt: skip
        return _ANY % (
            time, milliseconds, client,
            b'"method":"%b","target":"%b","protocol":"HTTP/%b"'
            % (method, target, VERSIONS[request.minor]),
            status, received, sent, in_milliseconds(seconds),
            in_milliseconds(first_byte) if first_byte >= 0 else b"null",
            b"%d" % route if route >= 0 else b"null",
            to, attempts, _FAULTS[fault], request_id, block,
        )  # fmt: skip

    def _second(self, second: int) -> bytes:
        return b"%04d-%02d-%02dT%02d:%02d:%02d" % gmtime(second)[:6]

    def _new_block(self, fields: RequestFields, trusted: bool) -> bytes:
        agent, referer = agent_and_referer(fields)
        # Where each block has a trace id of its own, this is still the same.
        values = (
            fields.host if fields.hosts else None,
            agent,
            referer,
            fields.claims.get(b"x-forwarded-for") if trusted else None,
        )
        text = self._texts.young.get(values)
        if text is None:
            text = self._texts.old.get(values) or self._text(*values)
            size = sum(len(value) for value in values if value is not None)
            self._texts.put(values, text, 2 * ENTRY + size + len(text))
        return text

    def _text(
        self, host: bytes | None, agent: bytes | None, referer: bytes | None, chain: bytes | None
    ) -> bytes:
        return b'"host":%b,"user_agent":%b,"referer":%b,"forwarded_for":%b' % (
            quoted(host, HOST),
            quoted(agent, AGENT),
            quoted(None if referer is None else self._shown(referer), REFERER),
            quoted(chain, FORWARDED),
        )

    def _node(self, service: str | None, node: Node) -> bytes:
        text = self._nodes.old.get(node) or self._new_node(service, node)
        self._nodes.put(node, text, 4 * ENTRY + len(text))
        return text

    def _new_node(self, service: str | None, node: Node) -> bytes:
        return b'"service":%b,"instance":%b,"upstream":%b' % (
            name_of(service),
            name_of(node.id),
            name_of(endpoint(node)),
        )


class CommonLines(Lines):
    """The common log format of the NCSA server, with or without referer and user agent."""

    def __init__(self, query: bool, combined: bool) -> None:
        super().__init__(query)
        self._combined = combined

    def line(self, entry: Entry, state: RequestState | None = None) -> bytes:
        request = entry.request
        asked, tail = b"-", b'"-" "-"'
        if request is not None:
            target, method = request.target, request.method
            if len(target) > TARGET or _QUOTE in target or _BACKSLASH in target or not self._query:
                target = clf_text(self._shown(target), TARGET)
            if len(method) > METHOD:
                method = clf_text(method, METHOD)
            asked = b"%b %b HTTP/%b" % (method, target, VERSIONS[request.minor])
            if self._combined:
                tail = self._tail(request.fields)
        return b'%b - - [%b +0000] "%b" %d %d%b\n' % (
            entry.client.translate(None, b' "\\'),
            self._time(int(entry.began)),
            asked,
            entry.status,
            entry.sent,
            b" " + tail if self._combined else b"",
        )

    def _second(self, second: int) -> bytes:
        year, month, day, hour, minute, second = gmtime(second)[:6]
        when = (day, _MONTHS[month - 1], year, hour, minute, second)
        return b"%02d/%b/%04d:%02d:%02d:%02d" % when

    def _tail(self, fields: RequestFields) -> bytes:
        logged = fields.logged
        if logged is not None and logged[0] is self:
            return logged[2]
        tail = self._new_tail(fields)
        fields.logged = self, False, tail
        return tail

    def _new_tail(self, fields: RequestFields) -> bytes:
        agent, referer = agent_and_referer(fields)
        return b'"%b" "%b"' % (
            clf_text(self._shown(referer or b"-"), REFERER),
            clf_text(agent or b"-", AGENT),
        )


def agent_and_referer(fields: RequestFields) -> tuple[bytes | None, bytes | None]:
    """The first of each; a block that is new to us is looked through once, and quickly."""
    agent = referer = None
    for name, value in fields.pairs:  # ≤ 256
        size = len(name)
        if size == 10:
            if agent is None and name.lower() == b"user-agent":
                agent = value
        elif size == 7 and referer is None and name.lower() == b"referer":
            referer = value
    return agent, referer


def endpoint(node: Node) -> str:
    """Address and port of an instance."""
    address = f"[{node.address}]" if ":" in node.address else node.address
    return f"{address}:{node.port}"


def in_milliseconds(seconds: float) -> bytes:
    """A time in milliseconds, with three decimals."""
    whole, part = divmod(int(seconds * 1e6 + 0.5), 1000)
    return b"%d.%b" % (whole, _three(part))


def quoted(value: bytes | None, longest: int) -> bytes:
    """A value of JSON: a text, or null."""
    return b"null" if value is None else b'"%b"' % json_text(value, longest)


def name_of(name: str | None) -> bytes:
    """A name as a value of JSON."""
    return quoted(None if name is None else name.encode("utf-8", "surrogatepass"), NAME)
