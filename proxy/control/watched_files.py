"""Knowledge of watched files: last good values, and what operators are to be told of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from proxy.control.certificate_files import Item, Look, Named, Stamp, look, soon_before
from proxy.messages import MAX_CERTIFICATES
from proxy.tls.certificates import CertificateFacts

PATIENCE = 2
"""Looks for which a pair may be unusable before it is told of: certificate and key are renamed one
after the other."""

HOUR, DAY = 3600.0, 86_400.0


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


class WatchedFiles:
    """Owns what is known of the files that one section of proxy.yaml names."""

    def __init__(self, named: Named, *, listener: str = "", service: str = "") -> None:
        """`listener`, `service`: whose section it is; of the admin server's neither is given."""
        self.owner = {"listener": listener, "service": service}
        """Labels of metrics."""
        self.states: dict[Item, State] = {}
        self.loads: Counter[str] = Counter()
        """Result → pairs, or files of authorities, that were read."""
        self.whole = State()
        """The certificates taken together."""
        self._named = named
        self._entries: tuple[tuple[Item, ...], ...] = ()

    def follow(self, old: WatchedFiles) -> None:
        """Begin with the last good values of the same entries in the configuration before: what was
        spoilt since then is served on, whatever else has been changed."""
        named = (one for _, one in old._named.certificates)
        known = dict(zip(named, old._entries, strict=False))  # Of a look that never came, none.
        entries = []
        for at, one in self._named.certificates:
            items = known.get(one, ())
            new = tuple(item._replace(place=at) for item in items)
            for item, before in zip(new, items, strict=True):
                self.states[item] = State(content=old.states[before].content)
            entries.append(new)
        self._entries = tuple(entries)

    @property
    def owner_told(self) -> dict[str, Any]:
        """Fields of the log and of events."""
        return {kind: name for kind, name in self.owner.items() if name} or {"server": "admin"}

    def looking(self) -> Callable[[], Look]:
        """A look at the files, to be done in a thread."""
        known = {
            item: state.stamp
            for item, state in self.states.items()
            if state.stamp is not None and not state.problem
        }
        return partial(look, self._named, self._entries, known)

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
        soon = rest < soon_before(state.content)
        what, every = (
            ("certificate_expired", HOUR) if rest <= 0 else ("certificate_expires_soon", DAY)
        )
        if soon and state.is_due(what, every, now):
            yield self._about(item, what, names=state.content.names[:5], days=round(rest / DAY, 1))

    def _about(self, item: Item, what: str, **more: Any) -> Happening:
        return Happening(what, {**self.owner_told, "file": item.files[0], **more})

    def oversized(self, now: float) -> Iterator[Happening]:
        """There are more certificates than can be sent, so those from before stay."""
        if self.whole.is_due("certificate_unusable", HOUR, now):
            problem = f"more than {MAX_CERTIFICATES} bytes of certificates"
            fields = {**self.owner_told, "file": "", "problem": problem}
            yield Happening("certificate_unusable", fields)

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
        """Bytes of what can be used."""
        pairs = sum(len(facts.cert) + len(facts.key) for _, facts in self.pairs())
        return pairs + sum(len(pem) for _, pem in self.authorities)

    @property
    def authorities(self) -> Iterator[tuple[Item, bytes]]:
        """The files of authorities that can be used."""
        return (
            (item, state.content)
            for item, state in self.states.items()
            if item.kind == "authorities" and isinstance(state.content, bytes)
        )

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Samples of metrics: name, labels, value."""
        for result, count in self.loads.items():
            yield "fairlead_certificate_loads_total", {**self.owner, "result": result}, count
        for certificate, end in self.ends().items():
            series = {**self.owner, "certificate": certificate}
            yield "fairlead_certificate_expiry_timestamp_seconds", series, end
