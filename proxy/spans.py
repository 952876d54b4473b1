"""Traces on their way from the worker that measured them to the collector, to which they are spans.

A worker tells facts, as it has them: attributes, texts and times of spans are made of them by
`spans_of`, in the control process, where no request waits. Pure.
"""

from __future__ import annotations

import msgspec

SERVER = 2
"""`Span.kind` of a request."""
CLIENT = 3
"""Of an attempt."""


class Attempted(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An attempt of a traced request."""

    span_id: bytes
    instance: str
    address: str
    port: int
    tls: bool
    began: float
    ended: float
    status: int
    """0 = there was no answer."""
    error: str


class Traced(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A traced request that is over. Times are seconds of the worker's clock."""

    trace_id: bytes
    span_id: bytes
    parent: bytes
    """Empty = the trace begins here."""
    began: float
    ended: float
    method: bytes
    path: bytes
    status: int
    scheme: bytes
    host: str
    client: bytes
    minor: int
    """Of HTTP: 0 or 1 behind 1, 2 = it is 2."""
    request_id: bytes
    service: str
    """Empty = none was found."""
    route: str
    """The pattern by which it took the path; empty = it takes any."""
    grpc: str
    """Status of a call of gRPC; empty = it is none."""
    failed: bool
    """Whether the status is an error of the server's."""
    error: str
    """Code of a fault, or a status; empty = none."""
    target: bytes
    """The path that instances got."""
    attempts: list[Attempted]


class Span(msgspec.Struct, frozen=True, gc=False):
    """A span of a trace, as OpenTelemetry has it."""

    trace_id: str
    span_id: str
    parent: str
    """Empty = the trace begins here."""
    name: str
    kind: int
    """2 = of a server, 3 = of a client."""
    began: int
    """Nanoseconds since 1970."""
    ended: int
    attributes: dict[str, str | int]
    error: str = ""
    """Code of a fault, or a status; empty = none."""


def spans_of(traced: Traced, offset: float) -> list[Span]:
    """The span of a request, and one for each of its attempts. `offset`: from the worker's clock to
    Unix time."""
    trace_id = traced.trace_id.decode()
    name = method = traced.method.decode("latin-1")
    path = traced.path.decode("latin-1")
    about: dict[str, str | int] = {
        "http.request.method": method,
        "http.response.status_code": traced.status,
        "url.path": path,
        "url.scheme": traced.scheme.decode(),
        "server.address": traced.host,
        "client.address": traced.client.decode("latin-1"),
        "network.protocol.version": "2.0" if traced.minor == 2 else f"1.{traced.minor}",
        "fairlead.request_id": traced.request_id.decode("latin-1"),
    }
    if traced.service:
        about["fairlead.service"] = traced.service
    at_client = method
    if traced.route:
        about["http.route"] = traced.route
        name = f"{method} {traced.route}"
    rpc: dict[str, str | int] = {}
    if traced.grpc:
        name = at_client = path[1:]
        rpc = {"rpc.system.name": "grpc", "rpc.method": name}
        about |= rpc
        about["rpc.response.status_code"] = traced.grpc

    def span(
        id_: bytes,
        parent: bytes,
        name: str,
        kind: int,
        of: Traced | Attempted,
        about: dict[str, str | int],
        error: str,
    ) -> Span:
        began, ended = int((of.began + offset) * 1e9), int((of.ended + offset) * 1e9)
        return Span(trace_id, id_.decode(), parent.decode(), name, kind, began, ended, about, error)

    error = traced.error
    if not error and traced.failed:
        error = traced.grpc
    elif not error and traced.status >= 500:
        error = str(traced.status)
    found = [span(traced.span_id, traced.parent, name, SERVER, traced, about, error)]
    target = traced.target.removeprefix(b"*").decode("latin-1")
    for number, attempt in enumerate(traced.attempts):  # ≤ 16
        host = f"[{attempt.address}]" if ":" in attempt.address else attempt.address
        scheme = "https" if attempt.tls else "http"
        about = {
            "http.request.method": method,
            "server.address": attempt.address,
            "server.port": attempt.port,
            "url.full": f"{scheme}://{host}:{attempt.port}{target}",
            "fairlead.instance": attempt.instance,
            **rpc,
        }
        error = attempt.error
        if attempt.status:
            about["http.response.status_code"] = attempt.status
            if traced.grpc:
                about["rpc.response.status_code"] = traced.grpc
                error = error or (traced.grpc if traced.grpc != "OK" else "")
        if number:
            about["http.request.resend_count"] = number
        found.append(
            span(attempt.span_id, traced.span_id, at_client, CLIENT, attempt, about, error)
        )
    return found
