"""Signed requests between proxies, and the list that is made of their answers."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from proxy.fleet.merged import Document, Latency, Limits, Row, merge
from proxy.fleet.signing import ASKED, MOST_SEEN, Signatures, authority_of, sign

KEY = b"k" * 32
HERE = "web-1.internal:9900"
NOW = 1_700_000_000.0


def signed(
    key: bytes = KEY, authority: str = HERE, target: str = ASKED, nonce: bytes = b"n" * 16
) -> str:
    return sign(key, "web-2-9900", authority, target, NOW, nonce)


def test_a_signature_is_good_once() -> None:
    seen = Signatures()
    assert seen.refusal(KEY, signed(), HERE, ASKED, NOW + 29) == ""
    assert "used before" in seen.refusal(KEY, signed(), HERE, ASKED, NOW + 30)
    assert seen.refusal(KEY, signed(nonce=b"m" * 16), HERE, ASKED, NOW) == ""


@pytest.mark.parametrize(
    ("value", "here", "target", "now"),
    [
        (signed(key=b"x" * 32), HERE, ASKED, NOW),
        (signed(authority="evil.test:9900"), HERE, ASKED, NOW),  # Passed on by whom it was for.
        (signed(target="/api/v1/config"), HERE, ASKED, NOW),
        (signed(), HERE, ASKED + "?x", NOW),
        (signed(authority=""), "", ASKED, NOW),  # A proxy that tells nobody where it is.
        (signed(), HERE, ASKED, NOW + 31),
        (signed(), HERE, ASKED, NOW - 31),
        (signed().replace("web-2", "web-3"), HERE, ASKED, NOW),
        (signed().replace("at=1700000000", "at=1700000001"), HERE, ASKED, NOW),
        (signed() + " ", HERE, ASKED, NOW),
        (signed().upper(), HERE, ASKED, NOW),
        ("Fairlead-Fleet", HERE, ASKED, NOW),
        ("Fairlead-Fleet from=" + "a" * 5000, HERE, ASKED, NOW),
        ("Fairlead-Fleet \udcff", HERE, ASKED, NOW),
    ],
)
def test_a_signature_for_anything_else_is_refused(
    value: str, here: str, target: str, now: float
) -> None:
    assert Signatures().refusal(KEY, value, here, target, now)


def test_signatures_that_are_remembered_are_bounded_and_forgotten() -> None:
    seen = Signatures()
    for number in range(MOST_SEEN):
        assert not seen.refusal(KEY, signed(nonce=number.to_bytes(16)), HERE, ASKED, NOW)
    assert seen.refusal(KEY, signed(), HERE, ASKED, NOW)
    later = sign(KEY, "web-2", HERE, ASKED, NOW + 61, b"n" * 16)
    assert not seen.refusal(KEY, later, HERE, ASKED, NOW + 61)


def test_only_urls_under_tls_are_asked() -> None:
    assert authority_of("https://web-1:9900") == "web-1:9900"
    assert authority_of("http://web-1:9900") == ""
    assert authority_of("") == ""


def test_rates_are_added_up_and_the_worst_of_the_rest_is_shown() -> None:
    one = Row("users", ready=3, total=3, rate=5.0, error_rate=0.5, latency=Latency(p99=0.1))
    one = replace(one, limits=Limits({"web 200": 3, "web 500": 1}, {"web": 0.5}))
    two = Row("users", ready=1, total=3, ejected=2, rate=2.0, latency=Latency(0.01, None, 0.3))
    two = replace(two, limits=Limits({"web 200": 2, "shop 400": 1}, {"web": 0.25, "shop": 0.0}))
    found = merge({"a": Document((one,)), "b": Document((two, Row("only-here")))})
    assert [row["name"] for row in found] == ["only-here", "users"]
    users = found[1]
    assert (users["rate"], users["error_rate"], users["ready"], users["ejected"]) == (7, 0.5, 1, 2)
    assert users["latency"] == {"p50": 0.01, "p95": None, "p99": 0.3}
    assert users["proxies"] == 2
    assert users["limits"] == {
        "callers": {"web 200": 5, "web 500": 1, "shop 400": 1},
        "caller_seconds": {"web": 0.75, "shop": 0.0},
    }
