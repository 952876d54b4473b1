"""Instances that are back from an ejection: one request finds out whether they are well."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.settings.route import RouteSpec
from proxy.settings.service import (
    EjectionSettings,
    QueueSettings,
    RetrySettings,
    ServiceSettings,
    Timeouts,
)
from tests.support.wire import OK, OK_RELAYED, Peer, Wire, forwarded, request
from tests.wire.scenes import BAD, GET, answered, asked, reached


def returned(make: Any, *names: str, **options: Any) -> Wire:
    """A wire whose instance `a` was ejected and is back."""
    wire: Wire = make(*names, **options)
    wire.serve(*names, a="ejected")
    wire.serve(*names)
    return wire


def under_way(wire: Wire) -> tuple[Peer, Peer]:
    """A new client's GET, and the connection it went over, a new one or one that was kept."""
    client = wire.client()
    client.send(GET)
    for name in wire.names:
        if wire.network.accepted.get(wire.address(name)):
            wire.accepted(name)
    instance = next(peer for peer in wire.peers if peer is not client and peer.transport.taken)
    instance.expect(forwarded("GET /x"))
    return client, instance


def crowd(wire: Wire, size: int = 12) -> dict[str, list[tuple[Peer, Peer]]]:
    """So many at the same time."""
    found: dict[str, list[tuple[Peer, Peer]]] = {name: [] for name in wire.names}
    for _ in range(size):
        client, instance = under_way(wire)
        found[instance.name].append((client, instance))
    return found


def answer(pairs: list[tuple[Peer, Peer]]) -> None:
    for client, instance in pairs:
        answered(client, instance)


def test_an_instance_on_probation_gets_one_request_until_it_answers(make: Any) -> None:
    wire = returned(make, "a", "b", "c")
    node = wire.node("a")
    assert node in wire.pool.changed_nodes()
    assert wire.pool.stats_of(node).on_probation
    found = crowd(wire)
    assert len(found["a"]) == 1
    answer(found["a"])
    assert node in wire.pool.changed_nodes()
    assert not wire.pool.stats_of(node).on_probation
    assert not wire.node("a").impaired
    for name in "bc":
        answer(found[name])
    more = crowd(wire, 9)
    assert {name: len(pairs) for name, pairs in more.items()} == {"a": 3, "b": 3, "c": 3}
    for pairs in more.values():
        answer(pairs)
    assert wire.suspects() == []


@pytest.mark.parametrize("how", ["503", "reset", "silence"])
def test_an_instance_that_fails_its_trial_is_reported_at_once(make: Any, how: str) -> None:
    wire = returned(make, "a", "b", settings=ServiceSettings(timeouts=Timeouts(first_byte=1.0)))
    found = crowd(wire)
    client, instance = found["a"][0]
    if how == "503":
        instance.send(BAD)
        assert client.take().startswith(b"HTTP/1.1 503")
    elif how == "reset":
        instance.reset()
        again = wire.accepted("b")
        again.expect(forwarded("GET /x"))
        answer([(client, again)])
    else:
        for other, peer in found["b"]:
            answer([(other, peer)])
        wire.advance(1.02)
        client.expect_problem(504, "http_response_timeout")
        found["b"].clear()
    assert [(one.key, one.failures) for one in wire.suspects()] == [(wire.node("a").key, 1)]
    # And until it is out, the next one is a trial again.
    more = crowd(wire, 4) if how != "silence" else {"a": [], "b": []}
    assert len(more["a"]) <= 1
    for pairs in (found["b"], more["a"], more["b"]):
        answer(pairs)


def test_failures_from_before_are_not_those_of_a_trial(make: Any) -> None:
    wire = make("a", "b")
    before = crowd(wire, 4)["a"]
    wire.serve("a", "b", a="ejected")
    wire.serve("a", "b")
    for client, instance in before:
        instance.send(BAD)
        assert client.take().startswith(b"HTTP/1.1 503")
    assert len(before) == 2
    assert wire.suspects() == []
    assert wire.node("a").on_probation
    for client in [peer for peer in wire.peers if peer.name == "client"]:
        client.reset()


def test_a_second_attempt_goes_to_those_that_are_well(make: Any) -> None:
    retry = RetrySettings(on=("connect", "503"), budget=1.0)
    for _ in range(8):
        wire = returned(make, "a", "b", "c", settings=ServiceSettings(retry=retry))
        client, instance = under_way(wire)
        if instance.name == "a":
            answer([(client, instance)])
            continue
        instance.send(BAD)
        other = wire.accepted("c" if instance.name == "b" else "b")
        other.expect(forwarded("GET /x"))
        answer([(client, other)])


def test_an_answer_that_goes_on_for_hours_is_an_answer(make: Any) -> None:
    wire = returned(make, "a", "b")
    client, instance = crowd(wire, 2)["a"][0]
    instance.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    assert client.take().endswith(b"\r\n\r\nabc")
    assert not wire.node("a").impaired
    for peer in [peer for peer in wire.peers if peer.name == "client"]:
        peer.reset()


def test_a_tunnel_ends_the_probation(make: Any) -> None:
    wire = returned(make, "a", "b")
    while wire.node("a").on_probation:
        client, instance = asked(wire, request("GET /x", "Connection: Upgrade", "Upgrade: x"))
        instance.send(b"HTTP/1.1 101 OK\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        assert client.take().startswith(b"HTTP/1.1 101")
    assert not wire.node("a").probes


def test_a_client_that_leaves_is_followed_by_another_trial(make: Any) -> None:
    wire = returned(make, "a", "b")
    first = crowd(wire, 4)
    first["a"][0][0].reset()
    assert wire.node("a").on_probation
    second = crowd(wire, 4)
    assert len(second["a"]) == 1
    for pairs in (first["b"], second["a"], second["b"]):
        answer(pairs)
    assert wire.suspects() == []
    assert not wire.node("a").impaired


def test_with_nobody_else_it_gets_all(make: Any) -> None:
    wire = returned(make, "a", "b")
    wire.serve("a")
    clients = [wire.client() for _ in range(5)]
    for client in clients:
        client.send(GET)
    assert wire.node("a").in_flight == 5
    for client in clients:
        instance = wire.accepted("a")
        instance.expect(forwarded("GET /x"))
        answer([(client, instance)])


def test_an_instance_may_be_out_again_before_its_trial_is_over(make: Any) -> None:
    """In another worker it has failed; the old trial is none of the new time's."""
    wire = returned(make, "a", "b")
    found = crowd(wire, 4)
    wire.serve("a", "b", a="ejected")
    assert not wire.node("a").impaired
    wire.serve("a", "b")
    assert len(crowd(wire, 4)["a"]) == 0  # One is still under way: it will tell as well.
    client, instance = found["a"][0]
    answer([(client, instance)])
    assert not wire.node("a").impaired
    assert wire.suspects() == []
    for peer in [peer for peer in wire.peers if peer.name == "client"]:
        peer.reset()


def test_where_ejection_is_off_nobody_is_tried_out(make: Any) -> None:
    settings = ServiceSettings(ejection=EjectionSettings(enabled=False))
    wire = returned(make, "a", "b", settings=settings)
    found = crowd(wire, 4)
    assert len(found["a"]) == 2
    for pairs in found.values():
        answer(pairs)


def test_requests_wait_for_room_rather_than_join_the_trial(make: Any) -> None:
    settings = ServiceSettings(max_inflight=2, queue=QueueSettings(size=9))
    wire = returned(make, "a", "b", settings=settings)
    found = crowd(wire, 3)
    assert (len(found["a"]), len(found["b"])) == (1, 2)
    waiting = wire.client()
    waiting.send(GET)
    wire.advance(0.1)
    assert wire.node("a").in_flight == 1
    client, instance = found["a"][0]
    answer([(client, instance)])
    wire.advance(0.01)
    instance.expect(forwarded("GET /x"))
    answer([(waiting, instance), *found["b"]])


def pending(make: Any) -> tuple[Wire, Peer, Peer]:
    """A wire with an upload that tries `a` out and is under way for hours."""
    wire = returned(make, "a", "b")
    for _ in range(2):
        client, instance = reached(wire, request("POST /x", "Content-Length: 9", body=b"abc"))
        assert instance.take().endswith(b"\r\n\r\nabc")
        if instance.name == "a":
            return wire, client, instance
        instance.send(OK)
        client.take()
    raise AssertionError("nobody tried it out")


def test_an_upload_that_goes_on_for_hours_is_not_waited_for(make: Any) -> None:
    wire, client, instance = pending(make)
    found = crowd(wire, 4)
    assert len(found["a"]) == 0
    answer(found["b"])
    wire.advance(5.1)
    found = crowd(wire, 4)
    assert len(found["a"]) == 1
    answer(found["a"])
    assert not wire.node("a").impaired
    answer(found["b"])
    client.reset()
    assert not wire.node("a").probes
    assert instance.cut


def test_an_instance_that_hangs_gets_one_more_now_and_then(make: Any) -> None:
    wire = returned(make, "a", "b")
    hanging = crowd(wire, 4)
    answer(hanging["b"])
    for count in (2, 3):
        wire.advance(5.1)
        found = crowd(wire, 4)
        answer(found["b"])
        hanging["a"] += found["a"]
        assert len(hanging["a"]) == wire.node("a").probes == count
    # It is not over with the one that began first.
    hanging["a"][0][0].reset()
    found = crowd(wire, 4)
    assert len(found["a"]) == 0
    answer(found["b"])
    _client, instance = hanging["a"][1]
    instance.reset()
    assert [one.key for one in wire.suspects()] == [wire.node("a").key]
    for peer in [peer for peer in wire.peers if peer.name == "client"]:
        peer.reset()
    assert not wire.node("a").probes
    for peer in wire.peers:
        peer.take()  # The one that was reset went on to the other.


def test_when_ejection_is_switched_off_nobody_is_tried_out_any_more(make: Any) -> None:
    wire = returned(make, "a", "b")
    found = crowd(wire, 4)
    assert len(found["a"]) == 1
    settings = ServiceSettings(ejection=EjectionSettings(enabled=False))
    wire.configure((RouteSpec(path_prefix="/", service="s"),), {"s": settings})
    assert not wire.node("a").impaired
    more = crowd(wire, 4)
    assert len(more["a"]) == 2
    for pairs in (*found.values(), *more.values()):
        answer(pairs)


def test_an_instance_that_is_tried_out_is_better_than_one_that_is_gone(make: Any) -> None:
    settings = ServiceSettings(retry=RetrySettings(max_retries=0))
    wire = returned(make, "a", "b", settings=settings)
    found = crowd(wire, 2)
    for client, instance in found["b"]:
        client.reset()
        instance.take()
    wire.network.refuse(wire.address("b"))
    while not wire.node("b").unreachable:
        client = wire.client()
        client.send(GET)
        if wire.node("b").unreachable:
            client.expect_problem(502, "connection_refused")
        else:
            found["a"].append((client, wire.accepted("a")))
            found["a"][-1][1].expect(forwarded("GET /x"))
    dialled = wire.network.dialled.count(wire.address("b"))
    for _ in range(4):  # No time passes: the balancer has not heard of it.
        client, instance = reached(wire)
        instance.expect(forwarded("GET /x"))
        found["a"].append((client, instance))
    assert wire.network.dialled.count(wire.address("b")) == dialled
    answer(found["a"])


def test_an_instance_that_was_out_when_this_worker_began_is_tried_out_too(make: Any) -> None:
    wire = make("b")
    wire.serve("b", "c", c="ejected")
    wire.serve("b", "c")
    wire.names = ("b", "c")
    found = crowd(wire, 6)
    assert len(found["c"]) == 1
    for pairs in found.values():
        answer(pairs)


@pytest.mark.parametrize("leaves", [True, False])
def test_a_trial_that_hangs_while_it_is_dialled(make: Any, leaves: bool) -> None:
    wire = returned(make, "a", "b")
    wire.network.hang(wire.address("a"))
    clients = [wire.client() for _ in range(4)]
    for client in clients:
        client.send(GET)
    assert wire.node("a").probes == wire.node("a").in_flight == 1
    for _ in clients:
        if wire.network.accepted.get(wire.address("b")):
            instance = wire.accepted("b")
            instance.expect(forwarded("GET /x"))
            instance.send(OK)
    served = [client for client in clients if client.take() == OK_RELAYED]
    assert len(served) == 3
    [client] = [client for client in clients if client not in served]
    if leaves:
        client.reset()
        assert not wire.node("a").probes
        assert wire.node("a").on_probation
        wire.advance(3.1)
        assert wire.node("a").unreachable
        assert wire.suspects() == []
    else:
        wire.advance(3.1)  # It goes on to the other.
        instance = next(peer for peer in wire.peers if peer.transport.taken)
        instance.expect(forwarded("GET /x"))
        answer([(client, instance)])
        assert [one.reason for one in wire.suspects()] == ["connect_timeout"]
    assert wire.node("a").on_probation
    assert not wire.node("a").probes
    wire.network.answer(wire.address("a"))
    wire.advance(1.1)
    wire.advance(0.1)
    wire.network.accepted[wire.address("a")].clear()
    assert not wire.node("a").unreachable


def test_a_trial_that_fails_is_none_of_the_next_attempt(make: Any) -> None:
    """Its bad answer is kept, the other instance does no better, and so the client gets it."""
    settings = ServiceSettings(retry=RetrySettings(on=("connect", "503"), budget=1.0))
    wire = returned(make, "a", "b", settings=settings)
    while True:
        client, instance = under_way(wire)
        if instance.name == "a":
            break
        answer([(client, instance)])
    instance.send(BAD)
    assert [one.key for one in wire.suspects()] == [wire.node("a").key]
    assert not wire.node("a").probes
    kept = [peer for peer in wire.peers if peer.transport.taken]
    other = kept[0] if kept else wire.accepted("b")
    other.expect(forwarded("GET /x"))
    other.reset()
    assert client.take().startswith(b"HTTP/1.1 503 Busy")
    assert wire.node("a").on_probation
    assert not wire.node("a").probes
    assert len(wire.suspects()) == 1
