"""Keys, signatures and requests as ACME wants them (RFC 8555). All keys are P-256."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

_ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
"""RFC 8737 §6.1."""


def b64(data: bytes) -> str:
    """The base64url of JOSE, without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def new_key() -> bytes:
    """A new key, as PEM."""
    return _pem(ec.generate_private_key(ec.SECP256R1()))


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Unsealed(Exception):
    """A value was not sealed with this key, or for another place."""


class Seal:
    """Encryption of what is kept where others may write: AES-256-GCM under a key that is derived
    from a secret, bound to the place where a value stands."""

    def __init__(self, secret: bytes) -> None:
        """`secret`: 32 random bytes or more."""
        self._cipher = AESGCM(hmac.digest(secret, b"fairlead acme storage 1", "sha256"))

    def close(self, place: str, content: bytes) -> bytes:
        """The content as it may stand there. Its nonce is random: with 96 bits, four billion values
        may be written before two of them are likely to share one."""
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, content, place.encode())

    def open(self, place: str, value: bytes) -> bytes:
        """Open a value that was sealed for this place; Unsealed."""
        try:
            return self._cipher.decrypt(value[:12], value[12:], place.encode())
        except (InvalidTag, ValueError):
            raise Unsealed from None


class AccountKey:
    """The key that an account is known by. ValueError for PEM that holds no such key."""

    def __init__(self, pem: bytes) -> None:
        key = load_pem_private_key(pem, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.key_size != 256:
            raise ValueError("holds a key that is not P-256")
        self._key = key
        public = key.public_key().public_numbers()
        coordinates = {"x": b64(public.x.to_bytes(32)), "y": b64(public.y.to_bytes(32))}
        # In the order of RFC 7638 §3.
        self.public: Mapping[str, str] = {"crv": "P-256", "kty": "EC", **coordinates}
        """As a JWK."""

    def sign(self, header: Mapping[str, Any], payload: bytes) -> dict[str, str]:
        """A JWS in its flattened JSON (RFC 7515 §7.2.2)."""
        signed = _to_be_signed({"alg": "ES256", **header}, payload)
        numbers = decode_dss_signature(self._key.sign(_text(signed), ec.ECDSA(SHA256())))
        return {**signed, "signature": b64(b"".join(one.to_bytes(32) for one in numbers))}

    def authorize(self, token: str) -> str:
        """The answer to a challenge with this token (RFC 8555 §8.1)."""
        return f"{token}.{b64(hashlib.sha256(msgspec.json.encode(self.public)).digest())}"

    def bind(self, kid: str, hmac_key: str, url: str) -> dict[str, str]:
        """A statement that a new account is of somebody whom the server's operator knows (RFC 8555
        §7.3.4)."""
        header = {"alg": "HS256", "kid": kid, "url": url}
        signed = _to_be_signed(header, msgspec.json.encode(self.public))
        secret = base64.urlsafe_b64decode(hmac_key + "=" * (-len(hmac_key) % 4))
        return {**signed, "signature": b64(hmac.digest(secret, _text(signed), "sha256"))}


def _to_be_signed(header: Mapping[str, Any], payload: bytes) -> dict[str, str]:
    return {"protected": b64(msgspec.json.encode(header)), "payload": b64(payload)}


def _text(signed: Mapping[str, str]) -> bytes:
    return f"{signed['protected']}.{signed['payload']}".encode()


def request(domain: str, key_pem: bytes) -> bytes:
    """A request for a certificate (PKCS #10), as DER."""
    key = load_pem_private_key(key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    names = x509.SubjectAlternativeName([x509.DNSName(domain)])
    signed = builder.add_extension(names, critical=False).sign(key, SHA256())
    return signed.public_bytes(Encoding.DER)


def challenge_pair(domain: str, authorization: str) -> tuple[bytes, bytes]:
    """A certificate, and its key, that answer the challenge tls-alpn-01 (RFC 8737 §3)."""
    key = ec.generate_private_key(ec.SECP256R1())
    digest = hashlib.sha256(authorization.encode()).digest()
    name = x509.Name([])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=True)
        # An OCTET STRING in DER.
        .add_extension(
            x509.UnrecognizedExtension(_ACME_IDENTIFIER, b"\x04\x20" + digest), critical=True
        )
        .sign(key, SHA256())
    )
    return certificate.public_bytes(Encoding.PEM), _pem(key)
