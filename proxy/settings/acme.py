"""`acme:`, certificates from a server that speaks ACME (RFC 8555)."""

from __future__ import annotations

import base64
import re
from pathlib import Path as FilePath
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from proxy.settings.addresses import NAME, parse_host_name
from proxy.settings.complaints import Report
from proxy.settings.declare import Distinct, Given
from proxy.settings.process import checked_key, readable_pem
from proxy.settings.read import TEXT, Read, choice, parse_text
from proxy.settings.secrets import with_secrets
from proxy.settings.tree import Path


def _parse_directory(text: str) -> str:
    try:
        url = urlsplit(parse_text(text))
        host = parse_host_name(url.netloc.removesuffix(f":{url.port}"))
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme != "https":
        raise ValueError("does not begin with https://")
    if not host or url.fragment:
        raise ValueError("is not the URL of a directory")
    return text


def _parse_domain(text: str) -> str:
    if text.startswith("*."):
        raise ValueError("is a wildcard, whose proof is in the DNS (dns-01): not supported")
    name = parse_host_name(text)
    if re.fullmatch(r"\[.*\]|[0-9.]+", name):
        raise ValueError("is an address")
    return name


def _parse_email(text: str) -> str:
    if not re.fullmatch(r"[!-~]+@[!-~]+", text) or set(text) & set(",?<>"):
        raise ValueError("is not an address of mail")
    return text


def _parse_hmac_key(text: str) -> str:
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except ValueError:
        key = b""
    if not key:
        raise ValueError("is not base64url")
    return text


_DIRECTORY: Final = Read(_parse_directory, "URL", "an https:// URL")
_DOMAIN: Final = Read(_parse_domain, "name", "a host name such as www.example.com")
_EMAIL: Final = Read(_parse_email, "text", "an address such as ops@example.com")
_HMAC_KEY: Final = Read(_parse_hmac_key, "text", "base64url, as the server gives it", secret=True)


class ExternalAccount(msgspec.Struct, frozen=True, kw_only=True):
    """`acme.eab:`."""

    kid: Annotated[
        str,
        TEXT,
        "Where the server asks for an account that its operator knows (external account binding):"
        " the name of the key that you were given; with `hmac_key`.",
    ]
    hmac_key: Annotated[str, _HMAC_KEY, "That key, in base64url."] = ""
    hmac_key_file: Annotated[str, TEXT, "File with `hmac_key`."] = ""


class AcmeStorage(msgspec.Struct, frozen=True, kw_only=True):
    """`acme.storage:`."""

    path: Annotated[
        str,
        TEXT,
        "Directory for the account's key and the certificates with theirs; made when it is not"
        " there, for its owner only. One proxy uses it.",
    ] = "acme"
    registry: Annotated[
        str,
        NAME,
        "With `key_file`: which of `registries`, by its name; without it the first of type `etcd`.",
    ] = ""
    key_file: Annotated[
        str,
        TEXT,
        "File with a secret of 32 bytes at least, the same at all proxies of a"
        " [fleet](tls.md#acme-for-a-fleet): account, certificates and challenges are kept in etcd,"
        " too, encrypted with it, and one proxy orders for all.",
    ] = ""


class AcmeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`acme:`."""

    directory: Annotated[
        str,
        _DIRECTORY,
        "The server, by the URL of its directory; its terms of service are agreed to.",
    ]
    domains: Annotated[
        tuple[str, ...],
        _DOMAIN,
        Distinct(),
        "Names to obtain a certificate for, one for each. No wildcards.",
    ]
    ca: Annotated[
        str | None,
        TEXT,
        "PEM file with the authority of the server's own TLS, if that is a private one.",
    ] = None
    eab: Annotated[
        ExternalAccount | None,
        "External account binding, where the server asks for one.",
    ] = None
    email: Annotated[str, _EMAIL, "Where the server's operator reaches you."] = ""
    challenges: Annotated[
        tuple[Literal["http-01", "tls-alpn-01"], ...],
        choice(("http-01", "tls-alpn-01"), "a kind of challenge"),
        Distinct(),
        "Ways to prove that names lead here, tried in turn: `http-01` needs port 80 of the names to"
        " lead to a listener here, `tls-alpn-01` port 443 to one with `tls`.",
    ] = ("http-01", "tls-alpn-01")
    storage: Annotated[AcmeStorage, "Where things are kept."] = AcmeStorage()

    @property
    def place(self) -> FilePath:
        """The directory for what comes from this server: accounts of others are not good there,
        and certificates of a server for tests are not to be served for those of another one."""
        name = self.directory.lower().removeprefix("https://")
        return FilePath(self.storage.path, re.sub(r"[^a-z0-9.]+", "-", name).strip("-"))

    def file(self, domain: str) -> str:
        """The file with the certificate of a name and its key."""
        return str(self.place / "certificates" / f"{domain}.pem")


def check_acme(
    given: Given | None, acme: AcmeSettings | None, directory: FilePath, report: Report
) -> AcmeSettings | None:
    """The settings with the names of files resolved, after complaints of lists that are empty and
    of files that cannot be had."""
    if given is None or acme is None:
        return acme
    for key, what in (("domains", "name"), ("challenges", "kind of challenge")):
        if not getattr(acme, key) and report.sound(given.at(key)):
            report.complain(given.at(key), f"is empty; allowed: at least one {what}")
    eab, place = acme.eab, given.get("eab")
    if eab is not None and place is not None:
        eab = with_secrets(eab, place, directory, report)
        if not eab.hmac_key and report.sound(place.at("hmac_key"), place.at("hmac_key_file")):
            report.complain(place.at("hmac_key"), f"is missing; allowed: {_HMAC_KEY.allowed}")
    storage = directory / acme.storage.path
    _check_storage(given.at("storage", "path"), storage, report)
    return msgspec.structs.replace(
        acme,
        eab=eab,
        ca=acme.ca and readable_pem(given.at("ca"), directory / acme.ca, report),
        storage=msgspec.structs.replace(
            acme.storage,
            path=str(storage),
            key_file=checked_key(
                given.at("storage", "key_file"), acme.storage.key_file, directory, report
            ),
        ),
    )


def _check_storage(path: Path, storage: FilePath, report: Report) -> None:
    try:
        if storage.exists() and not storage.is_dir():
            report.complain(path, f'"{storage}" is no directory; allowed: a directory')
        elif not storage.parent.is_dir():
            report.complain(
                path, f'"{storage.parent}" is no directory; allowed: a directory in one that exists'
            )
    except OSError as error:
        report.complain(path, f"cannot be looked for ({error.strerror}); allowed: a directory")
