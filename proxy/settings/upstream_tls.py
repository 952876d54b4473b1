"""`tls:` of a service: TLS to its instances."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, Final, Literal

import msgspec

from proxy.membership import Instance
from proxy.settings.addresses import HOST_NAME, parse_host_name
from proxy.settings.complaints import Report
from proxy.settings.declare import Given
from proxy.settings.read import FILE, SWITCH, Read, choice

_WORDS: Final = ("{service}", "{instance}")


def _parse_template(text: str) -> str:
    plain = text
    for word in _WORDS:
        plain = plain.replace(word, "x")
    parse_host_name(plain)
    return text


def _parse_pattern(text: str) -> str:
    return text[: len(text) - len(text.removeprefix("*."))] + parse_host_name(
        text.removeprefix("*.")
    )


_TEMPLATE: Final = Read(
    _parse_template, "host name", "a host name, in which {service} and {instance} may stand"
)
_PATTERN: Final = Read(
    _parse_pattern, "host pattern", "a host name, or *.example.com for the names below"
)


class UpstreamTls(msgspec.Struct, frozen=True, kw_only=True):
    """`tls:` of a service."""

    mode: Literal["off", "auto", "on"] = "auto"
    """`auto`: the instances whose metadata say so; `on`: all."""
    ca: Annotated[
        str,
        FILE,
        "PEM file with the authorities that sign instances' certificates; without it the system's.",
    ] = ""
    cert: Annotated[
        str, FILE, "PEM file with a certificate to show to instances that ask for one. Needs `key`."
    ] = ""
    key: Annotated[str, FILE, "PEM file with its private key, not encrypted. Needs `cert`."] = ""
    server_name: Annotated[
        str,
        _TEMPLATE,
        "The name that an instance must prove, and is asked for (SNI): `{service}` and `{instance}`"
        " (its id) may stand in it. Without it the instance's address, which is a name or an IP.",
    ] = ""
    server_names: Annotated[
        tuple[str, ...],
        _PATTERN,
        "Names that `metadata.server_name` of an instance may choose in its place, such as"
        " `*.internal` (one label for the star); others are ignored.",
    ] = ()
    trust_domain: Annotated[
        str,
        HOST_NAME,
        "Instead of a name, an instance must prove [which service it is](mesh.md#identity): its"
        " certificate names `SERVICE.DOMAIN` or `spiffe://DOMAIN/SERVICE`. Needs `ca`.",
    ] = ""
    verify: Annotated[
        bool,
        SWITCH,
        "`false`: any certificate will do. Whoever stands between can read and change everything;"
        " said in the log at each start.",
    ] = True
    min_version: Annotated[
        Literal["1.2", "1.3"],
        choice(("1.2", "1.3"), "a TLS version"),
        "Oldest version of TLS: `1.2` or `1.3`.",
    ] = "1.2"

    @property
    def files(self) -> tuple[str, ...]:
        """The files that are named."""
        return tuple(file for file in (self.ca, self.cert, self.key) if file)

    def name_of(self, instance: Instance, under_tls: bool = False) -> str | None:
        """The name that the instance must prove; None: it is spoken to without TLS. `under_tls`:
        what it speaks is defined over TLS, which `auto` takes for a statement."""
        if self.mode == "off":
            return None
        if self.trust_domain:
            return f"{instance.service}.{self.trust_domain}"
        metadata = instance.metadata
        # Names in a hello and in certificates have no dot at the end (RFC 6066 §3).
        said = metadata.get("server_name", "").removesuffix(".")
        address = instance.address.removesuffix(".")
        if self.mode == "auto":
            secure = under_tls or metadata.get("scheme") == "https"
            return (said or address) if secure else None
        if said and any(_fits(said.lower(), pattern) for pattern in self.server_names):
            return said
        if self.server_name:
            name = self.server_name.replace("{service}", instance.service)
            return name.replace("{instance}", instance.id)
        return address


def _fits(name: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        label, dot, above = name.partition(".")
        return bool(label and dot) and above == pattern[2:].lower()
    return name == pattern.lower()


def checked_upstream_tls(tls: UpstreamTls, given: Given, report: Report) -> None:
    """Complain of keys that contradict each other."""
    if bool(tls.cert) != bool(tls.key):
        missing = "key" if tls.cert else "cert"
        if report.sound(given.at(missing)):
            report.complain(given.at(missing), "is missing; allowed: cert and key, or neither")
    if not tls.trust_domain:
        return
    if not tls.ca and report.sound(given.at("ca")):
        # Any of the system's authorities may sign any name, and thereby be any service.
        report.complain(given.at("ca"), "is missing; allowed: the authorities of trust_domain")
    for key, value in (("server_name", tls.server_name), ("server_names", tls.server_names)):
        if value and report.sound(given.at(key)):
            report.complain(given.at(key), "stands beside trust_domain; allowed: one of the two")
    if not tls.verify and report.sound(given.at("verify")):
        report.complain(given.at("verify"), "is false beside trust_domain; allowed: true")


def resolved_upstream_tls(tls: UpstreamTls, directory: FilePath) -> UpstreamTls:
    """The settings with the names of their files resolved."""
    return msgspec.structs.replace(
        tls,
        **{
            key: str(directory / getattr(tls, key))
            for key in ("ca", "cert", "key")
            if getattr(tls, key)
        },
    )
