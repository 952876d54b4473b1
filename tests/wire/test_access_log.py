"""What becomes a line of the access log, and what the line says of it."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from proxy.settings.access_log import FIELDS, AccessLogSettings
from proxy.settings.listener import ListenerSettings
from proxy.settings.listener_tls import Certificate, ListenerTls
from proxy.settings.route import RouteSpec
from proxy.settings.service import RetrySettings, ServiceSettings, Timeouts
from proxy.tls.contexts import load_pair
from tests.support.certificates import Authority
from tests.support.filters import spec
from tests.support.h2_peer import H2Peer, head
from tests.support.tls_far_end import authority, new_client_side
from tests.support.wire import OK, Wire, request

ROUTES = (
    RouteSpec(path_prefix="/none", service="nobody"),
    RouteSpec(path_prefix="/", service="s"),
)


class Logged:
    """A wire with an access log."""

    def __init__(self, path: Path, *instances: str, **more: Any) -> None:
        self._path = path / "access.log"
        log = more.pop("log", {})
        self.wire = Wire(*instances, **more)
        self.wire.worker.access_logs.use(
            AccessLogSettings(path=str(self._path), **log), self.wire.worker.services
        )

    def lines(self) -> list[dict[str, Any]]:
        """Everything logged, in order. Ends the wire."""
        return [json.loads(line) for line in self.text().splitlines()]

    def text(self) -> str:
        """Everything logged. Ends the wire."""
        log = self.wire.worker.access_logs.current
        assert log is not None
        self.wire.done()
        log.close(10.0)
        assert log.dropped == 0
        return self._path.read_text()

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        return line


def pick(line: dict[str, Any], **wanted: Any) -> None:
    """These values stand in the line."""
    assert {name: line[name] for name in wanted} == wanted


def test_a_get(tmp_path: Path) -> None:
    logged = Logged(tmp_path)
    client = logged.wire.client()
    client.send(request("GET /a?b=c", "User-Agent: curl", "Authorization: x", "Cookie: y"))
    instance = logged.wire.accepted()
    instance.take()
    logged.wire.advance(0.25)
    instance.send(OK)
    client.take()
    line = logged.line()
    assert line.pop("time")[-1] == "Z"
    assert line == {
        "client": "192.0.2.7",
        "method": "GET",
        "target": "/a?b=c",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes_received": 0,
        "bytes_sent": 2,
        "duration_ms": 250.0,
        "first_byte_ms": 250.0,
        "route": 0,
        "service": "s",
        "instance": "a",
        "upstream": "10.0.0.1:80",
        "attempts": 1,
        "error": None,
        "fault": None,
        "request_id": "r1",
        "host": "h",
        "user_agent": "curl",
        "referer": None,
        "forwarded_for": None,
    }


def test_bodies_both_ways_are_counted_without_their_framing(tmp_path: Path) -> None:
    logged = Logged(tmp_path)
    client = logged.wire.client()
    client.send(
        request("POST /", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"),
        b"6\r\n world\r\n0\r\n\r\n",
    )
    instance = logged.wire.accepted()
    instance.take()
    instance.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    logged.wire.advance(1.0)
    instance.send(b"4\r\ndefg\r\n0\r\n\r\n")
    client.take()
    pick(
        logged.line(), bytes_received=11, bytes_sent=7, first_byte_ms=0.0, duration_ms=1000.0,
        method="POST",
    )  # fmt: skip


@pytest.mark.parametrize("head", [b"200 OK\r\nContent-Length: 700", b"304 Not Modified"])
def test_an_answer_without_a_body_sends_no_bytes(tmp_path: Path, head: bytes) -> None:
    logged = Logged(tmp_path)
    client = logged.wire.client()
    client.send(request("HEAD /" if head[:1] == b"2" else "GET /"))
    instance = logged.wire.accepted()
    instance.take()
    instance.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 " + head + b"\r\n\r\n")
    client.take()
    pick(logged.line(), status=int(head[:3]), bytes_sent=0)


def test_answers_of_our_own(tmp_path: Path) -> None:
    logged = Logged(tmp_path, routes=ROUTES)
    client = logged.wire.client()
    client.send(request("GET /none/x"))
    body = client.take().partition(b"\r\n\r\n")[2]
    client.send(request("HEAD /none/x", "X-Request-ID: r2").replace(b"X-Request-ID: r1\r\n", b""))
    client.send(request("OPTIONS /", "Max-Forwards: 0"))
    client.take()
    one, two, three = logged.lines()
    pick(
        one, status=503, error="destination_unavailable", fault="no_instance",
        bytes_sent=len(body), route=0, service=None, instance=None, upstream=None,
        attempts=0, first_byte_ms=None, request_id="r1",
    )  # fmt: skip
    pick(two, status=503, bytes_sent=0, request_id="r2")
    pick(three, status=200, error=None, route=None, bytes_sent=0, method="OPTIONS")


def test_the_request_id_is_the_one_of_the_answer(tmp_path: Path) -> None:
    logged = Logged(tmp_path, routes=ROUTES[:1])
    client = logged.wire.client()
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    answer = json.loads(client.take().partition(b"\r\n\r\n")[2])
    pick(logged.line(), status=404, route=None, request_id=answer["request_id"])


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"GET / HTTP/1.1\r\n\r\n", 400), (b"nonsense\x00\r\n\r\n", 400), (b"GET", 408)],
)
def test_bytes_that_are_no_request_are_a_line(tmp_path: Path, sent: bytes, status: int) -> None:
    logged = Logged(tmp_path)
    client = logged.wire.client()
    client.send(sent)
    logged.wire.advance(60.0)
    head, _, body = client.take().partition(b"\r\n\r\n")
    assert head
    pick(
        logged.line(), status=status, method=None, target=None, error="http_request_error",
        client="192.0.2.7", bytes_sent=len(body), request_id=json.loads(body)["request_id"],
    )  # fmt: skip


def test_a_client_that_leaves_before_the_answer(tmp_path: Path) -> None:
    logged = Logged(tmp_path)
    client = logged.wire.client()
    client.send(request("GET /"))
    logged.wire.accepted().take()
    client.reset()
    pick(logged.line(), status=499, fault="client_gone", instance="a", first_byte_ms=None)


def test_a_client_that_leaves_in_mid_answer(tmp_path: Path) -> None:
    logged = Logged(tmp_path)
    client = logged.wire.client()
    client.send(request("GET /"))
    instance = logged.wire.accepted()
    instance.take()
    instance.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    client.take()
    client.reset()
    pick(logged.line(), status=200, fault="client_gone", bytes_sent=3)


def test_an_answer_that_breaks_off(tmp_path: Path) -> None:
    logged = Logged(tmp_path, log={"sample": 0.0})
    client = logged.wire.client()
    client.send(request("GET /"))
    instance = logged.wire.accepted()
    instance.take()
    instance.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    client.take()
    instance.eof()
    pick(logged.line(), status=200, fault="cut_short", bytes_sent=3)


def test_attempts_and_the_last_instance(tmp_path: Path) -> None:
    logged = Logged(tmp_path, "a", "b")
    wire = logged.wire
    settings = ServiceSettings(retry=RetrySettings(on=("503",)))
    wire.configure((RouteSpec(path_prefix="/", service="s"),), {"s": settings})
    wire.worker.access_logs.use(
        AccessLogSettings(path=str(tmp_path / "access.log")), wire.worker.services
    )
    client = wire.client()
    client.send(request("GET /"))
    first = wire.connected()
    first.take()
    first.send(b"HTTP/1.1 503 No\r\nContent-Length: 5\r\n\r\nsorry")
    second = wire.connected()
    second.take()
    second.send(OK)
    client.take()
    pick(
        logged.line(), status=200, attempts=2, instance=second.name, bytes_sent=2, error=None
    )  # fmt: skip


def test_a_bad_answer_that_no_better_one_replaces(tmp_path: Path) -> None:
    retry = RetrySettings(on=("503",))
    logged = Logged(tmp_path, "a", "b", settings=ServiceSettings(retry=retry))
    client = logged.wire.client()
    client.send(request("GET /"))
    for _ in range(2):
        instance = logged.wire.connected()
        instance.take()
        instance.send(b"HTTP/1.1 503 No\r\nContent-Length: 5\r\n\r\nsorry")
    client.take()
    pick(logged.line(), status=503, attempts=2, bytes_sent=5, error=None)


def test_an_instance_that_does_not_answer(tmp_path: Path) -> None:
    settings = ServiceSettings(timeouts=Timeouts(first_byte=2.0), retry=RetrySettings(on=()))
    logged = Logged(tmp_path, settings=settings)
    client = logged.wire.client()
    client.send(request("GET /"))
    logged.wire.accepted().take()
    logged.wire.advance(3.0)
    client.take()
    line = logged.line()
    pick(line, status=504, error="http_response_timeout", instance="a", first_byte_ms=None)
    assert line["duration_ms"] >= 2000


def test_a_tunnel_is_logged_at_its_end(tmp_path: Path) -> None:
    logged = Logged(tmp_path)
    client = logged.wire.client()
    client.send(request("GET /", "Connection: Upgrade", "Upgrade: websocket", body=b"early"))
    instance = logged.wire.accepted()
    instance.take()
    logged.wire.advance(0.5)
    instance.send(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi"
    )
    client.send(b"12345")
    instance.send(b"123")
    logged.wire.advance(10.0)
    client.take()
    instance.take()
    client.eof()
    instance.eof()
    pick(
        logged.line(), status=101, bytes_received=10, bytes_sent=5, first_byte_ms=500.0,
        duration_ms=10500.0, error=None, instance="a",
    )  # fmt: skip


def test_a_trusted_proxy_in_front(tmp_path: Path) -> None:
    logged = Logged(tmp_path, listener=ListenerSettings(trusted_proxies=("192.0.2.0/24",)))
    client = logged.wire.client()
    client.send(request("GET /", "X-Forwarded-For: 203.0.113.5"))
    instance = logged.wire.accepted()
    instance.take()
    instance.send(OK)
    client.take()
    pick(logged.line(), client="203.0.113.5", forwarded_for="203.0.113.5")


def test_a_sample_is_a_share_and_failures_are_always_in_it(tmp_path: Path) -> None:
    logged = Logged(tmp_path, routes=ROUTES, log={"sample": 0.1})
    client = logged.wire.client()
    for number in range(1000):
        client.send(request(f"GET /{number}"))
        if not number:
            instance = logged.wire.accepted()
        instance.take()
        status = b"500 No" if number % 100 == 0 else b"200 OK"
        instance.send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        client.take()
    lines = logged.lines()
    assert sum(line["status"] == 500 for line in lines) == 10
    # 990 with a chance of 0.1: 99 ± 9.4. The generator is seeded, so this is not chance.
    assert 70 < len(lines) - 10 < 130


def test_lines_are_gathered_for_a_tenth_of_a_second(tmp_path: Path) -> None:
    logged = Logged(tmp_path, routes=ROUTES)
    log = logged.wire.worker.access_logs.current
    assert log is not None
    client = logged.wire.client()
    for _ in range(2):
        client.send(request("GET /none"))
        client.take()
    assert log._count == 2
    logged.wire.advance(0.1)
    assert log._count == 0
    assert len(logged.lines()) == 2


def test_lines_that_nobody_takes_cost_little_more_than_themselves(tmp_path: Path) -> None:
    logged = Logged(tmp_path, routes=ROUTES)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    logged.wire.worker.access_logs.use(
        AccessLogSettings(path=str(pipe)), logged.wire.worker.services
    )
    log = logged.wire.worker.access_logs.current
    assert log is not None
    client = logged.wire.client()
    tracemalloc.start()
    try:
        for _ in range(1000):  # Each tenth of a second one line, for a minute and a half.
            client.send(request("GET /none"))
            client.take()
            logged.wire.advance(0.1)
        assert log.dropped == 0
        assert tracemalloc.get_traced_memory()[0] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()
        os.close(reader)
    logged.wire.done()
    log.close(0.0)


def test_without_an_access_log_nobody_records(tmp_path: Path) -> None:
    logged = Logged(tmp_path)
    logged.wire.worker.access_logs.use(None, logged.wire.worker.services)
    assert logged.wire.worker.services.new_recorder is None
    assert logged.wire.worker.services.on_refused is None
    logged.wire.done()


def test_chosen_fields_say_which_filter_answered(tmp_path: Path) -> None:
    gate = spec("deny", "gate", networks=["0.0.0.0/0"])
    route = RouteSpec(path_prefix="/", service="s", filters=(gate,))
    logged = Logged(tmp_path, routes=(route,), log={"fields": ("status", "filter", "tls_version")})
    client = logged.wire.client()
    client.send(request("GET /"))
    client.take()
    assert logged.line() == {"status": 403, "filter": "gate", "tls_version": None}


@pytest.mark.parametrize(
    ("does", "decided"),
    [
        ("", "first:pass,gate:pass,last:pass"),
        ("refuse", "first:pass,gate:denied"),
        ("raise", "first:pass,gate:filter_failed"),
        ("hang", "first:pass,gate:none"),
    ],
)
def test_chosen_fields_say_what_each_filter_has_decided(
    tmp_path: Path, does: str, decided: str
) -> None:
    """Not of those that look at answers alone, such as `compress`."""
    gate = spec("Scripted", "gate", at="request", does=does)
    filters = (spec("Scripted", "first"), spec("compress", "small"), gate, spec("Scripted", "last"))
    routes = (RouteSpec(path_prefix="/", service="s", filters=filters),)
    logged = Logged(tmp_path, routes=routes, log={"fields": ("filters",)})
    client = logged.wire.client()
    client.send(request("GET /"))
    if not does:
        instance = logged.wire.accepted()
        instance.take()
        instance.send(OK)
    if does == "hang":
        client.reset()
    else:
        client.take()
    assert logged.line() == {"filters": decided}


@pytest.mark.parametrize("format", ["json", "text"])
def test_chosen_fields_say_what_tls_and_http2_know(tmp_path: Path, format: str) -> None:
    ours = Authority("clients")
    shown = ours.issue("client.example")
    tls = ListenerTls(certificates=(Certificate(cert="c", key="k"),), client_ca="ca")
    logged = Logged(
        tmp_path,
        listener=ListenerSettings(tls=tls),
        log={"format": format, "fields": FIELDS[FIELDS.index("listener") :]},
    )
    wire = logged.wire
    wire.prove(authority()[1], client_ca=ours.ca)
    context = new_client_side()
    context.set_alpn_protocols(["h2"])
    load_pair(context, shown.cert, shown.key)
    client = H2Peer(wire, context=context, server_hostname="h")
    client.send(head(1))
    instance = wire.accepted()
    instance.take()
    instance.send(OK)
    client.take()
    if format == "text":
        assert "listener=web filter=- filters=- http2_stream=1 tls_version=TLSv1.3" in logged.text()
        return
    assert logged.line() == {
        "listener": "web",
        "filter": None,
        "filters": None,
        "http2_stream": 1,
        "tls_version": "TLSv1.3",
        "tls_cipher": "TLS_AES_256_GCM_SHA384",
        "tls_name": "h",
        "tls_resumed": False,
        "tls_client": "CN=client.example",
    }
