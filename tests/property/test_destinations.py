"""Where registered instances may not lead, whatever the address looks like."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.destinations import (
    LINK_LOCAL,
    METADATA,
    Destinations,
    is_own_address,
    kind_of,
    spellings,
)

ADMIN = 9900


def destinations(*allow: str, own: tuple[str, ...] = ()) -> Destinations:
    return Destinations(ADMIN, allow, lambda address: address in own)


def as_ipv6(address: IPv4Address) -> list[str]:
    """Every way to write an IPv4 address as an IPv6 one."""
    number = int(address)
    prefixes = ("::ffff:0:0", "::ffff:0:0:0", "64:ff9b::", "64:ff9b:1::", "64:ff9b:1:ab::")
    whole = [IPv6Address(int(IPv6Address(prefix)) | number) for prefix in prefixes]
    six_to_four = IPv6Address(int(IPv6Address("2002::")) | number << 80 | 1)
    return [*map(str, whole), f"::ffff:{address}", f"64:ff9b::{address}", str(six_to_four)]


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_what_it_is_in_every_spelling(address: IPv4Address) -> None:
    for spelling in as_ipv6(address):
        assert address in spellings(IPv6Address(spelling))
        assert kind_of(spelling) == kind_of(str(address)), spelling


@given(st.sampled_from([*LINK_LOCAL, *METADATA]).flatmap(lambda one: st.ip_addresses(network=one)))
def test_link_local_and_metadata_addresses_are_refused_on_every_port(
    address: IPv4Address | IPv6Address,
) -> None:
    for port in (1, 80, ADMIN):
        assert str(address) in destinations().refusal(str(address), port)


@given(
    st.one_of(
        st.ip_addresses(network=ip_network("127.0.0.0/8")),
        st.sampled_from([IPv4Address("0.0.0.0"), IPv6Address("::"), IPv6Address("::1")]),
    )
)
def test_addresses_of_this_machine_are_refused_on_the_admin_port_alone(
    address: IPv4Address | IPv6Address,
) -> None:
    spelled = [str(address), *(as_ipv6(address) if isinstance(address, IPv4Address) else ())]
    for spelling in spelled:
        assert destinations().refusal(spelling, ADMIN)
        assert not destinations().refusal(spelling, ADMIN + 1)
        assert not Destinations().refusal(spelling, ADMIN), "there is no admin listener"


@given(st.ip_addresses(v=4).filter(lambda one: one.is_private and not one.is_loopback))
def test_other_addresses_are_refused_to_nobody(address: IPv4Address) -> None:
    if kind_of(str(address)) == "":
        assert not destinations().refusal(str(address), 80)
        assert not destinations().refusal(str(address), ADMIN)


def test_addresses_of_this_machines_interfaces_are_its_own_in_every_spelling() -> None:
    own = destinations(own=("10.0.0.7", "2001:db8::7"))
    for spelling in ("10.0.0.7", "2001:db8::7", *as_ipv6(IPv4Address("10.0.0.7"))):
        assert own.refusal(spelling, ADMIN)
        assert not own.refusal(spelling, 80)
    assert not own.refusal("10.0.0.8", ADMIN)


@pytest.mark.parametrize(
    ("allow", "address", "port", "allowed"),
    [
        ("169.254.0.0/16", "169.254.169.254", 80, True),
        ("169.254.0.0/16", "::ffff:169.254.169.254", 80, True),
        ("169.254.169.254/32", "169.254.169.253", 80, False),
        ("127.0.0.0/8", "127.0.0.1", ADMIN, True),
        ("127.0.0.0/8", "::1", ADMIN, False),
        ("::1/128", "::1", ADMIN, True),
        ("fe80::/10", "fe80::1%eth0", 80, True),
        ("0.0.0.0/0", "fe80::1", 80, False),
    ],
)
def test_allow_lifts_it_for_its_networks(
    allow: str, address: str, port: int, allowed: bool
) -> None:
    assert (destinations(allow).refusal(address, port) == "") is allowed


def test_of_a_name_nothing_is_known_before_it_is_resolved() -> None:
    assert destinations().refusal_of("localhost", ADMIN) == ""
    assert destinations().refusal_of("127.1", ADMIN) == ""
    assert destinations().refusal_of("127.0.0.1", ADMIN)


def test_the_kernel_knows_its_own_addresses() -> None:
    assert is_own_address("127.0.0.1")
    assert is_own_address("127.3.2.1")
    assert not is_own_address("198.51.100.7")  # RFC 5737: nobody's.
    assert not is_own_address("2001:db8::7")
