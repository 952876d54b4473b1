"""Values of ACME that stand where others may write."""

from __future__ import annotations

import pytest

from proxy.tls.acme import Seal, Unsealed

SECRET = b"s" * 32
PLACE = "/fairlead/acme/server/certificates/www.example.test"


def test_a_value_opens_with_the_key_at_its_place() -> None:
    seal = Seal(SECRET)
    assert Seal(SECRET).open(PLACE, seal.close(PLACE, b"secret")) == b"secret"
    assert b"secret" not in seal.close(PLACE, b"secret")
    assert seal.close(PLACE, b"secret") != seal.close(PLACE, b"secret")


@pytest.mark.parametrize("value", [b"", b"x", b"x" * 12, b"x" * 100, b"-----BEGIN"])
def test_a_value_that_was_not_sealed_is_none(value: bytes) -> None:
    with pytest.raises(Unsealed):
        Seal(SECRET).open(PLACE, value)


def test_a_value_of_another_place_or_key_or_changed_is_none() -> None:
    value = Seal(SECRET).close(PLACE, b"secret")
    changed = value[:-1] + bytes([value[-1] ^ 1])
    for secret, place, found in (
        (b"t" * 32, PLACE, value),
        (SECRET, PLACE.replace("www", "bank"), value),
        (SECRET, PLACE, changed),
        (SECRET, PLACE, b"n" * 12 + value[12:]),
    ):
        with pytest.raises(Unsealed):
            Seal(secret).open(place, found)
