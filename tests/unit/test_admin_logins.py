"""How often somebody may try to log in."""

from __future__ import annotations

import pytest

from proxy.control.admin_logins import ADDRESSES, AT_ONCE, EACH, FORGET, FREE, LONGEST, Logins

A, B = "192.0.2.1", "192.0.2.2"


def fail(logins: Logins, address: str, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        logins.failed(address, now)


def test_waits_double_with_each_failure_up_to_the_longest() -> None:
    logins = Logins()
    waits = []
    for _ in range(FREE + 12):
        logins.failed(A, 0.0)
        waits.append(logins.wait(A, 0.0))
    assert waits[: FREE + 4] == [0.0] * FREE + [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == LONGEST
    assert logins.wait(A, LONGEST) == 0.0
    assert logins.wait(B, 0.0) == 0.0


def test_an_address_that_has_the_token_begins_anew() -> None:
    logins = Logins()
    fail(logins, A, FREE + 3)
    assert logins.wait(A, 0.0) > 0
    logins.succeeded(A)
    assert logins.wait(A, 0.0) == 0.0


def test_failures_are_forgotten_after_a_while() -> None:
    logins = Logins()
    fail(logins, A, FREE + 9)
    logins.failed(A, FORGET)
    assert logins.wait(A, FORGET) == 0.0


def test_many_addresses_together_are_held_to_a_pace_but_for_those_known() -> None:
    logins = Logins()
    logins.succeeded(B)
    for number in range(AT_ONCE):
        assert logins.wait(f"198.51.100.{number}", 0.0) == 0.0
        logins.failed(f"198.51.100.{number}", 0.0)
    assert logins.wait("203.0.113.1", 0.0) == EACH
    assert logins.wait("203.0.113.1", EACH) == 0.0
    assert logins.wait(B, 0.0) == 0.0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", A, True),
        ("fe80::1%eth0", "fe80::2", True),
        ("", "unix", False),
    ],
)
def test_a_host_of_ipv6_is_one_whatever_address_of_its_network_it_takes(
    one: str, other: str, same: bool
) -> None:
    logins = Logins()
    fail(logins, one, FREE + 1)
    assert (logins.wait(other, 0.0) > 0) is same


def test_addresses_that_are_remembered_are_bounded() -> None:
    logins = Logins()
    for number in range(ADDRESSES + 50):
        logins.failed(str(number), 0.0)
        logins.succeeded(f"good {number}")
        fail(logins, f"bad {number}", 1)
    assert len(logins._failed) == ADDRESSES
    assert len(logins._known) == ADDRESSES
