"""Who makes room for a new connection to the admin server."""

from __future__ import annotations

import pytest

from proxy.control.admin_connections import MOST, PATIENCE, Guest, first_to_go, room

NOW = 100.0


def waiting(peer: str, since: float) -> Guest:
    return Guest(peer, since)


def busy(peer: str, since: float) -> Guest:
    return Guest(peer, since, busy=True)


def test_who_waits_longest_goes_first() -> None:
    guests = [waiting("a", 90.0), waiting("b", 80.0), busy("c", 1.0)]
    assert first_to_go(guests, NOW) is guests[1]


def test_a_peer_with_many_connections_loses_its_own() -> None:
    many = [waiting("many", 99.0 + number / 100) for number in range(3)]
    guests = [waiting("one", 1.0), *many]
    assert first_to_go(guests, NOW) is many[0]


def test_the_connections_of_a_peer_count_whatever_they_do() -> None:
    guests = [waiting("a", 1.0), waiting("b", 99.0), busy("b", 99.0)]
    assert first_to_go(guests, NOW) is guests[1]


def test_a_request_goes_only_when_it_takes_long_and_nobody_waits() -> None:
    stuck, fresh = busy("a", NOW - PATIENCE - 0.1), busy("a", NOW - PATIENCE + 0.1)
    assert first_to_go([fresh, stuck], NOW) is stuck
    assert first_to_go([fresh], NOW) is None
    assert first_to_go([], NOW) is None


def test_a_listener_goes_last() -> None:
    listener = Guest("a", 1.0, busy=True, streaming=True)
    stuck, fresh = busy("b", 50.0), busy("b", NOW)
    assert first_to_go([listener, stuck, fresh], NOW) is stuck
    assert first_to_go([listener, fresh], NOW) is listener


@pytest.mark.parametrize(("descriptors", "most"), [(128, 32), (512, 128), (1 << 20, MOST)])
def test_descriptors_are_kept_back(descriptors: int, most: int) -> None:
    assert room(descriptors) == most
