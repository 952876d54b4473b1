"""A small certificate authority for trials and small fleets: a root, an intermediate that signs,
and leaves that live for a day.

    DIR/root.crt root.key      the root; its key signs nothing but intermediates
    DIR/issuing.crt .key       the intermediate
    DIR/ca.crt                 what everybody is to trust: the root, and while it is replaced both
    DIR/domain                 the trust domain
    DIR/next/ DIR/old/         the root that comes, the one that goes
"""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy import files
from proxy.settings.addresses import parse_host_name

ROOT_LIFE: Final = timedelta(days=3650)
ISSUING_LIFE: Final = timedelta(days=365)
LEAF_LIFE: Final = timedelta(days=1)
SKEW: Final = timedelta(minutes=1)
"""By which the clock of another machine may be behind."""
LARGEST: Final = 64 * 1024
"""Bytes of a file or a request; a chain has two thousand."""

_DATA: Final = "..data"
_NAMES: Final = ("root.crt", "root.key", "issuing.crt", "issuing.key")


class Issued(msgspec.Struct, frozen=True):
    """A leaf with the intermediate behind it, and the roots to trust, as PEM."""

    chain: str
    roots: str


def create(directory: Path, domain: str) -> None:
    """Make a new authority in an empty directory. ValueError where there is one, and for a domain
    that no side-car could be of."""
    try:
        domain = parse_host_name(domain)
    except ValueError as error:
        raise ValueError(f"trust domain {domain!r}: {error}; allowed: mesh.local") from None
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise ValueError(f"{directory}: is not empty, and an authority is not written over")
    _make(directory, domain)
    files.replace(str(directory / "domain"), domain.encode())
    files.replace(str(directory / "ca.crt"), (directory / "root.crt").read_bytes())


def rotate(directory: Path) -> str:
    """Take the next of the three steps in which a root is replaced; says which it was. A step that
    was interrupted is taken to its end."""
    domain = _read(directory / "domain").decode()
    coming, going, made = (directory / one for one in ("next", "old", "next.made"))
    if coming.exists():
        going.mkdir(mode=0o700, exist_ok=True)
        for name in _NAMES:
            if (coming / name).exists():
                if not (going / name).exists():
                    (directory / name).rename(going / name)
                (coming / name).rename(directory / name)
        coming.rmdir()
        return "the new root signs; rotate again once every leaf of the old one is renewed"
    if going.exists():
        files.replace(str(directory / "ca.crt"), _read(directory / "root.crt"))
        shutil.rmtree(going)
        return "the old root is gone: ca.crt holds the new one alone"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(mode=0o700)
    _make(made, domain)
    both = _read(directory / "root.crt") + _read(made / "root.crt")
    files.replace(str(directory / "ca.crt"), both)
    made.rename(coming)
    return "ca.crt holds the new root, too; rotate again once everybody has that file"


class Authority:
    """Keys and certificates of a directory, as they are now. ValueError for one without."""

    def __init__(self, directory: Path) -> None:
        try:
            self.domain = _read(directory / "domain").decode()
            self.roots = _read(directory / "ca.crt").decode()
            self._chain = _read(directory / "issuing.crt")
            key: Any = load_pem_private_key(_read(directory / "issuing.key"), None)
        except (OSError, ValueError) as error:
            raise ValueError(f"{directory}: is no authority: {error}") from None
        self._key: ec.EllipticCurvePrivateKey = key
        self._certificate = x509.load_pem_x509_certificate(self._chain)

    def sign(self, request: bytes, service: str, life: timedelta = LEAF_LIFE) -> Issued:
        """A leaf for the key of a request (CSR, PEM), whatever names that asks for, which lives no
        longer than what signs it. ValueError for one that cannot be read, or that its key has not
        signed, and when there is no such life."""
        left = self._certificate.not_valid_after_utc - datetime.now(UTC)
        if left <= SKEW:
            raise ValueError("the life of the issuing certificate is over: rotate the authority")
        asked = x509.load_pem_x509_csr(request)
        if not asked.is_signature_valid:
            raise ValueError("the request is not signed by its own key")
        names = [
            x509.DNSName(f"{service}.{self.domain}"),
            x509.UniformResourceIdentifier(f"spiffe://{self.domain}/{service}"),
        ]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            _builder(
                service, self._certificate.subject, asked.public_key(), self._key, min(life, left)
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        leaf = builder.sign(self._key, SHA256())
        return Issued((_pem(leaf) + self._chain).decode(), self.roots)

    def issue(self, service: str, out: Path, life: timedelta = LEAF_LIFE) -> None:
        """Write a new key, a leaf for it and the roots into the directory of a side-car."""
        key, request = new_request()
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        keep(out, key, self.sign(request, service, life))


def new_request() -> tuple[bytes, bytes]:
    """A new key and a request for a certificate with it, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return _pem_key(key), request.sign(key, SHA256()).public_bytes(Encoding.PEM)


def keep(out: Path, key: bytes, issued: Issued) -> None:
    """Put the files in place, all at once, as Kubernetes does for a Secret: each name is a link
    into `..data`, and that is one to the directory of the moment. Who opens that directory has
    three files of one moment; the one before stays until the next time."""
    names = ("ca.crt", "tls.key", "tls.crt")
    if not (out / _DATA).is_symlink():
        # What is there, and was not put there like this, becomes the first moment.
        _put(out, {name: _read(out / name) for name in names if (out / name).exists()})
    _put(out, dict(zip(names, (issued.roots.encode(), key, issued.chain.encode()), strict=True)))


def _put(out: Path, contents: dict[str, bytes]) -> None:
    data = out / _DATA
    before = os.readlink(data) if data.is_symlink() else ""
    made = Path(tempfile.mkdtemp(prefix="..", dir=out))
    for name, content in contents.items():
        files.replace(str(made / name), content)
    _link(made.name, data)
    for name in contents:
        if not (out / name).is_symlink():
            _link(f"{_DATA}/{name}", out / name)
    for one in out.glob("..*/"):  # ≤ 16
        if not one.is_symlink() and one.name not in (made.name, before):
            shutil.rmtree(one)


def _link(target: str, at: Path) -> None:
    new = at.with_name(f"..{at.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(at)


def life_of(cert: bytes) -> tuple[float, float]:
    """When a certificate's life begins and ends, in seconds since 1970."""
    leaf = x509.load_pem_x509_certificate(cert)
    return leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()


# ------------------------------------------------------------------------------ private


def _make(directory: Path, domain: str) -> None:
    """A root and an intermediate."""
    root_key, issuing_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    made = f"{datetime.now(UTC):%Y-%m-%d}"
    root_name = _name(f"{domain} root of {made}")
    root = _authority(f"{domain} root of {made}", root_name, root_key, root_key, ROOT_LIFE, 1)
    name = f"{domain} authority of {made}"
    issuing = _authority(name, root_name, issuing_key, root_key, ISSUING_LIFE, 0)
    contents = (_pem(root), _pem_key(root_key), _pem(issuing), _pem_key(issuing_key))
    for file, content in zip(_NAMES, contents, strict=True):
        files.replace(str(directory / file), content)


def _authority(
    name: str,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    life: timedelta,
    below: int,
) -> x509.Certificate:
    return (
        _builder(name, issuer, key.public_key(), signer, life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=below), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(signer, SHA256())
    )


def _builder(
    name: str,
    issuer: x509.Name,
    key: Any,
    signer: ec.EllipticCurvePrivateKey,
    life: timedelta,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    signed_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(signed_by, critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read(file: Path) -> bytes:
    return files.read(str(file), LARGEST)
