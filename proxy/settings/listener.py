"""`listeners:`, where clients connect."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Annotated, Final, Literal

import msgspec

from proxy.settings.acme import AcmeSettings
from proxy.settings.addresses import BIND, CIDR, NAME, split_bind
from proxy.settings.complaints import Report, dotted
from proxy.settings.declare import Given, Off, Short
from proxy.settings.edge import Hsts, Redirect, check_edge
from proxy.settings.filters import FilterSpec
from proxy.settings.keys import ENCODED_SLASHES, parse_field_name
from proxy.settings.listener_tls import ListenerTls, checked_tls
from proxy.settings.read import DURATION, POSITIVE, SWITCH, UNLIMITED, Read, choice, integer, size
from proxy.settings.tree import Path
from proxy.settings.user import group_id, user_id


def _parse_name(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]{0,62}", text):
        raise ValueError("is not a usable name")
    return text


def _parse_mode(text: str) -> int:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise ValueError("is not a file mode in octal digits")
    # Connecting needs the permission to write.
    if not int(text, 8) & 0o222:
        raise ValueError("lets nobody connect")
    return int(text, 8)


def _parse_owner(text: str) -> tuple[int, int]:
    """`user`, `user:group` or `:group` → their ids; -1 for what is not given."""
    user, colon, group = text.partition(":")
    if not (group if colon else user):
        raise ValueError("is not an owner")
    return user_id(user) if user else -1, group_id(group) if group else -1


_NAME: Final = Read(_parse_name, "name", "1 to 63 letters, digits and . _ -")


_TAKEN: Final = frozenset(
    (
        "host", "content-length", "transfer-encoding", "connection", "upgrade", "expect", "via",
        "trailer", "te", "max-forwards", "keep-alive", "http2-settings", "forwarded",
        "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port",
        "x-forwarded-prefix", "proxy", "proxy-connection", "proxy-authenticate",
        "proxy-authorization", "proxy-status", "content-type", "date", "location", "set-cookie",
    )
)  # fmt: skip


def _parse_id_field(text: str) -> str:
    if parse_field_name(text).lower() in _TAKEN:
        raise ValueError("says something else")
    return text


_ID_FIELD: Final = Read(_parse_id_field, "text", "the name of a field such as X-Request-ID, or off")
_FIELD: Final = Read(parse_field_name, "text", "the name of a field, such as X-Forwarded-For")
_MODE: Final = Read(_parse_mode, "mode", 'an octal mode such as "0660"')
_OWNER: Final = Read(_parse_owner, "owner", "user, user:group or :group, by names or by numbers")


class ClientIpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where a trusted proxy says whom it speaks for."""

    header: Annotated[
        str,
        _FIELD,
        "The field in which a trusted proxy names the client: any, also `Forwarded`, `X-Real-IP` or"
        " one of your own ([whose address counts](forwarding.md#whose-address-counts)).",
    ] = "X-Forwarded-For"
    hops: Annotated[
        int,
        integer(0, 32, "0 = up to the first address that is not in trusted_proxies"),
        "Which of the addresses in it is the client's: the n-th from the right, 1 = the last; 0 ="
        " from the right the first that is not in `trusted_proxies`. Up to 32.",
    ] = 0


class ListenerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes a client may send; each answers with its own status when exceeded."""

    head: Annotated[
        int,
        size(1024, 1024 * 1024),
        "Largest request head (request line and fields), 1KiB to 1MiB; more is answered with 431.",
    ] = 32 * 1024
    fields: Annotated[
        int,
        integer(1, 10_000),
        "Most header fields in a request, 1 to 10000; more is answered with 431.",
    ] = 128
    target: Annotated[
        int,
        size(64, 1024 * 1024),
        "Longest request target, from 64 bytes up to `limits.head`; more is answered with 414.",
    ] = 8 * 1024
    body: Annotated[
        int,
        size(0, 2**50, "0 = no limit"),
        "Largest request body; more is answered with 413. 0 = no limit.",
    ] = 0
    streams: Annotated[
        int,
        integer(1, 1000),
        "Most requests at the same time on one connection of HTTP/2, 1 to 1000; further ones are"
        " refused, and may be made again.",
    ] = 128
    requests: Annotated[
        int,
        integer(0, 1_000_000_000, "0 = no limit"),
        "Requests on one connection, after which it is closed gently. 0 = no limit.",
    ] = 0
    connection_age: Annotated[
        float,
        UNLIMITED,
        "Time after which a connection is closed gently, give or take a tenth; what is under way is"
        " finished, tunnels stay. 0 = no limit.",
    ] = 0.0
    connections: Annotated[
        int,
        integer(0, 10_000_000, "0 = no limit"),
        "Most client connections at the same time, in all workers together; further ones are"
        " closed at once. 0 = as many as the limit on open files allows.",
    ] = 0
    connections_per_client: Annotated[
        int,
        integer(0, 1_000_000, "0 = no limit"),
        "Most connections of one client's address at the same time, in each worker; further ones"
        " are closed at once. Upgraded ones do not count. 0 = no limit.",
    ] = 0
    handshakes: Annotated[
        int,
        integer(0, 10_000_000, "0 = a quarter of the room"),
        "Most TLS handshakes at the same time, in each worker; further connections are closed at"
        " once. 0 = a quarter of the connections that a worker has room for.",
    ] = 0


class ListenerTimeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Limits on a client's silence, in seconds."""

    head: Annotated[
        float,
        POSITIVE,
        "How long a request head may take to arrive; longer is answered with 408.",
    ] = 10.0
    body: Annotated[float, POSITIVE, "Longest gap between two pieces of a request body."] = 30.0
    idle: Annotated[float, POSITIVE, "How long a connection is kept without a request on it."] = (
        75.0
    )
    linger: Annotated[
        float,
        DURATION,
        "How long a connection is still read after an answer that ends it early (413, 414, 431),"
        " so that the client can read that answer.",
    ] = 2.0
    handshake: Annotated[
        float, POSITIVE, "How long a TLS handshake may take, from the connection on."
    ] = 10.0


class ListenerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `listeners:`."""

    name: Annotated[
        str, _NAME, "How logs and metrics call this listener; different for each one."
    ] = "web"
    bind: Annotated[str, BIND, "The address to listen on. Port 0 lets the system choose one."] = (
        "0.0.0.0:8080"
    )
    mode: Annotated[
        int | None,
        _MODE,
        'Only Unix sockets: who may connect, as an octal file mode such as `"0660"`; connecting'
        " takes the permission to write. Without it the umask decides. Nobody can connect before"
        " mode and owner are as they are to be.",
    ] = None
    owner: Annotated[
        tuple[int, int] | None,
        _OWNER,
        "Only Unix sockets: whose the file is: `user`, `user:group` or `:group`, by names or by"
        " numbers. Only root may give it to another user.",
    ] = None
    """User and group id; -1 = this process's."""
    share: Annotated[
        bool,
        SWITCH,
        "Another process of this user may listen on the same address at the same time"
        " (SO_REUSEPORT), another proxy for example that is to take the place of this one; the"
        " kernel gives each its part of the connections. Not for Unix sockets.",
    ] = False
    trusted_proxies: Annotated[
        tuple[str, ...],
        CIDR,
        "Networks, or single addresses, of proxies in front of this one. Only from these peers is"
        " believed what they say of the client: `X-Forwarded-*` fields are extended, [others of the"
        " kind](forwarding.md#what-clients-say-of-themselves) pass; from all other peers they are"
        " replaced or left out.",
    ] = ()
    client_ip: Annotated[ClientIpSettings, "Where a trusted proxy says whom it speaks for."] = (
        ClientIpSettings()
    )
    encoded_slashes: Annotated[
        Literal["pass", "refuse"],
        ENCODED_SLASHES,
        "What becomes of `%2F` and `%5C` under a path prefix: `pass`, they go on as they came, and"
        " are no borders of segments; `refuse`, 400. A route may say otherwise.",
    ] = "pass"
    merge_slashes: Annotated[
        bool,
        SWITCH,
        "Make one of several slashes in a row before the path is matched and forwarded.",
    ] = False
    http2: Annotated[
        bool,
        SWITCH,
        "Speak [HTTP/2](http2.md), too: over TLS with clients that offer it (ALPN), in clear text"
        " with those that begin with it (prior knowledge).",
    ] = True
    request_id_header: Annotated[
        str | None,
        _ID_FIELD,
        Off(),
        "The field that holds the id of a request, to the instance and on every answer. A client's"
        " own id is kept if it is 1 to 128 characters of `A-Za-z0-9._:+/=-`, and replaced"
        " otherwise. `off`: no such field is added, and a client's `X-Request-ID` is like any other"
        " field.",
    ] = "X-Request-ID"
    client_close: Annotated[
        Literal["abort", "half_close"],
        choice(("abort", "half_close"), "what a client's close may mean"),
        "What it means that a client ends its side of the connection before it has its answer:"
        " `abort`, it [has left](forwarding.md#clients-that-leave), and its request with it;"
        " `half_close`, it only sends no more and waits for the answer.",
    ] = "abort"
    limits: Annotated[ListenerLimits, "Sizes a client may send."] = ListenerLimits()
    timeouts: Annotated[ListenerTimeouts, "Limits on a client's silence."] = ListenerTimeouts()
    proxy_protocol: Annotated[
        bool,
        SWITCH,
        "Every connection must begin with the PROXY protocol, version 1 or 2; one that does not is"
        " closed.",
    ] = False
    forwarded: Annotated[
        bool,
        SWITCH,
        "Tell instances of the client in the `Forwarded` field of RFC 7239, too; appended to what"
        " a trusted proxy says.",
    ] = False
    filters: Annotated[
        tuple[FilterSpec, ...],
        Short("name"),
        "[Filters](filters.md) of all its requests, before they are matched: names, or mappings as"
        " under `filters`.",
    ] = ()
    ends_loops: bool = True
    """Requests that carry this proxy's own `Via` mark are refused. Set by no file: where each
    request goes to or comes from a program, going round is that program's doing (`proxy/mesh`)."""
    tls: Annotated[ListenerTls | None, Off(), "Serve HTTPS ([tls.md](tls.md))."] = None
    tls_passthrough: Annotated[
        bool,
        SWITCH,
        "TLS connections whose name has a route with `sni` go to an instance as they are; others"
        " are for `tls` of this listener, or refused if there is none.",
    ] = False
    mode_tcp: Annotated[
        str | None,
        NAME,
        Off(),
        "A service: each connection of this listener goes to an instance of it, whatever it speaks"
        " ([operations](operations.md#connections-that-are-passed-on)). With `tls` that is ended"
        " here.",
    ] = None
    hsts: Annotated[
        Hsts | None,
        Off(),
        "Tell browsers to use nothing but TLS, in `Strict-Transport-Security`, on all answers but"
        " those of instances that say it themselves.",
    ] = None
    redirect_to_https: Annotated[
        Redirect | None,
        Off(),
        "Send all clients to the same address under https. The host is kept, the port replaced.",
    ] = None

    @property
    def alpn(self) -> tuple[str, ...]:
        """Protocols that clients may choose under TLS, the best one first."""
        if self.mode_tcp is not None:
            return ()
        return ("h2", "http/1.1") if self.http2 else ("http/1.1",)


def check_listeners(
    given: Sequence[Given] | None,
    listeners: Sequence[ListenerSettings],
    admin_bind: str,
    acme: AcmeSettings | None,
    directory: FilePath,
    report: Report,
) -> tuple[ListenerSettings, ...]:
    """The listeners with the names of their files resolved, after complaints of what none can see
    alone: names and addresses that clash. `given`: None = the file has no such key."""
    if given is None:
        return tuple(listeners)
    if not given and report.sound(("listeners",)):
        report.complain(("listeners",), "is empty; allowed: at least one listener")
    names: dict[str, Path] = {}
    binds = [(admin_bind, "admin.bind")] if report.sound(("admin", "bind")) else []
    resolved = []
    for place, listener in zip(given, listeners, strict=True):
        if report.sound(place.at("name")):
            first = names.setdefault(listener.name, place.path)
            if first != place.path:
                report.complain(
                    place.at("name"),
                    f'"{listener.name}" is already the name of {dotted(first)}; allowed:'
                    " a different name for each listener",
                )
        if report.sound(place.at("bind")):
            _check_free(place.at("bind"), listener.bind, binds, report)
            _check_file(place, listener, report)
        named = listener.request_id_header or ""
        if named.lower() == listener.client_ip.header.lower() and report.sound(
            place.at("request_id_header"), place.at("client_ip", "header")
        ):
            report.complain(
                place.at("request_id_header"),
                f'"{named}" is the field of client_ip; allowed: another one',
            )
        limits = listener.limits
        if limits.target > limits.head and report.sound(
            place.at("limits", "target"), place.at("limits", "head")
        ):
            report.complain(
                place.at("limits", "target"),
                f"is larger than the head that holds it; allowed: up to {limits.head} bytes,"
                " or a larger limits.head",
            )
        for key in ("tls_passthrough", "hsts", "redirect_to_https", "filters"):
            if listener.mode_tcp is not None and place.get(key):
                report.complain(
                    place.at(key),
                    "has no meaning beside mode_tcp, which looks at nothing that is said on a"
                    " connection; allowed: one of the two",
                )
        check_edge(place, listener.tls is not None, report)
        if listener.tls is not None:
            tls = checked_tls(listener.tls, place.get("tls"), acme, directory, report)
            listener = msgspec.structs.replace(listener, tls=tls)
        resolved.append(listener)
    return tuple(resolved)


def _check_file(place: Given, listener: ListenerSettings, report: Report) -> None:
    if listener.bind.startswith("unix:"):
        if listener.share:
            report.complain(
                place.at("share"),
                f'is for an address and a port, and "{listener.bind}" is a file, which one process'
                " listens on; allowed: false",
            )
        return
    for key in ("mode", "owner"):
        if place.get(key) is not None:
            report.complain(
                place.at(key),
                f'is for the file of a Unix socket, and "{listener.bind}" is none; allowed: leave'
                " it out, or a bind such as unix:/run/fairlead.sock",
            )


def _check_free(path: Path, bind: str, taken: list[tuple[str, str]], report: Report) -> None:
    """Complain when `bind` cannot be had because another one of this file has it."""
    for other, owner in taken:
        if collide(bind, other):
            where = f'"{bind}" is' if bind == other else f'"{bind}" is part of "{other}",'
            report.complain(
                path, f"{where} already used by {owner}; allowed: another port or address"
            )
            return
    taken.append((bind, dotted(path)))


def collide(one: str, other: str) -> bool:
    """Whether two binds cannot be had at once: the same, or one address is all addresses."""
    if one.startswith("unix:") or other.startswith("unix:"):
        return one == other
    (host, port), (other_host, other_port) = map(split_bind, (one, other))
    if port != other_port or port == 0:  # 0 lets the system choose, each time differently
        return False
    if host == other_host:
        return True
    wildcard = {"0.0.0.0": ":" not in other_host, "::": ":" in other_host}
    other_wildcard = {"0.0.0.0": ":" not in host, "::": ":" in host}
    return wildcard.get(host, False) or other_wildcard.get(other_host, False)
