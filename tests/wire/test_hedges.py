"""Second attempts beside slow first ones: exactly one answer, and nothing that stays counted."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.engine.exchange import Exchange
from proxy.engine.resilience.retry import FLOOR
from proxy.settings.hedge import HedgeSettings
from proxy.settings.process import TracingSettings
from proxy.settings.route import RouteSpec
from proxy.settings.service import BreakerSettings, RetrySettings, ServiceSettings
from tests.support.filters import spec
from tests.support.h2_peer import H2Instance, answer, data
from tests.support.wire import OK, OK_RELAYED, OK_RELAYED_CLOSE, Peer, Wire, forwarded, request
from tests.wire.scenes import BAD, BAD_RELAYED, GET, REFUSED, UPGRADE, answered, asked, served

AFTER = 0.05


def hedged(make: Any, *names: str, hedge: HedgeSettings | None = None, **settings: Any) -> Wire:
    settings.setdefault("retry", RetrySettings(budget=1.0))
    hedge = hedge or HedgeSettings(after="50ms", max_share=1.0)
    wire: Wire = make(*(names or ("a", "b")), settings=ServiceSettings(hedge=hedge, **settings))
    return wire


def both(make: Any, *names: str, **settings: Any) -> tuple[Wire, Peer, Peer, Peer]:
    """A client, the instance that it waits for, and the one that is asked beside it."""
    wire = hedged(make, *names, **settings)
    client, first = asked(wire)
    wire.advance(AFTER + 0.02)
    second = wire.connected()
    second.expect(forwarded("GET /x"))
    assert second.name != first.name
    assert wire.in_flight == 2
    return wire, client, first, second


def counted(wire: Wire, **results: int) -> None:
    assert wire.pool.counters.hedges == results
    assert wire.in_flight == 0
    assert wire.pool.requests == 1


def test_an_answer_in_time_is_not_hedged(make: Any) -> None:
    wire = hedged(make)
    client, first = asked(wire)
    wire.advance(AFTER / 2)
    answered(client, first)
    wire.advance(1.0)
    assert len(wire.network.dialled) == 1
    counted(wire)


def test_the_second_answers_first(make: Any) -> None:
    wire, client, first, second = both(make)
    answered(client, second)
    assert first.closed
    assert wire.node(first.name).outcomes == {"outrun": 1}
    assert wire.node(second.name).outcomes == {"ok": 1}
    assert wire.node(first.name).failing == 0
    assert sum(wire.node(second.name).answers()[0].values()) == 1
    assert not wire.node(first.name).answers()[0]
    assert len(wire.node(second.name).idle) == 1
    counted(wire, won=1)


def test_the_first_answers_first(make: Any) -> None:
    wire, client, first, second = both(make)
    answered(client, first)
    assert second.closed
    assert wire.node(first.name).outcomes == {"ok": 1}
    assert wire.node(second.name).outcomes == {"outrun": 1}
    counted(wire, lost=1)


def test_a_long_answer_of_the_second_is_relayed_whole(make: Any) -> None:
    wire, client, first, second = both(make)
    second.send(OK[:-1])
    assert first.closed
    second.send(OK[-1:])
    client.expect(OK_RELAYED)
    counted(wire, won=1)


def test_the_first_fails_and_the_second_answers(make: Any) -> None:
    wire, client, first, second = both(make)
    first.reset()
    client.expect_nothing()
    answered(client, second)
    assert wire.node(first.name).outcomes == {"closed_early": 1}
    assert len(wire.network.dialled) == 2
    counted(wire, won=1)


def test_the_second_fails_and_the_first_answers(make: Any) -> None:
    wire, client, first, second = both(make)
    second.reset()
    client.expect_nothing()
    answered(client, first)
    assert wire.node(second.name).outcomes == {"closed_early": 1}
    counted(wire, failed=1)


@pytest.mark.parametrize("first_fails_first", [True, False])
def test_a_request_whose_two_attempts_fail_is_over(make: Any, first_fails_first: bool) -> None:
    wire, client, first, second = both(make, "a", "b", "c")
    for peer in (first, second) if first_fails_first else (second, first):
        client.expect_nothing()
        peer.reset()
    client.expect_problem(502, "closed_early")
    assert len(wire.network.dialled) == 2  # The hedge was the only retry.
    counted(wire, **({"won": 1} if first_fails_first else {"failed": 1}))


@pytest.mark.parametrize("first_fails_first", [True, False])
def test_a_retry_follows_two_that_failed(make: Any, first_fails_first: bool) -> None:
    again = RetrySettings(max_retries=2, budget=1.0)
    wire, client, first, second = both(make, "a", "b", "c", retry=again)
    for peer in (first, second) if first_fails_first else (second, first):
        peer.reset()
    third = wire.connected()
    assert {first.name, second.name, third.name} == set("abc")
    third.expect(forwarded("GET /x"))
    answered(client, third)
    assert wire.in_flight == 0


def test_the_client_leaves(make: Any) -> None:
    wire, client, first, second = both(make)
    client.reset()
    assert first.closed
    assert second.closed
    counted(wire, lost=1)


def test_the_client_leaves_when_the_second_has_taken_over(make: Any) -> None:
    wire, client, first, second = both(make)
    first.reset()
    client.reset()
    assert second.closed
    counted(wire, won=1)


def test_a_bad_answer_of_the_second_is_not_the_answer(make: Any) -> None:
    wire, client, first, second = both(make)
    second.send(BAD)
    client.expect_nothing()
    answered(client, first)
    assert wire.node(second.name).outcomes == {"503": 1}
    counted(wire, failed=1)


def test_a_bad_answer_of_the_first_is_the_answer(make: Any) -> None:
    wire, client, first, second = both(make)
    first.send(BAD)
    client.expect(BAD_RELAYED)
    assert second.closed
    counted(wire, lost=1)


AGAIN = RetrySettings(on=("connect", "reset", "503"), budget=1.0)


@pytest.mark.parametrize("whole", [True, False])
def test_a_bad_answer_that_is_to_be_asked_again_leaves_it_to_the_second(
    make: Any, whole: bool
) -> None:
    wire, client, first, second = both(make, retry=AGAIN)
    first.send(BAD if whole else BAD[:-1])
    client.expect_nothing()
    answered(client, second)
    assert wire.node(first.name).outcomes == {"503": 1}
    counted(wire, won=1)


def test_a_bad_answer_is_relayed_when_the_second_fails_behind_it(make: Any) -> None:
    _, client, first, second = both(make, retry=AGAIN)
    first.send(BAD)
    second.reset()
    client.expect(BAD_RELAYED)


def test_the_breaker_hears_once(make: Any) -> None:
    breaker = BreakerSettings(min_requests=2, failure_ratio=0.5)
    wire, client, first, second = both(make, circuit_breaker=breaker)
    first.reset()
    second.reset()
    client.expect_problem(502, "closed_early")
    assert wire.breaker_states() == []


def test_an_instance_that_is_dialled_for_too_long_is_hedged(make: Any) -> None:
    wire = hedged(make)
    wire.network.hang(wire.address("a"))
    wire.network.hang(wire.address("b"))
    client = wire.client()
    client.send(GET)
    [slow] = wire.network.dialled
    quick = "b" if slow == wire.address("a") else "a"
    wire.network.answer(wire.address(quick))
    wire.advance(AFTER + 0.02)
    second = wire.accepted(quick)
    second.expect(forwarded("GET /x"))
    answered(client, second)
    other = "a" if quick == "b" else "b"
    wire.network.answer(wire.address(other))  # It is made all the same, for the next request.
    wire.settle()
    wire.accepted(other).expect_nothing()
    assert len(wire.node(other).idle) == 1
    counted(wire, won=1)


def test_a_hedge_that_cannot_connect_harms_nobody(make: Any) -> None:
    wire = hedged(make)
    client, first = asked(wire)
    other = "b" if first.name == "a" else "a"
    wire.network.refuse(wire.address(other), REFUSED)
    wire.advance(AFTER + 0.02)
    answered(client, first)
    assert wire.node(other).outcomes == {"connect_refused": 1}
    counted(wire, failed=1)
    wire.serve(first.name)


def test_a_hedge_that_is_dialled_takes_over(make: Any) -> None:
    wire = hedged(make)
    client, first = asked(wire)
    other = "b" if first.name == "a" else "a"
    wire.network.hang(wire.address(other))
    wire.advance(AFTER + 0.02)
    first.reset()
    client.expect_nothing()
    wire.network.answer(wire.address(other))
    wire.settle()
    second = wire.accepted(other)
    second.expect(forwarded("GET /x"))
    answered(client, second)
    counted(wire, won=1)


@pytest.mark.parametrize("taken_over", [True, False])
def test_the_client_leaves_while_a_hedge_is_dialled(make: Any, taken_over: bool) -> None:
    wire = hedged(make)
    client, first = asked(wire)
    other = "b" if first.name == "a" else "a"
    wire.network.hang(wire.address(other))
    wire.advance(AFTER + 0.02)
    if taken_over:
        first.reset()
    client.reset()
    assert wire.in_flight == 0
    wire.network.answer(wire.address(other))
    wire.settle()
    wire.accepted(other).expect_nothing()


@pytest.mark.parametrize(
    "data",
    [
        request("POST /x", "Content-Length: 1", body=b"x"),
        request("PUT /x", "Content-Length: 0"),
        request("GET /x", "Content-Length: 1", body=b"x"),
        request("GET /x", *UPGRADE),
    ],
    ids=["post", "put", "body", "upgrade"],
)
def test_a_request_that_might_do_harm_twice_is_not_hedged(make: Any, data: bytes) -> None:
    wire = hedged(make)
    client, first = asked(wire, data)
    wire.advance(1.0)
    assert len(wire.network.dialled) == 1
    answered(client, first)


def test_hints_of_the_first_mean_that_it_is_at_work(make: Any) -> None:
    wire = hedged(make)
    client, first = asked(wire)
    first.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    client.take()
    wire.advance(1.0)
    assert len(wire.network.dialled) == 1
    answered(client, first)


def test_hints_of_the_second_go_nowhere_until_it_is_the_only_one(make: Any) -> None:
    _, client, first, second = both(make)
    second.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    client.expect_nothing()
    first.reset()
    second.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    assert client.take().startswith(b"HTTP/1.1 103 ")
    answered(client, second)


def test_one_instance_alone_is_not_hedged(make: Any) -> None:
    wire = hedged(make, "a")
    client, first = asked(wire)
    wire.advance(1.0)
    answered(client, first)
    counted(wire)


def test_an_instance_that_is_full_is_no_hedge(make: Any) -> None:
    wire = hedged(make, max_inflight=1)
    pairs = [asked(wire), asked(wire)]
    wire.advance(1.0)
    for client, instance in pairs:
        answered(client, instance)
    assert wire.pool.counters.hedges == {}


def test_a_drained_instance_is_no_hedge(make: Any) -> None:
    wire = hedged(make)
    client, first = asked(wire)
    other = "b" if first.name == "a" else "a"
    wire.serve("a", "b", **{other: "draining"})
    wire.advance(1.0)
    answered(client, first)
    counted(wire)


def test_a_hedge_goes_on_when_its_instances_are_drained(make: Any) -> None:
    wire, client, first, second = both(make)
    wire.serve("a", "b", a="draining", b="draining")
    answered(client, second)
    assert first.closed
    counted(wire, won=1)


def test_hedges_stay_within_their_share_whatever_is_slow(make: Any) -> None:
    wire = hedged(make, hedge=HedgeSettings(after="50ms", max_share=0.0))
    for _ in range(2 * int(FLOOR)):
        client, first = asked(wire)
        wire.advance(AFTER + 0.02)
        if wire.in_flight == 2:
            wire.connected().take()
        answered(client, first)
        first.eof()
    assert wire.pool.counters.hedges == {"lost": FLOOR}


def test_hedges_come_out_of_the_retry_budget(make: Any) -> None:
    wire = hedged(make, retry=RetrySettings(budget=0.0))
    for _ in range(2 * int(FLOOR)):
        client, first = asked(wire)
        wire.advance(AFTER + 0.02)
        if wire.in_flight == 2:
            wire.connected().take()
        answered(client, first)
        first.eof()
    assert wire.pool.counters.hedges == {"lost": FLOOR}
    assert wire.pool.counters.limited == {"retry.budget": FLOOR}


def test_a_quantile_is_learnt_from_answers(make: Any) -> None:
    wire = hedged(make, hedge=HedgeSettings(max_share=1.0))
    hedging = wire.pool.policies.hedging
    assert hedging is not None
    for _ in range(40):
        served(wire).eof()
    assert hedging.delay == float("inf")  # Not known before a second has passed.
    for _ in range(19):
        hedging.note(0.02)
    for _ in range(40):
        hedging.note(0.1)
    wire.pool.tick(wire.loop.time())
    assert hedging.delay == pytest.approx(0.1, rel=0.2)
    client, first = asked(wire)
    wire.advance(0.15)
    second = wire.connected()
    second.take()
    answered(client, second)
    assert first.closed


def test_a_reload_switches_hedges_off(make: Any) -> None:
    wire, client, first, second = both(make)
    wire.configure((RouteSpec(path_prefix="/", service="s"),), {"s": ServiceSettings()})
    answered(client, second)
    assert first.closed
    assert wire.pool.policies.hedging is None
    assert wire.pool.counters.hedges == {"won": 1}


def test_an_instance_of_http2_is_told_that_nobody_waits(make: Any) -> None:
    hedge = HedgeSettings(after="50ms", max_share=1.0)
    wire = make(
        "a", "b", http2=True,
        settings=ServiceSettings(hedge=hedge, retry=RetrySettings(budget=1.0)),
    )  # fmt: skip
    client = wire.client()
    client.send(GET)
    first = H2Instance(wire, slow := "a" if wire.network.accepted.get(wire.address("a")) else "b")
    assert first.requests() == [1]
    wire.advance(AFTER + 0.02)
    second = H2Instance(wire, "b" if slow == "a" else "a")
    assert second.requests() == [1]
    second.send(answer(1, ("content-length", "2")) + data(1, b"hi", True))
    client.expect(OK_RELAYED)
    assert ("reset", 1, 8) in first.take()
    counted(wire, won=1)


def test_a_session_that_comes_too_late_is_kept_for_others(make: Any) -> None:
    hedge = HedgeSettings(after="50ms", max_share=1.0)
    wire = make(
        "a", "b", http2=True,
        settings=ServiceSettings(hedge=hedge, retry=RetrySettings(budget=1.0)),
    )  # fmt: skip
    for name in "ab":
        wire.network.hang(wire.address(name))
    client = wire.client()
    client.send(GET)
    slow = "a" if wire.network.dialled == [wire.address("a")] else "b"
    quick = "b" if slow == "a" else "a"
    wire.network.answer(wire.address(quick))
    wire.advance(AFTER + 0.02)
    second = H2Instance(wire, quick)
    assert second.requests() == [1]
    second.send(answer(1, ("content-length", "2")))
    wire.network.answer(wire.address(slow))
    wire.settle()
    assert H2Instance(wire, slow).requests() == []
    second.send(data(1, b"hi", True))
    client.expect(OK_RELAYED)
    counted(wire, won=1)


@pytest.mark.parametrize("at", ["request", "response"])
def test_a_filter_that_waits_sees_one_answer(make: Any, at: str) -> None:
    waits = spec("Scripted", says="f", at=at, does="wait")
    route = RouteSpec(path_prefix="/", service="s", filters=(waits,))
    hedge = HedgeSettings(after="50ms", max_share=1.0)
    wire = make(
        "a", "b", routes=(route,),
        settings=ServiceSettings(hedge=hedge, retry=RetrySettings(budget=1.0)),
    )  # fmt: skip
    client = wire.client()
    client.send(GET)
    if at == "request":
        wire.advance(1.01)  # The wait for a filter is not the instance's.
    first = wire.connected()
    first.take()
    wire.expect_no_dial("a" if first.name == "b" else "b")
    wire.advance(AFTER + 0.02)
    second = wire.connected()
    second.take()
    second.send(OK)
    assert first.closed
    if at == "response":
        client.expect_nothing()
        wire.advance(1.1)
    client.expect(OK_RELAYED)
    counted(wire, won=1)


def test_a_worker_that_stops_lets_both_go_on(make: Any) -> None:
    wire, client, first, second = both(make)
    wire.worker.drain(10.0)
    wire.settle()
    second.send(OK)
    client.expect(OK_RELAYED_CLOSE)
    assert first.closed
    assert wire.in_flight == 0


def test_a_request_that_is_traced_is_hedged(make: Any) -> None:
    hedge = HedgeSettings(after="50ms", max_share=1.0)
    wire = make("a", "b", settings=ServiceSettings(hedge=hedge, retry=RetrySettings(budget=1.0)))
    traceparent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    wire.worker._tracer.use(TracingSettings(), wire.worker.services, Exchange)
    client, first = asked(wire, request("GET /x", traceparent))
    wire.advance(AFTER + 0.02)
    second = wire.connected()
    assert b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-" in second.take()
    answered(client, second)
    assert first.closed
    counted(wire, won=1)
