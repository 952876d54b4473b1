"""The service's policies on the wire: which attempts are repeated, who waits, who is refused."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from proxy.messages import PolicyState
from proxy.settings.callers import Caller, CallersSettings
from proxy.settings.listener import ListenerSettings
from proxy.settings.service import (
    AdaptiveSettings,
    BreakerSettings,
    DrainSettings,
    QueueSettings,
    RateLimitSettings,
    RetrySettings,
    ServiceSettings,
    Timeouts,
)
from tests.support.wire import OK, OK_RELAYED, Peer, Wire, forwarded, request
from tests.wire.scenes import BAD, BAD_RELAYED, GET, answered, asked, reached

POST = request("POST /x", "Content-Length: 2", body=b"ab")
NEVER = RetrySettings(max_retries=0)
RETRY_ALL = RetrySettings(on=("connect", "reset", "first_byte", "502", "503", "504"))


def first(wire: Wire) -> tuple[Peer, str]:
    """The first connection to an instance, and the name of the other instance."""
    peer = wire.connected()
    peer.expect(forwarded("GET /x"))
    return peer, "b" if peer.name == "a" else "a"


class TestBadAnswers:
    def test_another_instance_is_asked(self, make: Any) -> None:
        wire = make("a", "b", settings=ServiceSettings(retry=RETRY_ALL))
        client = wire.client()
        client.send(GET)
        bad, other = first(wire)
        bad.send(BAD)
        client.expect_nothing()
        good = wire.accepted(other)
        good.expect(forwarded("GET /x"))
        answered(client, good)
        assert wire.pool.counters.retries == {"503": 1}
        assert wire.node(bad.name).outcomes == {"503": 1}
        assert wire.node(other).outcomes == {"ok": 1}

    def test_the_last_real_answer_counts(self, make: Any) -> None:
        wire = make("a", "b", settings=ServiceSettings(retry=RETRY_ALL))
        client = wire.client()
        client.send(GET)
        bad, other = first(wire)
        bad.send(BAD)
        worse = wire.accepted(other)
        worse.expect(forwarded("GET /x"))
        worse.send(BAD.replace(b"503 Busy", b"504 Late"))
        client.expect(BAD_RELAYED.replace(b"503 Busy", b"504 Late"))

    @pytest.mark.parametrize("cut", [len(BAD), len(BAD) - 2], ids=["whole", "half"])
    def test_when_no_other_one_answers_the_client_gets_it(self, make: Any, cut: int) -> None:
        wire = make("a", "b", settings=ServiceSettings(retry=RETRY_ALL))
        client = wire.client()
        client.send(GET)
        bad, other = first(wire)
        bad.send(BAD[:cut])
        worse = wire.accepted(other)
        worse.expect(forwarded("GET /x"))
        worse.reset()
        if cut < len(BAD):
            bad.send(BAD[cut:])
        client.expect(BAD_RELAYED)
        assert wire.in_flight == 0

    def test_the_answer_in_reserve_is_not_read(self, make: Any) -> None:
        wire = make("a", "b", settings=ServiceSettings(retry=RETRY_ALL))
        client = wire.client()
        client.send(GET)
        bad, other = first(wire)
        bad.send(BAD[:-2])
        assert not bad.read
        good = wire.accepted(other)
        good.expect(forwarded("GET /x"))
        answered(client, good)
        assert bad.cut

    def test_a_reserve_that_breaks_looks_broken(self, make: Any) -> None:
        """Nothing more of it is read, so that is known only when it is wanted."""
        wire = make("a", "b", settings=ServiceSettings(retry=RETRY_ALL))
        client = wire.client()
        client.send(GET)
        bad, other = first(wire)
        bad.send(BAD[:-2])
        bad.reset()
        worse = wire.accepted(other)
        worse.expect(forwarded("GET /x"))
        worse.reset()
        client.expect(BAD_RELAYED[:-2])
        assert client.cut

    def test_a_client_that_leaves_frees_both(self, make: Any) -> None:
        wire = make("a", "b", settings=ServiceSettings(retry=RETRY_ALL))
        client = wire.client()
        client.send(GET)
        bad, other = first(wire)
        bad.send(BAD[:-2])
        second = wire.accepted(other)
        second.expect(forwarded("GET /x"))
        client.reset()
        assert bad.cut
        assert second.cut
        assert wire.in_flight == 0

    def test_a_post_is_not_repeated(self, make: Any) -> None:
        wire = make("a", "b", settings=ServiceSettings(retry=RETRY_ALL))
        client, bad = reached(wire, POST)
        bad.expect(forwarded("POST /x", "Content-Length: 2", body=b"ab"))
        bad.send(BAD)
        client.expect(BAD_RELAYED)

    def test_by_default_a_bad_answer_is_an_answer(self, make: Any) -> None:
        wire = make("a", "b")
        client = wire.client()
        client.send(GET)
        bad, _ = first(wire)
        bad.send(BAD)
        client.expect(BAD_RELAYED)

    def test_a_bad_answer_is_passed_on_where_no_other_instance_is_left(self, make: Any) -> None:
        wire = make("a", settings=ServiceSettings(retry=RETRY_ALL))
        client, bad = reached(wire)
        bad.expect(forwarded("GET /x"))
        bad.send(BAD)
        client.expect(BAD_RELAYED)
        assert wire.node().outcomes == {"503": 1}


class TestReasons:
    def test_an_answer_that_is_not_http(self, make: Any) -> None:
        wire = make("a", "b", settings=ServiceSettings(retry=RETRY_ALL))
        client, bad = asked(wire)
        bad.send(b"\x00\x01 this is no HTTP\r\n\r\n")
        good = wire.connected()
        assert good.name != bad.name
        good.expect(forwarded("GET /x"))
        answered(client, good)
        assert wire.pool.counters.retries == {"bad_answer": 1}

    def test_an_answer_that_is_not_http_to_a_post(self, make: Any) -> None:
        wire = make("a", "b", settings=ServiceSettings(retry=RETRY_ALL))
        client, bad = asked(wire, request("POST /x", "Content-Length: 2", body=b"hi"))
        bad.send(b"\x00\x01 this is no HTTP\r\n\r\n")
        client.expect_problem(502, "http_protocol_error")
        wire.expect_no_dial()

    def test_a_reset_of_a_new_connection(self, make: Any) -> None:
        wire = make("a", "b", settings=ServiceSettings(retry=RETRY_ALL))
        client = wire.client()
        client.send(GET)
        bad, other = first(wire)
        bad.reset()
        good = wire.accepted(other)
        good.expect(forwarded("GET /x"))
        answered(client, good)

    def test_no_first_byte_in_time(self, make: Any) -> None:
        slow = ServiceSettings(retry=RETRY_ALL, timeouts=Timeouts(first_byte=0.3))
        wire = make("a", "b", settings=slow)
        client = wire.client()
        client.send(GET)
        _, other = first(wire)
        wire.advance(0.35)
        good = wire.accepted(other)
        good.expect(forwarded("GET /x"))
        answered(client, good)

    def test_by_default_a_silent_instance_is_not_asked_twice(self, make: Any) -> None:
        wire = make("a", "b", settings=ServiceSettings(timeouts=Timeouts(first_byte=0.3)))
        client = wire.client()
        client.send(GET)
        _, other = first(wire)
        wire.advance(0.35)
        client.expect_problem(504, "http_response_timeout")
        wire.expect_no_dial(other)

    def test_the_budget_ends_it(self, make: Any) -> None:
        wire = make("a", "b", settings=ServiceSettings(retry=RETRY_ALL))
        attempts = 0
        for _ in range(20):
            client = wire.client()
            client.send(GET)
            bad, other = first(wire)
            bad.reset()
            attempts += 1
            if wire.network.accepted.get(wire.address(other)):
                worse = wire.accepted(other)
                worse.expect(forwarded("GET /x"))
                worse.reset()
                attempts += 1
            client.expect_problem(502, "connection_terminated")
        assert attempts <= 20 * 1.2 + 3
        assert attempts >= 20 + 6
        assert wire.pool.counters.limited == {"retry.budget": 20 - (attempts - 20)}


class TestSuspects:
    def test_failures_in_a_row_are_reported(self, make: Any) -> None:
        wire = make("a")
        for _ in range(11):
            client, bad = reached(wire)
            bad.expect(forwarded("GET /x"))
            bad.send(BAD)
            client.expect(BAD_RELAYED)
            bad.eof()
        assert [(report.failures, report.reason) for report in wire.suspects()] == [
            (5, "503"),
            (10, "503"),
        ]

    def test_one_good_answer_clears_the_record(self, make: Any) -> None:
        wire = make("a")
        for answer, relayed in (
            [(BAD, BAD_RELAYED)] * 4 + [(OK, OK_RELAYED)] + [(BAD, BAD_RELAYED)] * 4
        ):
            client, peer = reached(wire)
            peer.expect(forwarded("GET /x"))
            peer.send(answer)
            client.expect(relayed)
            peer.eof()
        assert wire.suspects() == []

    def test_a_client_that_leaves_speaks_against_nobody(self, make: Any) -> None:
        wire = make("a")
        client, peer = reached(wire)
        peer.expect(forwarded("GET /x"))
        client.reset()
        assert wire.node().failing == 0


class TestRoom:
    def busy(self, make: Any, size: int, **more: Any) -> tuple[Wire, Peer, Peer]:
        """An instance that may have one request, and has it."""
        wire = make(
            "a", settings=ServiceSettings(max_inflight=1, queue=QueueSettings(size=size), **more)
        )
        client, instance = reached(wire)
        instance.expect(forwarded("GET /x"))
        return wire, client, instance

    def test_without_a_queue_the_next_is_refused(self, make: Any) -> None:
        wire, client, instance = self.busy(make, 0)
        second = wire.client()
        second.send(GET)
        head = second.expect_problem(503, "queue_full")
        assert b"Retry-After: 1" in head
        assert wire.pool.counters.limited == {"max_inflight": 1}
        answered(client, instance)

    def test_the_next_waits_for_its_turn(self, make: Any) -> None:
        wire, client, instance = self.busy(make, 2)
        second, third, fourth = wire.client(), wire.client(), wire.client()
        second.send(GET)
        third.send(GET)
        fourth.send(GET)
        fourth.expect_problem(503, "queue_full")
        second.expect_nothing()
        assert wire.pool.policy_state() == PolicyState("", waiting=2)
        answered(client, instance)
        for waiter in (second, third):
            wire.advance(0.01)
            instance.expect(forwarded("GET /x"))
            answered(waiter, instance)

    def test_patience_ends(self, make: Any) -> None:
        wire, client, instance = self.busy(make, 2, timeouts=Timeouts(queue=3.0))
        second = wire.client()
        second.send(GET)
        wire.advance(2.9)
        second.expect_nothing()
        wire.advance(0.2)
        second.expect_problem(503, "queue_timeout")
        assert wire.pool.counters.limited == {"timeouts.queue": 1}
        assert wire.pool.policy_state() == PolicyState()
        answered(client, instance)
        wire.advance(0.1)

    def test_room_for_many_is_given_out_turn_by_turn(self, make: Any) -> None:
        wire, client, instance = self.busy(make, 500)
        waiting = [wire.client() for _ in range(300)]
        for one in waiting:
            one.send(GET)
        wire.configure(
            wire.worker.services.routes.routes, {"s": ServiceSettings(max_inflight=1000)}
        )
        in_flight = [1]

        def turn() -> None:
            wire.loop.run_turn()
            in_flight.append(wire.node().in_flight)

        wire.loop.advance(0.1, turn)
        assert max(after - before for before, after in pairwise(in_flight)) == 64
        assert not wire.pool.policies.queue
        wire.settle()
        answered(client, instance)
        for one in waiting:
            peer = wire.accepted()
            peer.expect(forwarded("GET /x"))
            answered(one, peer)

    def test_a_client_that_leaves_the_queue_is_not_served(self, make: Any) -> None:
        wire, client, instance = self.busy(make, 2)
        second = wire.client()
        second.send(GET)
        second.reset()
        answered(client, instance)
        wire.advance(0.1)
        instance.expect(b"")
        assert wire.in_flight == 0

    def test_a_body_waits_with_its_request(self, make: Any) -> None:
        wire, client, instance = self.busy(make, 2)
        second = wire.client()
        second.send(request("POST /x", "Content-Length: 4", body=b"ab"))
        assert not second.read
        answered(client, instance)
        wire.advance(0.01)
        instance.expect(forwarded("POST /x", "Content-Length: 4", body=b"ab"))
        assert second.read
        second.send(b"cd")
        instance.expect(b"cd")
        answered(second, instance)

    def test_another_instance_with_room_is_taken_first(self, make: Any) -> None:
        wire = make("a", "b", settings=ServiceSettings(max_inflight=1))
        clients = [wire.client() for _ in range(3)]
        for client in clients:
            client.send(GET)
        for name in ("a", "b"):
            peer = wire.accepted(name)
            peer.expect(forwarded("GET /x"))
            peer.send(OK)
        clients[2].expect_problem(503, "queue_full")
        for client in clients[:2]:
            client.expect(OK_RELAYED)

    def test_requests_in_flight_of_other_workers_count(self, make: Any) -> None:
        wire = make("a", settings=ServiceSettings(max_inflight=1, queue=QueueSettings(size=1)))
        theirs = wire.board.row(1)
        theirs[wire.node().slot] = 1
        client = wire.client()
        client.send(GET)
        wire.expect_no_dial()
        theirs[wire.node().slot] = 0
        wire.advance(0.01)
        instance = wire.accepted()
        instance.expect(forwarded("GET /x"))
        answered(client, instance)


class TestRateLimit:
    def test_a_bucket_for_each_client(self, make: Any) -> None:
        limit = RateLimitSettings(requests=1, per=10.0, burst=1)
        wire = make("a", settings=ServiceSettings(rate_limit=limit))
        client, instance = reached(wire)
        instance.expect(forwarded("GET /x"))
        answered(client, instance)
        client.send(GET)
        head = client.expect_problem(429, "http_request_denied")
        assert b"Retry-After: 10" in head
        assert wire.pool.counters.limited == {"rate_limit": 1}
        other = wire.client(("192.0.2.8", 1234))
        other.send(request("GET /x"))
        instance.expect(forwarded("GET /x", for_="192.0.2.8"))
        answered(other, instance)


class TestAdaptiveConcurrency:
    def test_requests_beyond_it_are_refused_until_an_answer_begins(self, make: Any) -> None:
        wire = make("a", settings=ServiceSettings(adaptive_concurrency=AdaptiveSettings()))
        first, second, third = (wire.client() for _ in range(3))
        first.send(GET)
        a = wire.accepted()
        second.send(GET)
        wire.accepted().take()
        third.send(GET)
        third.expect_problem(503, "queue_full")
        assert wire.pool.counters.limited == {"adaptive_concurrency": 1}
        a.expect(forwarded("GET /x"))
        a.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")  # Its content takes its time.
        first.take()
        third.send(GET)
        wire.accepted().expect(forwarded("GET /x"))

    @pytest.mark.parametrize("end", ["client", "instance", "breaker"])
    def test_however_a_request_ends_it_counts_no_more(self, make: Any, end: str) -> None:
        breaker = BreakerSettings(failure_ratio=0.1, min_requests=1) if end == "breaker" else None
        settings = ServiceSettings(
            adaptive_concurrency=AdaptiveSettings(), circuit_breaker=breaker, retry=NEVER
        )
        wire = make("a", settings=settings)
        client, instance = reached(wire)
        limit = wire.pool.policies.concurrency
        assert limit.inflight == 1
        instance.take()
        if end == "client":
            client.reset()
        elif end == "instance":
            instance.reset()
            client.take()
        else:
            instance.send(BAD)
            client.expect(BAD_RELAYED)
            client.send(GET)
            client.expect_problem(503, "breaker_open")
        wire.settle()
        assert limit.inflight == 0


class TestBreaker:
    def test_open_answers_at_once_and_trials_close_it(self, make: Any) -> None:
        breaker = BreakerSettings(failure_ratio=0.5, min_requests=4, window=10.0, open=5.0)
        wire = make("a", settings=ServiceSettings(circuit_breaker=breaker))
        client, instance = reached(wire)
        for _ in range(4):
            instance.expect(forwarded("GET /x"))
            instance.send(BAD)
            client.expect(BAD_RELAYED)
            client.send(GET)
        client.expect_problem(503, "breaker_open")
        instance.expect(b"")
        assert wire.pool.counters.limited == {"circuit_breaker": 1}
        assert wire.pool.counters.breaker_opened == 1
        assert wire.pool.policy_state() == PolicyState("open")
        wire.advance(5.0)
        client.send(GET)
        instance = wire.accepted()
        for _ in range(3):
            instance.expect(forwarded("GET /x"))
            answered(client, instance)
            client.send(GET)
        instance.expect(forwarded("GET /x"))
        answered(client, instance)
        assert wire.pool.policy_state() == PolicyState("closed")

    def test_a_breaker_ceases_to_be_open_without_a_request(self, make: Any) -> None:
        breaker = BreakerSettings(failure_ratio=0.5, min_requests=1, window=10.0, open=5.0)
        wire = make("a", settings=ServiceSettings(circuit_breaker=breaker))
        client, instance = reached(wire)
        instance.expect(forwarded("GET /x"))
        instance.send(BAD)
        client.expect(BAD_RELAYED)
        wire.pool.tick(wire.loop.time() + 4.9)
        assert wire.pool.policy_state() == PolicyState("open")
        wire.pool.tick(wire.loop.time() + 5.0)
        assert wire.pool.policy_state() == PolicyState("trying")

    def test_each_turn_is_told_once(self, make: Any) -> None:
        breaker = BreakerSettings(failure_ratio=0.5, min_requests=2, window=10.0, open=5.0)
        wire = make("a", settings=ServiceSettings(circuit_breaker=breaker))
        client = wire.client()
        for answer, relayed in [(BAD, BAD_RELAYED)] * 3 + [(OK, OK_RELAYED)] * 4:
            wire.advance(6.0 if wire.breaker_states()[-1:] == ["open"] else 0.0)
            client.send(GET)
            instance = wire.connected()
            instance.expect(forwarded("GET /x"))
            instance.send(answer)
            client.expect(relayed)
            instance.eof()
        assert wire.breaker_states() == ["open", "trying", "open", "trying", "closed"]
        assert wire.pool.counters.breaker_opened == 2

    def test_a_request_no_instance_was_asked_does_not_count(self, make: Any) -> None:
        """A full queue says that there is much to do, not that the service fails."""
        breaker = BreakerSettings(failure_ratio=0.5, min_requests=2, window=10.0, open=5.0)
        wire = make("a", settings=ServiceSettings(circuit_breaker=breaker, max_inflight=1))
        busy, instance = reached(wire, request("GET /"))
        for _ in range(10):
            client = wire.client()
            client.send(request("GET /"))
            client.expect_problem(503, "queue_full")
        instance.take()
        answered(busy, instance)
        assert wire.pool.counters.limited == {"max_inflight": 10}
        assert wire.pool.counters.breaker_opened == 0


class TestTunnelsOfInstancesThatLeave:
    SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"

    def tunnel(self, make: Any, drain: DrainSettings) -> tuple[Wire, Peer, Peer]:
        wire = make("a", "b", settings=ServiceSettings(drain=drain))
        client, instance = asked(wire, request("GET /", "Connection: Upgrade", "Upgrade: x"))
        instance.send(self.SWITCH)
        assert client.take().startswith(b"HTTP/1.1 101 ")
        return wire, client, instance

    def test_kept_by_default(self, make: Any) -> None:
        wire, client, instance = self.tunnel(make, DrainSettings())
        wire.serve("a", "b", **{instance.name: "draining"})
        wire.advance(3000)
        client.send(b"still")
        instance.expect(b"still")

    @pytest.mark.parametrize("gone", [False, True])
    def test_closed_after_a_while(self, make: Any, gone: bool) -> None:
        wire, client, instance = self.tunnel(make, DrainSettings(tunnels="close", close_after=100))
        other = "b" if instance.name == "a" else "a"
        if gone:
            wire.serve(other)
        else:
            wire.serve("a", "b", **{instance.name: "draining"})
        wire.advance(49)
        client.send(b"still")
        instance.expect(b"still")
        wire.advance(102)
        assert client.closed
        assert instance.closed
        assert wire.pool.counters.snapshot().tunnels_closed == 1

    def test_an_instance_that_stays_after_all_keeps_them(self, make: Any) -> None:
        wire, client, instance = self.tunnel(make, DrainSettings(tunnels="close", close_after=100))
        with capture_logs() as logs:
            wire.serve("a", "b", **{instance.name: "draining"})
            wire.serve("a", "b", **{instance.name: "draining"})
            wire.advance(40)
            wire.serve("a", "b")
        wire.advance(1000)
        client.send(b"still")
        instance.expect(b"still")
        assert wire.pool.counters.tunnels_closed == 0
        told = [line for line in logs if line["event"].startswith("tunnels_to")]
        assert told == [
            {
                "event": "tunnels_to_close",
                "log_level": "info",
                "service": "s",
                "count": 1,
                "after": 100,
            },
            {"event": "tunnels_to_stay", "log_level": "info", "service": "s", "count": 1},
        ]

    def test_a_tunnel_that_ends_by_itself_was_not_closed(self, make: Any) -> None:
        wire, client, instance = self.tunnel(make, DrainSettings(tunnels="close", close_after=100))
        wire.serve("a", "b", **{instance.name: "draining"})
        wire.advance(10)
        client.eof()
        instance.eof()
        assert client.closed
        wire.advance(200)
        assert wire.pool.counters.tunnels_closed == 0

    @pytest.mark.parametrize("stalled", [False, True])
    def test_one_whose_client_does_not_read_is_counted_once(self, make: Any, stalled: bool) -> None:
        wire, client, instance = self.tunnel(make, DrainSettings(tunnels="close", close_after=100))
        if stalled:
            client.stall()
            instance.send(b"x" * 1000)
        wire.serve("a", "b", **{instance.name: "draining"})
        wire.advance(200)
        assert client.cut == stalled
        assert wire.pool.counters.tunnels_closed == 1

    def test_the_end_of_the_worker_is_another_reason(self, make: Any) -> None:
        wire, client, instance = self.tunnel(make, DrainSettings(tunnels="close", close_after=100))
        wire.serve("a", "b", **{instance.name: "draining"})
        wire.worker.drain(grace=5.0)
        wire.advance(20)
        assert client.closed
        assert wire.pool.counters.tunnels_closed == 0


CLOSED = CallersSettings(allow=(Caller(service="web"),))


class TestCallers:
    def test_a_client_without_a_name_is_refused(self, make: Any) -> None:
        wire = make(settings=ServiceSettings(callers=CLOSED))
        client = wire.client()
        client.send(GET)
        client.expect_problem(403, "caller_denied")
        wire.expect_no_dial()
        assert wire.pool.counters.limited == {"callers": 1}

    def test_a_connection_that_is_passed_on_is_refused(self, make: Any) -> None:
        listener = ListenerSettings(mode_tcp="s")
        wire = make(settings=ServiceSettings(callers=CLOSED), listener=listener, tls=False)
        assert wire.silent_client().closed
        wire.expect_no_dial()

    def test_dry_runs_only_count(self, make: Any) -> None:
        callers = replace(CLOSED, dry_run=True)
        wire = make(settings=ServiceSettings(callers=callers))
        answered(*asked(wire))
        assert wire.pool.counters.limited == {"callers.dry_run": 1}
