"""What an untrusted client writes into the field changes nothing of who it is."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from proxy.http.client_address import ClientAddresses
from proxy.http.messages import RequestFields

PEER = b"10.0.0.1"
ADDRESSES = ClientAddresses(("10.0.0.0/8",), "X-Forwarded-For", 0)
ELEMENTS = ClientAddresses(("10.0.0.0/8",), "Forwarded", 0)

PIECES = (
    b"6.6.6.6", b"10.0.0.9", b"for=", b"FOR=", b'"', b'""', b"[", b"]", b":", b"::", b",", b";",
    b"=", b" ", b"\\", b'\\"', b"unknown", b"_x", b"host=", b"%", b"\xff", b"for=6.6.6.6",
)  # fmt: skip
anything = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)
clients = st.sampled_from(
    [(b"203.0.113.9", b"203.0.113.9"), (b"[2001:db8::1]:5", b"2001:db8::1"),
     (b"203.0.113.9:80", b"203.0.113.9"), (b"::ffff:203.0.113.9", b"203.0.113.9")]
)  # fmt: skip
proxies = st.lists(st.sampled_from([b"10.0.0.2", b"[::ffff:10.0.0.3]:81"]), max_size=3)


def find(addresses: ClientAddresses, name: bytes, value: bytes) -> bytes:
    fields = RequestFields(b"", 0)
    fields.claims = {name: value}
    return addresses.find(fields, PEER)


@given(anything, clients, proxies)
def test_entries_left_of_the_client_are_not_looked_at(
    said: bytes, client: tuple[bytes, bytes], via: list[bytes]
) -> None:
    written, address = client
    chain = b", ".join([said, written, *via])
    assert find(ADDRESSES, b"x-forwarded-for", chain) == address


@given(anything, anything, clients, proxies)
def test_quoted_elements_left_of_the_client_are_not_looked_at(
    said: bytes, host: bytes, client: tuple[bytes, bytes], via: list[bytes]
) -> None:
    written, address = client
    host = host.replace(b'"', b"").replace(b"\\", b"")  # What a Host may hold.
    element = b'for="%b";host="%b";proto=http' % (written, host)
    chain = b", ".join([said, element, *(b'for="%b"' % proxy for proxy in via)])
    assert find(ELEMENTS, b"forwarded", chain) == address


@given(anything)
def test_a_client_is_an_address_in_one_spelling_whatever_is_said(said: bytes) -> None:
    for addresses, name in ((ADDRESSES, b"x-forwarded-for"), (ELEMENTS, b"forwarded")):
        found = find(addresses, name, said).decode()
        assert str(ip_address(found)) == found
