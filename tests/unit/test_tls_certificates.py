"""What is read from a certificate and its key, and what is said of those that do not fit."""

from __future__ import annotations

import datetime
import re
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from proxy.tls.certificates import read_authorities, read_pair
from tests.support.certificates import DAY, NOW, Authority, key_pem, pem, private_key

AUTHORITY = Authority()
GOOD = AUTHORITY.issue("a.example")
OTHER = AUTHORITY.issue("b.example", number=1)


def test_a_pair_says_its_names_times_and_kind() -> None:
    names = ("A.example", "*.b.example.", "10.0.0.1", "::1")
    made = AUTHORITY.issue(*names, not_before=NOW - DAY, not_after=NOW + DAY)
    facts = read_pair(made.cert, made.key)
    assert facts.names == ("a.example", "*.b.example", "10.0.0.1", "::1")
    assert (facts.not_before, facts.not_after) == (NOW - DAY, NOW + DAY)
    assert (facts.kind, facts.subject) == ("ec", "CN=A.example")
    assert len(facts.fingerprint) == 64
    assert (facts.cert, facts.key) == (made.cert.replace(b"\n\n", b"\n"), made.key)


@pytest.mark.parametrize("year", [1976, 2049, 2050, 3000])
@pytest.mark.parametrize("known", [True, False])
def test_another_reader_finds_the_same(year: int, known: bool) -> None:
    key = private_key("ec", 0)
    words = ["plain", " # first", 'a"b+c,d;e<f>g\\h ', "#x", "Zoë 日本", ""][:: 1 if known else -1]
    oids = [NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.DOMAIN_COMPONENT]
    attributes = [x509.NameAttribute(o, w or "-") for o, w in zip(oids * 2, words, strict=True)]
    together = x509.RelativeDistinguishedName(attributes[:2])
    subject = x509.Name([together, *(x509.RelativeDistinguishedName([a]) for a in attributes[2:])])
    end = datetime.datetime(year, 12, 31, 23, 59, 58, tzinfo=datetime.UTC)
    names = [x509.DNSName("*.A.example."), x509.IPAddress(ip_address("10.0.0.1"))]
    names += [x509.UniformResourceIdentifier("spiffe://d/s"), x509.RFC822Name("a@b.example")]
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1 << 150)
    builder = builder.not_valid_before(end - datetime.timedelta(days=1)).not_valid_after(end)
    if known:
        builder = builder.add_extension(x509.KeyUsage(*[True] * 9), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    made = builder.sign(key, hashes.SHA256())
    facts = read_pair(pem(made), key_pem(key))
    assert facts.subject == made.subject.rfc4514_string()
    assert facts.fingerprint == made.fingerprint(hashes.SHA256()).hex()
    assert (facts.not_before, facts.not_after) == (end.timestamp() - DAY, end.timestamp())
    assert facts.names == (("*.a.example", "10.0.0.1") if known else ())


@pytest.mark.parametrize("kind", ["ec", "rsa", "ed25519"])
def test_kinds_of_keys(kind: str) -> None:
    made = AUTHORITY.issue("a.example", kind=kind)
    assert read_pair(made.cert, made.key).kind == kind


def test_a_certificate_without_alternative_names_has_none() -> None:
    made = AUTHORITY.issue(common_name="a.example")
    assert read_pair(made.cert, made.key).names == ()


def test_further_content_of_the_files_is_left_out() -> None:
    both = b"Bag Attributes\n" + GOOD.key + b"\xfc\r\n" + GOOD.cert
    facts = read_pair(both, both)
    assert (facts.cert, facts.key) == (GOOD.cert, GOOD.key)
    spaced = [one.replace(b"-----\n", b"----- \t\r\n") for one in (GOOD.cert, GOOD.key)]
    assert read_pair(*spaced).cert.count(b"BEGIN") == GOOD.cert.count(b"BEGIN") == 2
    assert read_authorities(spaced[0]).count(b"BEGIN") == 2
    old = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    old += key_pem(private_key("ec", 0), traditional=True)
    assert read_pair(GOOD.cert, old).key.startswith(b"-----BEGIN EC PRIVATE KEY-----")


BROKEN = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
LEAF = GOOD.cert.removesuffix(GOOD.above)


@pytest.mark.parametrize(
    ("cert", "key", "said"),
    [
        (b"", GOOD.key, "cert is empty"),
        (b"hello", GOOD.key, "cert holds no certificate in PEM"),
        (GOOD.key, GOOD.key, "cert holds no certificate"),
        (GOOD.key, GOOD.cert, "cert holds a key and key a certificate: they are swapped"),
        (GOOD.cert, b" \n", "key is empty"),
        (GOOD.cert, GOOD.cert, "key holds no private key"),
        (GOOD.cert, b"\x30\x82", "key holds no private key in PEM"),
        (GOOD.cert, GOOD.key + OTHER.key, "key holds 2 private keys, and one is needed"),
        (GOOD.cert, GOOD.key[:-30], "key holds no private key"),
        (GOOD.cert, OTHER.key, "key is not that of the certificate"),
        (
            GOOD.cert,
            key_pem(private_key("ec", 0), b"secret"),
            "key is encrypted, and nobody could type a password",
        ),
        (
            GOOD.cert,
            key_pem(private_key("ec", 0), b"secret", traditional=True),
            "key is encrypted, and nobody could type a password",
        ),
        (
            GOOD.above + LEAF,
            GOOD.key,
            "cert has that of the key in place 2 of the chain; it must be the first, and each"
            " following one have signed the one before",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(cert: bytes, key: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        read_pair(cert, key)


@pytest.mark.parametrize("cert", [BROKEN, GOOD.cert + BROKEN])
def test_a_block_that_is_no_certificate(cert: bytes) -> None:
    number = cert.count(b"-----BEGIN")
    with pytest.raises(
        ValueError, match=rf"cert cannot be read \({number} of its certificates\): "
    ):
        read_pair(cert, GOOD.key)


def test_a_block_that_is_no_key() -> None:
    key = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    with pytest.raises(ValueError, match=r"key cannot be read: "):
        read_pair(GOOD.cert, key)


def test_a_type_of_key_without_use() -> None:
    made = AUTHORITY.issue("a.example", kind="dsa")
    with pytest.raises(ValueError, match="key is of a type that TLS has no use for; allowed: ec, "):
        read_pair(made.cert, made.key)


def test_authorities_are_the_certificates_of_a_file() -> None:
    assert read_authorities(b"text \xfc\n" + AUTHORITY.ca + GOOD.key) == AUTHORITY.ca
    for content, said in ((b"", "is empty"), (b"a", "holds no certificate in PEM")):
        with pytest.raises(ValueError, match=f"^{said}$"):
            read_authorities(content)
