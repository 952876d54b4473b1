"""Answers for host names, and when to ask again.

    unknown ──ask──▶ holds ──(in use, 90 % of its time is over)──ask──▶ holds
                       └──(not in use)──▶ lapsed ──(used)──ask──▶ holds
    any of them ──(no name server answers)──▶ failing: the last good addresses are used on

Whoever connects to an instance gets the addresses in the same turn of the loop while they hold or
nothing better is to be had. A name belongs to who holds it (a node of a pool, a check), and is
forgotten with the last of them.
"""

from __future__ import annotations

import asyncio
import re
from ipaddress import ip_address
from math import inf
from typing import Final
from weakref import WeakSet, WeakValueDictionary, ref

import structlog

from proxy.names.base import Answer, Resolver, Unresolved

_log = structlog.get_logger()

FLOOR: Final = 1.0
"""Seconds that an answer is kept at least. Consul and hosts files say 0: one question a second in
each process, whatever the traffic, is what a name server does not notice."""
CEILING: Final = 300.0
"""Seconds that an answer is kept at most. A name that stands with a day in its zone, and was wrong,
would otherwise be wrong for a day in here; a question in five minutes costs nothing."""
EARLY: Final = 0.9
"""Share of its time after which an answer that is in use is asked for anew. A tenth is what is left
for the answer to come; of the floor that is 100 ms."""
PATIENCE: Final = 0.5
"""Seconds from the beginning of a question for which somebody waits who could be told of an older
answer, good or bad. RFC 8767 §5 has 1.8 s for those who wait five; ours wait for three
(`timeouts.connect`), and have yet to connect."""
PAUSE: Final = 1.0
"""Seconds between a question that nobody answered, which took some seconds itself, and the next."""
DENIED_PAUSE: Final = 5.0
"""Seconds for which "there is no such name" is believed. RFC 2308 §5 lets a zone say three hours;
whoever registers an instance before its name is published waits for this instead."""
BELIEVED: Final = 2
"""Denials in a row after which a name that had addresses has none. One may come from a name
server that has just been started and does not know all of its zone yet."""
LOST: Final = 30.0
"""Seconds after which a question is taken for lost, and asked again: several times what a resolver
takes to give up."""
MAX_ADDRESSES: Final = 16
"""Addresses of a name that are kept. In three seconds twelve can be tried, 250 ms apart."""

_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}\.?\Z)(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?\Z"
)
_NUMBER: Final = re.compile(r"(?:\d+|0[xX][0-9A-Fa-f]*)\Z")
"""A last label like this makes the whole an address, if anything (URL Standard, "ends in a number
checker"): `127.1`, `0x7f000001`. Only the canonical form of one is taken."""


class Name:
    """Owns what is known of one host name: its addresses, how long they hold, and who waits for
    them. An address that stands for itself is a name that holds for ever."""

    __slots__ = (
        "__weakref__", "_names", "_waiting", "addresses", "again_at", "asked_at", "asking",
        "denials", "failure", "holds_until", "text", "used",
    )  # fmt: skip

    def __init__(self, names: Names, text: str, addresses: tuple[str, ...] = ()) -> None:
        """`addresses`: for one that is never asked for."""
        self._names = names
        self.text = text
        self.addresses = addresses
        """The last good answer."""
        self.holds_until = inf if addresses else -inf
        self.failure: Unresolved | None = None
        """Error of the last question, if it had no answer."""
        self.denials = 0
        """In a row."""
        self.again_at = -inf
        """When to ask again after a failure."""
        self.asking = False
        self.asked_at = -inf
        self.used = False
        """Since the last question."""
        self._waiting: list[asyncio.Future[None]] = []  # ≤ 1 KiB + 400 B per request

    def __repr__(self) -> str:
        return f"<Name {self.text} {self.addresses} {self.failure!r}>"

    def known(self) -> tuple[str, ...]:
        """The addresses, if they are known or nothing better will be had; none: `find` them. Raises
        `Unresolved` if nobody answered a moment ago."""
        if self.holds_until == inf:
            return self.addresses
        self.used = True
        now = self._names.now()
        if now < self.holds_until:
            return self.addresses
        if self.failure is None:
            return ()
        if now >= self.again_at:
            self._names.ask(self)
        if self.addresses:
            return self.addresses
        if now < self.again_at or now >= self.asked_at + PATIENCE:
            raise self.failure.again()
        return ()

    async def find(self) -> tuple[str, ...]:
        """The addresses; waits for them for `PATIENCE` if there is an older answer, good or bad,
        otherwise for as long as the resolver takes. Raises `Unresolved`."""
        names = self._names
        names.ask(self)
        wait = None
        if self.addresses or self.failure is not None:
            wait = max(0.0, self.asked_at + PATIENCE - names.now())
        future: asyncio.Future[None] = names.loop.create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(wait):
                await future
        except TimeoutError:
            pass  # The older answer, then.
        finally:
            if future in self._waiting:
                self._waiting.remove(future)
        if self.addresses:
            return self.addresses
        if self.failure is None:
            raise Unresolved("no name server has answered yet")
        raise self.failure.again()

    def prefer(self, address: str) -> None:
        """`address` took a connection while others before it did not: until the next answer it
        is the first one (RFC 8305 §4)."""
        if self.holds_until != inf and self.addresses[:1] != (address,):
            rest = tuple(other for other in self.addresses if other != address)
            if len(rest) < len(self.addresses):
                self.addresses = (address, *rest)

    def learn(self, answer: Answer | Unresolved) -> None:
        """Take a result in: what a resolver is to tell."""
        self.asking = False
        if isinstance(answer, Unresolved):
            self._failed(answer)
        else:
            self._answered(answer)
        waiting, self._waiting = self._waiting, []
        self.used = self.used or bool(waiting)
        for future in waiting:  # ≤ requests
            if not future.done():
                future.set_result(None)

    def _answered(self, answer: Answer) -> None:
        names = self._names
        before = self.addresses
        addresses = answer.addresses[:MAX_ADDRESSES]
        ttl = min(max(answer.ttl, FLOOR), CEILING)
        self.addresses = addresses
        self.holds_until = names.now() + ttl
        self.denials = 0
        failed, self.failure = self.failure, None
        names.failing.discard(self)
        if failed is not None:
            _log.info("name_resolved", name=self.text, addresses=addresses)
        elif before and set(before) != set(addresses):
            _log.info("name_changed", name=self.text, addresses=addresses, before=before)
        names.loop.call_later(ttl * EARLY, _refresh, ref(self))

    def _failed(self, failure: Unresolved) -> None:
        names = self._names
        names.failures += 1
        first = self.failure is None
        self.failure = failure
        self.again_at = names.now() + (DENIED_PAUSE if failure.denied else PAUSE)
        self.denials = self.denials + 1 if failure.denied else 0
        if self.addresses and self.denials >= BELIEVED:
            self.addresses = ()
            first = True
        names.failing.add(self)
        if first:
            using = self.addresses or "nothing"
            _log.warning("name_not_resolved", name=self.text, reason=str(failure), using=using)

    def refresh(self) -> None:
        """Ask again before the answer ends, if somebody wanted it since the last question."""
        if self.used:
            self._names.ask(self)


def _refresh(name: ref[Name]) -> None:
    # By reference, so that a timer keeps no name that everybody else has forgotten.
    found = name()
    if found is not None:
        found.refresh()


class Names:
    """Owns the table of the names that somebody holds, and asks for them, each once at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, resolver: Resolver | None = None) -> None:
        """`resolver`: by default this machine's, which is loaded with the first question: most
        proxies know their instances by address."""
        self.loop = loop
        self.now = loop.time
        self.failures = 0
        """Questions that brought no address, since the start."""
        self.failing: WeakSet[Name] = WeakSet()  # ≤ 1 KiB + 400 B per name
        """Names whose last question was one."""
        self._resolver = resolver
        self._known: WeakValueDictionary[str, Name] = (
            WeakValueDictionary()
        )  # ≤ 1 KiB + 400 B per name

    def __len__(self) -> int:
        """Names that somebody holds."""
        return len(self._known)

    def get(self, text: str) -> Name:
        """The entry for `text`, a host name or an address, now and from now on: to be held for as
        long as it is of interest. For a text that can be neither it fails at once, always."""
        try:
            return Name(self, text, (str(ip_address(text)),))
        except ValueError:
            pass
        name = self._known.get(text)
        if name is None:
            name = Name(self, text)
            if host_name(text):
                self._known[text] = name
            else:
                name.failure = Unresolved(f"{text[:100]!r} is neither a host name nor an address")
                name.again_at = inf
        return name

    def ask(self, name: Name) -> None:
        """Ask for a name, unless that is under way."""
        if not name.asking or self.now() >= name.asked_at + LOST:
            name.asking = True
            name.used = False
            name.asked_at = self.now()
            if self._resolver is None:
                from proxy.names.cares import CaresResolver

                self._resolver = CaresResolver(self.loop)
            self._resolver.ask(host_name(name.text), name.learn)

    def outdated(self) -> float:
        """Seconds by which the oldest answer that had to be used on is past its time; 0 = none."""
        ends = [name.holds_until for name in self.failing if name.addresses]
        return max(0.0, self.now() - min(ends)) if ends else 0.0

    def close(self) -> None:
        """Give up all questions."""
        if self._resolver is not None:
            self._resolver.close()


def host_name(text: str) -> str:
    """The name as it is asked for: in ASCII (RFC 5891), `localhost.` without its dot, because that
    one is not asked for but known. Empty if it is none."""
    if not text.isascii():
        try:
            text = text.encode("idna").decode("ascii")
        except UnicodeError:
            return ""
    if not _HOST_NAME.match(text) or _NUMBER.match(text.rstrip(".").rpartition(".")[2]):
        return ""
    bare = text.removesuffix(".")
    return bare if bare.lower().rpartition(".")[2] == "localhost" else text
