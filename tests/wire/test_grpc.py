"""Calls of gRPC from clients, to instances of HTTP/1.1 that say a status of gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.messages import UNROUTED
from proxy.settings.listener import ListenerLimits
from proxy.settings.route import RouteSpec
from proxy.settings.service import (
    GrpcSettings,
    RateLimitSettings,
    RetrySettings,
    ServiceSettings,
    Timeouts,
)
from tests.support.h2_peer import HTTP2, H2Peer, data, head, http2, reset
from tests.support.wire import Peer, Wire, request
from tests.wire.scenes import REFUSED, answered, asked
from tests.wire.test_access_log import Logged, pick
from tests.wire.test_http2 import STREAMED, begun

GRPC = ("content-type", "application/grpc")
MESSAGE = b"\0\0\0\0\2hi"
UNARY = head(1, GRPC, method="POST", end=False) + data(1, MESSAGE, end=True)
ELSEWHERE = (RouteSpec(path_prefix="/y", service="s"),)


def told(client: H2Peer, stream: int = 1) -> dict[str, str]:
    """What an answer of trailers alone says, which must be one frame."""
    kind, of, fields, ended = client.take()[0]
    assert (kind, of, ended) == ("head", stream, True)
    assert fields[":status"] == "200"
    return dict(fields)


class TestOwnAnswers:
    def test_a_fault_is_one_head(self, make: Any) -> None:
        _, client = begun(make, routes=ELSEWHERE)
        client.send(UNARY)
        assert told(client) == {
            ":status": "200",
            "x-request-id": "r1",
            "content-type": "application/grpc",
            "grpc-status": "12",
            "grpc-message": "no route for h /x",
            "proxy-status": 'fairlead; error=destination_not_found; details="no_route"',
            "content-length": "0",
            "via": "1.1 fairlead",
        }

    def test_a_client_of_http1_gets_the_same(self, make: Any) -> None:
        wire = make(routes=ELSEWHERE)
        client = wire.client()
        client.send(request("POST /x", "Content-Type: application/grpc+proto"))
        answer = client.take()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nContent-Type: application/grpc+proto\r\ngrpc-status: 12\r\n" in answer
        assert b"\r\nContent-Length: 0\r\n" in answer

    def test_an_instance_that_refuses_is_unavailable(self, make: Any) -> None:
        wire, client = begun(make)
        wire.network.refuse(wire.address("a"), REFUSED)
        client.send(UNARY)
        assert told(client)["grpc-status"] == "14"
        wire.network.errors.clear()

    def test_a_limit_says_when_to_come_again(self, make: Any) -> None:
        limit = RateLimitSettings(requests=1, per=4.0)
        wire, client = begun(make, settings=ServiceSettings(rate_limit=limit))
        client.send(UNARY)
        assert wire.accepted().take()
        client.send(head(3, GRPC, method="POST"))
        fields = told(client, 3)
        assert (fields["grpc-status"], fields["grpc-retry-pushback-ms"]) == ("14", "4000")

    def test_a_head_with_too_large_a_body_is_told_so(self, make: Any) -> None:
        _, client = begun(make, listener=http2(limits=ListenerLimits(body=10)))
        client.send(head(1, GRPC, ("content-length", "100"), method="POST", end=False))
        assert told(client)["grpc-status"] == "8"

    def test_other_requests_are_told_in_http(self, make: Any) -> None:
        _, client = begun(make, routes=ELSEWHERE)
        client.send(head(1, ("accept", "application/grpc"), method="POST"))
        client.expect_problem(404, "no_route")

    def test_logs_and_counts_have_the_status_of_the_fault(self, tmp_path: Path) -> None:
        logged = Logged(tmp_path, listener=HTTP2, routes=ELSEWHERE)
        client = H2Peer(logged.wire)
        client.send(UNARY)
        assert told(client)["grpc-status"] == "12"
        counted = logged.wire.worker.counters.service(UNROUTED).snapshot()
        assert (counted.requests, counted.calls) == ({"POST 404": 1}, {"12": 1})
        pick(logged.line(), status=404, fault="no_route", grpc_status=12)


class TestStatus:
    """What became of a call stands in the access log, and is counted."""

    @pytest.mark.parametrize(
        ("answer", "status"),
        [
            (b"HTTP/1.1 200 OK\r\nGrpc-Status: 5\r\nContent-Length: 0\r\n\r\n", 5),
            (STREAMED + b"1\r\na\r\n0\r\ngrpc-status: 9\r\n\r\n", 9),
            (STREAMED + b"0\r\nX: y\r\ngrpc-status: 0\r\n\r\n", 0),
            (STREAMED + b"0\r\n\r\n", 2),
            (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 7),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", 14),
        ],
        ids=["trailers only", "trailers", "good", "none", "none in HTTP", "cut"],
    )
    def test_a_status_is_the_instances(self, tmp_path: Path, answer: bytes, status: int) -> None:
        logged = Logged(tmp_path, listener=HTTP2)
        client = H2Peer(logged.wire)
        client.send(UNARY)
        instance = logged.wire.accepted()
        assert instance.take()
        instance.send(answer)
        instance.eof()
        assert client.take()
        assert logged.wire.pool.counters.snapshot().calls == {str(status): 1}
        pick(logged.line(), grpc_status=status)

    def test_a_call_that_is_left_is_cancelled(self, tmp_path: Path) -> None:
        logged = Logged(tmp_path, listener=HTTP2)
        client = H2Peer(logged.wire)
        client.send(UNARY)
        assert logged.wire.accepted().take()
        client.send(reset(1))
        pick(logged.line(), grpc_status=1, status=499)

    def test_other_requests_have_none(self, tmp_path: Path) -> None:
        logged = Logged(tmp_path)
        answered(*asked(logged.wire))
        assert logged.wire.pool.counters.snapshot().calls == {}
        assert "grpc_status" not in logged.line()


def calling(make: Any, *fields: tuple[str, str], **grpc: Any) -> tuple[Wire, H2Peer, Peer]:
    """A call whose request goes on, and the instance that has its beginning."""
    wire, client = begun(make, settings=ServiceSettings(grpc=GrpcSettings(**grpc)))
    client.send(head(1, GRPC, *fields, method="POST", end=False), data(1, MESSAGE))
    instance = wire.accepted()
    assert instance.take()
    return wire, client, instance


class TestTime:
    @pytest.mark.parametrize(
        ("asked", "most", "seconds"),
        [
            ("2S", 0.0, 2.0), ("2S", 1.0, 1.0), ("500m", 1.0, 0.5), ("", 1.0, 1.0),
            ("9S 2S", 0.0, 2.0), ("2S 9S", 5.0, 2.0), ("soon 2S", 5.0, 2.0),
        ],
    )  # fmt: skip
    def test_a_deadline_is_the_shortest_that_is_said(
        self, make: Any, asked: str, most: float, seconds: float
    ) -> None:
        fields = [("grpc-timeout", one) for one in asked.split()]
        wire, client, instance = calling(make, *fields, max_timeout=most)
        wire.advance(seconds - 0.1)
        assert client.take() == []
        wire.advance(0.2)
        assert told(client)["grpc-status"] == "4"
        assert instance.closed

    def test_a_deadline_is_over_all_attempts(self, make: Any) -> None:
        settings = ServiceSettings(timeouts=Timeouts(connect=1.0))
        wire, client = begun(make, "a", "b", settings=settings)
        wire.network.hang(wire.address("a"))
        wire.network.hang(wire.address("b"))
        client.send(head(1, GRPC, ("grpc-timeout", "1500m"), method="POST"))
        wire.advance(1.4)
        assert client.take() == []
        wire.advance(0.2)
        assert told(client)["grpc-status"] == "4"
        wire.network.answer(wire.address("a"))
        wire.network.answer(wire.address("b"))
        wire.advance(10.0)
        wire.accepted("a")
        wire.accepted("b")

    def test_a_total_limit_holds_for_calls_too(self, make: Any) -> None:
        settings = ServiceSettings(timeouts=Timeouts(total=1.0))
        wire, client = begun(make, settings=settings)
        client.send(head(1, GRPC, ("grpc-timeout", "9S"), method="POST"))
        assert wire.accepted().take()
        wire.advance(1.1)
        assert told(client)["grpc-status"] == "4"

    def test_a_deadline_within_an_answer_is_told_in_trailers(self, make: Any) -> None:
        wire, client, instance = calling(make, ("grpc-timeout", "2S"))
        instance.send(STREAMED + b"1\r\na\r\n")
        assert client.take()[1] == ("data", 1, b"a", False)
        wire.advance(2.1)
        ends, left = client.take()
        assert (ends[0], ends[2]["grpc-status"], ends[3]) == ("head", "4", True)
        assert left == ("reset", 1, 0)  # NO_ERROR: the rest of the request may stay away.
        assert instance.closed
        assert wire.in_flight == 0

    def test_a_deadline_within_an_answer_of_a_length_cuts_it(self, make: Any) -> None:
        wire, client, instance = calling(make, ("grpc-timeout", "2S"))
        instance.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        assert len(client.take()) == 2
        wire.advance(2.1)
        assert client.take() == [("reset", 1, 2)]

    def test_a_call_may_be_silent(self, make: Any) -> None:
        """Longer than the limits of other requests: for the head, the answer, and the body."""
        wire, client, instance = calling(make)
        wire.advance(290.0)
        client.send(data(1, b"more"))
        instance.expect(b"4\r\nmore\r\n")
        wire.advance(290.0)
        instance.send(STREAMED + b"1\r\na\r\n")
        assert len(client.take()) == 2
        wire.advance(290.0)
        client.send(data(1, b"", end=True))
        instance.expect(b"0\r\n\r\n")
        instance.send(b"0\r\ngrpc-status: 0\r\n\r\n")
        assert client.take() == [("head", 1, {"grpc-status": "0"}, True)]

    def test_silence_of_the_client_ends(self, make: Any) -> None:
        wire, client, instance = calling(make, stream_idle=100.0)
        wire.advance(99.0)
        assert client.take() == []
        wire.advance(2.0)
        assert told(client)["grpc-status"] == "4"
        assert instance.closed

    def test_silence_of_the_instance_ends(self, make: Any) -> None:
        wire, client, instance = calling(make, stream_idle=100.0)
        client.send(data(1, b"", end=True))
        assert instance.take()
        wire.advance(99.0)
        assert client.take() == []
        wire.advance(2.0)
        assert told(client)["grpc-status"] == "4"

    def test_a_call_may_be_silent_for_ever(self, make: Any) -> None:
        wire, client, instance = calling(make, stream_idle=0.0)
        wire.advance(100_000.0)
        instance.send(b"HTTP/1.1 200 OK\r\ngrpc-status: 0\r\nContent-Length: 0\r\n\r\n")
        assert client.take()[0][2]["grpc-status"] == "0"


UNAVAILABLE = b"HTTP/1.1 200 OK\r\ngrpc-status: 14\r\n%bContent-Length: 0\r\n\r\n"
AGAIN = ServiceSettings(retry=RetrySettings(on=("connect", "grpc_unavailable")))


def answered_first(make: Any, answer: bytes, *frames: bytes, **options: Any) -> tuple[Any, H2Peer]:
    """A call that the first instance has answered so."""
    wire, client = begun(make, "a", "b", settings=options.pop("settings", AGAIN))
    client.send(*(frames or (UNARY,)))
    first = wire.connected()
    assert first.take()
    first.send(answer)
    return wire, client


class TestOnceMore:
    def test_another_instance_is_called(self, make: Any) -> None:
        wire, client = answered_first(make, UNAVAILABLE % b"")
        second = wire.connected()
        assert second.take().endswith(b"7\r\n" + MESSAGE + b"\r\n0\r\n\r\n")
        second.send(b"HTTP/1.1 200 OK\r\ngrpc-status: 0\r\nContent-Length: 0\r\n\r\n")
        assert told(client)["grpc-status"] == "0"
        assert wire.pool.counters.retries == {"grpc_unavailable": 1}
        assert wire.pool.counters.calls == {"0": 1}

    def test_an_instance_that_has_no_more_of_something_may_be_passed_over(self, make: Any) -> None:
        retry = RetrySettings(on=("connect", "grpc_resource_exhausted"))
        exhausted = UNAVAILABLE.replace(b"14", b"8") % b""
        wire, client = answered_first(make, exhausted, settings=ServiceSettings(retry=retry))
        second = wire.connected()
        assert second.take().endswith(b"7\r\n" + MESSAGE + b"\r\n0\r\n\r\n")
        second.send(b"HTTP/1.1 200 OK\r\ngrpc-status: 0\r\nContent-Length: 0\r\n\r\n")
        assert told(client)["grpc-status"] == "0"
        assert wire.pool.counters.retries == {"grpc_resource_exhausted": 1}

    def test_the_answer_in_reserve_is_the_clients_if_no_better_one_comes(self, make: Any) -> None:
        wire, client = answered_first(make, UNAVAILABLE % b"x: first\r\n")
        second = wire.connected()
        assert second.take()
        second.eof()
        assert told(client)["x"] == "first"
        assert wire.pool.counters.calls == {"14": 1}

    @pytest.mark.parametrize(
        "answer",
        [
            UNAVAILABLE % b"grpc-retry-pushback-ms: 100\r\n",
            UNAVAILABLE.replace(b"14", b"8") % b"",
            b"HTTP/1.1 200 OK\r\ngrpc-status: 14\r\nContent-Length: 1\r\n\r\na",
            STREAMED + b"0\r\ngrpc-status: 14\r\n\r\n",
        ],
        ids=["pushed back", "another status", "content", "trailers behind a head"],
    )
    def test_other_answers_are_relayed(self, make: Any, answer: bytes) -> None:
        _, client = answered_first(make, answer)
        assert client.take()

    def test_a_call_is_not_made_again_unless_the_service_says_so(self, make: Any) -> None:
        _, client = answered_first(make, UNAVAILABLE % b"", settings=ServiceSettings())
        assert told(client)["grpc-status"] == "14"

    def test_a_request_that_goes_on_is_not_made_again(self, make: Any) -> None:
        frames = head(1, GRPC, method="POST", end=False), data(1, MESSAGE)
        _, client = answered_first(make, UNAVAILABLE % b"", *frames)
        assert client.take()[0][2]["grpc-status"] == "14"

    def test_a_call_that_an_instance_may_have_seen_is_not_made_again(self, make: Any) -> None:
        wire, client = begun(make, "a", "b", settings=AGAIN)
        client.send(UNARY)
        first = wire.connected()
        assert first.take()
        first.eof()
        assert told(client)["grpc-status"] == "14"

    def test_a_call_that_no_instance_saw_is_made_again(self, make: Any) -> None:
        wire, client = begun(make, "a", "b", settings=AGAIN)
        wire.network.refuse(wire.address("a"), REFUSED)
        client.send(UNARY)
        assert wire.accepted("b").take()
        client.send(reset(1))
        wire.network.errors.clear()
