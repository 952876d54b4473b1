"""The view: a roster of what etcd holds under the prefix, at one revision. Pure.

Beside the laws of a roster, whatever the stream does:

* a frame is applied whole or not at all, and the resume point moves only by what was applied;
* time never runs back: an event below the resume point was seen before, or is a copy from a
  member that lags, and changes nothing.

The one exception to the second law is a store that itself went back (wiped, or restored from
a backup). Its list is believed for what it holds, but not at once for what it lacks: services
need some seconds to notice that their leases are gone and to register again. Instances that
such a list lacks are retained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from proxy.registry.etcd.wire import Event, KeyValue
from proxy.registry.formats.layout import AUTO, read_any, service_at
from proxy.registry.roster import Entry, Roster


class Draft:
    """Owns a full list while its pages arrive, so that no page is decoded twice and the
    switch at the end is quick."""

    def __init__(self, view: View, revision: int) -> None:
        self.revision = revision
        self.entries: dict[bytes, Entry] = {}
        self._view = view

    def add(self, page: Iterable[KeyValue]) -> None:
        for kv in page:
            self.entries[kv.key] = self._view.read(kv)


class View(Roster):
    """Owns the state of the prefix. All keys and values are bytes as in the store."""

    def __init__(self, prefix: str, form: str = AUTO) -> None:
        """`form`: that of the records."""
        self.prefix = prefix.encode()
        super().__init__(
            partial(read_any, prefix=self.prefix, form=form),
            partial(service_at, prefix=self.prefix, form=form),
        )

    def read(self, kv: KeyValue) -> Entry:
        return self.entry(kv.key, kv.value, kv.mod_revision, kv.lease)

    # ------------------------------------------------------------------------- changes

    def apply(self, events: Iterable[Event]) -> None:
        """Apply the events of a frame. The resume point becomes the last *event's* revision, never
        the header's: replayed batches stop anywhere, under the header of the current revision."""
        resume = self.resume
        for event in events:
            kv = event.kv
            if kv.mod_revision < resume:
                continue
            if event.deleted:
                self.remove(kv.key, kv.mod_revision)
            else:
                self.put(self.read(kv))
            self.revision = max(self.revision, kv.mod_revision)

    def bookmark(self, revision: int) -> None:
        """A progress notification: the store promises that nothing is missing up to here."""
        self.revision = max(self.revision, revision)

    def draft(self, revision: int) -> Draft:
        """Start a full list at `revision`; hand it to `adopt` when all pages are in."""
        return Draft(self, revision)

    def adopt(self, draft: Draft, *, went_back: bool = False) -> int:
        """Replace the view by a list; returns how many keys differed.

        With `went_back`, or when the list is older than the view, keys that the list lacks
        are retained instead of removed.
        """
        retain = went_back or draft.revision < self.revision
        return self.replace(draft.entries, draft.revision, retain=retain)

    # --------------------------------------------------------------------------- reads

    @property
    def resume(self) -> int:
        """The revision to watch from."""
        return self.revision + 1

    def agrees(self, newest: KeyValue | None, count: int) -> bool:
        """Do the store's most recently written key and its number of keys match the view?

        The value is compared as well: a wiped store that was filled again reaches the same
        revisions and counts, with other instances in it.
        """
        if count != len(self.entries):
            return False
        if newest is None:
            return not self.entries
        # One transaction may have written several keys at this revision: any of them is newest.
        return _same(self.entries.get(newest.key), newest) and newest.mod_revision == max(
            entry.revision for entry in self.entries.values()
        )

    def differences(
        self, kvs: Mapping[bytes, KeyValue], revision: int
    ) -> set[tuple[bytes, KeyValue | None]]:
        """Keys in which the view differs from a full list taken at `revision`, each with what
        the store holds. One comparison proves nothing while the watch runs on: the view may be
        a moment behind the list, or ahead of it. What two comparisons a moment apart have in
        common was missed."""
        return {
            (key, kvs.get(key))
            for key, entry in self.entries.items()
            if entry.revision <= revision and not _same(entry, kvs.get(key))
        } | {(key, kv) for key, kv in kvs.items() if key not in self.entries}


def _same(entry: Entry | None, kv: KeyValue | None) -> bool:
    if entry is None or kv is None:
        return False
    return entry.stated == (kv.mod_revision, kv.lease, kv.value)
