"""The closed table of faults.

Every way a request can fail is one line here. The vocabulary is RFC 9209 §2.3, and it is the
only one: answers, metrics and logs all say the same word. Foreign exceptions are translated
into a fault once, where they first appear (`upstream/connector.py`, `http1/parser.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Final


class Side(Enum):
    """Who caused it."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    PROXY = "proxy"


class Replay(Enum):
    """May the request be sent once more, on another instance?"""

    NEVER = "never"
    IF_SAFE = "if_safe"
    """Only if the instance cannot have acted on it, or acting twice is harmless: an idempotent
    method with a body we still hold (RFC 9110 §9.2.2)."""
    ALWAYS = "always"
    """Not a byte of it reached an instance."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail. `error` is the RFC 9209 type; `status` what the client gets."""

    error: str
    status: int
    side: Side
    title: str
    replay: Replay = Replay.NEVER
    closes: bool = False
    """The position in the client's byte stream is in doubt: answer and close."""

    @property
    def phrase(self) -> str:
        """Reason phrase of the status."""
        return HTTPStatus(self.status).phrase


_C, _U, _P = Side.CLIENT, Side.UPSTREAM, Side.PROXY

# Routing and pools.
NO_ROUTE: Final = Fault("destination_not_found", 404, _C, "No route matches the request")
UNKNOWN_SERVICE: Final = Fault("destination_not_found", 404, _C, "No such service")
NO_INSTANCE: Final = Fault("destination_unavailable", 503, _P, "No usable instance")

NO_ROOM: Final = Fault(
    "connection_limit_reached", 503, _P, "Every instance has as many requests as it may have"
)
BREAKER_OPEN: Final = Fault("connection_limit_reached", 503, _P, "The circuit breaker is open")
RATE_LIMITED: Final = Fault("http_request_denied", 429, _C, "Too many requests")

# Towards the instance.
CONNECT_REFUSED: Final = Fault(
    "connection_refused", 502, _U, "The instance refused the connection", Replay.ALWAYS
)
CONNECT_TIMEOUT: Final = Fault(
    "connection_timeout", 504, _U, "Connecting to the instance took too long", Replay.ALWAYS
)
UNROUTABLE: Final = Fault(
    "destination_ip_unroutable", 502, _U, "The instance cannot be reached", Replay.ALWAYS
)
DNS_ERROR: Final = Fault(
    "dns_error", 502, _U, "The instance's name cannot be resolved", Replay.ALWAYS
)
TERMINATED: Final = Fault(
    "connection_terminated", 502, _U, "The instance closed the connection", Replay.IF_SAFE
)
CLOSED_AT_ONCE: Final = Fault(
    "connection_terminated", 502, _U, "The instance closed the new connection", Replay.ALWAYS
)
FIRST_BYTE_TIMEOUT: Final = Fault(
    "http_response_timeout", 504, _U, "The instance did not answer in time", Replay.IF_SAFE
)
BODY_GAP_TIMEOUT: Final = Fault(
    "http_response_timeout", 504, _U, "The instance stopped in the middle of its answer"
)
TOTAL_TIMEOUT: Final = Fault("http_response_timeout", 504, _U, "The request took too long")
BAD_ANSWER: Final = Fault(
    "http_protocol_error", 502, _U, "The instance's answer is not valid HTTP", Replay.IF_SAFE
)
TRUNCATED: Final = Fault(
    "http_response_incomplete",
    502,
    _U,
    "The instance's answer ended before it was complete",
    Replay.IF_SAFE,
)

NO_DESCRIPTOR: Final = Fault(
    "connection_limit_reached", 503, _P, "The proxy has no room for another connection"
)

# From the client.
BAD_REQUEST: Final = Fault("http_request_error", 400, _C, "Malformed request", closes=True)
BAD_TARGET: Final = Fault("http_request_error", 400, _C, "Refused request target")
HEAD_TOO_LARGE: Final = Fault("http_request_error", 431, _C, "Request head too large", closes=True)
TARGET_TOO_LONG: Final = Fault(
    "http_request_error", 414, _C, "Request target too long", closes=True
)
BODY_TOO_LARGE: Final = Fault("http_request_error", 413, _C, "Request body too large", closes=True)
HEAD_TIMEOUT: Final = Fault("http_request_error", 408, _C, "Request head too slow", closes=True)
BODY_TIMEOUT: Final = Fault("http_request_error", 408, _C, "Request body too slow", closes=True)
CONNECT_METHOD: Final = Fault(
    "http_request_error", 405, _C, "CONNECT is not served here", closes=True
)
UNSUPPORTED_VERSION: Final = Fault(
    "http_request_error", 505, _C, "HTTP version not supported", closes=True
)
UNSUPPORTED_CODING: Final = Fault(
    "http_request_error", 501, _C, "Transfer coding not supported", closes=True
)
EXPECTATION: Final = Fault("http_request_error", 417, _C, "Expectation not supported", closes=True)
LOOP: Final = Fault("proxy_loop_detected", 502, _P, "The request came back to this proxy")

# Ourselves.
INTERNAL: Final = Fault(
    "proxy_internal_error", 500, _P, "The proxy failed to process the request", closes=True
)
CLIENT_GONE: Final = Fault("http_request_error", 499, _C, "The client left", closes=True)
"""Never sent: there is nobody to send it to. 499 is nginx's word for it in logs."""


class Refused(Exception):
    """A decision that a message is not acceptable: which fault, and what exactly is wrong."""

    def __init__(self, fault: Fault, detail: str, retry_after: float = 1.0) -> None:
        """`retry_after`: seconds until it is worth trying again, where the status says so."""
        super().__init__(detail)
        self.fault = fault
        self.detail = detail
        self.retry_after = retry_after
