"""`relay:`, memberships for other proxies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Annotated

import msgspec

from proxy.settings.addresses import TCP_BIND, is_loopback, split_bind
from proxy.settings.complaints import Report
from proxy.settings.declare import Given, Off
from proxy.settings.fleet import etcd_of
from proxy.settings.listener import collide
from proxy.settings.process import BEARER, AdminTls, resolve_tls
from proxy.settings.read import TEXT
from proxy.settings.registry import Registry
from proxy.settings.secrets import with_secrets


class RelaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """`relay:`."""

    bind: Annotated[str, TCP_BIND, "Where followers connect."] = "127.0.0.1:9901"
    token: Annotated[
        str,
        BEARER,
        "What followers show. Needed where `bind` is no loopback address, unless `tls.client_ca` is"
        " there.",
    ] = ""
    token_file: Annotated[str, TEXT, "File with `token`, read again when it changes."] = ""
    tls: Annotated[AdminTls | None, Off(), "Serve HTTPS, and nothing else."] = None


def check_relay(
    given: Given | None,
    relay: RelaySettings | None,
    registry: Registry,
    others: Sequence[str],
    directory: FilePath,
    report: Report,
) -> RelaySettings | None:
    """The section with the names of its files resolved, after complaints of what it does not go
    together with. `others`: binds of this file."""
    if given is None or relay is None:
        return None
    relay = with_secrets(relay, given, directory, report)
    if etcd_of(registry) is None and report.sound(("registry",), ("registries",)):
        report.complain(
            ("relay",),
            f"has nothing to tell beside a registry of type {registry.type}; allowed: type etcd,"
            " and in particular no other relay",
        )
    closed = relay.token or (relay.tls is not None and relay.tls.client_ca)
    if not closed and not is_loopback(split_bind(relay.bind)[0]) and report.sound(("relay",)):
        report.complain(
            ("relay", "token"),
            f'is missing, and "{relay.bind}" is no loopback address; allowed: a token, or'
            " tls.client_ca",
        )
    for other in others:
        if collide(relay.bind, other):
            message = f'"{relay.bind}" is already used; allowed: another port or address'
            report.complain(("relay", "bind"), message)
    return msgspec.structs.replace(relay, tls=resolve_tls(relay.tls, directory))
