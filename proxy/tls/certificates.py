"""A certificate and its key, as PEM: whether they go together, and what the certificate says.

Whether they are good is for the OpenSSL of `ssl` to say, since it will use them; what it does not
tell of a certificate is read from its DER (RFC 5280 §4.1). `cryptography` is another OpenSSL, and
8 MB in each control process that reads nothing but this.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from binascii import a2b_base64
from collections.abc import Iterator
from datetime import datetime
from ipaddress import ip_address
from typing import Final

import msgspec

from proxy.tls.contexts import load_pair, reason, trust

LARGEST_PEM: Final = 1024 * 1024
"""Bytes of a file; a chain has some 5 KiB, the bundle of all public authorities 250 KiB."""

_KINDS: Final = {  # ≤ 1 KiB
    bytes.fromhex("2a8648ce3d0201"): "ec",
    bytes.fromhex("2a864886f70d010101"): "rsa",
    bytes.fromhex("2a864886f70d01010a"): "rsa",
    bytes.fromhex("2b6570"): "ed25519",
    bytes.fromhex("2b6571"): "ed448",
}
"""Algorithms of keys, as they are named in DER."""
_ATTRIBUTES: Final = {  # ≤ 1 KiB
    **{b"\x55\x04" + bytes([n]): word for n, word in (
        (3, "CN"), (6, "C"), (7, "L"), (8, "ST"), (9, "STREET"), (10, "O"), (11, "OU"),
    )},
    bytes.fromhex("0992268993f22c640101"): "UID",
    bytes.fromhex("0992268993f22c640119"): "DC",
}  # fmt: skip
_ENCODINGS: Final = {20: "latin-1", 28: "utf-32-be", 30: "utf-16-be"}
_SPECIAL: Final = re.compile(r'^[ #]|[\\"+,;<>]| $')
_ALTERNATIVE_NAMES: Final = b"\x55\x1d\x11"
_DNS, _ADDRESS, _UTC_TIME = 0x82, 0x87, 0x17
_OPTIONAL: Final = (0xA0, 0x81, 0x82, 0xA1, 0xA2, 0xA3)
"""Tags of a certificate's version, identifiers and extensions, which need not be there."""
_MISMATCHES: Final = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")

_BLOCK: Final = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]+)-----[ \t]*\r?\n.*?-----END \1-----", re.DOTALL
)
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
    key = _key_block(key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for number, block in enumerate(chain, 1):
        try:
            trust(context, block)
            if number == 1:
                der = a2b_base64(b"".join(block.splitlines()[1:-1]))
                validity, subject, public, extensions = _fields(der)
        except (OSError, ValueError, IndexError) as error:
            words = reason(error) if isinstance(error, OSError) else error
            raise ValueError(
                f"cert cannot be read ({number} of its certificates): {words}"
            ) from None
    kind = _kind(public)
    _check_key(chain, key)
    not_before, not_after = (_time(*one) for one in _elements(validity))
    return CertificateFacts(
        names=_names(extensions),
        not_before=not_before,
        not_after=not_after,
        kind=kind,
        subject=_subject(subject),
        fingerprint=hashlib.sha256(der).hexdigest(),
        cert=b"\n".join(chain) + b"\n",
        key=key + b"\n",
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


def _check_key(chain: list[bytes], key: bytes) -> None:
    """ValueError unless it is that of the first certificate."""
    if _fits(chain[0], key):
        return
    owners = [_fits(one, key) for one in chain]
    if any(owners):
        raise ValueError(
            f"cert has that of the key in place {owners.index(True) + 1} of the chain; it must be"
            " the first, and each following one have signed the one before"
        )
    raise ValueError("key is not that of the certificate")


def _fits(cert: bytes, key: bytes) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT@SECLEVEL=0")  # Whether a key is too short is for others to say.
    try:
        load_pair(context, cert, key)
    except ssl.SSLError as error:
        if error.reason in _MISMATCHES:
            return False
        raise ValueError(f"key cannot be read: {reason(error)}") from None
    return True


# ------------------------------------------------------------------------------------ DER


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element. ValueError or IndexError if they are none."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length > 127:
            size = length & 127
            length, at = int.from_bytes(data[at : at + size]), at + size
        if tag & 31 == 31 or at + length > len(data):
            raise ValueError("not in DER")
        yield tag, data[at : at + length]
        at += length


def _fields(certificate: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Validity, subject, public key and extensions; the last may be empty."""
    ((_, whole),) = _elements(certificate)
    (_, signed), *_ = _elements(whole)
    fields = [*_elements(signed)]
    extensions = [content for tag, content in fields if tag == 0xA3]
    # Serial number, algorithm and issuer, behind a version if that is not the first.
    _, _, _, validity, subject, public = (one for tag, one in fields if tag not in _OPTIONAL)
    return validity, subject, public, b"".join(extensions)


def _time(tag: int, content: bytes) -> float:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text >= "5" else "20") + text
    return datetime.fromisoformat(f"{text[:8]}T{text[8:]}").timestamp()


def _kind(public: bytes) -> str:
    (_, algorithm), _ = _elements(public)
    (_, named), *_ = _elements(algorithm)
    try:
        return _KINDS[named]
    except KeyError:
        allowed = ", ".join(dict.fromkeys(_KINDS.values()))
        raise ValueError(f"key is of a type that TLS has no use for; allowed: {allowed}") from None


def _names(extensions: bytes) -> tuple[str, ...]:
    found: dict[int, list[bytes]] = {_DNS: [], _ADDRESS: []}
    try:
        for _, all_of_them in _elements(extensions):
            for _, extension in _elements(all_of_them):
                (_, named), *_, (_, value) = _elements(extension)
                if named == _ALTERNATIVE_NAMES:
                    ((_, names),) = _elements(value)
                    for tag, name in _elements(names):
                        found.get(tag, []).append(name)
        return (
            *(name.decode("ascii").lower().removesuffix(".") for name in found[_DNS]),
            *(str(ip_address(address)) for address in found[_ADDRESS]),
        )
    except (ValueError, IndexError) as error:
        raise ValueError(f"cert has names that cannot be read: {error}") from None


def _subject(subject: bytes) -> str:
    """The distinguished name in the text form of RFC 4514, from DER."""
    said = []
    for _, together in _elements(subject):
        parts = []
        for _, pair in _elements(together):
            (_, named), (tag, value) = _elements(pair)
            text = value.decode(_ENCODINGS.get(tag, "utf-8"), "replace")
            text = _SPECIAL.sub(r"\\\g<0>", text).replace("\0", "\\00")
            parts.append(f"{_ATTRIBUTES.get(named) or named.hex()}={text}")
        said.append("+".join(parts))
    return ",".join(reversed(said))
