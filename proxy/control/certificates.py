"""Certificates of TLS listeners: files become messages to workers, generation after generation.

Files are looked at every few seconds. A pair that cannot be used, because its certificate was
renewed and its key not yet, say, keeps its last good value, and harms no other one.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import structlog
from msgspec.structs import replace

from proxy.control.certificate_files import SOON, Item, Look, Stamp, look, uncovered
from proxy.messages import MAX_CERTIFICATES, CertificatePair, ListenerCertificates
from proxy.settings.file import Settings
from proxy.settings.listener import ListenerSettings
from proxy.threads import in_thread
from proxy.tls import openssl
from proxy.tls.certificates import CertificateFacts
from proxy.tls.names import NameTable

log = structlog.get_logger()

PAUSE = 5.0
"""Seconds between two looks at the files: a renewal waits for nobody, and a thousand pairs take
some twenty milliseconds of a thread."""

PATIENCE = 2
"""Looks for which a pair may be unusable before it is told of: certificate and key are renamed one
after the other."""

START_LIMIT = 30.0
"""Seconds for the first look: a thousand pairs take two, and a file system whose server is gone is
not waited for."""

LATE = 30.0
"""Seconds after which a look is told of as late. There is no other one until it ends."""

HOUR, DAY = 3600.0, 86_400.0

NEW_SECRET = 12 * HOUR
"""Life of ticket keys. Whoever gets hold of one can read what was said in TLS 1.2 sessions that
were resumed with it."""

HOSTS_NAMED = 20
"""Hosts of routes in one line of the log."""


class CertificateError(Exception):
    """The certificates of a listener cannot be used. The text is one line for the operator."""


class Happening(NamedTuple):
    """A thing to be told of, by its name in `reactions.REACTIONS`."""

    what: str
    fields: dict[str, Any]


@dataclass(slots=True)
class State:
    """Knowledge of one item."""

    stamp: Stamp | None = None
    content: CertificateFacts | bytes | None = None
    """Last good value."""
    problem: str = ""
    looks: int = 0
    """How many in a row found a problem."""
    told: dict[str, float] = field(default_factory=dict)
    """When it was last told of, by what was told."""

    def is_due(self, what: str, every: float, now: float) -> bool:
        """Note that something is told of, unless it was in the last `every` seconds."""
        if now - self.told.get(what, -every) < every:
            return False
        self.told[what] = now
        return True


class ListenerFiles:
    """Owns what is known of one listener's files, and the message made of it."""

    def __init__(self, index: int, settings: ListenerSettings) -> None:
        assert settings.tls is not None
        self.name = settings.name
        self.tls = settings.tls
        self.place = ("listeners", index, "tls")
        self.states: dict[Item, State] = {}
        self.message: ListenerCertificates | None = None
        """The last one that could be made."""
        self.loads: Counter[str] = Counter()
        """Result → pairs, or files of authorities, that were read."""
        self.whole = State()
        """The certificates taken together."""
        self._entries: tuple[tuple[Item, ...], ...] = ()

    def looking(self) -> Callable[[], Look]:
        """A look at the files, to be done in a thread."""
        known = {
            item: state.stamp
            for item, state in self.states.items()
            if state.stamp is not None and not state.problem
        }
        return partial(look, self.place, self.tls, self._entries, known)

    def take(self, found: Look, now: float) -> Iterator[Happening]:
        """Take the result of a look. `now`: seconds since 1970."""
        self._entries = found.entries
        present = {*chain(*found.entries)}
        for item in [*self.states]:
            if item.kind == "pair" and item not in present:
                del self.states[item]
        for item, stamp, content, problem in found.readings:
            state = self.states.setdefault(item, State())
            if item.kind != "directory":
                self.loads["failed" if problem else "loaded"] += 1
            if problem:
                state.problem = problem
                continue
            state.stamp, state.content, state.problem, state.looks = stamp, content, "", 0
            if state.told.pop("certificate_unusable", None) is not None:
                yield self._about(item, "certificate_usable")
        for item, state in self.states.items():
            yield from self._remarks(item, state, now)

    def _remarks(self, item: Item, state: State, now: float) -> Iterator[Happening]:
        if state.problem:
            state.looks += 1
            if state.looks > PATIENCE and state.is_due("certificate_unusable", HOUR, now):
                yield self._about(item, "certificate_unusable", problem=state.problem)
        if not isinstance(state.content, CertificateFacts):
            return
        rest = state.content.not_after - now
        what, every = (
            ("certificate_expired", HOUR) if rest <= 0 else ("certificate_expires_soon", DAY)
        )
        if rest < SOON and state.is_due(what, every, now):
            yield self._about(item, what, names=state.content.names[:5], days=round(rest / DAY, 1))

    def _about(self, item: Item, what: str, **more: Any) -> Happening:
        return Happening(what, {"listener": self.name, "file": item.files[0], **more})

    def oversized(self, now: float) -> Iterator[Happening]:
        """There are more certificates than can be sent, so those from before stay."""
        if self.whole.is_due("certificate_unusable", HOUR, now):
            problem = f"more than {MAX_CERTIFICATES} bytes of certificates"
            fields = {"listener": self.name, "file": "", "problem": problem}
            yield Happening("certificate_unusable", fields)

    def news(self, before: ListenerCertificates | None) -> Iterator[Happening]:
        """A message was made. The first one, and new ticket keys, are no news."""
        now = self.message
        assert now is not None
        if before and (before.pairs, before.client_ca) != (now.pairs, now.client_ca):
            fields = {"generation": now.generation, "certificates": len(now.pairs)}
            yield Happening("certificates_changed", {"listener": self.name, **fields})

    def ends(self) -> Mapping[str, float]:
        """First name of a certificate, or its file if it has none → when it expires, the earliest
        of several."""
        ends: dict[str, float] = {}
        for item, facts in self.pairs():
            label = next(iter(facts.names), item.files[0])
            ends[label] = min(facts.not_after, ends.get(label, facts.not_after))
        return ends

    def pairs(self) -> Iterator[tuple[Item, CertificateFacts]]:
        """The pairs that can be used, in the order of the settings."""
        for item in chain(*self._entries):
            content = self.states[item].content
            if isinstance(content, CertificateFacts):
                yield item, content

    @property
    def size(self) -> int:
        """Bytes of the pairs that can be used."""
        return sum(len(facts.cert) + len(facts.key) for _, facts in self.pairs())

    def build(self, secret: bytes) -> bool:
        """Make the message anew; False if nothing is new, or there is nothing to serve with."""
        pairs = tuple(
            CertificatePair(facts.cert, facts.key, facts.names, facts.kind)
            for _, facts in self.pairs()
        )
        authorities = [s.content for i, s in self.states.items() if i.kind == "authorities"]
        client_ca = authorities[0] if authorities else b""
        if not pairs or not isinstance(client_ca, bytes):
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


class Certificates:
    """Owns the files of all TLS listeners, and the secret that ticket keys are made of."""

    def __init__(self, settings: Settings) -> None:
        self.listeners = [
            ListenerFiles(index, one)
            for index, one in enumerate(settings.listeners)
            if one.tls is not None
        ]
        self._settings = settings
        self._untold: list[Happening] = []
        """Happenings of the first look, at which nobody listens yet."""
        self._secret = b""
        self._secret_since = 0.0

    @property
    def messages(self) -> list[ListenerCertificates]:
        """The messages for a new worker."""
        return [one.message for one in self.listeners if one.message is not None]

    async def start(self) -> None:
        """Look for the first time. CertificateError if something that the settings name cannot be
        used, or a listener has nothing to serve with; single pairs of a directory may be bad."""
        if not self.listeners:
            return
        try:
            async with asyncio.timeout(START_LIMIT):
                found = await self._look()
        except (TimeoutError, OSError) as error:
            why = str(error) or f"not read in {START_LIMIT:g} s"
            raise CertificateError(f"certificates: {why}") from None
        self.begin(found, time.time())
        tables = [NameTable([pair.names for pair in one.pairs]) for one in self.messages]
        hosts = [host for _, host in uncovered(self._settings, tables)]
        if hosts:
            log.warning("hosts_without_certificate", hosts=hosts[:HOSTS_NAMED], number=len(hosts))
        if reason := openssl.unavailable():
            log.warning("tls_reduced", reason=reason)

    def begin(self, found: Sequence[Look], now: float) -> None:
        """Take the result of the first look; see `start`."""
        self._untold = self.step(found, now)[1]
        for listener, one in zip(self.listeners, found, strict=True):
            bad = [reading for reading in one.readings if reading.problem]
            if listener.message is None or not all(reading.item.optional for reading in bad):
                problems = [f"{' with '.join(r.item.files)}: {r.problem}" for r in bad]
                problems = problems or [f"more than {MAX_CERTIFICATES} bytes of certificates"]
                raise CertificateError(f"listener {listener.name}: {'; '.join(problems)}")

    def step(
        self, found: Sequence[Look], now: float
    ) -> tuple[list[ListenerCertificates], list[Happening]]:
        """Take the results of a look: messages to send, and things to tell of. `now`: seconds since
        1970."""
        if now - self._secret_since >= NEW_SECRET:
            self._secret, self._secret_since = secrets.token_bytes(64), now
        messages: list[ListenerCertificates] = []
        happened: list[Happening] = []
        for listener, one in zip(self.listeners, found, strict=True):
            before = listener.message
            happened += listener.take(one, now)
            if sum(other.size for other in self.listeners) > MAX_CERTIFICATES:
                happened += listener.oversized(now)
            elif listener.build(self._secret) and listener.message is not None:
                messages.append(listener.message)
                happened += listener.news(before)
        return messages, happened

    async def run(
        self,
        send: Callable[[ListenerCertificates], None],
        tell: Callable[..., None],
        pause: float = PAUSE,
    ) -> None:
        """Look again and again. `send`: to all workers; `tell`: as `Reactions.tell`."""
        for what, fields in self._untold:
            tell(what, **fields)
        while self.listeners:
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
        looks = [listener.looking() for listener in self.listeners]
        return in_thread(lambda: [one() for one in looks], "look at certificates")

    def refused(self, listener: str) -> None:
        """A worker could not use what it was sent."""
        for one in self.listeners:
            if one.name == listener:
                one.loads["refused"] += 1

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Samples of metrics: name, labels, value."""
        for listener in self.listeners:
            labels = {"listener": listener.name}
            if listener.message is not None:
                yield "fairlead_tls_generation", labels, listener.message.generation
            for result, count in listener.loads.items():
                yield "fairlead_certificate_loads_total", {**labels, "result": result}, count
            for certificate, end in listener.ends().items():
                series = {**labels, "certificate": certificate}
                yield "fairlead_certificate_expiry_timestamp_seconds", series, end
