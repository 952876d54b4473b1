"""The roster: the records of a registry, of whatever kind it is, and the instances they make. Pure.

* A record that cannot be read keeps the last good value of its key and harms no other.
* A full list replaces the roster by its *difference*, so no reader ever sees a pool emptied and
  filled again.
* What a list lacks that is not believed at once is *retained*: it stays in the membership until
  it is registered again, or `release` is called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import msgspec

from proxy.membership import Departure, Instance, Membership
from proxy.registry.records import Unreadable
from proxy.statuses import InvalidRecord, OddRecord

Read = Callable[[bytes, bytes], tuple[Instance, str]]
"""Key and value → the instance, and what was odd about the value; Unreadable."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A record. `instance` is the last good value; `reason` says why the current one is not,
    `odd` what was not understood of one that is."""

    key: bytes
    value: bytes
    revision: int
    """When it was last written; 0 where the registry does not tell."""
    lease: int
    """Lease that the record hangs on; 0 = none."""
    instance: Instance | None
    reason: str = ""
    odd: str = ""

    def states(self, value: bytes, revision: int, lease: int) -> bool:
        """The registry holds this, whatever was made of it."""
        return (self.revision, self.lease, self.value) == (revision, lease, value)


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
        self._pools: dict[str, dict[bytes, Instance]] = {}
        self._dirty: set[str] = set()
        self._noted: dict[bytes, Entry] = {}
        """The entries with a `reason` or something `odd`."""
        self._news: set[bytes] = set()
        """Keys of which that is another one than `news` last told."""
        self._departures: dict[bytes, Departure] = {}
        """Since the last membership; the keys are back in it if they were written again."""
        self._membership = Membership(services={})

    # ------------------------------------------------------------------------- changes

    def entry(self, key: bytes, value: bytes, revision: int = 0, lease: int = 0) -> Entry:
        """The entry of a record. An unreadable value keeps the last good one; an unchanged value
        keeps the object, so that a full list of known keys decodes nothing."""
        known = self._entries.get(key) or self._retained.get(key)
        if known is not None and known.value == value:
            return Entry(key, value, revision, lease, known.instance, known.reason, known.odd)
        try:
            instance, odd = self._read(key, value)
            return Entry(key, value, revision, lease, instance, odd=odd)
        except Unreadable as error:
            last = known.instance if known else None
            return Entry(key, value, revision, lease, last, reason=str(error))

    def put(self, entry: Entry) -> None:
        """A record was written."""
        key = entry.key
        self._retained.pop(key, None)
        self._note(entry)
        self._departures.pop(key, None)
        self._entries[key] = entry
        if entry.instance is not None:
            service = entry.instance.service
            pool = self._pools.setdefault(service, {})
            if pool.get(key) is not entry.instance:
                pool[key] = entry.instance
                self._dirty.add(service)

    def remove(self, key: bytes, revision: int = 0) -> None:
        """A record went, at `revision`; 0 = it was found missing."""
        entry = self._entries.pop(key, None) or self._retained.pop(key, None)
        self._noted.pop(key, None)
        if entry is not None and entry.instance is not None:
            service = entry.instance.service
            self._departures[key] = Departure(
                service=service,
                id=entry.instance.id,
                health=entry.instance.health,
                lease=entry.lease,
                revision=revision,
            )
            pool = self._pools[service]
            del pool[key]
            if not pool:
                del self._pools[service]
            self._dirty.add(service)

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
            if retain and self._entries[key].instance is not None:
                self._retained[key] = self._entries.pop(key)
                self._noted.pop(key, None)
            else:
                self.remove(key)
        for key, entry in entries.items():
            before = self._entries.get(key)
            if before is None or not before.states(entry.value, entry.revision, entry.lease):
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
        return len(self._retained)

    def held(self) -> list[Instance]:
        """Instances that the registry does not name."""
        return [one.instance for one in self._retained.values() if one.instance is not None]

    def __len__(self) -> int:
        """Records in the registry, readable or not; the retained are not in the registry."""
        return len(self._entries)

    @property
    def instances(self) -> int:
        return sum(map(len, self._pools.values()))

    def origins(self) -> dict[str, int]:
        """Instances by where they are known from, if that is said."""
        counts = Counter(one.origin for pool in self._pools.values() for one in pool.values())
        return {origin: count for origin, count in sorted(counts.items()) if origin}

    def invalid(self) -> tuple[InvalidRecord, ...]:
        """The keys whose current value cannot be read, in key order."""
        return tuple(self._invalid(entry) for entry in self._in_order() if entry.reason)

    def odd(self) -> tuple[OddRecord, ...]:
        """The keys of whose current value something was not understood, in key order."""
        return tuple(self._odd(entry) for entry in self._in_order() if entry.odd)

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
            by_id = {one.id: one for one in pool.values()}
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
        before = self._noted.pop(entry.key, None)
        if not (entry.reason or entry.odd):
            return
        self._noted[entry.key] = entry
        if before is None or (before.reason, before.odd) != (entry.reason, entry.odd):
            self._news.add(entry.key)

    def _in_order(self) -> list[Entry]:
        return [entry for _, entry in sorted(self._noted.items(), key=lambda item: item[0])]

    def _invalid(self, entry: Entry) -> InvalidRecord:
        return InvalidRecord(
            key=entry.key.decode(errors="replace"),
            reason=entry.reason,
            kept=entry.instance is not None,
            service=self.service_of(entry.key),
        )

    def _odd(self, entry: Entry) -> OddRecord:
        return OddRecord(
            key=entry.key.decode(errors="replace"),
            reason=entry.odd,
            service=self.service_of(entry.key),
        )
