"""Lines of the access log with chosen fields, as JSON or as text. Pure.

Each field is a function from a request that is over to its value in JSON; text shows the same
values, without the quotes where nothing in them needs any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from time import gmtime
from typing import TYPE_CHECKING, Final

from proxy.engine.access_lines import (
    AGENT,
    FORWARDED,
    HOST,
    METHOD,
    NAME,
    REFERER,
    CommonLines,
    Entry,
    JsonLines,
    Lines,
    agent_and_referer,
    endpoint,
    in_milliseconds,
    name_of,
    quoted,
)
from proxy.engine.request_state import RequestState
from proxy.errors import FAULTS
from proxy.http.messages import VERSIONS
from proxy.http.tls_facts import TlsFacts
from proxy.settings.access_log import FIELDS, AccessLogSettings

if TYPE_CHECKING:
    Field = Callable[[Entry, RequestState | None], bytes | None]

TARGET: Final = 800
"""Bytes of a target: all fields together still fit into a line."""
DECISIONS: Final = 200
"""Bytes of what filters have decided."""
USUAL: Final = FIELDS[: FIELDS.index("listener")]
"""Fields of a text where none were chosen: those of the usual line in JSON."""
_PLAIN: Final = re.compile(rb'"([!#-<>-\[\]-~]+)"')
"""A text that is as clear without its quotes."""


def _tls(state: RequestState | None) -> TlsFacts | None:
    return None if state is None else state.client.facts.tls


def _tls_resumed(_: Entry, state: RequestState | None) -> bytes | None:
    tls = _tls(state)
    return None if tls is None else b"true" if tls.resumed else b"false"


def _tls_text(get: Callable[[TlsFacts], str | None]) -> Field:
    def told(_: Entry, state: RequestState | None) -> bytes | None:
        tls = _tls(state)
        return None if tls is None else name_of(get(tls))

    return told


def _filters(entry: Entry, state: RequestState | None) -> bytes | None:
    told = "" if state is None else state.decisions(entry.fault or str(entry.status))
    return quoted(told.encode("utf-8", "surrogatepass") if told else None, DECISIONS)


def _stream(_: Entry, state: RequestState | None) -> bytes | None:
    return None if state is None or state.client.number < 0 else b"%d" % state.client.number


def _upstream(entry: Entry, _: RequestState | None) -> bytes | None:
    return None if entry.node is None else name_of(endpoint(entry.node))


def _method(entry: Entry, _: RequestState | None) -> bytes | None:
    return None if entry.request is None else quoted(entry.request.method, METHOD)


def _protocol(entry: Entry, _: RequestState | None) -> bytes | None:
    return None if entry.request is None else b'"HTTP/%b"' % VERSIONS[entry.request.minor]


def _host(entry: Entry, _: RequestState | None) -> bytes | None:
    fields = None if entry.request is None else entry.request.fields
    return None if fields is None or not fields.hosts else quoted(fields.host, HOST)


def _chain(entry: Entry, _: RequestState | None) -> bytes | None:
    if entry.request is None or not entry.trusted:
        return None
    return quoted(entry.request.fields.claims.get(b"x-forwarded-for"), FORWARDED)


def _agent(entry: Entry, _: RequestState | None) -> bytes | None:
    if entry.request is None:
        return None
    return quoted(agent_and_referer(entry.request.fields)[0], AGENT)


_SIMPLE: Final[dict[str, Field]] = {  # ≤ 8 KiB
    "client": lambda entry, _: quoted(entry.client, NAME),
    "method": _method,
    "protocol": _protocol,
    "status": lambda entry, _: b"%d" % entry.status,
    "bytes_received": lambda entry, _: b"%d" % entry.received,
    "bytes_sent": lambda entry, _: b"%d" % entry.sent,
    "duration_ms": lambda entry, _: in_milliseconds(entry.seconds),
    "first_byte_ms": lambda entry, _: (
        in_milliseconds(entry.first_byte) if entry.first_byte >= 0 else None
    ),
    "route": lambda entry, _: b"%d" % entry.route if entry.route >= 0 else None,
    "service": lambda entry, _: name_of(entry.service),
    "instance": lambda entry, _: name_of(entry.node.id) if entry.node is not None else None,
    "upstream": _upstream,
    "attempts": lambda entry, _: b"%d" % entry.attempts,
    "error": lambda entry, _: name_of(FAULTS[entry.fault].error) if entry.fault else None,
    "fault": lambda entry, _: name_of(entry.fault or None),
    "request_id": lambda entry, _: quoted(entry.request_id, NAME),
    "host": _host,
    "user_agent": _agent,
    "forwarded_for": _chain,
    "grpc_status": lambda entry, _: b"%d" % entry.grpc_status if entry.grpc_status >= 0 else None,
    "trace_id": lambda entry, _: b'"%b"' % entry.trace_id if entry.trace_id else None,
    "listener": lambda _, state: name_of(state.client.facts.listener) if state else None,
    "filter": lambda _, state: name_of(state.filtered_by or None) if state else None,
    "filters": _filters,
    "http2_stream": _stream,
    "tls_version": _tls_text(lambda tls: tls.version),
    "tls_cipher": _tls_text(lambda tls: tls.cipher),
    "tls_name": _tls_text(lambda tls: tls.name),
    "tls_resumed": _tls_resumed,
    "tls_client": _tls_text(lambda tls: tls.client),
}


class ChosenLines(Lines):
    """Lines that say what the settings name, in that order."""

    def __init__(self, query: bool, names: Sequence[str], text: bool) -> None:
        """`text`: `KEY=VALUE` each, not JSON."""
        super().__init__(query)
        own: dict[str, Field] = {
            "time": self._moment,
            "target": self._target,
            "referer": self._referer,
        }
        self._fields = [
            (name.encode("ascii"), own.get(name) or _SIMPLE[name]) for name in names
        ]  # ≤ 4 KiB
        self._text = text

    def line(self, entry: Entry, state: RequestState | None = None) -> bytes:
        found = [(name, field(entry, state) or b"null") for name, field in self._fields]
        if not self._text:
            return b"{%b}\n" % b",".join([b'"%b":%b' % one for one in found])
        return b"%b\n" % b" ".join([b"%b=%b" % (name, _bare(value)) for name, value in found])

    def _second(self, second: int) -> bytes:
        return b"%04d-%02d-%02dT%02d:%02d:%02d" % gmtime(second)[:6]

    def _moment(self, entry: Entry, _: RequestState | None) -> bytes:
        second = int(entry.began)
        return b'"%b.%03dZ"' % (self._time(second), int((entry.began - second) * 1000))

    def _target(self, entry: Entry, _: RequestState | None) -> bytes | None:
        return None if entry.request is None else quoted(self._shown(entry.request.target), TARGET)

    def _referer(self, entry: Entry, _: RequestState | None) -> bytes | None:
        referer = None if entry.request is None else agent_and_referer(entry.request.fields)[1]
        return None if referer is None else quoted(self._shown(referer), REFERER)


def _bare(value: bytes) -> bytes:
    """A value of JSON as text has it. `-` is null; a text that would read the same is quoted."""
    if value == b"null":
        return b"-"
    plain = _PLAIN.fullmatch(value)
    return value if plain is None or plain[1] == b"-" else plain[1]


def lines_of(settings: AccessLogSettings) -> Lines:
    """How lines are written."""
    if settings.format == "text" or settings.fields:
        names = settings.fields or USUAL
        return ChosenLines(settings.query, names, text=settings.format == "text")
    if settings.format == "json":
        return JsonLines(settings.query)
    return CommonLines(settings.query, combined=settings.format == "combined")
