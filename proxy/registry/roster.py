"""The roster: the records of a registry, of whatever kind it is, and the instances they make. Pure.

* A record that cannot be read keeps the last good value of its key and harms no other; of one
  that holds several instances, so does each of them.
* A full list replaces the roster by its *difference*, so no reader ever sees a pool emptied and
  filled again.
* What a list lacks that is not believed at once is *retained*: it stays in the membership until
  it is registered again, or `release` is called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping

import msgspec

from proxy.membership import Departure, Instance, Membership
from proxy.registry.records import Unreadable
from proxy.statuses import InvalidRecord, OddRecord

Read = Callable[[bytes, bytes], tuple[tuple[Instance, ...], str]]
"""Key and value → the instances, all of one service and each with an id of its own, and what was
odd about the value; Unreadable."""


def single(read: Callable[[bytes, bytes], tuple[Instance, str]]) -> Read:
    """Of a registry whose records hold one instance each."""

    def instances(key: bytes, value: bytes) -> tuple[tuple[Instance, ...], str]:
        instance, odd = read(key, value)
        return (instance,), odd

    return instances


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A record. `instances` are the last good value; `reason` says why the current one is not,
    `odd` what was not understood of one that is."""

    key: bytes
    value: bytes
    revision: int
    """When it was last written; 0 where the registry does not tell."""
    lease: int
    """Lease that the record hangs on; 0 = none."""
    instances: tuple[Instance, ...]
    reason: str = ""
    odd: str = ""

    @property
    def stated(self) -> tuple[int, int, bytes]:
        """The record as the registry holds it, whatever was made of it."""
        return self.revision, self.lease, self.value


def differences(
    held: Mapping[bytes, Hashable], known: Mapping[bytes, Hashable]
) -> frozenset[tuple[bytes, Hashable]]:
    """Keys of which a registry holds something else than is known, each with that; None = it has
    none."""
    other = {(key, value) for key, value in held.items() if known.get(key) != value}
    return frozenset(other | {(key, None) for key in known.keys() - held.keys()})


class Roster:
    """Owns the records and the membership that they make. Keys and values are bytes."""

    def __init__(self, read: Read, service_of: Callable[[bytes], str]) -> None:
        """`service_of`: the service that a key is about, "" if there is none."""
        self.service_of = service_of
        self.revision = 0
        """Revision up to and including which everything is in here."""
        self._read = read
        self._entries: dict[bytes, Entry] = {}
        self._retained: dict[bytes, Entry] = {}
        self._pools: dict[str, dict[bytes, tuple[Instance, ...]]] = {}
        """Service → key → instances, those that were written last at the end."""
        self._origins: Counter[str] = Counter()
        """How many of those are known from where; "" = that is not said."""
        self._dirty: set[str] = set()
        self._noted: dict[bytes, Entry] = {}
        """The entries with a `reason` or something `odd`."""
        self._news: set[bytes] = set()
        """Keys of which that is another one than `news` last told."""
        self._said: tuple[tuple[InvalidRecord, ...], tuple[OddRecord, ...]] | None = None
        """The invalid and the odd as last told, while that holds; None = it does not."""
        self._departures: dict[tuple[str, str], Departure] = {}
        """Since the last membership, of those (service, id) that are not back."""
        self._membership = Membership(services={})

    # ------------------------------------------------------------------------- changes

    def entry(self, key: bytes, value: bytes, revision: int = 0, lease: int = 0) -> Entry:
        """The entry of a record. An unreadable value keeps the last good one; an unchanged value
        keeps the object, so that a full list of known keys decodes nothing."""
        known = self._entries.get(key) or self._retained.get(key)
        if known is not None and known.value == value:
            return Entry(key, value, revision, lease, known.instances, known.reason, known.odd)
        last = known.instances if known else ()
        try:
            instances, odd = self._read(key, value)
            return Entry(key, value, revision, lease, _kept(instances, last), odd=odd)
        except Unreadable as error:
            reason, unread = str(error), error.unread
            readable = {one.id for one in error.readable}
            kept = (one for one in last if unread is None or one.id in unread)
            instances = (
                *_kept(error.readable, last),
                *(one for one in kept if one.id not in readable),
            )
            if readable:
                return Entry(key, value, revision, lease, instances, odd=reason)
            return Entry(key, value, revision, lease, instances, reason)

    def put(self, entry: Entry) -> None:
        """A record was written."""
        key = entry.key
        before = self._retained.pop(key, None) or self._entries.get(key)
        self._note(entry)
        self._entries[key] = entry
        # Whom it named and does not name any more it gave up: no lease ended.
        self._serve(key, before, entry.instances, 0, entry.revision)

    def remove(self, key: bytes, revision: int = 0) -> None:
        """A record went, at `revision`; 0 = it was found missing."""
        entry = self._entries.pop(key, None) or self._retained.pop(key, None)
        self._forget(key)
        if entry is not None:
            self._serve(key, entry, (), entry.lease, revision)

    def _serve(
        self,
        key: bytes,
        before: Entry | None,
        instances: tuple[Instance, ...],
        lease: int,
        revision: int,
    ) -> None:
        """A key stands for these instances, and not for those before, which went like that."""
        old = before.instances if before is not None else ()
        if old is instances:
            return
        if old:
            service = old[0].service
            pool = self._pools[service]
            del pool[key]
            if not pool:
                del self._pools[service]
            self._dirty.add(service)
        for one in old:
            self._departures[one.service, one.id] = Departure(
                service=one.service, id=one.id, health=one.health, lease=lease, revision=revision
            )
            self._origins[one.origin] -= 1
        if instances:
            service = instances[0].service
            self._pools.setdefault(service, {})[key] = instances
            self._dirty.add(service)
        for one in instances:
            self._departures.pop((one.service, one.id), None)
            self._origins[one.origin] += 1

    def replace(
        self,
        entries: Mapping[bytes, Entry],
        revision: int,
        *,
        retain: bool = False,
        among: Iterable[bytes] | None = None,
    ) -> int:
        """Take over the complete set of records, at `revision`; how many keys differed. With
        `retain` those missing are retained instead of removed. `among`: the known keys that the
        set is about; None = all."""
        different = 0
        known = self._entries if among is None else among
        for key in [key for key in known if key not in entries]:
            different += 1
            if retain and self._entries[key].instances:
                self._retained[key] = self._entries.pop(key)
                self._forget(key)
            else:
                self.remove(key)
        # Of two records about one instance the newer counts, as if both had been seen written.
        for key, entry in sorted(entries.items(), key=lambda item: item[1].revision):
            before = self._entries.get(key)
            if before is None or before.stated != entry.stated:
                different += 1
                self.put(entry)
        self.revision = revision
        return different

    def release(self) -> None:
        """Let go of the retained: whoever has not registered again by now is gone."""
        for key in list(self._retained):
            self.remove(key)

    # --------------------------------------------------------------------------- reads

    @property
    def entries(self) -> Mapping[bytes, Entry]:
        """Records that the registry holds, by key."""
        return self._entries

    @property
    def retained(self) -> int:
        """Instances that the registry does not name."""
        return sum(len(one.instances) for one in self._retained.values())

    def held(self) -> list[Instance]:
        """Instances that the registry does not name."""
        return [one for entry in self._retained.values() for one in entry.instances]

    def unlike(self, entries: Mapping[bytes, Entry]) -> frozenset[tuple[bytes, Hashable]]:
        """Keys of which a full list says something else, each with that."""
        known = self._entries
        other = {
            (key, one.stated)
            for key, one in entries.items()
            if key not in known or known[key].stated != one.stated
        }
        return frozenset(other | {(key, None) for key in known.keys() - entries.keys()})

    def __len__(self) -> int:
        """Records in the registry, readable or not; the retained are not in the registry."""
        return len(self._entries)

    @property
    def instances(self) -> int:
        return self._origins.total()

    def origins(self) -> dict[str, int]:
        """Instances by where they are known from, if that is said."""
        self._origins = +self._origins
        return {origin: count for origin, count in sorted(self._origins.items()) if origin}

    def invalid(self) -> tuple[InvalidRecord, ...]:
        """The keys whose current value cannot be read, in key order."""
        return self._all_noted()[0]

    def odd(self) -> tuple[OddRecord, ...]:
        """The keys of whose current value something was not understood, in key order."""
        return self._all_noted()[1]

    def news(self) -> tuple[InvalidRecord | OddRecord, ...]:
        """Of the invalid and the odd those that are so since the last call, or for another
        reason than before, in key order."""
        noted = [self._noted[key] for key in sorted(self._news & self._noted.keys())]
        self._news.clear()
        return tuple(self._invalid(one) if one.reason else self._odd(one) for one in noted)

    def membership(self) -> Membership:
        """The membership now. The identical object while nothing changed, and within it the
        identical tuple for each service of which nothing changed. Instances are in the order
        of their ids."""
        services = dict(self._membership.services)
        changed = False
        for service in self._dirty:
            pool = self._pools.get(service, {})
            # Two records may be about one instance: of a registration before, and of the newest.
            by_id = {one.id: one for instances in pool.values() for one in instances}
            members = tuple(sorted(by_id.values(), key=lambda one: one.id))
            if members == services.get(service, ()):
                continue
            changed = True
            if members:
                services[service] = members
            else:
                del services[service]
        self._dirty.clear()
        if changed:
            self._membership = Membership(
                services=services,
                revision=self.revision,
                departures=tuple(self._departures.values()),
            )
            self._departures.clear()
        return self._membership

    # ------------------------------------------------------------------------- private

    def _note(self, entry: Entry) -> None:
        before = self._forget(entry.key)
        if not (entry.reason or entry.odd):
            return
        self._noted[entry.key] = entry
        self._said = None
        if before is None or (before.reason, before.odd) != (entry.reason, entry.odd):
            self._news.add(entry.key)

    def _forget(self, key: bytes) -> Entry | None:
        before = self._noted.pop(key, None)
        if before is not None:
            self._said = None
        return before

    def _all_noted(self) -> tuple[tuple[InvalidRecord, ...], tuple[OddRecord, ...]]:
        if self._said is None:
            entries = [entry for _, entry in sorted(self._noted.items(), key=lambda item: item[0])]
            self._said = (
                tuple(self._invalid(entry) for entry in entries if entry.reason),
                tuple(self._odd(entry) for entry in entries if entry.odd),
            )
        return self._said

    def _invalid(self, entry: Entry) -> InvalidRecord:
        return InvalidRecord(
            key=entry.key.decode(errors="replace"),
            reason=entry.reason,
            kept=bool(entry.instances),
            service=self._service_of(entry),
        )

    def _odd(self, entry: Entry) -> OddRecord:
        return OddRecord(
            key=entry.key.decode(errors="replace"),
            reason=entry.odd,
            service=self._service_of(entry),
        )

    def _service_of(self, entry: Entry) -> str:
        """The service that a record is served in, or else that its key is about."""
        known = entry.instances
        return known[0].service if known else self.service_of(entry.key)


def _kept(found: tuple[Instance, ...], last: tuple[Instance, ...]) -> tuple[Instance, ...]:
    """The instances found, and of those that did not change the objects from before."""
    same = {one.id: one for one in last}
    return tuple(same[one.id] if same.get(one.id) == one else one for one in found)
