"""Whom the admin server listens to."""

from __future__ import annotations

import msgspec
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.control.admin_access import (
    Access,
    denied_caller,
    denied_origin,
    denied_token,
    is_loopback,
)
from proxy.control.status import problem

NAMED = Access(hosts=("proxy.example.com", "*.mesh.example", "dotted.example."))

OURS = [
    "127.0.0.1",
    "127.0.0.1:9900",
    "10.0.0.7:443",
    "[::1]",
    "[::1]:9900",
    "[fe80::1%eth0]:9900",
    "[::ffff:127.0.0.1]:1",
    "localhost",
    "LOCALHOST:9900",
    "localhost.",
    "localhost.:9900",
    "localhost:",
    "app.localhost:3000",
    " localhost ",
]
FOREIGN = [
    "",
    ":9900",
    "evil.example",
    "evil.example:9900",
    "proxy",
    "localhost.evil.example",
    "evil-localhost",
    "127.0.0.1.evil.example",
    "127.0.0.1.",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.0.0.1:x",
    "127.0.0.1@evil.example",
    "evil.example@127.0.0.1",
    "::1",
    "[127.0.0.1]",
    "[localhost]",
    "[::1",
    "::1]",
    "[::1]evil.example",
    "[::1]evil.example:80",
    "127.0.0.1, evil.example",
    "*",
    "*.localhost:evil",
    "1.2.3.4.5",
    "localhost\x00.evil",
]


@pytest.mark.parametrize("host", OURS)
def test_addresses_and_localhost_are_always_ours(host: str) -> None:
    assert denied_caller([host], Access()) is None


@pytest.mark.parametrize("host", FOREIGN)
def test_any_other_name_may_have_been_bound_to_this_address(host: str) -> None:
    denial = denied_caller([host], NAMED)
    assert denial is not None
    assert denial.status == 421
    assert "admin.hosts" in denial.detail


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("proxy.example.com", True),
        ("Proxy.Example.COM:9900", True),
        ("proxy.example.com.", True),
        ("dotted.example", True),
        ("a.mesh.example", True),
        ("a.b.mesh.example:1", True),
        ("mesh.example", False),
        (".mesh.example.evil", False),
        ("evilmesh.example", False),
        ("xproxy.example.com", False),
        ("example.com", False),
    ],
)
def test_names_of_the_configuration(host: str, ours: bool) -> None:
    assert (denied_caller([host], NAMED) is None) is ours


def test_a_star_alone_is_any_name() -> None:
    assert denied_caller(["evil.example"], Access(hosts=("*",))) is None
    assert denied_caller([""], Access(hosts=("*",))) is not None


def test_every_name_in_a_request_has_to_be_ours() -> None:
    assert denied_caller(["127.0.0.1", "evil.example"], NAMED) is not None
    assert denied_caller(["evil.example", "127.0.0.1"], NAMED) is not None
    assert denied_caller([], NAMED) is None


def fields(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict([("Host", "127.0.0.1:9900"), *pairs]))


@pytest.mark.parametrize(
    "pairs",
    [
        [("Origin", "http://evil.example")],
        [("Origin", "null")],
        [("Origin", "")],
        [("Origin", "http://127.0.0.1:9901")],
        [("Origin", "http://127.0.0.1")],
        [("Origin", "http://localhost:9900")],
        [("Origin", "http://127.0.0.1:9900.evil.example")],
        [("Origin", "http://127.0.0.1:9900@evil.example")],
        [("Origin", "ftp://127.0.0.1:9900")],
        [("Origin", "127.0.0.1:9900")],
        [("Origin", "http://127.0.0.1:99999")],
        [("Origin", "http://[::1")],
        [("Origin", "http://127.0.0.1:9900"), ("Origin", "http://evil.example")],
        [("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "same-site")],
        [("sec-fetch-site", "Cross-Site")],
        [("Sec-Fetch-Site", "cross-site"), ("Origin", "http://127.0.0.1:9900")],
        [("Content-Type", "text/plain"), ("Content-Length", "1")],
        [("Content-Type", "Text/Plain; charset=x"), ("Content-Length", "10")],
        [("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", "3")],
        [("Content-Type", "multipart/form-data; boundary=x"), ("Transfer-Encoding", "chunked")],
    ],
)
def test_changes_that_a_page_elsewhere_asks_for(pairs: list[tuple[str, str]]) -> None:
    denial = denied_origin("POST", fields(*pairs))
    assert denial is not None
    assert denial.status == 403
    # It could not read an answer, and nothing is changed.
    for method in ("GET", "HEAD", "OPTIONS"):
        assert denied_origin(method, fields(*pairs)) is None


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [("Origin", "http://127.0.0.1:9900")],
        [("Origin", "HTTPS://127.0.0.1:9900")],
        [("Sec-Fetch-Site", "same-origin")],
        [("Sec-Fetch-Site", "none")],
        [("Content-Type", "application/json"), ("Content-Length", "9")],
        [("Content-Type", "application/x-www-form-urlencoded")],
        [("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", "0")],
    ],
    ids=str,
)
def test_changes_of_programs_and_of_pages_of_our_own(pairs: list[tuple[str, str]]) -> None:
    assert denied_origin("POST", fields(*pairs)) is None


def test_a_put_as_curl_sends_it_by_default_is_taken() -> None:
    """A page cannot PUT elsewhere without a preflight, which is not answered."""
    form = fields(("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", "40"))
    assert denied_origin("PUT", form) is None
    assert denied_origin("DELETE", form) is None
    assert denied_origin("PUT", fields(("Origin", "http://evil.example"))) is not None


@pytest.mark.parametrize(
    ("host", "origin", "same"),
    [
        ("proxy.example.com", "https://proxy.example.com", True),
        ("proxy.example.com", "http://proxy.example.com", True),
        ("proxy.example.com:443", "https://proxy.example.com", True),
        ("proxy.example.com:8443", "https://proxy.example.com:8443", True),
        ("Proxy.Example.com", "https://proxy.example.com", True),
        ("[::1]:9900", "http://[::1]:9900", True),
        ("proxy.example.com", "https://proxy.example.com:8443", False),
        ("proxy.example.com", "https://example.com", False),
        ("", "https://", False),
    ],
)
def test_an_origin_is_ours_by_name_and_port(host: str, origin: str, same: bool) -> None:
    given = CIMultiDictProxy(CIMultiDict([("Host", host), ("Origin", origin)]))
    assert (denied_origin("POST", given) is None) is same


BOTH = Access(token="all", read_token="look", local=False)
LOOK = Access(read_token="look")


@pytest.mark.parametrize(
    ("access", "given", "may_read", "may_change"),
    [
        (Access(), "", None, None),
        (Access(local=False), "", None, 403),
        (Access(local=False), "Bearer x", None, 403),
        (Access(token="all", local=False), "Bearer all", None, None),
        (BOTH, "bearer all", None, None),
        (BOTH, "Bearer  all ", None, None),
        (BOTH, "Bearer look", None, 403),
        (BOTH, "", 401, 401),
        (BOTH, "Bearer", 401, 401),
        (BOTH, "Bearer al", 401, 401),
        (BOTH, "Bearer alll", 401, 401),
        (BOTH, "Basic all", 401, 401),
        (BOTH, "all", 401, 401),
        (BOTH, "Bearer \udcfc", 401, 401),
        (LOOK, "Bearer look", None, 403),
        (LOOK, "", 401, 401),
        (Access(token="all"), "Bearer ", 401, 401),
        (Access(token="same", read_token="same"), "Bearer same", None, None),
    ],
)
def test_tokens(access: Access, given: str, may_read: int | None, may_change: int | None) -> None:
    def status(method: str) -> int | None:
        denial = denied_token(method, given, access)
        return None if denial is None else denial.status

    assert [status(method) for method in ("GET", "HEAD", "OPTIONS")] == [may_read] * 3
    changes = ("POST", "PUT", "DELETE", "PATCH", "TRACE", "get")
    assert [status(method) for method in changes] == [may_change] * 6


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.7", False),
        ("fe80::1%eth0", False),
    ],
)
def test_addresses_that_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("name", ["Origin", "Sec-Fetch-Site"])
def test_a_refused_origin_is_told_whatever_its_bytes(name: str) -> None:
    fields = CIMultiDictProxy(CIMultiDict([("Host", "127.0.0.1"), (name, "http://\udcff")]))
    denial = denied_origin("POST", fields)
    assert denial is not None
    document = msgspec.json.encode(problem(denial.status, "Forbidden", denial.detail))
    assert rb"http://\\udcff" in document
