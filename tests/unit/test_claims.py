"""Which fields only a trusted proxy may set."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy.engine.http1.parser import parse_request
from proxy.http.claims import is_claim

PAGE = Path(__file__).parents[2] / "docs" / "forwarding.md"
SECTION = re.compile(r"## What clients say of themselves\n(.*?)\n## ", re.DOTALL)


def documented() -> list[str]:
    """Names and patterns in the first column of the section's table."""
    section = SECTION.search(PAGE.read_text("utf-8"))
    assert section is not None
    rows = re.findall(r"^\| [^|]+ \| (.+) \|$", section[1], re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([A-Za-z*-]+)`", row)]


@pytest.mark.parametrize("pattern", documented())
def test_fields_the_page_calls_claims_are_claims(pattern: str) -> None:
    for stands_for in ("x", "a-b", "Some-Thing9"):
        assert is_claim(pattern.replace("*", stands_for).lower().encode())


def test_the_page_names_all_that_was_asked_for() -> None:
    assert len(documented()) > 50


@pytest.mark.parametrize(
    "name",
    [
        "Accept", "Authorization", "Cookie", "User-Agent", "Referer", "Origin", "Content-Type",
        "If-Match", "Range", "Sec-CH-UA", "Sec-Fetch-Site", "X-Requested-With", "X-CSRF-Token",
        "X-API-Key", "X-Client-Version", "X-Client-Id", "X-Client-Data", "X-User-ID", "X-Zip",
        "X-HTTP-Method-Override", "traceparent", "tracestate", "B3", "X-B3-TraceId",
        "Idempotency-Key",
        "X-Amzn-Trace-Id", "X-Cloud-Trace-Context", "X-Request-Start", "CF-Ray", "CDN-Loop", "DNT",
        "X-Hub-Signature-256", "X-Forge", "Forward", "Clientele-IPs", "X-Tlsx", "Strip", "Date",
    ],
)  # fmt: skip
def test_fields_clients_have_to_send_are_no_claims(name: str) -> None:
    assert not is_claim(name.lower().encode())


def test_a_name_as_long_as_a_head_is_judged_by_its_ends() -> None:
    assert is_claim(b"a-" * 15_000 + b"client-ip")
    assert is_claim(b"x-forwarded-" + b"a" * 30_000)
    assert not is_claim(b"client-ip-" * 3_000 + b"a")


def test_claims_are_kept_apart_with_their_values_and_lines() -> None:
    fields = parse_request(
        b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.1.1.1\r\nA: b\r\nx-real-IP:2.2.2.2 \r\n"
        b"X-Forwarded-For: 3.3.3.3\r\nX-Forwarded-Proto: a\r\nX-Forwarded-Proto: b\r\n"
        b"X-Ssl-Cert: one\r\nX-SSL-Cert: two\r\n\r\n",
        128,
    ).fields
    assert fields.pairs == [(b"A", b"b")]
    assert fields.passed == b"A: b\r\n"
    assert fields.claims == {
        b"x-forwarded-for": b"1.1.1.1, 3.3.3.3",
        b"x-real-ip": b"2.2.2.2",
        b"x-forwarded-proto": b"b",
        b"x-ssl-cert": b"one, two",
    }
    assert fields.claim_lines == (b"x-real-IP: 2.2.2.2\r\nX-Ssl-Cert: one\r\nX-SSL-Cert: two\r\n")


def test_claims_that_connection_names_end_here() -> None:
    fields = parse_request(
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: x-Forwarded-for, X-SSL-Cert\r\n"
        b"X-Forwarded-For: 1.1.1.1\r\nX-SSL-Cert: one\r\nX-Real-IP: 2.2.2.2\r\n\r\n",
        128,
    ).fields
    assert fields.claims == {b"x-real-ip": b"2.2.2.2"}
    assert fields.claims_named == {b"x-forwarded-for": b"1.1.1.1", b"x-ssl-cert": b"one"}
    assert fields.claim_lines == b"X-Real-IP: 2.2.2.2\r\n"
