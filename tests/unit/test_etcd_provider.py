"""What the etcd provider decides without a registry: settings and prefix ends."""

from __future__ import annotations

import pytest

from proxy.registry.etcd.gateway import Gateway, prefix_end
from proxy.registry.etcd.options import Options as EtcdOptions
from proxy.registry.etcd.provider import EtcdProvider


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:2379",
        "ftp://127.0.0.1",
        "http://",
        "http://h:port",
        "http://h:70000",
        "http://u:p@h",
        "http://h/v3",
        "http://h?x",
        "http://h#x",
    ],
)
def test_endpoints_that_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        EtcdProvider(EtcdOptions(endpoints=(url,)))


def test_a_password_in_an_endpoint_is_not_repeated() -> None:
    with pytest.raises(ValueError, match=r"http://\.\.\.@h") as caught:
        Gateway("http://user:secret@h")
    assert "secret" not in str(caught.value)


def test_endpoints_are_needed() -> None:
    with pytest.raises(ValueError, match=r"registry\.endpoints"):
        EtcdProvider(EtcdOptions())


@pytest.mark.parametrize("url", ["http://h", "https://h:1", "http://[::1]:2379/", "http://h:2379"])
def test_endpoints_that_are_taken(url: str) -> None:
    assert repr(Gateway(url)) == f"<Gateway {url.rstrip('/')}>"


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        (b"/services/", b"/services0"),
        (b"a", b"b"),
        (b"a\xff\xff", b"b"),
        ("ä".encode(), b"\xc3\xa5"),
        (b"\xff", b"\x00"),
        (b"", b"\x00"),
    ],
)
def test_prefix_end(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end
