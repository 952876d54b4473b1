"""The reader of TLS hellos, against those that OpenSSL writes."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.tls.hello import MOST_RECORDS, Hello, read_hello


def hello(name: str | None, *protocols: str) -> bytes:
    """What a client of OpenSSL says first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(list(protocols))
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def in_records(data: bytes, size: int) -> bytes:
    """The same message in records of this many bytes."""
    body = data[5:]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"\x16\x03\x01" + len(one).to_bytes(2, "big") + one for one in pieces)


@pytest.mark.parametrize(
    ("name", "protocols", "read"),
    [
        ("DB.example.com", (), Hello("db.example.com", ())),
        ("db.example.com", ("h2", "http/1.1"), Hello("db.example.com", (b"h2", b"http/1.1"))),
        (None, ("acme-tls/1",), Hello("", (b"acme-tls/1",))),
        ("192.0.2.1", (), Hello("", ())),
    ],
)
def test_name_and_protocols(name: str | None, protocols: tuple[str, ...], read: Hello) -> None:
    data = hello(name, *protocols)
    assert read_hello(data) == read
    assert read_hello(data + b"more") == read
    least = 1 + len(data) // MOST_RECORDS  # With OpenSSL 3.5 and later more than 100 bytes.
    for size in (least, max(least, 100), 400):
        assert read_hello(in_records(data, size)) == read


def test_a_hello_that_is_cut_off_is_waited_for() -> None:
    data = in_records(hello("a.example", "h2"), 50)
    assert [cut for cut in range(len(data)) if read_hello(data[:cut]) is not None] == []


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n", b"\x80\x2e\x01\x00\x02", b"\x16\x02", b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff", b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", b"\x15\x03\x03\x00\x02",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03",
    ],
)  # fmt: skip
def test_garbage_is_no_hello(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"hello|record"):
        read_hello(data)


@given(st.data())
def test_a_spoilt_hello_is_read_or_refused(data: st.DataObject) -> None:
    spoilt = bytearray(hello("a.example", "h2"))
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_hello(bytes(spoilt))
    except ValueError:
        pass


def test_a_hello_without_end_is_refused() -> None:
    crumb = b"\x16\x03\x01\x00\x01"
    crumbs = [crumb + bytes([one]) for one in b"\x01\x00\xff\x00" + bytes(MOST_RECORDS)]
    assert read_hello(b"".join(crumbs[: MOST_RECORDS - 1])) is None
    with pytest.raises(ValueError, match="too many records"):
        read_hello(b"".join(crumbs))
