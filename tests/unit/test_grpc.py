"""gRPC's words: whose requests are calls, how long they may take, and what a fault is to them."""

from __future__ import annotations

import pytest

from proxy.engine import grpc
from proxy.errors import FAULTS


@pytest.mark.parametrize(
    ("content_type", "call"),
    [
        (b"application/grpc", True),
        (b"application/grpc+", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/grpc-web+proto", False),
        (b"application/grpc-web-text", False),
        (b"application/grpcx", False),
        (b"application/json", False),
        (b"", False),
    ],
)  # Envoy's hasGrpcContentType has the same table.
def test_a_call_is_known_by_its_content_type(content_type: bytes, call: bool) -> None:
    assert grpc.is_grpc(content_type) is call


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0.0),
        (b"1S", 1.0),
        (b"2H", 7200.0),
        (b"3M", 180.0),
        (b"250m", 0.25),
        (b"10u", 1e-5),
        (b"99999999n", 0.099999999),
        (b"0S", 1e-9),
        (b"100000000S", 0.0),
        (b"1", 0.0),
        (b"S", 0.0),
        (b"-1S", 0.0),
        (b"1.5S", 0.0),
        (b"1s", 0.0),
        (b"9S, 2S", 2.0),
        (b"2S,9S", 2.0),
        (b"abc, 1M", 60.0),
        (b"0S, 1M", 1e-9),
        (b", ,", 0.0),
        (b"1 S", 0.0),
    ],
)
def test_a_timeout_is_eight_digits_and_a_unit(value: bytes | None, seconds: float) -> None:
    assert grpc.timeout_of(value) == pytest.approx(seconds)


def test_a_fault_is_one_status_of_grpc() -> None:
    """Contract, section 10."""
    promised = {
        1: "client_gone",
        2: "misdirected",
        4: "first_byte_timeout idle_timeout total_timeout head_timeout body_timeout filter_timeout",
        7: "denied caller_denied",
        8: "body_too_large",
        12: "no_route unknown_service method_not_allowed version_not_supported"
        " coding_not_supported expectation_failed",
        13: "bad_request head_too_large target_too_long handshake_failed loop internal no_grpc"
        " filter_failed",
        14: "no_instance queue_full queue_timeout breaker_open rate_limited rate_table_full"
        " no_descriptor too_many_streams no_port connect_refused connect_timeout dns_failed"
        " destination_denied unreachable closed_early bad_answer cut_short tls_failed"
        " no_upgrade stream_refused filters_busy auth_unavailable",
        16: "unauthorised",
    }
    by_code = {code: status for status, codes in promised.items() for code in codes.split()}
    assert {code: grpc.status_of(fault) for code, fault in FAULTS.items()} == by_code


@pytest.mark.parametrize(
    ("status", "told"), [(200, 2), (204, 2), (302, 2), (401, 16), (403, 7), (418, 2), (502, 14)]
)
def test_a_status_of_http_stands_for_one_of_grpc(status: int, told: int) -> None:
    assert grpc.status_for(status) == told


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"", -1),
        (b"grpc-message: x\r\n", -1),
        (b"grpc-status: 0\r\n", 0),
        (b"a: b\r\nGrpc-Status:16 \r\nc: d\r\n", 16),
        (b"x-grpc-status: 5\r\n", -1),
        (b"grpc-status: 17\r\n", 2),
        (b"grpc-status: 99999999\r\n", 2),
        (b"grpc-status: -1\r\n", -1),
    ],
)
def test_a_status_is_found_among_fields(lines: bytes, status: int) -> None:
    assert grpc.status_in(lines) == status


def test_a_message_is_written_by_percent() -> None:
    assert grpc.message_of("50% of ü\n") == b"50%25 of %C3%BC%0A"
    assert grpc.message_of("plain ~ text") == b"plain ~ text"


def test_an_answer_says_when_to_come_again_where_a_status_has_that() -> None:
    busy = grpc.trailers_only(FAULTS["rate_limited"], "d", b"application/grpc", 0.25)
    assert (b"grpc-retry-pushback-ms", b"250") in busy.fields
    gone = grpc.trailers_only(FAULTS["closed_early"], "d", b"application/grpc", 0.25)
    assert b"grpc-retry-pushback-ms" not in dict(gone.fields)


@pytest.mark.parametrize("lines", [b"a: b\r\nGRPC-Retry-Pushback-Ms: -1\r\n"])
def test_a_pushback_is_found_among_fields(lines: bytes) -> None:
    assert grpc.pushes_back(lines)
    assert not grpc.pushes_back(b"grpc-status: 14\r\n")
