"""The closed table of faults.

Every way a request can fail is one entry here, under a code of its own: the one word for it in
answers, logs and metrics, and what retries, ejection and limits are decided by. Beside it stands
the type of RFC 9209 §2.3, which several faults share. Foreign exceptions are translated into a
fault once, where they first appear (`upstream/connector.py`, `http1/parser.py`).

`python -m proxy.errors` writes the table of `docs/errors.md` from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from typing import Final


class Side(Enum):
    """The party that caused a fault."""

    CLIENT = "client"
    UPSTREAM = "instance"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """One way to fail."""

    code: str
    """Name of the fault; no other has it, and it never changes its meaning."""
    error: str
    """RFC 9209 type."""
    status: int
    """Status that the client gets."""
    side: Side
    title: str
    """For the client, in a few words."""
    meaning: str
    """For the operator: what has happened."""
    remedy: str
    """For the operator: what to do about the fault."""
    repeat: str = ""
    """Member of `retry.on` that allows the request to be sent once more, on another instance; empty
    = never. Where no connection came about, `connect` does in any case."""
    closes: bool = False
    """The position in the client's byte stream is in doubt: answer and close."""

    @property
    def phrase(self) -> str:
        """Reason phrase of the status."""
        return "Client Closed Request" if self.status == 499 else HTTPStatus(self.status).phrase


_C, _U, _P = Side.CLIENT, Side.UPSTREAM, Side.PROXY

# Routing and pools.
NO_ROUTE: Final = Fault(
    "no_route", "destination_not_found", 404, _C, "No route matches the request",
    "No route of the file fits the request's host, path, method and fields.",
    "`fairlead explain URL` tells for each route why it does not fit.",
)  # fmt: skip
UNKNOWN_SERVICE: Final = Fault(
    "unknown_service", "destination_not_found", 404, _C, "No such service",
    "A route with `{service}` fits, but nobody has registered a service of that name.",
    "Compare the name with `fairlead services`; the registry may have another prefix.",
)  # fmt: skip
NO_INSTANCE: Final = Fault(
    "no_instance", "destination_unavailable", 503, _P, "No usable instance",
    "The service is known, but none of its instances may be used: there is none, or all are"
    " draining, unhealthy or of weight 0.",
    "`fairlead explain URL` tells of each instance why it is no candidate; `fallback_instances`"
    " serve while there is none.",
)  # fmt: skip
QUEUE_FULL: Final = Fault(
    "queue_full", "connection_limit_reached", 503, _P,
    "Every instance is busy, and so is the queue",
    "Every usable instance has `max_inflight` requests, and `queue.size` requests wait already"
    " (without a queue: always).",
    "Add instances, or raise `max_inflight` if they can take more; `fairlead_queue_waiting` shows"
    " how long the queue is.",
)  # fmt: skip
QUEUE_TIMEOUT: Final = Fault(
    "queue_timeout", "connection_limit_reached", 503, _P, "Every instance stayed busy",
    "The request waited in the queue for `timeouts.queue`, and no instance had room for it.",
    "As for `queue_full`; a shorter queue refuses sooner what cannot be served in time.",
)  # fmt: skip
BREAKER_OPEN: Final = Fault(
    "breaker_open", "connection_limit_reached", 503, _P, "The circuit breaker is open",
    "The share of the service's requests that failed reached `circuit_breaker.failure_ratio`, so it"
    " is left alone for `circuit_breaker.open`.",
    "Look for what failed before: the other faults of this service in"
    " `fairlead_proxy_errors_total`, and its 502, 503 and 504.",
)  # fmt: skip
RATE_LIMITED: Final = Fault(
    "rate_limited", "http_request_denied", 429, _C, "Too many requests",
    "There were more requests of this key than a `rate_limit`, of the service or a filter, allows.",
    "Nothing, if the limit is meant so. Behind another proxy `rate_limit.key: client_ip` needs the"
    " listener's `trusted_proxies`, or all clients share one limit.",
)  # fmt: skip
RATE_TABLE_FULL: Final = Fault(
    "rate_table_full", "http_request_denied", 429, _C,
    "Too many clients use their limits at the same time",
    "As many keys of rate limits as there is room for (262,144) have used some of their tokens, and"
    " there is no place for one more.",
    "Look for a flood of invented keys in the access log; a key that clients cannot choose"
    " (`client_ip`), or a shorter `rate_limit.per`, needs fewer places.",
)  # fmt: skip
NO_DESCRIPTOR: Final = Fault(
    "no_descriptor", "connection_limit_reached", 503, _P,
    "The proxy has no room for another connection",
    "The process, the system or the listener (`limits.connections`) has as many connections open"
    " as it may.",
    "Raise the limit on open files (`LimitNOFILE`, `ulimit -n`) or `limits.connections`, or look"
    " for clients that hold connections (`fairlead_client_connections`).",
)  # fmt: skip
TOO_MANY_STREAMS: Final = Fault(
    "too_many_streams", "http_request_denied", 429, _C,
    "Too many requests at the same time on this connection",
    "A client of HTTP/2 had more requests under way on one connection than `limits.streams` of the"
    " listener; it is told so with REFUSED_STREAM and may make them again.",
    "Raise `limits.streams`, if the client is one that you trust: it was told the number.",
)  # fmt: skip

# Towards the instance.
NO_PORT: Final = Fault(
    "no_port", "connection_limit_reached", 503, _P,
    "The proxy has no local port for another connection",
    "No local port is left for one more connection to this instance.",
    "Keep connections (`keepalive.max_idle`), widen `net.ipv4.ip_local_port_range`, or add"
    " instances: each address and port has local ports of its own.",
    repeat="connect",
)  # fmt: skip
CONNECT_REFUSED: Final = Fault(
    "connect_refused", "connection_refused", 502, _U, "The instance refused the connection",
    "Nothing listens at the instance's address and port, or a firewall rejects the connection.",
    "Is the program still running, and registered with the address and port on which it listens"
    " for others (not 127.0.0.1)? `fairlead instances SERVICE` shows both.",
    repeat="connect",
)  # fmt: skip
CONNECT_TIMEOUT: Final = Fault(
    "connect_timeout", "connection_timeout", 504, _U, "Connecting to the instance took too long",
    "There was no connection within `timeouts.connect`: the machine is gone, a firewall drops what"
    " is sent to it, or its backlog is full.",
    "Try the address from the proxy's machine; see whether the instance still accepts.",
    repeat="connect",
)  # fmt: skip
DNS_FAILED: Final = Fault(
    "dns_failed", "dns_error", 502, _U, "The instance's name cannot be resolved",
    "The instance is registered with a name for which there is no address, or no name server"
    " answers.",
    "Look the name up on the proxy's machine; register an address instead.",
    repeat="connect",
)  # fmt: skip
DESTINATION_DENIED: Final = Fault(
    "destination_denied", "destination_ip_prohibited", 502, _U,
    "The instance's address is one to which registered instances may not lead",
    "A registry names an instance at an address that is this machine's with the admin listener's"
    " port, link-local, or a metadata service's, perhaps by a name that resolves to it.",
    "Find out who wrote that record (`fairlead instances SERVICE`). If it is meant, name the"
    " network in `registry.allow`, or the instance in the local file.",
    repeat="connect",
)  # fmt: skip
UNREACHABLE: Final = Fault(
    "unreachable", "destination_ip_unroutable", 502, _U, "The instance cannot be reached",
    "The proxy's machine has no route to the instance's address.",
    "Is the registered address one of another network (of a container, for example)? Check routes"
    " and firewalls.",
    repeat="connect",
)  # fmt: skip
CLOSED_EARLY: Final = Fault(
    "closed_early", "connection_terminated", 502, _U, "The instance closed the connection",
    "The instance closed or reset the connection before a byte of its answer: it crashed, was"
    " stopped, or closes idle connections sooner than the proxy does.",
    "See the instance's log at that time. Set `keepalive.idle` below the server's own idle limit.",
    repeat="reset",
)  # fmt: skip
BAD_ANSWER: Final = Fault(
    "bad_answer", "http_protocol_error", 502, _U, "The instance's answer is not valid HTTP",
    "The answer is not HTTP/1.x, or its framing is ambiguous.",
    "The `detail` in the log says what is wrong. Does the instance expect TLS, or HTTP/2, on this"
    " port?",
    repeat="reset",
)  # fmt: skip
CUT_SHORT: Final = Fault(
    "cut_short", "http_response_incomplete", 502, _U,
    "The instance's answer ended before it was complete",
    "The connection ended in the middle of the answer. If its head had gone out already, the"
    " client's connection was cut, so that it can tell.",
    "See the instance's log at that time: a crash, a worker's time limit, or a wrong"
    " Content-Length.",
    repeat="reset",
)  # fmt: skip
FIRST_BYTE_TIMEOUT: Final = Fault(
    "first_byte_timeout", "http_response_timeout", 504, _U, "The instance did not answer in time",
    "The instance had the whole request, and there was no head of an answer within"
    " `timeouts.first_byte`.",
    "Find out what the instance waits for; raise `timeouts.first_byte` for services that take"
    " longer.",
    repeat="first_byte",
)  # fmt: skip
IDLE_TIMEOUT: Final = Fault(
    "idle_timeout", "http_response_timeout", 504, _U,
    "The instance stopped in the middle of its answer",
    "For `timeouts.idle` there was nothing more of an answer that had begun; the client's"
    " connection was cut.",
    "Raise `timeouts.idle` for event streams and long polls, or let them send something now and"
    " then.",
)  # fmt: skip
TOTAL_TIMEOUT: Final = Fault(
    "total_timeout", "http_response_timeout", 504, _U, "The request took too long",
    "All attempts together took longer than `timeouts.total`.",
    "Find out what the instances wait for; is the limit long enough for two attempts?",
)  # fmt: skip
STREAM_REFUSED: Final = Fault(
    "stream_refused", "connection_limit_reached", 503, _U, "The instance takes no more requests",
    "An instance of HTTP/2 refused a stream (REFUSED_STREAM), allows none at all, or has asked for"
    " calm (ENHANCE_YOUR_CALM) less than a second ago. It has done nothing about the request.",
    "Add instances, or let them take more streams at a time; `max_inflight` with a queue makes"
    " requests wait here instead.",
    repeat="connect",
)  # fmt: skip
NO_UPGRADE: Final = Fault(
    "no_upgrade", "http_upgrade_failed", 502, _P,
    "The instance speaks HTTP/2, in which connections are not upgraded",
    "A WebSocket, or another `Upgrade`, was asked for of a service whose instances speak HTTP/2.",
    "Give WebSockets a service of their own, with `protocol: h1`, or an instance that says so in"
    " `metadata.protocol`.",
)  # fmt: skip
NO_GRPC: Final = Fault(
    "no_grpc", "http_protocol_error", 502, _P, "The instance does not speak HTTP/2, as gRPC must",
    "A gRPC request was made to a service whose instances are spoken to in HTTP/1.1.",
    "Set `protocol: grpc` for the service, or `metadata.protocol` in the records of its instances.",
)  # fmt: skip
TLS_FAILED: Final = Fault(
    "tls_failed", "tls_protocol_error", 502, _U, "No TLS with the instance",
    "The instance's TLS handshake failed: its certificate is not for the expected name, or not"
    " signed by an authority that is trusted (`tls_certificate_error`), it sent an alert"
    " (`tls_alert_received`), or it does not speak TLS on this port (`tls_protocol_error`).",
    "The `detail` says why. `services.*.tls` has the authorities (`ca`), the expected name"
    " (`server_name`) and the certificate that is shown (`cert`).",
    repeat="connect",
)  # fmt: skip
TLS_TYPES: Final = {
    error: replace(TLS_FAILED, error=error)
    for error in ("tls_protocol_error", "tls_certificate_error", "tls_alert_received")
}
"""`TLS_FAILED` by the type that fits best, which answers and the log say. Counts, and what is done
about it, are those of one fault."""
LOOP: Final = Fault(
    "loop", "proxy_loop_detected", 502, _P, "The request came back to this proxy",
    "The request carries this proxy's own `Via` mark: some instance is, or leads to, the proxy.",
    "`fairlead instances SERVICE`: who is registered with the proxy's own address?",
)  # fmt: skip

# From the client.
BAD_REQUEST: Final = Fault(
    "bad_request", "http_request_error", 400, _C, "Malformed request",
    "The request is not HTTP/1.x, two servers could read it differently, or its target is refused.",
    "The `detail` says what is wrong. A client that speaks TLS to a plain listener shows up here.",
    closes=True,
)  # fmt: skip
HEAD_TOO_LARGE: Final = Fault(
    "head_too_large", "http_request_error", 431, _C, "Request head too large",
    "The head is longer than `limits.head`, or has more than `limits.fields` fields; mostly it is"
    " cookies.",
    "Raise the listener's limit, if the instances take such heads.",
    closes=True,
)  # fmt: skip
TARGET_TOO_LONG: Final = Fault(
    "target_too_long", "http_request_error", 414, _C, "Request target too long",
    "The target is longer than `limits.target`.",
    "Raise the listener's limit, if the instances take such targets.",
    closes=True,
)  # fmt: skip
BODY_TOO_LARGE: Final = Fault(
    "body_too_large", "http_request_error", 413, _C, "Request body too large",
    "The body is longer than the listener's `limits.body`, or a filter's `body_limit`.",
    "Raise the limit, if such uploads are meant.",
    closes=True,
)  # fmt: skip
HANDSHAKE_FAILED: Final = Fault(
    "handshake_failed", "http_request_error", 400, _C, "No TLS with the client",
    "A client's TLS handshake with a listener failed, or did not end within `timeouts.handshake`."
    " In logs and metrics only: there is nobody to answer.",
    "The `detail` says why. Old clients without TLS 1.2, scanners, and clients that do not trust"
    " the certificate (`alert ... unknown ca`) show up here.",
    closes=True,
)  # fmt: skip
HEAD_TIMEOUT: Final = Fault(
    "head_timeout", "http_request_error", 408, _C, "Request head too slow",
    "A head was begun and not finished within the listener's `timeouts.head`.",
    "Nothing: a slow or broken client, or somebody who holds connections.",
    closes=True,
)  # fmt: skip
BODY_TIMEOUT: Final = Fault(
    "body_timeout", "http_request_error", 408, _C, "Request body too slow",
    "For the listener's `timeouts.body` there was nothing more of the body, which was the client's"
    " to send.",
    "Raise the limit for clients on very slow lines; else nothing.",
    closes=True,
)  # fmt: skip
MISDIRECTED: Final = Fault(
    "misdirected", "http_request_error", 421, _C, "This connection is not for that host",
    "The request's host is not in the certificate of its connection, on a listener with"
    " `client_ca` or `unknown_names: refuse`, where another host may have other demands.",
    "Nothing: the client asks again over a connection of its own for that host. Does the"
    " certificate have all names of its routes?",
)  # fmt: skip
METHOD_NOT_ALLOWED: Final = Fault(
    "method_not_allowed", "http_request_error", 405, _C, "CONNECT is not served here",
    "CONNECT asks for a forward proxy, which this is not.",
    "Nothing: somebody looks for open proxies, or has set this one as theirs.",
    closes=True,
)  # fmt: skip
VERSION_NOT_SUPPORTED: Final = Fault(
    "version_not_supported", "http_request_error", 505, _C, "HTTP version not supported",
    "The request's version is neither 1.0 nor 1.x.",
    "Nothing: the client does not speak HTTP/1.1.",
    closes=True,
)  # fmt: skip
CODING_NOT_SUPPORTED: Final = Fault(
    "coding_not_supported", "http_request_error", 501, _C, "Transfer coding not supported",
    "The request's Transfer-Encoding names more than `chunked`.",
    "Nothing: the client has to send its body in plain chunks.",
    closes=True,
)  # fmt: skip
EXPECTATION_FAILED: Final = Fault(
    "expectation_failed", "http_request_error", 417, _C, "Expectation not supported",
    "The request's `Expect` is not `100-continue`.",
    "Nothing: there is no other expectation.",
    closes=True,
)  # fmt: skip
CLIENT_GONE: Final = Fault(
    "client_gone", "http_request_error", 499, _C, "The client left",
    "The client closed its connection before it had the whole answer. In logs only: there is"
    " nobody to answer.",
    "Nothing, if they are few. Many of them: clients, or a load balancer in front, wait less long"
    " than the instances take. If they end their side and still read, as `nc -N` does, the listener"
    " needs `client_close: half_close`.",
    closes=True,
)  # fmt: skip
"""Never sent: there is nobody to send it to. 499 is nginx's word for it in logs."""
DENIED: Final = Fault(
    "denied", "http_request_denied", 403, _C, "Not allowed",
    "A filter (`allow`, `deny` or one of your own) refused the request.",
    "Nothing, if it is meant so. Behind another proxy the client's address needs the listener's"
    " `trusted_proxies`.",
)  # fmt: skip
CALLER_DENIED: Final = Fault(
    "caller_denied", "http_request_denied", 403, _C, "This caller is not allowed",
    "`callers` of the service allows no such request of the service that the client's certificate"
    " names, or the client has shown none.",
    "The `detail` names caller, method and path. Add an entry to `callers.allow` if it is meant to"
    " be allowed; `callers.dry_run` only counts.",
)  # fmt: skip
UNAUTHORISED: Final = Fault(
    "unauthorised", "http_request_denied", 401, _C, "Not authorised",
    "A filter that authenticates (`basic_auth`, `jwt`) found no proof of who asks, or one that does"
    " not hold.",
    "The `detail` in the log says what is wrong. Many of them from one address: somebody guesses.",
)  # fmt: skip

# Filters.
FILTER_FAILED: Final = Fault(
    "filter_failed", "proxy_internal_error", 500, _P, "A filter failed",
    "A filter raised an error, or led the request elsewhere; no other request is concerned.",
    "The log's line `request_failed` names the filter and has the traceback.",
)  # fmt: skip
FILTER_TIMEOUT: Final = Fault(
    "filter_timeout", "proxy_internal_error", 504, _P, "A filter took too long",
    "A hook of a filter was not done within the filter's time limit, and was cancelled; or it held"
    " its worker for longer than its `block_limit`, and was interrupted.",
    "Find out what the filter waits for; its `time_limit` can be set in its class. One that blocked"
    " is in the log as `filter_blocked`, with the line where it was.",
)  # fmt: skip
FILTERS_BUSY: Final = Fault(
    "filters_busy", "connection_limit_reached", 503, _P, "Too many requests wait for filters",
    "As many hooks of the filter as there may be in a worker (1,000) wait for something.",
    "Find out what the filters wait for: mostly it is the server that `forward_auth` asks.",
)  # fmt: skip
AUTH_UNAVAILABLE: Final = Fault(
    "auth_unavailable", "destination_unavailable", 503, _P, "Nobody can say who asks",
    "A filter that authenticates has nobody to ask, or no keys or users: its server does not"
    " answer, or its file was never readable.",
    "The `detail` says what is missing. Requests are refused until it is there.",
)  # fmt: skip

# Ourselves.
INTERNAL: Final = Fault(
    "internal", "proxy_internal_error", 500, _P, "The proxy failed to process the request",
    "An error in the proxy, or in a plug-in, ended this request; no other one is concerned.",
    "The log's line `request_failed` has the traceback. If no plug-in is in it, please report it.",
    closes=True,
)  # fmt: skip

FAULTS: Final = {fault.code: fault for fault in list(globals().values()) if type(fault) is Fault}
"""Code → fault, of all faults."""


class Refused(Exception):
    """A decision that a message is not acceptable: which fault, and what exactly is wrong."""

    def __init__(
        self, fault: Fault, detail: str, retry_after: float = 1.0, framed: bool = False
    ) -> None:
        """`retry_after`: seconds until it is worth trying again, where the status says so.
        `framed`: where the message ends is beyond doubt, whatever the fault is otherwise."""
        super().__init__(detail)
        self.fault = fault
        self.detail = detail
        self.retry_after = retry_after
        self.closes = fault.closes and not framed


def rows() -> str:
    """The table of `docs/errors.md`."""
    lines = [
        "| code | status | RFC 9209 type | side | what it means | what to do |",
        "|---|---|---|---|---|---|",
    ]
    for fault in FAULTS.values():  # ≤ docs
        named = f"| `{fault.code}` | {fault.status} | `{fault.error}`"
        lines.append(f"{named} | {fault.side.value} | {fault.meaning} | {fault.remedy} |")
    return "\n".join((*lines, ""))


if __name__ == "__main__":
    page = Path("docs/errors.md")
    prose, _, _ = page.read_text("utf-8").partition("| code |")
    page.write_text(prose + rows(), "utf-8")
