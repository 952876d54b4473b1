"""What is sent. Each scenario is the same for every proxy, byte for byte."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

SMALL_BODY = (
    b'{"id": 4711, "name": "Ada Lovelace", "email": "ada@example.com", '
    b'"roles": ["admin", "editor"]}   \n'
)
"""The 98-byte answer of the reference request."""
assert len(SMALL_BODY) == 98

ECHO_BODY = b"x" * (16 * 1024)
MESSAGE = b'{"room": 17, "from": "ada", "text": "a short line"}'.ljust(64)
assert len(MESSAGE) == 64
MIB = 1024 * 1024

BROWSER_HEADERS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept": "application/json, text/plain, */*",
    "Accept-Language": "en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding": "gzip, deflate, br",
    "Referer": "http://shop.example.com/users/overview",
    "Origin": "http://shop.example.com",
    "Cookie": "session=4f2c9a60f1b84f0fb2f2c7d3a9e1d0c4; theme=dark; consent=1",
    "Authorization": "Bearer 9b1deb4d3b7d4bad9bdd2b0d7b3dcb6d",
    "Cache-Control": "no-cache",
    "Pragma": "no-cache",
    "X-User-ID": "4711",
}
"""With the Host that every client adds, the 12 fields of the reference request."""


CALL = b"\0" + len(SMALL_BODY).to_bytes(4, "big") + SMALL_BODY
CALL_HEADERS = (
    ("Content-Type", "application/grpc"),
    ("TE", "trailers"),
    ("User-Agent", "grpc-go/1.83.2"),
    ("grpc-timeout", "10S"),
)


Unit = Literal["request", "message", "MiB"]
"""What CPU time is divided by."""


OWN_FILES = 128
"""Open files that a proxy and the load need for themselves, and some to spare."""


@dataclass(frozen=True)
class Variant:
    """How a proxy is set up where that is the question."""

    suffix: str = ""
    """What its line in the table is called, behind the proxy's name."""
    workers: int = 1
    access_log: bool = False


PLAIN = Variant()


@dataclass(frozen=True)
class Scenario:
    """One line of load: `connections` clients that each have one request in flight."""

    name: str
    title: str
    path: str = "/small"
    headers: tuple[tuple[str, str], ...] = tuple(BROWSER_HEADERS.items())
    """Without Host, and without Content-Length, which follow from the rest."""
    body: bytes = b""
    """Sent with POST when not empty; the answer must then be the same bytes."""
    answer: int = len(SMALL_BODY)
    """Length of the body of a right answer, bytes."""
    connections: int = 64
    variants: tuple[Variant, ...] = (PLAIN,)
    """Each proxy takes part once for each of them, all in the same rounds; the others are also
    compared with the first."""
    websocket: bool = False
    """The connections are WebSockets; `body` is one text message, sent again when it is back."""
    tls: Literal["", "ec", "rsa"] = ""
    """The proxy's listener speaks TLS 1.3, with a certificate of this kind."""
    handshakes: Literal["", "full", "resumed"] = ""
    """Where each request has a new connection: it resumes the newest session that any client has
    been given, or none."""
    tls_to_instances: bool = False
    """The proxy speaks TLS to the backend, and looks at its certificate."""
    streams: int = 0
    """Clients speak HTTP/2, with so many requests at a time on each connection; 0 = HTTP/1.1."""
    http2_to_instances: bool = False
    """The proxy speaks HTTP/2 to the backend, in clear text."""
    open_loop: bool = False
    """Requests come at a steady rate, half of what the first proxy carries, however long answers
    take: what their times are like where nobody is at the limit."""
    grpc: bool = False
    """The requests are unary calls, and the backend is a server of gRPC, which echoes."""
    traced: bool = False
    """Each request carries a trace id of its own, so no two field blocks are the same."""
    unit: Unit = "request"
    least_seconds: float = 0.0
    """Shortest measurement in which it shows anything, whatever was asked for."""
    default: bool = True
    quick: bool = False

    @property
    def method(self) -> str:
        return "POST" if self.body and not self.websocket else "GET"

    @property
    def echoed(self) -> bool:
        """The answer is what was sent, which takes a backend that can do that."""
        return bool(self.body)

    @property
    def workers(self) -> int:
        """The most that any variant has."""
        return max(variant.workers for variant in self.variants)

    def within(self, open_files: int) -> Scenario:
        """The same with no more connections than a process with so many open files can pass on:
        two files for each, and some for itself. Proxies differ in what they do beyond that, but
        none can serve it."""
        most = (open_files - OWN_FILES) // 2
        return replace(self, connections=most) if most < self.connections else self


TRACE_HEADER = "Traceparent"
TRACE_ID = "00-{:032x}-00f067aa0ba902b7-01"
"""W3C trace context, which tracing clients send with every request."""

_CLOSE = (*BROWSER_HEADERS.items(), ("Connection", "close"))

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("small_get", "small GET: 12 header fields, 98-byte answer", quick=True),
        Scenario(
            "traced_get", "small GET, each with a trace id of its own", traced=True, quick=True,
        ),
        Scenario(
            "post_16k", "POST of 16 KiB, echoed", path="/echo", body=ECHO_BODY,
            answer=len(ECHO_BODY), quick=True,
        ),
        Scenario(
            "download_1m", "download of 1 MiB", path="/1m", answer=MIB, connections=8,
            unit="MiB", quick=True,
        ),
        Scenario(
            "download_100m", "download of 100 MiB", path="/100m", answer=100 * MIB,
            connections=4, unit="MiB",
        ),
        Scenario(
            "connections_1000", "small GET over 1,000 connections", connections=1000,
            least_seconds=2.0,
        ),
        Scenario(
            "connections_10000", "small GET over 10,000 connections", connections=10_000,
            least_seconds=6.0, default=False,
        ),
        Scenario("new_connection", "small GET, a new connection for each", headers=_CLOSE),
        Scenario(
            "access_log", "small GET, without and with an access log",
            variants=(PLAIN, Variant("+log", access_log=True)), least_seconds=1.5,
        ),
        Scenario(
            "websocket", "WebSocket messages of 64 bytes, echoed, one in flight on each tunnel",
            path="/ws", body=MESSAGE, answer=len(MESSAGE), websocket=True, unit="message",
        ),
        Scenario(
            "half_load", "small GET at half of the rate that the first proxy carries (open loop)",
            connections=256, open_loop=True, least_seconds=4.0,
        ),
        Scenario(
            "traced_log", "small GET, each with a trace id of its own, with an access log",
            traced=True, variants=(Variant("+log", access_log=True),), least_seconds=1.5,
        ),
        Scenario("tls_get", "small GET over TLS 1.3", tls="ec"),
        Scenario(
            "tls_download_1m", "download of 1 MiB over TLS 1.3", path="/1m", answer=MIB,
            connections=8, unit="MiB", tls="ec",
        ),
        Scenario(
            "tls_handshake", "full handshake and one small GET, P-256", headers=_CLOSE, tls="ec",
            handshakes="full",
        ),
        Scenario(
            "tls_handshake_rsa", "full handshake and one small GET, RSA 2048", headers=_CLOSE,
            tls="rsa", handshakes="full",
        ),
        Scenario(
            "tls_resumed", "resumed session and one small GET", headers=_CLOSE, tls="ec",
            handshakes="resumed",
        ),
        Scenario(
            "tls_to_instances", "small GET, to the instance over TLS 1.3", tls_to_instances=True,
        ),
        Scenario(
            "http2_many", "HTTP/2 from 4 clients with 32 requests each, to HTTP/1.1",
            connections=4, streams=32,
        ),
        Scenario(
            "http2_one", "HTTP/2 from 64 clients with one request each, to HTTP/1.1", streams=1,
        ),
        Scenario(
            "http2_both", "HTTP/2 on both sides, 4 clients with 32 requests each", connections=4,
            streams=32, http2_to_instances=True,
        ),
        Scenario(
            "grpc_unary", "unary gRPC, 98 bytes both ways, 4 clients with 32 calls each",
            path="/t.T/Unary", headers=CALL_HEADERS, body=CALL, answer=len(CALL), connections=4,
            streams=32, http2_to_instances=True, grpc=True,
        ),
        Scenario(
            "http2_tls", "HTTP/2 over TLS 1.3 from 4 clients with 32 requests each, to HTTP/1.1",
            connections=4, streams=32, tls="ec",
        ),
        Scenario(
            "workers", "small GET with 1, 2 and 4 workers on the same cores",
            variants=(PLAIN, Variant("x2", workers=2), Variant("x4", workers=4)), least_seconds=1.5,
        ),
    )
}  # fmt: skip
