"""Where mechanisms meet: what one does must not be miscounted, mistimed or forgotten by another."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from proxy.engine.resilience.breaker import TRIALS
from proxy.engine.resilience.retry import FLOOR
from proxy.model import (
    BreakerSettings,
    Drain,
    PolicyState,
    QueueSettings,
    RouteSpec,
    ServiceSettings,
    Suspect,
    Timeouts,
)
from tests.wiring import OK, OK_RELAYED, OK_RELAYED_CLOSE, Peer, Wire, forwarded, request

GET = request("GET /x")
BAD = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
BAD_RELAYED = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nVia: 1.1 fairlead\r\n\r\nbusy"
UPGRADE = request("GET /x", "Connection: Upgrade", "Upgrade: x")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
BREAKER = BreakerSettings(failure_ratio=0.5, min_requests=2, window=10.0, open=5.0)
STRICT = BreakerSettings(failure_ratio=0.5, min_requests=1, window=10.0, open=5.0)
ROUTES = (RouteSpec(path_prefix="/", service="s"),)


def settings(**changes: Any) -> ServiceSettings:
    return ServiceSettings(**changes)


def asked(wire: Wire, name: str = "", data: bytes = GET) -> tuple[Peer, Peer]:
    """A client whose request is at an instance, over a new connection."""
    client = wire.client()
    client.send(data)
    instance = wire.accepted(name) if name else wire.connected()
    assert instance.take()
    return client, instance


def reported(wire: Wire) -> list[Suspect]:
    suspects: list[Suspect] = []
    wire.pool.report_to(suspects.append)
    return suspects


class TestTheQueueAndTime:
    def test_who_waited_has_all_its_time_for_the_answer(self, make: Any) -> None:
        wire = make(
            settings=settings(
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
        instance.send(OK)
        second.expect(OK_RELAYED)

    def test_who_comes_later_is_not_served_before(self, make: Any) -> None:
        wire = make(settings=settings(max_inflight=1, queue=QueueSettings(size=2)))
        client, instance = asked(wire)
        second, third = wire.client(), wire.client()
        second.send(request("GET /second"))
        instance.transport.feed(OK)
        third.send(request("GET /third"))
        client.expect(OK_RELAYED)
        wire.advance(0.01)
        instance.expect(forwarded("GET /second"))
        instance.send(OK)
        second.expect(OK_RELAYED)
        wire.advance(0.01)
        instance.expect(forwarded("GET /third"))
        instance.send(OK)
        third.expect(OK_RELAYED)

    def test_a_place_that_is_free_again_is_taken_at_once(self, make: Any) -> None:
        wire = make(settings=settings(max_inflight=1, queue=QueueSettings(size=2)))
        client, instance = asked(wire)
        second = wire.client()
        second.send(GET)
        instance.send(OK)
        client.expect(OK_RELAYED)
        wire.advance(0.0)
        instance.expect(forwarded("GET /x"))
        instance.send(OK)
        second.expect(OK_RELAYED)

    def test_one_look_at_a_time(self, make: Any) -> None:
        """However often the line was empty in between."""
        wire = make(settings=settings(max_inflight=1, queue=QueueSettings(size=2)))
        client, instance = asked(wire)
        looks = 0
        has_room = wire.pool.has_room

        def counted(node: Any) -> bool:
            nonlocal looks
            looks += 1
            return bool(has_room(node))

        for _ in range(20):
            brief = wire.client()
            brief.send(GET)
            brief.reset()
        patient = wire.client()
        patient.send(GET)
        wire.pool.has_room = counted
        wire.advance(0.1)
        assert looks <= 0.1 / 0.002 + 2
        instance.send(OK)
        client.expect(OK_RELAYED)
        wire.advance(0.01)
        instance.take()
        instance.send(OK)
        patient.expect(OK_RELAYED)


class TestRetriesAndRoom:
    def test_a_second_attempt_goes_only_where_there_is_room(self, make: Any) -> None:
        wire = make("a", "b", settings=settings(max_inflight=1))
        first, busy = asked(wire, "a" if wire.pool.pick(-1, ()).id == "b" else "b")
        other = "b" if busy.name == "a" else "a"
        wire.network.refuse(wire.address(other))
        second = wire.client()
        second.send(GET)
        second.expect_problem(502, "connection_refused")
        assert wire.node(busy.name).in_flight == 1
        busy.send(OK)
        first.expect(OK_RELAYED)


class TestTheBreaker:
    def opened(self, make: Any, **more: Any) -> Wire:
        wire: Wire = make("a", settings=settings(breaker=BREAKER, **more))
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
        client, instance = asked(wire)
        instance.send(OK)
        client.expect(OK_RELAYED)
        instance.eof()

    @pytest.mark.parametrize("answer", [BAD, OK])
    def test_what_was_asked_before_it_opened_is_no_trial(self, make: Any, answer: bytes) -> None:
        wire = make("a", settings=settings(breaker=BREAKER))
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
        trial.send(OK)
        client.expect(OK_RELAYED)

    def test_who_asked_before_and_left_makes_no_place_for_a_trial(self, make: Any) -> None:
        wire = make("a", settings=settings(breaker=BREAKER))
        old, _ = asked(wire)
        for _ in range(2):
            self.fail(wire)
        wire.advance(5.0)
        trials = [asked(wire) for _ in range(TRIALS)]
        old.reset()
        late = wire.client()
        late.send(GET)
        late.expect_problem(503, "connection_limit_reached")
        for client, trial in trials:
            trial.send(OK)
            client.expect(OK_RELAYED)

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
            client, instance = asked(wire, data=data)
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
                data=request("POST /x", "Transfer-Encoding: chunked", body=b"1\r\na\r\n"),
            )
            client.send(b"nonsense\r\n")
            client.expect_problem(400, "http_request_error", closing=True)
        assert wire.pool.policy_state() == PolicyState("trying")
        self.ok(wire)

    def test_that_we_have_no_descriptor_does_not_open_it(self, make: Any) -> None:
        wire = make("a", settings=settings(breaker=BREAKER))
        wire.network.refuse(wire.address("a"), OSError(errno.EMFILE, "Too many open files"))
        for _ in range(3):
            client = wire.client()
            client.send(GET)
            wire.advance(2.0)
            client.expect_problem(503, "connection_limit_reached")
        assert wire.pool.counters.breaker_opened == 0


class TestOtherSettings:
    """A reload while requests are under way."""

    def reload(self, wire: Wire, **changes: Any) -> None:
        wire.configure(ROUTES, {"s": settings(**changes)})
        wire.settle()

    def queued(self, make: Any, **more: Any) -> tuple[Wire, Peer, Peer, Peer]:
        wire = make(settings=settings(max_inflight=1, queue=QueueSettings(size=1), **more))
        client, instance = asked(wire)
        second = wire.client()
        second.send(GET)
        wire.advance(0.01)
        return wire, client, instance, second

    @pytest.mark.parametrize("size", [0, 1, 5])
    def test_who_waits_goes_on_waiting(self, make: Any, size: int) -> None:
        wire, client, instance, second = self.queued(make)
        self.reload(wire, max_inflight=1, queue=QueueSettings(size=size))
        assert wire.pool.policy_state() == PolicyState("", waiting=1)
        instance.send(OK)
        client.expect(OK_RELAYED)
        wire.advance(0.01)
        instance.expect(forwarded("GET /x"))
        instance.send(OK)
        second.expect(OK_RELAYED)

    def test_who_waits_for_what_is_no_more_limited_goes_on(self, make: Any) -> None:
        wire, client, instance, second = self.queued(make)
        self.reload(wire)
        wire.advance(0.01)
        other = wire.accepted()
        other.expect(forwarded("GET /x"))
        for who, where in ((client, instance), (second, other)):
            where.send(OK)
            who.expect(OK_RELAYED)

    def test_who_waited_and_left_is_not_called(self, make: Any) -> None:
        wire, client, instance, second = self.queued(make)
        self.reload(wire, max_inflight=1, queue=QueueSettings(size=5))
        second.reset()
        assert wire.pool.policy_state() == PolicyState()
        instance.send(OK)
        client.expect(OK_RELAYED)
        wire.advance(0.1)

    def test_the_budget_for_retries_is_no_larger(self, make: Any) -> None:
        wire = make()
        client, instance = asked(wire)
        instance.send(OK)
        client.expect(OK_RELAYED)
        for _ in range(100):
            client.send(GET)
            instance.take()
            instance.send(OK)
            client.expect(OK_RELAYED)
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
        self.reload(wire, breaker=BREAKER, timeouts=Timeouts(connect=1.0))
        assert wire.pool.policy_state() == PolicyState("open")

    def test_another_breaker_hears_nothing_of_what_it_did_not_admit(self, make: Any) -> None:
        wire = make("a", settings=settings(breaker=BREAKER))
        old = [asked(wire) for _ in range(3)]
        self.reload(wire, breaker=STRICT)
        for client, instance in old:
            instance.send(BAD)
            client.expect(BAD_RELAYED)
        assert wire.pool.policy_state() == PolicyState("closed")

    @pytest.mark.parametrize("breaker", [None, STRICT])
    def test_that_an_open_one_is_gone_is_told(
        self, make: Any, breaker: BreakerSettings | None
    ) -> None:
        turns: list[str] = []
        wire = TestTheBreaker().opened(make)
        wire.pool.report_turns_to(lambda service, state: turns.append(state))
        self.reload(wire, breaker=breaker)
        assert turns == ["closed"]


class TestStopping:
    def test_a_pause_without_clients_before_it_stops_accepting(self, make: Any) -> None:
        wire = make()
        client = wire.client()
        wire.worker.on_message(Drain(30.0, 2.0))
        wire.advance(0.5)
        client.eof()
        assert not wire.worker.clients
        late, instance = asked(wire)
        wire.advance(5.0)
        assert not late.closed
        instance.send(OK)
        late.expect(OK_RELAYED_CLOSE)
        late.eof()
        assert wire.worker.stopped.is_set()
