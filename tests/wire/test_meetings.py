"""Where mechanisms meet: what one does must not be miscounted, mistimed or forgotten by another."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from proxy.engine.exchange import Exchange
from proxy.engine.http1.answers import MAX_HEAD
from proxy.engine.http1.client import UpstreamConnection
from proxy.engine.http1.second_descriptor import SecondDescriptor
from proxy.engine.resilience.breaker import TRIALS
from proxy.engine.resilience.retry import FLOOR
from proxy.messages import Drain, PolicyState
from proxy.settings.listener import ListenerSettings, ListenerTimeouts
from proxy.settings.route import RouteSpec
from proxy.settings.service import (
    BreakerSettings,
    QueueSettings,
    RateLimitSettings,
    RetrySettings,
    ServiceSettings,
    Timeouts,
)
from tests.support.wire import OK, OK_RELAYED, OK_RELAYED_CLOSE, Peer, Wire, forwarded, request
from tests.wire.scenes import BAD, BAD_RELAYED, GET, SWITCH, answered, asked, served

UPGRADE = request("GET /x", "Connection: Upgrade", "Upgrade: x")
BREAKER = BreakerSettings(failure_ratio=0.5, min_requests=2, window=10.0, open=5.0)
STRICT = BreakerSettings(failure_ratio=0.5, min_requests=1, window=10.0, open=5.0)
ROUTES = (RouteSpec(path_prefix="/", service="s"),)


def said_before_the_reset(wire: Wire, path: Path, said: bytes) -> int:
    """Put what an instance said into the second descriptor of the one exchange, as a file of which
    each read gets a piece. Returns the descriptor."""
    [connection] = wire.worker.connections.clients
    exchange = connection.exchange
    assert isinstance(exchange, Exchange)
    upstream = exchange.upstream
    assert isinstance(upstream, UpstreamConnection)
    (path / "said").write_bytes(said)
    descriptor = os.open(path / "said", os.O_RDONLY)
    upstream._dup = SecondDescriptor(descriptor, None)
    return descriptor


class TestTheQueueAndTime:
    def test_a_request_that_waited_has_all_its_time_for_the_answer(self, make: Any) -> None:
        wire = make(
            settings=ServiceSettings(
                max_inflight=1,
                queue=QueueSettings(size=1),
                timeouts=Timeouts(queue=3.0, first_byte=1.0),
            )
        )
        client, instance = asked(wire)
        instance.send(OK[:-1])
        second = wire.client()
        second.send(GET)
        wire.advance(2.5)
        instance.send(OK[-1:])
        client.expect(OK_RELAYED)
        wire.advance(0.1)
        instance.expect(forwarded("GET /x"))
        wire.advance(0.8)
        second.expect_nothing()
        answered(second, instance)

    def test_a_request_that_comes_later_is_not_served_before(self, make: Any) -> None:
        wire = make(settings=ServiceSettings(max_inflight=1, queue=QueueSettings(size=2)))
        client, instance = asked(wire)
        second, third = wire.client(), wire.client()
        second.send(request("GET /second"))
        instance.transport.feed(OK)
        third.send(request("GET /third"))
        client.expect(OK_RELAYED)
        wire.advance(0.01)
        instance.expect(forwarded("GET /second"))
        answered(second, instance)
        wire.advance(0.01)
        instance.expect(forwarded("GET /third"))
        answered(third, instance)

    def test_a_place_that_is_free_again_is_taken_at_once(self, make: Any) -> None:
        wire = make(settings=ServiceSettings(max_inflight=1, queue=QueueSettings(size=2)))
        client, instance = asked(wire)
        second = wire.client()
        second.send(GET)
        answered(client, instance)
        wire.advance(0.0)
        instance.expect(forwarded("GET /x"))
        answered(second, instance)

    def test_one_look_at_a_time(self, make: Any) -> None:
        """However often the line was empty in between."""
        wire = make(settings=ServiceSettings(max_inflight=1, queue=QueueSettings(size=2)))
        client, instance = asked(wire)
        for _ in range(20):
            brief = wire.client()
            brief.send(GET)
            brief.reset()
        patient = wire.client()
        patient.send(GET)
        before = wire.loop.timers_set
        wire.advance(0.1)
        assert 40 < wire.loop.timers_set - before < 80  # A look each 2 ms, and the deadlines' tick.
        answered(client, instance)
        wire.advance(0.01)
        instance.take()
        answered(patient, instance)


class TestRetriesAndRoom:
    def test_a_second_attempt_goes_only_where_there_is_room(self, make: Any) -> None:
        wire = make("a", "b", settings=ServiceSettings(max_inflight=1))
        first, busy = asked(wire, at="a" if wire.pool.pick(-1, ()).id == "b" else "b")
        other = "b" if busy.name == "a" else "a"
        wire.network.refuse(wire.address(other))
        second = wire.client()
        second.send(GET)
        second.expect_problem(502, "connection_refused")
        assert wire.node(busy.name).in_flight == 1
        answered(first, busy)


class TestWhatSpeaksAgainstAnInstance:
    def test_our_own_want_of_descriptors_does_not(self, make: Any) -> None:
        wire = make()
        wire.network.refuse(wire.address("a"), OSError(errno.EMFILE, "Too many open files"))
        clients = [wire.client() for _ in range(5)]
        for client in clients:
            client.send(GET)
        wire.advance(2.0)
        for client in clients:
            client.expect_problem(503, "no_descriptor")
        assert wire.suspects() == []

    def test_a_client_that_does_not_read_until_the_total_limit_does_not(self, make: Any) -> None:
        wire = make(settings=ServiceSettings(timeouts=Timeouts(total=2.0)))
        client, instance = asked(wire)
        client.stall()
        instance.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100_000)
        wire.advance(2.1)
        assert client.cut
        assert wire.node().failing == 0
        client.take()

    def test_a_client_that_does_not_send_until_the_total_limit_does_not(self, make: Any) -> None:
        wire = make(settings=ServiceSettings(timeouts=Timeouts(total=2.0)))
        client, _ = asked(wire, request("POST /x", "Content-Length: 9", body=b"abc"))
        wire.advance(2.1)
        client.expect_problem(504, "http_response_timeout", closing=True)
        assert wire.node().failing == 0

    def test_a_client_that_pauses_in_its_body_does_not(self, make: Any) -> None:
        wire = make(settings=ServiceSettings(timeouts=Timeouts(first_byte=2.0)))
        client, instance = asked(wire, request("POST /x", "Content-Length: 6", body=b"abc"))
        wire.advance(5.0)
        client.expect_nothing()
        client.send(b"def")
        instance.expect(b"def")
        wire.advance(1.5)
        answered(client, instance)

    def test_an_instance_that_does_not_read_the_body_does(self, make: Any) -> None:
        wire = make(settings=ServiceSettings(timeouts=Timeouts(first_byte=2.0)))
        client = wire.client()
        wire.network.hang(wire.address("a"))
        client.send(request("POST /x", "Content-Length: 1000000", body=b"a"))
        wire.network.answer(wire.address("a"))
        wire.settle()
        instance = wire.accepted()
        instance.stall()
        client.send(b"a" * 100_000)
        assert not client.read
        wire.advance(2.1)
        client.expect_problem(504, "http_response_timeout", closing=True)
        instance.take()

    def test_kept_connections_that_were_closed_do_not(self, make: Any) -> None:
        wire = make("a", settings=ServiceSettings(retry=RetrySettings(max_retries=0)))
        pairs = [asked(wire) for _ in range(6)]
        for client, instance in pairs:
            answered(client, instance)
        for client, _ in pairs:
            client.send(GET)
        for _, instance in pairs:
            instance.take()
            instance.reset()
        for client, _ in pairs:
            client.expect_problem(502, "connection_terminated")
        assert wire.suspects() == []


class TestTheBudget:
    def test_a_request_no_instance_was_asked_earns_no_retry(self, make: Any) -> None:
        limit = RateLimitSettings(requests=1, per=1000.0, burst=1)
        wire = make("a", "b", settings=ServiceSettings(rate_limit=limit))
        client, instance = asked(wire)
        answered(client, instance)
        for _ in range(100):
            client.send(GET)
            client.expect_problem(429, "http_request_denied")
        pool = wire.pool
        spent = 0
        while pool.policies.budget.spend(pool.requests):
            spent += 1
        assert spent == FLOOR


class TestKeptConnections:
    def test_a_connection_that_was_never_used_is_no_newer_than_others(self, make: Any) -> None:
        """Its client left while it was dialled; it was idle since, and may be closed like any."""
        wire = make()
        wire.network.hang(wire.address("a"))
        early = wire.client()
        early.send(GET)
        early.reset()
        wire.network.answer(wire.address("a"))
        wire.settle()
        kept = wire.accepted()
        wire.advance(3.0)
        client = wire.client()
        client.send(GET)
        kept.take()
        kept.reset()
        instance = wire.accepted()
        instance.expect(forwarded("GET /x"))
        answered(client, instance)


class TestTheBreaker:
    def opened(self, make: Any, **more: Any) -> Wire:
        wire: Wire = make("a", settings=ServiceSettings(circuit_breaker=BREAKER, **more))
        for _ in range(2):
            self.fail(wire)
        assert wire.pool.policy_state() == PolicyState("open")
        return wire

    def fail(self, wire: Wire) -> None:
        client, instance = asked(wire)
        instance.send(BAD)
        client.expect(BAD_RELAYED)
        instance.eof()

    def ok(self, wire: Wire) -> None:
        instance = served(wire)
        instance.eof()

    @pytest.mark.parametrize("answer", [BAD, OK])
    def test_a_request_from_before_it_opened_is_no_trial(self, make: Any, answer: bytes) -> None:
        wire = make("a", settings=ServiceSettings(circuit_breaker=BREAKER))
        old = [asked(wire) for _ in range(TRIALS)]
        for _ in range(2):
            self.fail(wire)
        wire.advance(5.0)
        client, trial = asked(wire)
        assert wire.pool.policy_state() == PolicyState("trying")
        for client_, instance in old:
            instance.send(answer)
            assert client_.take()
        assert wire.pool.policy_state() == PolicyState("trying")
        answered(client, trial)

    def test_a_client_that_asked_before_and_left_makes_no_room_for_a_trial(self, make: Any) -> None:
        wire = make("a", settings=ServiceSettings(circuit_breaker=BREAKER))
        old, _ = asked(wire)
        for _ in range(2):
            self.fail(wire)
        wire.advance(5.0)
        trials = [asked(wire) for _ in range(TRIALS)]
        old.reset()
        late = wire.client()
        late.send(GET)
        late.expect_problem(503, "breaker_open")
        for client, trial in trials:
            answered(client, trial)

    def test_a_trial_of_one_turn_says_nothing_in_the_next(self, make: Any) -> None:
        wire = self.opened(make)
        wire.advance(5.0)
        late, instance = asked(wire)
        self.fail(wire)
        assert wire.pool.policy_state() == PolicyState("open")
        wire.advance(5.0)
        self.ok(wire)
        instance.send(BAD)
        late.expect(BAD_RELAYED)
        assert wire.pool.policy_state() == PolicyState("trying")

    def test_answers_that_last_do_not_keep_it_waiting(self, make: Any) -> None:
        """A stream and a tunnel may last for hours; that it is good is seen by the head."""
        wire = self.opened(make)
        wire.advance(5.0)
        peers = []
        for data, answer in [(UPGRADE, SWITCH), (GET, OK[:-1]), (GET, OK[:-1])]:
            client, instance = asked(wire, data)
            instance.send(answer)
            assert client.take()
            peers += [client, instance]
        assert wire.pool.policy_state() == PolicyState("closed")

    def test_a_client_at_fault_is_no_good_trial(self, make: Any) -> None:
        wire = self.opened(make)
        wire.advance(5.0)
        for _ in range(TRIALS):
            client, _ = asked(
                wire,
                request("POST /x", "Transfer-Encoding: chunked", body=b"1\r\na\r\n"),
            )
            client.send(b"nonsense\r\n")
            client.expect_problem(400, "http_request_error", closing=True)
        assert wire.pool.policy_state() == PolicyState("trying")
        self.ok(wire)

    def test_our_own_want_of_descriptors_does_not_open_it(self, make: Any) -> None:
        wire = make("a", settings=ServiceSettings(circuit_breaker=BREAKER))
        wire.network.refuse(wire.address("a"), OSError(errno.EMFILE, "Too many open files"))
        for _ in range(3):
            client = wire.client()
            client.send(GET)
            wire.advance(2.0)
            client.expect_problem(503, "no_descriptor")
        assert wire.pool.counters.breaker_opened == 0


class TestOtherSettings:
    """A reload while requests are under way."""

    def reload(self, wire: Wire, **changes: Any) -> None:
        wire.configure(ROUTES, {"s": ServiceSettings(**changes)})
        wire.settle()

    def queued(self, make: Any, **more: Any) -> tuple[Wire, Peer, Peer, Peer]:
        wire = make(settings=ServiceSettings(max_inflight=1, queue=QueueSettings(size=1), **more))
        client, instance = asked(wire)
        second = wire.client()
        second.send(GET)
        wire.advance(0.01)
        return wire, client, instance, second

    @pytest.mark.parametrize("size", [0, 1, 5])
    def test_a_waiting_request_goes_on_waiting(self, make: Any, size: int) -> None:
        wire, client, instance, second = self.queued(make)
        self.reload(wire, max_inflight=1, queue=QueueSettings(size=size))
        assert wire.pool.policy_state() == PolicyState("", waiting=1)
        answered(client, instance)
        wire.advance(0.01)
        instance.expect(forwarded("GET /x"))
        answered(second, instance)

    def test_a_request_waiting_for_a_limit_that_is_gone_goes_on(self, make: Any) -> None:
        wire, client, instance, second = self.queued(make)
        self.reload(wire)
        wire.advance(0.01)
        other = wire.accepted()
        other.expect(forwarded("GET /x"))
        for who, where in ((client, instance), (second, other)):
            answered(who, where)

    def test_a_client_that_waited_and_left_is_not_called(self, make: Any) -> None:
        wire, client, instance, second = self.queued(make)
        self.reload(wire, max_inflight=1, queue=QueueSettings(size=5))
        second.reset()
        assert wire.pool.policy_state() == PolicyState()
        answered(client, instance)
        wire.advance(0.1)

    def test_the_budget_for_retries_is_no_larger(self, make: Any) -> None:
        wire = make()
        client, instance = asked(wire)
        answered(client, instance)
        for _ in range(100):
            client.send(GET)
            instance.take()
            answered(client, instance)
        pool = wire.pool
        for _ in range(20):
            pool.policies.budget.tick(pool.requests)
        self.reload(wire, timeouts=Timeouts(connect=1.0))
        spent = 0
        while pool.policies.budget.spend(pool.requests):
            spent += 1
        assert spent <= FLOOR

    def test_a_breaker_that_is_open_stays_so(self, make: Any) -> None:
        wire = TestTheBreaker().opened(make)
        self.reload(wire, circuit_breaker=BREAKER, timeouts=Timeouts(connect=1.0))
        assert wire.pool.policy_state() == PolicyState("open")

    def test_another_breaker_hears_nothing_of_what_it_did_not_admit(self, make: Any) -> None:
        wire = make("a", settings=ServiceSettings(circuit_breaker=BREAKER))
        old = [asked(wire) for _ in range(3)]
        self.reload(wire, circuit_breaker=STRICT)
        for client, instance in old:
            instance.send(BAD)
            client.expect(BAD_RELAYED)
        assert wire.pool.policy_state() == PolicyState("closed")

    @pytest.mark.parametrize("breaker", [None, STRICT])
    def test_the_end_of_an_open_breaker_is_told(
        self, make: Any, breaker: BreakerSettings | None
    ) -> None:
        wire = TestTheBreaker().opened(make)
        self.reload(wire, circuit_breaker=breaker)
        assert wire.breaker_states() == ["open", "closed"]


class TestBothSidesFull:
    def test_a_client_that_neither_reads_nor_is_read_does_not_stay(self, make: Any) -> None:
        """The instance echoes: it stops reading because we do not, and we because it does."""
        listener = ListenerSettings(timeouts=ListenerTimeouts(idle=5.0, body=5.0))
        wire = make(
            listener=listener,
            settings=ServiceSettings(timeouts=Timeouts(first_byte=5.0, idle=5.0)),
        )
        client, instance = asked(wire, request("POST /x", "Content-Length: 10000000", body=b"a"))
        client.stall()
        instance.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 100_000)
        instance.stall()
        client.send(b"a" * 100_000)
        assert not client.read
        assert not instance.read
        wire.advance(20.0)
        assert client.closed
        assert instance.closed
        for peer in (client, instance):
            peer.take()

    def test_a_client_that_reads_again_goes_on(self, make: Any) -> None:
        listener = ListenerSettings(timeouts=ListenerTimeouts(idle=5.0, body=5.0))
        wire = make(listener=listener)
        size = 200_001
        client, instance = asked(wire, request("POST /x", f"Content-Length: {size}", body=b"a"))
        client.stall()
        instance.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * 100_000)
        instance.stall()
        client.send(b"a" * 100_000)
        wire.advance(4.0)
        client.read_on()
        wire.advance(4.0)
        instance.read_on()
        assert client.read
        wire.advance(4.0)
        client.send(b"a" * 100_000)
        instance.take()
        instance.send(b"x" * 100_001)
        assert client.take().endswith(b"x")
        assert client.saw_end


class TestStopping:
    def test_a_pause_without_clients_before_it_stops_accepting(self, make: Any) -> None:
        wire = make()
        client = wire.client()
        wire.worker.on_message(Drain(30.0, 2.0))
        wire.advance(0.5)
        client.eof()
        assert not wire.worker.connections.clients
        late, instance = asked(wire)
        wire.advance(5.0)
        assert not late.closed
        instance.send(OK)
        late.expect(OK_RELAYED_CLOSE)
        late.eof()
        assert wire.worker.stopped.is_set()


def test_the_rest_of_an_answer_stays_in_the_kernel_while_its_client_does_not_read(
    make: Any, tmp_path: Path
) -> None:
    """The instance answered an upload and reset it: what it said is in a second descriptor."""
    wire = make()
    client, instance = asked(wire, request("PUT /x", "Content-Length: 2"))
    client.send(b"h")
    instance.take()
    size = 2_000_000
    descriptor = said_before_the_reset(
        wire, tmp_path, b"HTTP/1.1 413 No\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    )
    client.stall()
    instance.reset()
    assert 0 < os.lseek(descriptor, 0, os.SEEK_CUR) <= 4 * MAX_HEAD
    client.read_on()
    assert client.take().endswith(b"\r\n\r\n" + b"x" * size)


class TestAnswersInReserve:
    RETRY = RetrySettings(on=("connect", "reset", "first_byte", "502", "503", "504"))

    def test_trailers_are_kept(self, make: Any) -> None:
        wire = make("a", "b", settings=ServiceSettings(retry=self.RETRY))
        client, bad = asked(wire, request("GET /x", "Connection: TE", "TE: trailers"))
        bad.send(
            b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\n0\r\nA: b\r\n\r\n"
        )
        worse = wire.connected()
        worse.take()
        worse.reset()
        assert client.take().endswith(b"\r\n4\r\nbusy\r\n0\r\nA: b\r\n\r\n")

    @pytest.mark.parametrize("better", [True, False])
    def test_the_rest_is_left_in_the_kernel(self, make: Any, tmp_path: Path, better: bool) -> None:
        """The instance answered, and reset an upload: what it said is in a second descriptor, and
        more than one read."""
        wire = make("a", "b", settings=ServiceSettings(retry=self.RETRY))
        client, bad = asked(wire, request("PUT /x", "Content-Length: 2"))
        client.send(b"hi")
        bad.take()
        said_before_the_reset(
            wire,
            tmp_path,
            b"HTTP/1.1 503 Busy\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
        )
        bad.reset()
        other = wire.connected()
        assert other.take().endswith(b"hi")
        client.expect_nothing()
        if better:
            answered(client, other)
        else:
            other.reset()
            head, _, content = client.take().partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 Busy")
            assert content == b"x" * 100_000

    @pytest.mark.parametrize("cut", [len(BAD), len(BAD) - 2], ids=["whole", "half"])
    def test_at_the_total_limit_it_is_the_answer(self, make: Any, cut: int) -> None:
        wire = make(
            "a", "b", settings=ServiceSettings(retry=self.RETRY, timeouts=Timeouts(total=2.0))
        )
        client, bad = asked(wire)
        bad.send(BAD[:cut])
        slow = wire.connected()
        slow.take()
        wire.advance(2.1)
        if cut == len(BAD):
            client.expect(BAD_RELAYED)
        else:
            client.expect_problem(504, "http_response_timeout")

    def test_head(self, make: Any) -> None:
        wire = make("a", "b", settings=ServiceSettings(retry=self.RETRY))
        client, bad = asked(wire, request("HEAD /x"))
        bad.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\n")
        worse = wire.connected()
        worse.take()
        worse.reset()
        client.expect(
            b"HTTP/1.1 503 Busy\r\nX-Request-ID: r1\r\n"
            b"Content-Length: 4\r\nVia: 1.1 fairlead\r\n\r\n"
        )
