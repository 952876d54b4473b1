"""The PROXY protocol as bytes."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from proxy.engine.proxy_protocol import ProxyHeader, Source, read
from proxy.errors import Refused
from proxy.proxy_header import Ends, header

V2 = b"\r\n\r\n\x00\r\nQUIT\n"
FOUR = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + (5000).to_bytes(2, "big") + (443).to_bytes(2, "big")
SIX = bytes(15) + b"\x01" + bytes(15) + b"\x02" + b"\x13\x88" + b"\x01\xbb"


def v2(command: int, family: int, body: bytes) -> bytes:
    return V2 + bytes([0x20 | command, family]) + len(body).to_bytes(2, "big") + body


GOOD = [
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\r\n", Source("192.0.2.1", 443)),
    (b"PROXY TCP6 2001:db8::1 2001:db8::2 5000 443\r\n", Source("2001:db8::1", 443)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff whatever 1 2\r\n", None),
    (v2(1, 0x11, FOUR), Source("192.0.2.1", 443)),
    (v2(1, 0x11, FOUR + b"\x03\x00\x04abcd"), Source("192.0.2.1", 443)),
    (v2(1, 0x21, SIX), Source("::1", 443)),
    (v2(0, 0x00, b""), None),
    (v2(0, 0x11, FOUR), None),
    (v2(1, 0x31, bytes(216)), None),
]


@pytest.mark.parametrize(("data", "source"), GOOD)
def test_headers_of_the_proxy_protocol_are_read(data: bytes, source: Source | None) -> None:
    assert read(data + b"GET / HTTP/1.1\r\n") == ProxyHeader(source, len(data))


@pytest.mark.parametrize(("data", "source"), GOOD)
def test_any_cut_waits_for_more(data: bytes, source: Source | None) -> None:
    assert all(read(data[:cut]) is None for cut in range(len(data)))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00",
        b"proxy TCP4 192.0.2.1 192.0.2.2 5000 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000\r\n",
        b"PROXY TCP4  192.0.2.1 192.0.2.2 5000 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443 \r\n",
        b"PROXY TCP4 192.0.2.256 192.0.2.2 5000 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.999 5000 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 65536\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 70000 443\r\n",
        b"PROXY TCP4 ::1 ::2 5000 443\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 5000 443\r\n",
        b"PROXY UDP4 192.0.2.1 192.0.2.2 5000 443\r\n",
        b"PROXY TCP4 " + b"1" * 100,
        V2 + b"\x11\x11\x00\x00",
        V2 + b"\x22\x11\x00\x0c" + FOUR,
        v2(1, 0x11, FOUR[:-1]),
        v2(1, 0x21, SIX[:-1]),
        V2 + b"\x21\x11\xff\xff",
    ],
)
def test_broken_headers_of_the_proxy_protocol_are_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        read(data)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(
    ("ends", "source"),
    [
        (Ends("192.0.2.1", 5000, "192.0.2.2", 443), Source("192.0.2.1", 443)),
        (Ends("2001:db8::1", 5000, "2001:db8::2", 443), Source("2001:db8::1", 443)),
        (Ends("fe80::1%eth0", 5000, "fe80::2%eth0", 443), Source("fe80::1", 443)),
        (Ends("::ffff:192.0.2.1", 0, "::ffff:192.0.2.2", 443), Source("192.0.2.1", 443)),
        (Ends("192.0.2.1", 0, "2001:db8::2", 443), Source("::ffff:192.0.2.1", 443)),
        (None, None),
    ],
)
def test_headers_that_are_written_are_read_as_they_were_meant(
    version: str, ends: Ends | None, source: Source | None
) -> None:
    written = header(version, ends)
    found = read(written + b"x")
    assert found is not None
    assert found.length == len(written)
    assert (found.source is None) == (source is None)
    if source is not None and found.source is not None:
        assert found.source.port == source.port
        assert ip_address(found.source.address) == ip_address(source.address)


def test_a_line_of_version_1_names_both_ends() -> None:
    ends = Ends("192.0.2.1", 5000, "192.0.2.2", 443)
    assert header("v1", ends) == GOOD[0][0]
    assert header("v2", ends) == GOOD[4][0]
