"""Certificates of the benchmark: made when it starts, the same for every proxy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support.certificates import Authority

NAME = "bench.test"
"""The name that all of them are for, beside 127.0.0.1, which is what wrk asks for."""


@dataclass(frozen=True)
class Certificates:
    """Files in one directory. A certificate's key is beside it, with `.key` behind its name, where
    HAProxy looks for it."""

    directory: Path

    @property
    def authority(self) -> Path:
        """PEM of the authority that signed all of them."""
        return self.directory / "authority.pem"

    def of(self, kind: str) -> Path:
        """PEM of the certificate with a key of this kind and its chain; `ec` is P-256, `rsa` has
        2048 bits."""
        return self.directory / f"{kind}.pem"


def key_of(certificate: Path) -> Path:
    """The key that belongs to a certificate."""
    return certificate.with_name(certificate.name + ".key")


def make_certificates(directory: Path) -> Certificates:
    """Make them, in a directory of their own."""
    directory.mkdir()
    made = Certificates(directory)
    authority = Authority()
    made.authority.write_bytes(authority.ca)
    for kind in ("ec", "rsa"):
        pair = authority.issue(NAME, "127.0.0.1", kind=kind)
        made.of(kind).write_bytes(pair.cert)
        key_of(made.of(kind)).write_bytes(pair.key)
    return made
