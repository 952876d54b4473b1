"""Certificates of any kind and time, made for one test: PEM in memory."""

from __future__ import annotations

import datetime
from functools import cache
from ipaddress import ip_address
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from proxy.tls.certificates import read_pair

DAY = 86_400.0
NOW = 1_790_000_000.0
"""A time in 2026 at which tests happen that say when."""
LONG_AGO, FAR = 1_000_000_000.0, 4_000_000_000.0
"""In 2001 and in 2096: for those who look at the clock themselves, as OpenSSL does."""


SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Made(NamedTuple):
    """A certificate and its key, as PEM; the chain without the key's certificate is `above`."""

    cert: bytes
    key: bytes
    above: bytes = b""

    @property
    def names(self) -> tuple[str, ...]:
        return read_pair(self.cert, self.key).names

    @property
    def kind(self) -> str:
        return read_pair(self.cert, self.key).kind


@cache
def private_key(kind: str, number: int) -> Any:
    """A key; the same one for the same number, since RSA ones take a while."""
    if kind in ("rsa", "rsa1024"):
        return rsa.generate_private_key(65537, 2048 if kind == "rsa" else 1024)
    if kind == "dsa":
        return dsa.generate_private_key(2048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())


UNREADABLE: x509.ExtensionType = x509.UnrecognizedExtension(
    x509.SubjectAlternativeName.oid, b"\x30\x0a\x81\x08" + "mü@a.com".encode("latin-1")
)
"""A subjectAltName with a mail address in an encoding that it must not have: OpenSSL takes it, and
Python's `getpeercert` raises UnicodeDecodeError."""


class Authority:
    """An authority that is in memory alone."""

    def __init__(self, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        public = self._key.public_key()
        self._certificate = (
            _builder(self._name, self._name, public, LONG_AGO, FAR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            # Python 3.13 and later want to know what the key of an authority is for.
            .add_extension(SIGNS, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca = pem(self._certificate)

    def issue(
        self,
        *names: str,
        kind: str = "ec",
        number: int = 0,
        not_before: float = LONG_AGO,
        not_after: float = FAR,
        common_name: str = "",
        extension: x509.ExtensionType | None = None,
    ) -> Made:
        """A certificate for DNS names and addresses; none = without subjectAltName, unless that is
        the `extension`."""
        key = private_key(kind, number)
        subject = _name(common_name or (names[0] if names else "nameless"))
        builder = _builder(subject, self._name, key.public_key(), not_before, not_after)
        if names:
            hosts = [_host(name) for name in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        if extension is not None:
            builder = builder.add_extension(extension, critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        return Made(pem(certificate) + self.ca, key_pem(key), self.ca)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: Any, password: bytes = b"", traditional: bool = False) -> bytes:
    """A key as PEM; `traditional`: in the format that is named after its type."""
    formats = serialization.PrivateFormat
    encoded: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        formats.TraditionalOpenSSL if traditional else formats.PKCS8,
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption(),
    )
    return encoded


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Any, not_before: float, not_after: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.fromtimestamp(not_before, datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(not_after, datetime.UTC))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)
