"""Whose address counts, in every spelling that proxies use."""

from __future__ import annotations

import pytest

from proxy.engine.http1.parser import call_a_claim, parse_request
from proxy.http.client_address import FURTHEST, ClientAddresses, parse
from proxy.settings.declare import keys_of
from proxy.settings.listener import ClientIpSettings
from proxy.settings.tree import Scalar

TRUSTED = ("10.0.0.0/8", "fd00::/8", "192.0.2.1")
PEER = b"10.0.0.1"


def find(value: bytes, header: str = "X-Forwarded-For", hops: int = 0, more: bytes = b"") -> bytes:
    head = b"GET / HTTP/1.1\r\nHost: h\r\n%b: %b\r\n%b\r\n" % (header.encode(), value, more)
    fields = parse_request(head, 4096).fields
    addresses = ClientAddresses(TRUSTED, header, hops)
    found = addresses.find(fields, PEER)
    assert addresses.find(fields, PEER) == found  # From memory.
    return found


@pytest.mark.parametrize(
    ("spelling", "address"),
    [
        (b"1.2.3.4", "1.2.3.4"),
        (b" \t1.2.3.4 ", "1.2.3.4"),
        (b"1.2.3.4:567", "1.2.3.4"),
        (b"1.2.3.4:", "1.2.3.4"),
        (b'"1.2.3.4:567"', "1.2.3.4"),
        (b'"1.2.3.4:_hidden"', "1.2.3.4"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"2001:DB8:0:0::0001", "2001:db8::1"),
        (b"2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
        (b"[2001:db8::1]", "2001:db8::1"),
        (b"[2001:DB8::1]:567", "2001:db8::1"),
        (b'"[2001:db8::1]:567"', "2001:db8::1"),
        (b"2001:db8::1%eth0", "2001:db8::1"),
        (b"[2001:db8::1%25eth0]:5", "2001:db8::1"),
        (b"::ffff:1.2.3.4", "1.2.3.4"),
        (b"::FFFF:102:304", "1.2.3.4"),
        (b"[::ffff:1.2.3.4]:567", "1.2.3.4"),
        (b"0:0:0:0:0:ffff:1.2.3.4", "1.2.3.4"),
        (b"::1", "::1"),
    ],
)
def test_one_client_has_one_spelling(spelling: bytes, address: str) -> None:
    assert str(parse(spelling)) == address
    assert find(spelling) == address.encode()


GARBAGE = [
    b"", b"unknown", b"_hidden", b"-", b"unix:", b"1.2.3", b"1.2.3.4.5", b"01.2.3.4", b"1.2.3.256",
    b"1.2.3.4:x", b"1.2.3.4:123456", b"1.2.3.4 5.6.7.8", b"1.2.3.4/24", b"[1.2.3.4]", b"[::1",
    b"[::1]x", b"[::1]:x", b"::1]", b":::", b"localhost", b"http://1.2.3.4", b'"', b'"1.2.3.4',
    b"\xb2.2.3.4", b"1" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("entry", GARBAGE)
def test_an_entry_that_is_no_address_ends_the_search(entry: bytes) -> None:
    assert parse(entry) is None
    assert find(b"6.6.6.6, " + entry) == PEER
    assert find(b"6.6.6.6, " + entry + b", 10.0.0.2") == b"10.0.0.2"
    assert find(b"6.6.6.6, " + entry, hops=1) == PEER
    assert find(entry + b", 203.0.113.9") == b"203.0.113.9"


@pytest.mark.parametrize(
    ("chain", "hops", "address"),
    [
        (b"203.0.113.9", 0, b"203.0.113.9"),
        (b"203.0.113.9, 10.0.0.2", 0, b"203.0.113.9"),
        (b"203.0.113.9,10.0.0.2,192.0.2.1 ,  fd00::5", 0, b"203.0.113.9"),
        (b"6.6.6.6, 203.0.113.9, 10.0.0.2", 0, b"203.0.113.9"),
        (b"203.0.113.9, ::ffff:10.0.0.2", 0, b"203.0.113.9"),
        (b"10.0.0.3, 10.0.0.2", 0, b"10.0.0.3"),  # An inner client: the furthest that is known.
        (b"10.0.0.3, 10.0.0.2", 1, b"10.0.0.2"),
        (b"203.0.113.9, 10.0.0.2", 1, b"10.0.0.2"),
        (b"203.0.113.9, 10.0.0.2", 2, b"203.0.113.9"),
        (b"6.6.6.6, 203.0.113.9", 1, b"203.0.113.9"),
        (b"203.0.113.9, 10.0.0.2", 3, PEER),
        (b"6.6.6.6, garbage", 2, b"6.6.6.6"),
    ],
)
def test_chains_are_read_from_the_right(chain: bytes, hops: int, address: bytes) -> None:
    assert find(chain, hops=hops) == address


def test_several_lines_are_one_list() -> None:
    more = b"X-Forwarded-For: 203.0.113.9\r\nX: y\r\nX-Forwarded-For: 10.0.0.2\r\n"
    assert find(b"6.6.6.6", more=more) == b"203.0.113.9"
    assert find(b"6.6.6.6", hops=3, more=more) == b"6.6.6.6"


def test_no_field_no_other_client() -> None:
    assert find(b"1.2.3.4", header="X-Real-IP", more=b"X-Forwarded-For: 5.6.7.8\r\n") == b"1.2.3.4"
    fields = parse_request(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 9).fields
    assert ClientAddresses(TRUSTED, "X-Forwarded-For", 0).find(fields, PEER) == PEER


@pytest.mark.parametrize("header", ["X-Real-IP", "CF-Connecting-IP", "true-client-ip", "X-Odd-One"])
def test_any_field_may_name_the_client(header: str) -> None:
    call_a_claim(header.lower().encode())
    assert find(b"203.0.113.9", header) == b"203.0.113.9"
    assert find(b"10.0.0.3", header) == b"10.0.0.3"


def test_a_client_behind_the_proxy_cannot_call_the_field_hop_by_hop() -> None:
    assert find(b"203.0.113.9", more=b"Connection: X-Forwarded-For\r\n") == b"203.0.113.9"


@pytest.mark.parametrize(
    ("value", "address"),
    [
        (b"for=203.0.113.9", b"203.0.113.9"),
        (b"For=203.0.113.9;proto=https;by=10.0.0.1", b"203.0.113.9"),
        (b'proto=http; FOR="203.0.113.9:47011" ;by=_x', b"203.0.113.9"),
        (b'for="[2001:DB8::17]:4711"', b"2001:db8::17"),
        (b'for="[2001:db8::17]", for=10.0.0.2', b"2001:db8::17"),
        (b"for=6.6.6.6, for=203.0.113.9 , for=10.0.0.2", b"203.0.113.9"),
        (b"for=6.6.6.6, for=unknown", PEER),
        (b"for=6.6.6.6, for=_hidden, for=10.0.0.2", b"10.0.0.2"),
        (b"for=6.6.6.6, proto=http", PEER),
        (b"for=6.6.6.6, ", PEER),
        (b"for=6.6.6.6;for=7.7.7.7", PEER),
        (b'for=203.0.113.9;host="a, for=6.6.6.6"', b"203.0.113.9"),
        (b'for=203.0.113.9;host="a;for=6.6.6.6"', b"203.0.113.9"),
        (b'for="6.6.6.6, for=203.0.113.9', b"203.0.113.9"),
        (b'for="6.6.6.6, for="[2001:db8::1]:80"', b"2001:db8::1"),
        (b'for=6.6.6.6";, for="[2001:db8::1]"', b"2001:db8::1"),
        (b'for=6.6.6.6, for="203.0.113.9', PEER),
        (b'for="6.6.6.6\\", for=203.0.113.9"', PEER),
    ],
)
def test_the_forwarded_field(value: bytes, address: bytes) -> None:
    assert find(value, "Forwarded") == address


def test_trust_needs_networks_which_may_be_spelled_as_mapped() -> None:
    assert not ClientAddresses((), "X-Forwarded-For", 0).trusts(parse(b"10.0.0.1"))
    mapped = ClientAddresses(("::ffff:10.0.0.0/104",), "X-Forwarded-For", 0)
    assert mapped.trusts(parse(b"10.0.0.1"))
    assert not mapped.trusts(parse(b"11.0.0.1"))
    assert mapped.trusts_any


def test_only_so_many_entries_are_looked_at() -> None:
    many = b", ".join([b"203.0.113.9"] + [b"10.0.0.2"] * 4000)
    assert find(many) == b"10.0.0.2"
    few = b", ".join([b"203.0.113.9"] + [b"10.0.0.2"] * (FURTHEST - 1))
    assert find(few) == b"203.0.113.9"
    assert find(b"6.6.6.6," * 4000 + few) == b"203.0.113.9"
    assert find(b"6" * 9000 + b"," + few) == b"203.0.113.9"
    assert find(few, hops=FURTHEST) == b"203.0.113.9"
    hops = keys_of(ClientIpSettings)["hops"].read
    assert hops is not None
    assert hops(Scalar(str(FURTHEST))) == FURTHEST
    with pytest.raises(ValueError, match="out of range"):
        hops(Scalar(str(FURTHEST + 1)))
