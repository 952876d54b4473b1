"""Certificates of TLS: files become messages to workers, generation after generation.

Files are looked at every few seconds. A pair that cannot be used, because its certificate was
renewed and its key not yet, say, keeps its last good value, and harms no other one.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import structlog
from msgspec.structs import replace

from proxy.control.certificate_files import (
    Look,
    Named,
    named_by_listener,
    named_by_server,
    named_by_services,
    uncovered,
)
from proxy.control.watched_files import HOUR, Happening, WatchedFiles
from proxy.messages import (
    MAX_CERTIFICATES,
    CertificateMessage,
    CertificatePair,
    ListenerCertificates,
    UpstreamFiles,
)
from proxy.settings.file import Settings
from proxy.settings.listener_tls import ListenerTls
from proxy.threads import in_thread
from proxy.tls import openssl
from proxy.tls.names import NameTable

log = structlog.get_logger()

PAUSE = 5.0
"""Seconds between two looks at the files: a renewal waits for nobody, and a thousand pairs take
some twenty milliseconds of a thread."""

START_LIMIT = 30.0
"""Seconds for the first look: a thousand pairs take two, and a file system whose server is gone is
not waited for."""

LATE = 30.0
"""Seconds after which a look is told of as late. There is no other one until it ends."""

NEW_SECRET = 12 * HOUR
"""Life of ticket keys. Whoever gets hold of one can read what was said in TLS 1.2 sessions that
were resumed with it."""

HOSTS_NAMED = 20
"""Hosts of routes in one line of the log."""


class CertificateError(Exception):
    """The certificates of a listener cannot be used. The text is one line for the operator."""


class ListenerFiles(WatchedFiles):
    """Owns what is known of the files of one listener, or of the admin server, and the message made
    of it."""

    def __init__(self, name: str, named: Named, tls: ListenerTls) -> None:
        """`name`: the listener's; empty for the admin server."""
        super().__init__(named, listener=name)
        self.title = f"listener {name}" if name else "admin"
        self.name = name
        self.tls = tls
        self.message: ListenerCertificates | None = None
        """The last one that could be made."""

    @property
    def lacks_all(self) -> bool:
        """There is nothing to serve with, and nothing that is yet to be obtained."""
        return self.message is None and not any(one.acme for one in self.tls.certificates)

    def news(self, before: ListenerCertificates | None) -> Iterator[Happening]:
        """A message was made. The first one, and new ticket keys, are no news."""
        now = self.message
        assert now is not None
        if before and (before.pairs, before.client_ca) != (now.pairs, now.client_ca):
            fields = {"generation": now.generation, "certificates": len(now.pairs)}
            yield Happening("certificates_changed", {**self.owner_told, **fields})

    def build(self, secret: bytes) -> bool:
        """Make the message anew; False if nothing is new, or there is nothing to serve with."""
        pairs = tuple(
            CertificatePair(facts.cert, facts.key, facts.names, facts.kind)
            for _, facts in self.pairs()
        )
        client_ca = next((pem for _, pem in self.authorities), b"")
        if not pairs or bool(client_ca) != (self.tls.client_ca is not None):
            return False
        policy = self._policy(client_ca)
        keys = ticket_keys(secret, policy) if self.tls.tickets else b""
        old = self.message
        new = ListenerCertificates(
            self.name, 1 if old is None else old.generation, pairs, client_ca, keys, policy
        )
        if new == old:
            return False
        self.message = replace(new, generation=1 if old is None else old.generation + 1)
        return True

    def _policy(self, client_ca: bytes) -> bytes:
        """A digest of all that a client must have met to be let in."""
        tls = self.tls
        policy = (self.name, tls.client_auth, client_ca, tls.min_version, tls.ciphers)
        return hashlib.sha256(repr(policy).encode()).digest()


def ticket_keys(secret: bytes, policy: bytes) -> bytes:
    """The keys of a policy, which tell nothing of those of another one."""
    blocks = (hmac.digest(secret, policy + bytes([number]), "sha512") for number in range(2))
    return b"".join(blocks)[: openssl.TICKET_KEYS]


class ServiceFiles(WatchedFiles):
    """Owns what is known of the files that one service, or `defaults`, names for TLS to instances.

    A worker reads them by their names, as a file may be named for several things.
    """

    def __init__(self, name: str, named: Named) -> None:
        super().__init__(named, service=name)
        self.title = "defaults" if name == "defaults" else f"service {name}"
        self.name = name

    @property
    def contents(self) -> dict[str, bytes]:
        """Name of a file → what is of use in it."""
        parts = [(item.files[0], facts.cert) for item, facts in self.pairs()]
        parts += [(item.files[1], facts.key) for item, facts in self.pairs()]
        return joined(parts + [(item.files[0], pem) for item, pem in self.authorities])


def joined(parts: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    """By name; of a name that stands there several times all that is different."""
    contents: dict[str, bytes] = {}
    for name, part in parts:
        before = contents.get(name, b"")
        contents[name] = before if part in before else before + part
    return contents


class Certificates:
    """Owns the files of all TLS listeners, of TLS to instances, of admin server and relay,
    and the secret that ticket keys are made of."""

    def __init__(self, settings: Settings) -> None:
        self.listeners = [
            ListenerFiles(one.name, named_by_listener(index, one.tls), one.tls)
            for index, one in enumerate(settings.listeners)
            if one.tls is not None
        ]
        self.services = [
            ServiceFiles(name, named) for name, named in named_by_services(settings).items()
        ]
        self.admin: ListenerFiles | None = None
        """Of the admin server; its message is for this process alone."""
        if (tls := settings.admin.tls) is not None:
            server = ListenerTls(certificates=(), client_ca=tls.client_ca, tickets=False)
            self.admin = ListenerFiles("", named_by_server("admin", tls), server)
        self.relay: ListenerFiles | None = None
        """Of the relay, in the same way."""
        if settings.relay is not None and (tls := settings.relay.tls) is not None:
            server = ListenerTls(certificates=(), client_ca=tls.client_ca, tickets=False)
            self.relay = ListenerFiles("", named_by_server("relay", tls), server)
            self.relay.title = "relay"
        self.upstream = UpstreamFiles(0, {})
        """The message with the files of services; generation 0 = there are none."""
        self._settings = settings
        self._untold: list[Happening] = []
        """Happenings of the first look, at which nobody listens yet."""
        self.secret = (b"", 0.0)
        """Secret of the ticket keys, and since when it is: seconds since 1970."""

    @property
    def sections(self) -> list[ListenerFiles | ServiceFiles]:
        """Sections of proxy.yaml that name files, in the order in which these are looked at."""
        own = [one for one in (self.admin, self.relay) if one is not None]
        return [*self.listeners, *self.services, *own]

    @property
    def messages(self) -> list[CertificateMessage]:
        """The messages for a new worker."""
        upstream = [self.upstream] if self.upstream.generation else []
        return [*(one.message for one in self.listeners if one.message is not None), *upstream]

    def successor(self, settings: Settings) -> Certificates:
        """Certificates for another configuration, going on where these are; to be started."""
        new = Certificates(settings)
        new.secret = self.secret
        new.upstream = self.upstream
        known = {one.name: one for one in self.listeners}
        for one in new.listeners:
            if (old := known.get(one.name)) is not None:
                one.message, one.loads = old.message, old.loads
                one.follow(old)
        return new

    async def start(self) -> None:
        """Look for the first time. CertificateError if something that the settings name cannot be
        used, or a listener has nothing to serve with; single pairs of a directory may be bad."""
        if services := list(unverified(self._settings)):
            log.warning("upstream_not_verified", services=services)
        if not self.sections:
            return
        try:
            async with asyncio.timeout(START_LIMIT):
                found = await self._look()
        except (TimeoutError, OSError) as error:
            why = str(error) or f"not read in {START_LIMIT:g} s"
            raise CertificateError(f"certificates: {why}") from None
        self.begin(found, time.time())
        tables = [
            NameTable([pair.names for pair in one.message.pairs])
            for one in self.listeners
            if one.message is not None
        ]
        hosts = [host for _, host in uncovered(self._settings, tables)]
        if hosts:
            log.warning("hosts_without_certificate", hosts=hosts[:HOSTS_NAMED], number=len(hosts))
        if self.listeners and (reason := openssl.unavailable()):
            log.warning("tls_reduced", reason=reason)

    def begin(self, found: Sequence[Look], now: float) -> None:
        """Take the result of the first look; see `start`."""
        self._untold = self.step(found, now)[1]
        for section, one in zip(self.sections, found, strict=True):
            bad = [reading for reading in one.readings if reading.problem]
            problems = [f"{' with '.join(r.item.files)}: {r.problem}" for r in bad]
            if section.whole.told:
                problems.append(f"more than {MAX_CERTIFICATES} bytes of certificates")
            nothing = isinstance(section, ListenerFiles) and section.lacks_all
            if nothing or section.whole.told or not all(reading.item.optional for reading in bad):
                raise CertificateError(f"{section.title}: {'; '.join(problems)}")

    def step(
        self, found: Sequence[Look], now: float
    ) -> tuple[list[CertificateMessage], list[Happening]]:
        """Take the results of a look: messages to send, and things to tell of. `now`: seconds since
        1970."""
        if now - self.secret[1] >= NEW_SECRET:
            self.secret = secrets.token_bytes(64), now
        happened: list[Happening] = []
        for section, one in zip(self.sections, found, strict=True):
            happened += section.take(one, now)
        if sum(section.size for section in self.sections) > MAX_CERTIFICATES:
            for section in self.sections:
                happened += section.oversized(now)
            return [], happened
        messages: list[CertificateMessage] = []
        for section in self.sections:
            if not isinstance(section, ListenerFiles):
                continue
            before = section.message
            if section.build(self.secret[0]) and section.message is not None:
                happened += section.news(before)
                if section not in (self.admin, self.relay):
                    messages.append(section.message)
        before_all = self.upstream
        if self._build_upstream():
            messages.append(self.upstream)
            happened += self._news(before_all)
        return messages, happened

    def _build_upstream(self) -> bool:
        """Make the message for TLS to instances anew; False if nothing is new."""
        contents = joined(chain(*(one.contents.items() for one in self.services)))
        if contents == self.upstream.contents:
            return False
        self.upstream = UpstreamFiles(self.upstream.generation + 1, contents)
        return True

    def _news(self, before: UpstreamFiles) -> Iterator[Happening]:
        """Tell, service by service, which files changed. That they are there is no news."""
        after = self.upstream
        for one in self.services if before.generation else ():
            files = [
                file for file in one.contents if before.contents.get(file) != after.contents[file]
            ]
            if files:
                fields = {"generation": after.generation, "files": files}
                yield Happening("certificates_changed", {**one.owner_told, **fields})

    async def run(
        self,
        send: Callable[[CertificateMessage], None],
        tell: Callable[..., None],
        pause: float = PAUSE,
    ) -> None:
        """Look again and again. `send`: to all workers; `tell`: as `Reactions.tell`."""
        for what, fields in self._untold:
            tell(what, **fields)
        while self.sections:
            await asyncio.sleep(pause)
            looking = self._look()
            # No other one is begun while it hangs, so there is one thread.
            while not (await asyncio.wait([looking], timeout=LATE))[0]:
                log.warning("certificates_not_read", reason="the file system does not answer")
            try:
                messages, happened = self.step(looking.result(), time.time())
            except Exception:
                log.exception("certificates_not_read")
                continue
            for message in messages:
                send(message)
            for what, fields in happened:
                tell(what, **fields)

    def _look(self) -> asyncio.Future[list[Look]]:
        looks = [section.looking() for section in self.sections]
        return in_thread(lambda: [one() for one in looks], "look at certificates")

    def refused(self, listener: str) -> None:
        """A worker could not use what it was sent."""
        for one in self.listeners:
            if one.name == listener:
                one.loads["refused"] += 1

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Samples of metrics: name, labels, value."""
        for listener in self.listeners:
            if listener.message is not None:
                labels = {"listener": listener.name}
                yield "fairlead_tls_generation", labels, listener.message.generation
        yield from chain(*(section.samples() for section in self.sections))


def unverified(settings: Settings) -> Iterator[str]:
    """Services, or `defaults`, to whose instances TLS is spoken without verifying anything."""
    for name, one in (("defaults", settings.defaults), *settings.services.items()):
        if one.tls.mode != "off" and not one.tls.verify:
            yield name
