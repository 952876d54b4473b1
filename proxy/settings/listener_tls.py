"""`tls:` of a listener."""

from __future__ import annotations

import ssl
from pathlib import Path as FilePath
from typing import Annotated, Final, Literal

import msgspec

from proxy.settings.acme import AcmeSettings
from proxy.settings.addresses import HOST_NAME
from proxy.settings.complaints import Report
from proxy.settings.declare import Given
from proxy.settings.read import SWITCH, TEXT, Read, choice


def _parse_ciphers(text: str) -> str:
    if text not in ("modern", "compatible"):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(text)
        except ssl.SSLError:
            raise ValueError("holds no cipher that this OpenSSL has") from None
    return text


_CIPHERS: Final = Read(
    _parse_ciphers, "text", "modern, compatible, or a list of ciphers in OpenSSL's words"
)


_KINDS: Final = ({"cert", "key"}, {"directory"}, {"acme"})
"""Keys of an entry of `certificates`."""


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate and its key, a directory of such, or those that ACME obtains."""

    cert: Annotated[
        str,
        TEXT,
        "PEM file with the certificate and its chain, the certificate first. Needs `key`.",
    ] = ""
    key: Annotated[str, TEXT, "PEM file with the private key, not encrypted. Needs `cert`."] = ""
    directory: Annotated[
        str,
        TEXT,
        "Instead of these, a directory: each `NAME.pem` in it is a certificate with its chain, and"
        " `NAME.key` its key. Pairs that are added or removed later count, too.",
    ] = ""
    acme: Annotated[
        bool,
        SWITCH,
        "Instead of these, the certificates that [`acme`](#acme) obtains, in the order of its"
        " `domains`; until the first is there, clients are refused.",
    ] = False
    files: tuple[str, ...] = ()
    """With `acme`: each has a certificate and its key."""


class ListenerTls(msgspec.Struct, frozen=True, kw_only=True):
    """`tls:` of a listener."""

    certificates: Annotated[
        tuple[Certificate, ...],
        "Certificates, each for the names that stand in it (subjectAltName). The first is the"
        " default. Files are looked at every five seconds, and [read anew when they"
        " change](tls.md#certificates).",
    ]
    unknown_names: Annotated[
        Literal["default", "refuse"],
        choice(("default", "refuse"), "a way to treat unknown names"),
        "What becomes of a client that asks for a name which no certificate has: `default`, it gets"
        " the default certificate; `refuse`, the connection ends with the alert"
        " `unrecognized_name`. One that asks for no name gets the default certificate.",
    ] = "default"
    min_version: Annotated[
        Literal["1.2", "1.3"],
        choice(("1.2", "1.3"), "a TLS version"),
        "Oldest version of TLS: `1.2` or `1.3`.",
    ] = "1.2"
    ciphers: Annotated[
        str,
        _CIPHERS,
        "Ciphers for TLS 1.2: `modern`, those with a fresh key for each session that encrypt and"
        " authenticate in one (AEAD); `compatible`, the older ones in CBC mode, too; or a list in"
        " OpenSSL's words. Those of TLS 1.3 are always all there.",
    ] = "modern"
    client_ca: Annotated[
        str | None,
        TEXT,
        "PEM file with authorities; when given, clients must show a certificate that one of them"
        " signed. A client whose session is resumed has shown it then.",
    ] = None
    client_auth: Annotated[
        Literal["require", "request"],
        choice(("require", "request"), "a way to ask for certificates"),
        "With `client_ca`: `require`, clients without a certificate are refused; `request`, they"
        " are served, and those with a wrong one are refused.",
    ] = "require"
    forward_client_cert: Annotated[
        Literal["off", "rfc9440", "xfcc"],
        choice(("off", "rfc9440", "xfcc"), "a way to forward certificates"),
        "With `client_ca`: how instances are told of the client's certificate: `rfc9440`, in"
        " `Client-Cert`; `xfcc`, in `X-Forwarded-Client-Cert`, as Envoy does; `off`, they are not.",
    ] = "off"
    trust_domain: Annotated[
        str,
        HOST_NAME,
        "With `client_ca`: clients are services, and their certificates say which:"
        " [`SERVICE.DOMAIN` or `spiffe://DOMAIN/SERVICE`](mesh.md#identity). Requests may be for"
        " any host then, since the connection is for a service and not for a host.",
    ] = ""
    tickets: Annotated[
        bool,
        SWITCH,
        "Clients may resume their sessions, in every worker, until the keys change: every twelve"
        " hours, and when `client_ca` does.",
    ] = True


def checked_tls(
    tls: ListenerTls, given: Given, acme: AcmeSettings | None, directory: FilePath, report: Report
) -> ListenerTls:
    """The settings with the names of their files resolved, after complaints of keys that
    contradict each other."""
    places = given.get("certificates")
    if not places and report.sound(given.at("certificates")):
        report.complain(given.at("certificates"), "is empty; allowed: at least one certificate")
    for place, one in zip(places, tls.certificates, strict=True):
        given_keys = {key for key in one.__struct_fields__ if getattr(one, key)}
        if given_keys not in _KINDS and report.sound(place.path):
            message = "is not one certificate; allowed: cert and key, directory, or acme"
            report.complain(place.path, message)
        elif one.acme and acme is None and report.sound(("acme",)):
            report.complain(place.at("acme"), "needs acme at the top of the file; allowed: both")
    for key in ("client_auth", "forward_client_cert", "trust_domain"):
        is_off = getattr(tls, key) in ("off", "require", "")
        if tls.client_ca is None and not is_off and report.sound(given.at("client_ca")):
            report.complain(given.at(key), "needs client_ca beside it; allowed: both, or neither")
    return msgspec.structs.replace(
        tls,
        certificates=tuple(_resolved(one, acme, directory) for one in tls.certificates),
        client_ca=tls.client_ca and str(directory / tls.client_ca),
    )


def _resolved(one: Certificate, acme: AcmeSettings | None, directory: FilePath) -> Certificate:
    if one.acme and acme is not None:
        return msgspec.structs.replace(one, files=tuple(map(acme.file, acme.domains)))
    names = {key: getattr(one, key) for key in ("cert", "key", "directory")}
    resolved = {key: str(directory / name) for key, name in names.items() if name}
    return msgspec.structs.replace(one, **resolved)
