"""A certificate and its key, as PEM: whether they go together, and what the certificate says.

`cryptography` reads them. It is loaded when there is something to read, which workers never have.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from cryptography import x509

LARGEST_PEM: Final = 1024 * 1024
"""Bytes of a file; a chain has some 5 KiB, the bundle of all public authorities 250 KiB."""

_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.*?-----END \1-----", re.DOTALL)
_CERTIFICATE: Final = (b"CERTIFICATE", b"X509 CERTIFICATE")


class CertificateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The words of a certificate about itself, and the part of its files that is to be loaded."""

    names: tuple[str, ...]
    """See `messages.CertificatePair`; none where the certificate has no subjectAltName, since
    clients look nowhere else."""
    not_before: float
    not_after: float
    """Seconds since 1970."""
    kind: str
    """`ec`, `rsa`, `ed25519` or `ed448`."""
    subject: str
    fingerprint: str
    """SHA-256 in hexadecimal digits."""
    cert: bytes
    """PEM of the chain alone."""
    key: bytes
    """PEM of the key alone."""


def read_pair(cert_pem: bytes, key_pem: bytes) -> CertificateFacts:
    """The facts of a certificate whose key is the other one. ValueError says what is wrong."""
    chain = _chain(cert_pem, key_pem)
    key_block = _key_block(key_pem)
    from cryptography import x509

    certificates = []
    for number, block in enumerate(chain, 1):
        try:
            certificates.append(x509.load_pem_x509_certificate(block))
        except ValueError as error:
            raise ValueError(
                f"cert cannot be read ({number} of its certificates): {error}"
            ) from None
    leaf = certificates[0]
    return CertificateFacts(
        names=_names(leaf),
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
        kind=_check_key(certificates, key_block),
        subject=leaf.subject.rfc4514_string(),
        fingerprint=_fingerprint(leaf),
        cert=b"\n".join(chain) + b"\n",
        key=key_block + b"\n",
    )


def read_authorities(pem: bytes) -> bytes:
    """PEM of the certificates in a file of authorities. ValueError if there is none."""
    blocks = _blocks(pem, _CERTIFICATE)
    if not blocks:
        raise ValueError(_nothing(pem, "certificate"))
    return b"\n".join(blocks) + b"\n"


def _blocks(pem: bytes, labels: tuple[bytes, ...]) -> list[bytes]:
    return [match[0] for match in _BLOCK.finditer(pem) if match[1] in labels]


def _nothing(pem: bytes, what: str) -> str:
    if not pem.strip():
        return "is empty"
    return f"holds no {what}" if b"-----BEGIN " in pem else f"holds no {what} in PEM"


def _chain(cert_pem: bytes, key_pem: bytes) -> list[bytes]:
    chain = _blocks(cert_pem, _CERTIFICATE)
    if not chain:
        if b"PRIVATE KEY-----" in cert_pem and _blocks(key_pem, _CERTIFICATE):
            raise ValueError("cert holds a key and key a certificate: they are swapped")
        raise ValueError(f"cert {_nothing(cert_pem, 'certificate')}")
    return chain


def _key_block(pem: bytes) -> bytes:
    blocks = [match for match in _BLOCK.finditer(pem) if match[1].endswith(b"PRIVATE KEY")]
    if not blocks:
        raise ValueError(f"key {_nothing(pem, 'private key')}")
    if len(blocks) > 1:
        raise ValueError(f"key holds {len(blocks)} private keys, and one is needed")
    if b"ENCRYPTED" in blocks[0][1] or b"ENCRYPTED" in blocks[0][0][:200]:
        raise ValueError("key is encrypted, and nobody could type a password")
    return bytes(blocks[0][0])


def _check_key(certificates: list[x509.Certificate], block: bytes) -> str:
    """The kind of the key. ValueError unless it is that of the first certificate."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key: Any = load_pem_private_key(block, None)
        owners = [_public(one.public_key()) == _public(key.public_key()) for one in certificates]
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"key cannot be read: {error}") from None
    if owners[0]:
        return _kind(key)
    if any(owners):
        raise ValueError(
            f"cert has that of the key in place {owners.index(True) + 1} of the chain; it must be"
            " the first, and each following one have signed the one before"
        )
    raise ValueError("key is not that of the certificate")


def _kind(key: object) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    kinds = {
        "ec": ec.EllipticCurvePrivateKey,
        "rsa": rsa.RSAPrivateKey,
        "ed25519": ed25519.Ed25519PrivateKey,
        "ed448": ed448.Ed448PrivateKey,
    }
    for kind, one in kinds.items():
        if isinstance(key, one):
            return kind
    raise ValueError(f"key is of a type that TLS has no use for; allowed: {', '.join(kinds)}")


def _public(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _fingerprint(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.hashes import SHA256

    return certificate.fingerprint(SHA256()).hex()


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(f"cert has names that cannot be read: {error}") from None
    return (
        *(name.lower().removesuffix(".") for name in names.get_values_for_type(x509.DNSName)),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    )
