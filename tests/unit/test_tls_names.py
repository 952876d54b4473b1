"""Which certificates a name gets."""

from __future__ import annotations

import pytest

from proxy.tls.names import NameTable

PAIRS = (
    ("a.example", "*.a.example"),
    ("*.example",),
    ("b.example", "xn--bcher-kva.example", "10.0.0.1"),
    ("b.a.example",),
)
TABLE = NameTable(PAIRS)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.example", (0,)),
        ("A.eXample", (0,)),
        ("a.example.", (0,)),
        ("b.example", (2,)),  # The name itself comes before a wildcard.
        ("c.example", (1,)),
        ("c.a.example", (0,)),
        ("b.a.example", (3,)),
        ("d.c.a.example", ()),  # A wildcard is one label.
        ("example", ()),
        (".example", ()),
        (".a.example", ()),
        ("bücher.example", (2,)),
        ("xn--bcher-kva.example", (2,)),
        ("ü" * 64 + ".example", ()),
        ("10.0.0.1", (2,)),
        ("", ()),
        (".", ()),
        ("a.example..", ()),
        ("a\0.example", (1,)),
        ("x" * 248 + ".example", ()),
        ("x" * 247 + ".example", (1,)),
    ],
)
def test_a_name_finds_its_certificate(name: str, found: tuple[int, ...]) -> None:
    assert TABLE.find(name) == found


def test_a_name_finds_one_certificate_of_each_kind() -> None:
    pairs = [["a.example"], ["a.example"], ["a.example", "b.example"], ["*.example"]]
    table = NameTable(pairs, ["ec", "ec", "rsa", "ed25519"])
    assert table.find("a.example") == (0, 2)
    assert table.find("b.example") == (2,)
    assert table.find("c.example") == (3,)


def test_the_default_is_the_first_and_its_likes_of_other_kinds() -> None:
    pairs = [["a", "b"], ["b", "a"], ["b", "a"], ["a"]]
    assert NameTable(pairs, ["ec", "rsa", "rsa", "ed25519"]).default == (0, 1)
    assert NameTable(pairs).default == (0,)
    assert NameTable([[], ["a"]]).default == (0,)
    assert NameTable([]).default == ()
