"""The certificate that a client has shown, in the words in which instances are told of it."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote

_SHORT: Final = {
    "commonName": "CN", "countryName": "C", "localityName": "L", "stateOrProvinceName": "ST",
    "organizationName": "O", "organizationalUnitName": "OU", "streetAddress": "STREET",
    "domainComponent": "DC", "userId": "UID",
}  # fmt: skip
"""Types of names as RFC 4514 §3 abbreviates them."""
_SPECIAL: Final = frozenset('",+;<>\\')

FIELDS: Final = (b"client-cert", b"client-cert-chain", b"x-forwarded-client-cert")
"""Fields that say it; whoever sends one himself is not believed."""


def parsed(connection: ssl.SSLObject) -> dict[str, Any]:
    """The words of the other side's certificate, as `ssl.SSLSocket.getpeercert` has them; empty =
    there is none that was verified, or it cannot be read: OpenSSL takes names in any encoding."""
    try:
        return connection.getpeercert() or {}
    except (ValueError, ssl.SSLError):
        return {}


def rfc9440(certificates: Sequence[bytes]) -> bytes:
    """Field lines of RFC 9440 §2. `certificates`: DER, the client's own first."""
    values = [b":%b:" % b64encode(one) for one in certificates]
    lines = b"Client-Cert: %b\r\n" % values[0]
    if len(values) > 1:
        lines += b"Client-Cert-Chain: %b\r\n" % b", ".join(values[1:])
    return lines


def xfcc(certificates: Sequence[bytes], said: dict[str, Any]) -> bytes:
    """The field line that Envoy writes (x-forwarded-client-cert). `certificates`: DER, the
    client's own first; `said`: what that one says (`parsed`)."""
    parts = [
        f"Hash={sha256(certificates[0]).hexdigest()}",
        f'Cert="{_pem(certificates[:1])}"',
    ]
    if len(certificates) > 1:
        parts.append(f'Chain="{_pem(certificates)}"')
    subject = distinguished(said.get("subject", ()))
    escaped = subject.replace("\\", "\\\\").replace('"', '\\"')
    parts.append(f'Subject="{escaped}"')
    for kind, value in said.get("subjectAltName", ()):  # ≤ 4096
        if kind in ("URI", "DNS"):
            parts.append(f"{kind}={quote(value, safe='/:@-._~*')}")
    return b"X-Forwarded-Client-Cert: %b\r\n" % ";".join(parts).encode("ascii")


def _pem(certificates: Iterable[bytes]) -> str:
    """PEM, quoted as in URLs: it has lines, and fields have none."""
    text = ""
    for one in certificates:  # ≤ 16
        body = b64encode(one).decode("ascii")
        lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
        text += f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"
    return quote(text, safe="")


def distinguished(subject: Iterable[Iterable[tuple[str, str]]]) -> str:
    """A distinguished name as RFC 4514 writes it, the last part first."""
    parts = [
        "+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in part)
        for part in subject
    ]
    return ",".join(reversed(parts))


def _escaped(value: str) -> str:
    """RFC 4514 §2.4; what is not printable ASCII in hexadecimal."""
    return "".join(
        "\\" + char
        if char in _SPECIAL or (at == 0 and char in " #") or (at == len(value) - 1 and char == " ")
        else char
        if " " <= char <= "~"
        else "".join(f"\\{byte:02X}" for byte in char.encode("utf-8", "replace"))
        for at, char in enumerate(value)
    )
