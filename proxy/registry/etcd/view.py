"""The view: what the store holds under the prefix, at one revision. Pure.

Three laws, whatever the stream does:

* a frame is applied whole or not at all, and the resume point moves only by what was applied;
* time never runs back: an event below the resume point was seen before, or is a copy from a
  member that lags, and changes nothing;
* a list replaces the view by its *difference*, so no reader ever sees a pool emptied and
  filled again.

The one exception to the second law is a store that itself went back (wiped, or restored from
a backup). Its list is believed for what it holds, but not at once for what it lacks: services
need some seconds to notice that their leases are gone and to register again. Instances that
such a list lacks are *held*: they stay in the membership until they are registered again or
`release()` is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from proxy.membership import Departure, Instance, Membership
from proxy.registry.etcd.wire import Event, KeyValue
from proxy.registry.records import Unreadable, read, service_of, split_key
from proxy.statuses import InvalidRecord, OddRecord


class _Entry(msgspec.Struct, frozen=True, gc=False):
    """One key. `instance` is the last good value; `reason` says why the current one is not,
    `odd` what was not understood of one that is."""

    kv: KeyValue
    instance: Instance | None
    reason: str | None = None
    odd: str = ""


class Draft:
    """Owns a full list while its pages arrive, so that no page is decoded twice and the
    switch at the end is quick."""

    def __init__(self, prefix: bytes, known: dict[bytes, _Entry], revision: int) -> None:
        self.revision = revision
        self.entries: dict[bytes, _Entry] = {}
        self._prefix = prefix
        self._known = known

    def add(self, page: Iterable[KeyValue]) -> None:
        for kv in page:
            self.entries[kv.key] = _entry(self._prefix, kv, self._known.get(kv.key))


class View:
    """Owns the state of the prefix. All keys and values are bytes as in the store."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix.encode()
        self.revision = 0
        """Everything up to and including this revision is in the view."""
        self._entries: dict[bytes, _Entry] = {}
        self._held: dict[bytes, _Entry] = {}
        self._pools: dict[str, dict[bytes, Instance]] = {}
        self._dirty: set[str] = set()
        self._newest: KeyValue | None = None
        self._noted: dict[bytes, _Entry] = {}
        """The entries with a `reason` or something `odd`."""
        self._news: set[bytes] = set()
        """Keys of which that is another one than `news` last told."""
        self._departures: dict[bytes, Departure] = {}
        """Since the last membership; the keys are back in it if they were written again."""
        self._membership = Membership(services={})

    # ------------------------------------------------------------------------- changes

    def apply(self, events: Iterable[Event]) -> None:
        """One frame's events. The resume point becomes the last *event's* revision, never the
        header's: replayed batches stop anywhere, under the header of the current revision."""
        resume = self.revision + 1
        for event in events:
            kv = event.kv
            if kv.mod_revision < resume:
                continue
            if event.deleted:
                self._remove(kv.key, kv.mod_revision)
            else:
                self._put(_entry(self.prefix, kv, self._known(kv.key)))
            self.revision = max(self.revision, kv.mod_revision)

    def bookmark(self, revision: int) -> None:
        """A progress notification: the store promises that nothing is missing up to here."""
        self.revision = max(self.revision, revision)

    def draft(self, revision: int) -> Draft:
        """Start a full list at `revision`; hand it to `adopt` when all pages are in."""
        return Draft(self.prefix, self._entries | self._held, revision)

    def adopt(self, draft: Draft, *, went_back: bool = False) -> int:
        """Replace the view by a list; returns how many keys differed.

        With `went_back`, or when the list is older than the view, keys that the list lacks
        are held instead of removed.
        """
        hold = went_back or draft.revision < self.revision
        different = 0
        for key in [key for key in self._entries if key not in draft.entries]:
            different += 1
            if hold and self._entries[key].instance is not None:
                self._held[key] = self._entries.pop(key)
                self._noted.pop(key, None)
            else:
                self._remove(key)
        for key, entry in draft.entries.items():
            current = self._entries.get(key)
            if current is None or current.kv != entry.kv:
                different += 1
                self._put(entry)
        self.revision = draft.revision
        self._newest = None
        return different

    def release(self) -> None:
        """Let go of the held: whoever has not registered again by now is gone."""
        for key in list(self._held):
            self._remove(key)

    # --------------------------------------------------------------------------- reads

    @property
    def resume(self) -> int:
        """The revision to watch from."""
        return self.revision + 1

    @property
    def held(self) -> int:
        return len(self._held)

    def __len__(self) -> int:
        """Keys in the store, readable or not; the held are not in the store."""
        return len(self._entries)

    def agrees(self, newest: KeyValue | None, count: int) -> bool:
        """Do the store's most recently written key and its number of keys match the view?

        The value is compared as well: a wiped store that was filled again reaches the same
        revisions and counts, with other instances in it.
        """
        if self._newest is None and self._entries:
            self._newest = max(
                (entry.kv for entry in self._entries.values()), key=lambda kv: kv.mod_revision
            )
        if count != len(self._entries):
            return False
        if newest is None or self._newest is None:
            return newest is self._newest
        if newest.mod_revision != self._newest.mod_revision:
            return False
        # One transaction may have written several keys at this revision: any of them is newest.
        entry = self._entries.get(newest.key)
        return entry is not None and entry.kv == newest

    def differences(
        self, kvs: Mapping[bytes, KeyValue], revision: int
    ) -> set[tuple[bytes, KeyValue | None]]:
        """Keys in which the view differs from a full list taken at `revision`, each with what
        the store holds. One comparison proves nothing while the watch runs on: the view may be
        a moment behind the list, or ahead of it. What two comparisons a moment apart have in
        common was missed."""
        return {
            (key, kvs.get(key))
            for key, entry in self._entries.items()
            if entry.kv.mod_revision <= revision and kvs.get(key) != entry.kv
        } | {(key, kv) for key, kv in kvs.items() if key not in self._entries}

    def invalid(self) -> tuple[InvalidRecord, ...]:
        """The keys whose current value cannot be read, in key order."""
        return tuple(self._invalid(key) for key, entry in self._in_order() if entry.reason)

    def odd(self) -> tuple[OddRecord, ...]:
        """The keys of whose current value something was not understood, in key order."""
        return tuple(self._odd(key) for key, entry in self._in_order() if entry.odd)

    def news(self) -> tuple[InvalidRecord | OddRecord, ...]:
        """Of the invalid and the odd those that are so since the last call, or for another
        reason than before, in key order."""
        news = tuple(
            self._invalid(key) if self._noted[key].reason else self._odd(key)
            for key in sorted(self._news & self._noted.keys())
        )
        self._news.clear()
        return news

    @property
    def instances(self) -> int:
        return sum(map(len, self._pools.values()))

    def membership(self) -> Membership:
        """The membership now. The identical object while nothing changed, and within it the
        identical tuple for each service of which nothing changed. Instances are in the order
        of their ids."""
        services = dict(self._membership.services)
        changed = False
        for service in self._dirty:
            pool = self._pools.get(service, {})
            members = tuple(instance for _, instance in sorted(pool.items()))
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

    def _known(self, key: bytes) -> _Entry | None:
        return self._entries.get(key) or self._held.get(key)

    def _in_order(self) -> list[tuple[bytes, _Entry]]:
        return sorted(self._noted.items(), key=lambda item: item[0])

    def _invalid(self, key: bytes) -> InvalidRecord:
        entry = self._noted[key]
        return InvalidRecord(
            key=key.decode(errors="replace"),
            reason=entry.reason or "",
            kept=entry.instance is not None,
            service=service_of(key, self.prefix),
        )

    def _odd(self, key: bytes) -> OddRecord:
        return OddRecord(
            key=key.decode(errors="replace"),
            reason=self._noted[key].odd,
            service=service_of(key, self.prefix),
        )

    def _note(self, entry: _Entry) -> None:
        key = entry.kv.key
        before = self._noted.pop(key, None)
        if not (entry.reason or entry.odd):
            return
        self._noted[key] = entry
        if before is None or (before.reason, before.odd) != (entry.reason, entry.odd):
            self._news.add(key)

    def _put(self, entry: _Entry) -> None:
        key = entry.kv.key
        self._held.pop(key, None)
        self._note(entry)
        self._departures.pop(key, None)
        self._entries[key] = entry
        self._newest = None
        if entry.instance is not None:
            service = entry.instance.service
            pool = self._pools.setdefault(service, {})
            if pool.get(key) is not entry.instance:
                pool[key] = entry.instance
                self._dirty.add(service)

    def _remove(self, key: bytes, revision: int = 0) -> None:
        entry = self._entries.pop(key, None) or self._held.pop(key, None)
        self._noted.pop(key, None)
        self._newest = None
        if entry is not None and entry.instance is not None:
            service = entry.instance.service
            self._departures[key] = Departure(
                service=service,
                id=entry.instance.id,
                health=entry.instance.health,
                lease=entry.kv.lease,
                revision=revision,
            )
            pool = self._pools[service]
            del pool[key]
            if not pool:
                del self._pools[service]
            self._dirty.add(service)


def _entry(prefix: bytes, kv: KeyValue, known: _Entry | None) -> _Entry:
    """Decode one key. An unreadable value keeps the last good one; an unchanged value keeps
    the object, so that a full list of known keys decodes nothing."""
    if known is not None and known.kv.value == kv.value:
        return _Entry(kv, known.instance, known.reason, known.odd)
    try:
        instance, odd = read(*split_key(kv.key, prefix), kv.value)
        return _Entry(kv, instance, odd=odd)
    except Unreadable as error:
        return _Entry(kv, known.instance if known else None, str(error))
