"""Files of certificates: the pairs that there are, and what is in those that changed.

Reading waits for disks and for file systems whose server is gone, and takes milliseconds for each
pair: all of this runs in a thread, or in a command. State in, findings out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Literal, NamedTuple

from proxy import files
from proxy.settings.file import Settings
from proxy.settings.listener_tls import Certificate, ListenerTls
from proxy.settings.process import AdminTls
from proxy.settings.service import PoolSettings
from proxy.settings.tree import Path
from proxy.settings.upstream_tls import UpstreamTls
from proxy.tls import openssl
from proxy.tls.certificates import LARGEST_PEM, CertificateFacts, read_authorities, read_pair
from proxy.tls.contexts import ServerPolicy, server_context
from proxy.tls.names import NameTable

DAY = 86_400.0
SOON = 14 * DAY
"""Seconds before its end in which a certificate is warned about. Those of public authorities are
renewed thirty days before it, so something does not work by then. Of those that live for days it is
a fifth of their life."""

Stamp = tuple[tuple[int, ...] | None, ...]
"""Size, time of change and inode of each file; None = it is not there. A new file under the old
name has another inode, whatever its clock says."""


class Item(NamedTuple):
    """A pair, a file of authorities or a directory, and where proxy.yaml names it."""

    place: Path
    """The place in proxy.yaml that names it."""
    kind: Literal["pair", "authorities", "directory"]
    files: tuple[str, ...]
    optional: bool = False
    """Whether a start goes on without it: one of a directory, where others put files."""


class Reading(NamedTuple):
    """The result of reading an item whose stamp is another one than before."""

    item: Item
    stamp: Stamp
    content: CertificateFacts | bytes | None
    """None = there is a problem."""
    problem: str = ""


class Look(NamedTuple):
    """The state of the files of one section at one time."""

    entries: tuple[tuple[Item, ...], ...]
    """Pairs of each entry of `Named.certificates`, in their order."""
    readings: tuple[Reading, ...]


class Named(NamedTuple):
    """The files that a section of proxy.yaml names, each with its place."""

    certificates: tuple[tuple[Path, Certificate], ...] = ()
    authorities: tuple[tuple[Path, str], ...] = ()


def named_by_listener(index: int, tls: ListenerTls) -> Named:
    """The files of a listener."""
    place = ("listeners", index, "tls")
    certificates = enumerate(tls.certificates)
    return Named(
        tuple(((*place, "certificates", at), one) for at, one in certificates),
        () if tls.client_ca is None else (((*place, "client_ca"), tls.client_ca),),
    )


def named_by_server(section: str, tls: AdminTls) -> Named:
    """The files of the admin server, or of the relay."""
    place = (section, "tls")
    return Named(
        (((*place, "cert"), Certificate(cert=tls.cert, key=tls.key)),),
        () if tls.client_ca is None else (((*place, "client_ca"), tls.client_ca),),
    )


def named_by_services(settings: Settings) -> dict[str, Named]:
    """The files for TLS to instances, by the service that names them, or `defaults`. Those that
    services inherit are not theirs."""
    sections: dict[tuple[str, ...], PoolSettings] = {("defaults",): settings.defaults}
    sections |= {("services", name): one for name, one in settings.services.items()}
    found: dict[str, Named] = {}
    seen: set[tuple[str, ...]] = set()
    for path, section in sections.items():
        named = _named_by_service((*path, "tls"), section.tls, seen)
        if any(named):
            others = found.get(path[-1], Named())  # A service may be called that.
            found[path[-1]] = Named(
                others.certificates + named.certificates, others.authorities + named.authorities
            )
    return found


def _named_by_service(place: Path, tls: UpstreamTls, seen: set[tuple[str, ...]]) -> Named:
    new = {(tls.cert, tls.key), (tls.ca,)} - seen - {("", ""), ("",)}
    if tls.mode == "off":
        return Named()
    seen |= new
    pair = Certificate(cert=tls.cert, key=tls.key)
    return Named(
        (((*place, "cert"), pair),) if (tls.cert, tls.key) in new else (),
        (((*place, "ca"), tls.ca),) if (tls.ca,) in new else (),
    )


def look(
    named: Named,
    before: Sequence[Sequence[Item]] = (),
    known: Mapping[Item, Stamp] | None = None,
) -> Look:
    """Look at all files of a section. `before`: the entries of the last look, which stay for a
    directory that cannot be listed, or is empty; `known`: stamps of what needs no reading."""
    entries: list[tuple[Item, ...]] = []
    readings: list[Reading | None] = []
    for index, (at, one) in enumerate(named.certificates):
        if one.directory:
            listed = _listed(at, one)
            if isinstance(listed, Reading):
                readings.append(listed)
                listed = tuple(before[index]) if before else ()
            else:
                readings.append(_unless_known(Item(at, "directory", (one.directory,)), known))
            entries.append(listed)
        elif one.acme:
            entries.append(_obtained(at, one, before[index] if before else ()))
        else:
            entries.append((Item(at, "pair", (one.cert, one.key)),))
    items = [*chain(*entries)]
    items += [Item(at, "authorities", (file,)) for at, file in named.authorities]
    readings += [_unless_known(item, known) for item in items]
    return Look(tuple(entries), tuple(one for one in readings if one is not None))


def _listed(at: Path, one: Certificate) -> tuple[Item, ...] | Reading:
    directory = Item(at, "directory", (one.directory,))
    try:
        names = sorted(os.listdir(one.directory))
    except OSError as error:
        return Reading(directory, (), None, f"cannot be read ({error.strerror})")
    stems = [
        os.path.join(one.directory, name.removesuffix(".pem"))
        for name in names
        if name.endswith(".pem") and not name.startswith(".")
    ]
    if not stems:
        return Reading(directory, (), None, "holds no certificate, which is a NAME.pem")
    return tuple(Item(at, "pair", (f"{one}.pem", f"{one}.key"), optional=True) for one in stems)


def _obtained(at: Path, one: Certificate, before: Sequence[Item]) -> tuple[Item, ...]:
    """The files that are there already; one that has gone keeps its last good value."""
    items = (Item(at, "pair", (file, file), optional=True) for file in one.files)
    return tuple(item for item in items if item in before or os.path.exists(item.files[0]))


def _unless_known(item: Item, known: Mapping[Item, Stamp] | None) -> Reading | None:
    # Before it is read: what is written meanwhile has another stamp at the next look.
    stamp = () if item.kind == "directory" else tuple(map(_stamp, item.files))
    if known is not None and known.get(item) == stamp:
        return None
    try:
        return Reading(item, stamp, _READERS[item.kind](*item.files))
    except ValueError as error:
        return Reading(item, stamp, None, str(error))


def _stamp(file: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def _pair(cert: str, key: str) -> CertificateFacts:
    facts = read_pair(_content("cert", cert), _content("key", key))
    # A worker does the same: OpenSSL may refuse what can be read, such as a short key.
    server_context((facts,), ServerPolicy())
    return facts


def _authorities(file: str) -> bytes:
    content = read_authorities(_content("", file))
    server_context((), ServerPolicy(client_ca=content))
    return content


def _content(what: str, file: str) -> bytes:
    try:
        content = files.read(file, LARGEST_PEM)
    except files.Refused as error:
        raise ValueError(f"{what} {error.strerror}".strip()) from None
    except OSError as error:
        raise ValueError(f"{what} cannot be read ({error.strerror})".strip()) from None
    if len(content) > LARGEST_PEM:
        raise ValueError(f"{what} is larger than {LARGEST_PEM} bytes".strip())
    return content


_READERS: Mapping[str, Callable[..., CertificateFacts | bytes]] = {
    "pair": _pair,
    "authorities": _authorities,
    "directory": lambda directory: b"",
}


# ------------------------------------------------------------------- for `fairlead check`


class Remark(NamedTuple):
    """A thing to be said about the configuration because of what is in its files."""

    place: Path
    message: str
    only_warns: bool = False


def remarks(settings: Settings, now: float) -> Iterator[Remark]:
    """All there is to say about the certificates of a configuration. `now`: seconds since 1970."""
    tables: list[NameTable] = []
    for index, listener in enumerate(settings.listeners):
        if listener.tls is None:
            continue
        found = look(named_by_listener(index, listener.tls))
        pairs = [one for one in found.readings if isinstance(one.content, CertificateFacts)]
        for reading in found.readings:
            yield from _remarks(reading, now)
        tables.append(NameTable([one.content.names for one in pairs]))  # type: ignore[union-attr]
        if (reason := openssl.unavailable()) and len(tables) == 1:
            yield Remark(("listeners", index, "tls"), f"works less well here: {reason}", True)
    others = [*named_by_services(settings).values()]
    for name, server in (("admin", settings.admin), ("relay", settings.relay)):
        if server is not None and server.tls is not None:
            others.append(named_by_server(name, server.tls))
    for reading in chain(*(look(named).readings for named in others)):
        yield from _remarks(reading, now, for_names=False)
    for index, host in uncovered(settings, tables):
        yield Remark(("routes", index, "host"), f'"{host}" is in no certificate', True)


def _remarks(reading: Reading, now: float, *, for_names: bool = True) -> Iterator[Remark]:
    """`for_names`: a certificate is looked for by its names."""
    place, facts = reading.item.place, reading.content
    named = " with ".join(f'"{file}"' for file in reading.item.files)
    if reading.problem:
        yield Remark(place, f"{named}: {reading.problem}; allowed: {_ALLOWED[reading.item.kind]}")
    if not isinstance(facts, CertificateFacts):
        return
    days = (facts.not_after - now) / DAY
    if days <= 0:
        yield Remark(place, f"{named}: expired on {_date(facts.not_after)}; {_VALID}")
    elif facts.not_before > now:
        yield Remark(place, f"{named}: is not valid before {_date(facts.not_before)}; {_VALID}")
    elif days * DAY < soon_before(facts):
        yield Remark(place, f"{named}: expires in {days:.0f} days", True)
    if for_names and not facts.names:
        yield Remark(place, f"{named}: has no subjectAltName, so it is for no name", True)


def soon_before(facts: CertificateFacts) -> float:
    """Seconds before the end of a certificate in which it is warned about."""
    return min(SOON, (facts.not_after - facts.not_before) / 5)


def _date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


_VALID = "allowed: a valid certificate"
_ALLOWED = {
    "pair": "a PEM file with a certificate, and one with its key",
    "authorities": "a readable PEM file with certificates",
    "directory": "a readable directory with NAME.pem and NAME.key",
}


def uncovered(settings: Settings, tables: Sequence[NameTable]) -> Iterator[tuple[int, str]]:
    """Hosts of routes, and their index, that are in no certificate of any listener."""
    if not tables:
        return
    if settings.acme is not None:
        tables = (*tables, NameTable([(domain,) for domain in settings.acme.domains]))
    secure = {one.name for one in settings.listeners if one.tls and not one.tls.trust_domain}
    for index, route in enumerate(settings.routes):
        if route.listeners and secure.isdisjoint(route.listeners):
            continue  # Nobody asks for a name there.
        host = route.host or ""
        # Any label stands for a wildcard, and for the name of a service.
        name = host.replace("{service}", "x").replace("*", "x").strip("[]")
        if host and not any(table.find(name) for table in tables):
            yield index, host
