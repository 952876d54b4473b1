"""Certificates that are obtained by ACME: when each is due, and where they are kept.

A certificate and its key are one file, so that one rename renews both; the files are watched as
those of operators are (`certificates.py`), and workers get them from there.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import structlog
from msgspec.structs import replace

from proxy import files
from proxy.control.acme_turns import Busy, Challenges, Failure
from proxy.registry.base import RegistryError
from proxy.settings.acme import AcmeSettings
from proxy.settings.read import escaped
from proxy.threads import in_thread
from proxy.tls.certificates import LARGEST_PEM, CertificateFacts, read_pair
from proxy.waiting import ended

if TYPE_CHECKING:
    from proxy.control.acme_fleet import AcmeFleet  # Loads the client of etcd, which few need.
    from proxy.tls.acme import AccountKey  # And this `cryptography`.

log = structlog.get_logger()

HOUR = 3600.0
"""Seconds between two looks at the files, which somebody may have removed."""

SHARE, SPREAD = 1 / 3, 1 / 60
"""Share of a certificate's life that is left when it is renewed: thirty days of ninety, two of
six. Some earlier, so that those which were obtained together are not renewed together."""

FIRST_WAIT, LONGEST_WAIT = 60.0, 6 * HOUR
"""Seconds between an order that failed and the next for its name: they double. Public authorities
take five failures an hour."""

LONGEST_SAID = 7 * 86_400.0
"""Seconds until the next order that a server may ask for: the longest period over which public
authorities count."""

WAIT_FOR_OTHERS = 5.0
"""Seconds until a proxy looks again whether another one still orders: an order takes some."""

FILES_LIMIT = 30.0
"""Seconds for what is read or written: a file system whose server is gone is not waited for."""

Publish = Callable[[Challenges], Awaitable[bool]]
"""Lets all workers answer these challenges and no others; False if some have not taken them."""
LONGEST_PROBLEM = 500
"""Characters of what a server says is wrong."""

Obtain = Callable[[AcmeSettings, "AccountKey", str, str, Publish], Awaitable[bytes]]
"""Settings, account key, name, kind of challenge and publisher → key and certificate, PEM; in use
`acme_client.obtain`."""


class AcmeError(Exception):
    """No certificate came of an order; the text is one line. `wait`: seconds for which the server
    wants to be left alone."""

    def __init__(self, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


class StorageError(Exception):
    """The storage cannot be used. The text is one line for the operator."""


@dataclass(slots=True)
class Standing:
    """State of one name."""

    not_after: float = 0.0
    """End of its certificate; 0 = there is none."""
    renewal: float = 0.0
    """Time for a new one."""
    retry: float = 0.0
    """No order before this time: the last one failed."""
    failures: int = 0
    """Orders in a row."""
    problem: str = ""
    """Of the last order."""
    unwritten: bytes = b""
    """A certificate that was obtained, and could not be written: it is not ordered again."""
    orders: Counter[str] = field(default_factory=lambda: Counter(issued=0, failed=0))
    """By result."""

    @property
    def due(self) -> float:
        """Time of the next order, in seconds since 1970."""
        return max(self.renewal, self.retry)

    def found(self, facts: CertificateFacts | None, rng: Random) -> None:
        """The certificate in the file is this one, or there is none."""
        if facts is None:
            self.not_after = self.renewal = 0.0
        elif facts.not_after != self.not_after:
            self.not_after = facts.not_after
            share = SHARE + rng.uniform(0.0, SPREAD)
            self.renewal = facts.not_after - share * (facts.not_after - facts.not_before)

    def succeeded(self) -> None:
        """An order brought a certificate."""
        self.orders["issued"] += 1
        self.failures, self.retry, self.problem = 0, 0.0, ""

    def failed(self, problem: str, wait: float, now: float) -> float:
        """An order failed: seconds until the next, `wait` at least."""
        self.orders["failed"] += 1
        pause = max(wait, min(FIRST_WAIT * 2.0 ** min(self.failures, 20), LONGEST_WAIT))
        self.failures += 1
        self.problem, self.retry = problem, now + pause
        return pause


class Acme:
    """Owns the account's key, and the state of each name. One order at a time."""

    def __init__(
        self,
        settings: AcmeSettings,
        obtain: Obtain,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: Random | None = None,
        fleet: AcmeFleet | None = None,
    ) -> None:
        """`fleet`: what others share with this proxy; None = nothing."""
        self.names = {domain: Standing() for domain in settings.domains}
        self._settings = settings
        self._obtain = obtain
        self._now = now
        self._sleep = sleep
        self._rng = rng or Random()
        self._fleet = fleet
        self._key: AccountKey

    def successor(self, settings: AcmeSettings, fleet: AcmeFleet | None = None) -> Acme:
        """Orders by another configuration, to be started. Names that stay go on where they are; if
        there is more that differs, what failed is tried again at once."""
        new = Acme(settings, self._obtain, self._now, self._sleep, self._rng, fleet)
        same = replace(settings, domains=()) == replace(self._settings, domains=())
        for domain in new.names.keys() & self.names.keys():
            known = self.names[domain]
            new.names[domain] = known if same else Standing(orders=known.orders)
        return new

    async def start(self) -> None:
        """Make the storage and the account's key if they are not there. Raises `StorageError`."""
        try:
            self._key = await self._in_time(self._open)
        except (OSError, ValueError) as error:
            place = self._settings.place
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise StorageError(f"{place}: {str(why) or 'does not answer'}") from None

    def _open(self) -> AccountKey:
        from proxy.tls.acme import AccountKey, new_key

        place = self._settings.place
        for directory in (place.parent, place, place / "certificates"):
            if not directory.is_dir():
                directory.mkdir(mode=0o700)
        if self._fleet is not None:
            self._fleet.open()
        file = str(place / "account.key")
        if not os.path.exists(file):
            files.replace(file, new_key())
        return AccountKey(files.read(file, LARGEST_PEM))

    @staticmethod
    async def _in_time(work: Callable[[], Any]) -> Any:
        async with asyncio.timeout(FILES_LIMIT):
            return await in_thread(work, "files of acme")

    async def run(self, publish: Publish, tell: Callable[..., None]) -> None:
        """Order what is due, for ever. `tell`: as `Reactions.tell`."""
        if self._fleet is None:
            await self._run(publish, tell)
            return
        following = asyncio.create_task(
            self._fleet.follow(self._obtained, publish), name="acme of the fleet"
        )
        try:
            await self._run(publish, tell)
        finally:
            await ended(following)
            await self._fleet.close()

    async def _run(self, publish: Publish, tell: Callable[..., None]) -> None:
        while True:
            if not await self._look():
                # Nothing is ordered that may be there already.
                await self._sleep(FIRST_WAIT)
                continue
            for name in self.names.values():
                name.retry = self._believed(name.retry)
            domain = min(self.names, key=lambda name: self.names[name].due)
            wait = self.names[domain].due - self._now()
            if wait > 0:
                await self._sleep(min(wait, HOUR))
            elif self._fleet is None:
                await self._order(domain, publish, tell)
            else:
                await self._order_for_all(self._fleet, domain, publish, tell)

    async def _order_for_all(
        self, fleet: AcmeFleet, domain: str, publish: Publish, tell: Callable[..., None]
    ) -> None:
        """Order for the fleet, if no other proxy does, or did a moment ago."""
        name = self.names[domain]
        try:
            async with fleet.turn():
                if content := await fleet.certificate(domain):
                    await self._obtained(domain, content)
                    await self._look()
                if failure := await fleet.failure(domain):
                    name.failures, name.problem = failure.failures, failure.problem
                    name.retry = max(name.retry, self._believed(failure.retry))
                if name.due > self._now():
                    return
                mine = files.read(str(self._settings.place / "account.key"), LARGEST_PEM)
                self._key = type(self._key)(await fleet.account(mine))

                async def to_all(challenges: Challenges) -> bool:
                    taken = await publish(challenges)
                    await fleet.put_challenges(challenges)
                    return taken

                before = name.failures
                await self._order(domain, to_all, tell)
                if name.failures > before:
                    failure = Failure(name.failures, name.retry, name.problem)
                    await fleet.put_failure(domain, failure)
                else:
                    content = await self._in_time(lambda: self._content(domain))
                    await fleet.put_certificate(domain, content)
        except Busy:
            await self._sleep(WAIT_FOR_OTHERS)
        except RegistryError as error:
            log.warning("acme_fleet_not_reached", name=domain, error=str(error))
            await self._sleep(FIRST_WAIT)

    def _believed(self, retry: float) -> float:
        """`retry`, unless it is later than any failure has it: the clock that it was read from was
        fast, ours before it was set right or another proxy's."""
        return retry if retry - self._now() <= LONGEST_SAID else 0.0

    async def _obtained(self, domain: str, content: bytes) -> None:
        """Another proxy has a certificate: it is ours as well, if it is for its name and lasts
        longer than what is here."""
        if domain not in self.names:
            return
        try:
            facts = read_pair(content, content)
            if domain not in facts.names:
                raise ValueError("it is for other names")
            here = await self._in_time(lambda: self._read(domain))
            if isinstance(here, OSError):
                raise here
            if here is None or facts.not_after > here.not_after:
                file = self._settings.file(domain)
                await self._in_time(lambda: files.replace(file, content))
                self.names[domain].found(facts, self._rng)
                log.info("acme_taken_over", name=domain)
        except (OSError, ValueError) as error:
            reason = str(error) or "the files do not answer"
            log.warning("acme_value_refused", name=domain, reason=reason)

    def _content(self, domain: str) -> bytes:
        return files.read(self._settings.file(domain), LARGEST_PEM)

    async def _look(self) -> bool:
        """See which certificates there are; False if the files do not answer. One that cannot be
        read is not ordered, since it may be there already, and keeps no other from it."""
        try:
            found = await self._in_time(lambda: {name: self._read(name) for name in self.names})
        except OSError as error:
            log.warning("certificates_not_read", reason=str(error) or "the files do not answer")
            return False
        for domain, facts in found.items():
            name = self.names[domain]
            if isinstance(facts, OSError):
                log.warning("certificates_not_read", name=domain, reason=str(facts))
                name.retry = max(name.retry, self._now() + FIRST_WAIT)
            else:
                name.found(facts, self._rng)
        return True

    def _read(self, domain: str) -> CertificateFacts | OSError | None:
        try:
            content = files.read(self._settings.file(domain), LARGEST_PEM)
            return read_pair(content, content)
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            return error

    async def _order(self, domain: str, publish: Publish, tell: Callable[..., None]) -> None:
        name = self.names[domain]
        kinds = self._settings.challenges
        kind = kinds[name.failures % len(kinds)]
        try:
            if not name.unwritten:
                name.unwritten = await self._obtain(
                    self._settings, self._key, domain, kind, publish
                )
            await self._in_time(lambda: files.replace(self._settings.file(domain), name.unwritten))
            name.found(read_pair(name.unwritten, name.unwritten), self._rng)
            name.unwritten = b""
            if name.renewal <= self._now():
                raise ValueError("the certificate is due at once: the clock, or its life is wrong")
        except Exception as error:
            problem = escaped(str(error) or type(error).__name__)[:LONGEST_PROBLEM]
            pause = name.failed(
                problem, error.wait if isinstance(error, AcmeError) else 0.0, self._now()
            )
            tell("acme_failed", name=domain, problem=problem, retry_in=round(pause))
        else:
            name.succeeded()
            tell("acme_issued", name=domain, renewal_in=round(name.renewal - self._now()))

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Samples of metrics: name, labels, value."""
        for domain, name in self.names.items():
            for result, count in name.orders.items():
                yield "fairlead_acme_orders_total", {"name": domain, "result": result}, count
