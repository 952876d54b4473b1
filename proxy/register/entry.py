"""One record's place in the registry: what is wanted, what is known, what to write. Pure.

Each write is guarded by the revision last seen, so a write of somebody else is never undone
unseen: the guard fails, what there is instead is found, and the decision is made anew.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.register.backend import Found, Write
from proxy.register.record import Health, Record, is_readable, with_health

DRAINING = "draining"


class Entry:
    """Owns what is wanted of one key and what was last seen there.

    * `joined`: it has been registered in this life. From then on a key under somebody else's
      lease is a newer process with the same id, and it wins; before, it is an older one, which
      loses.
    * `taken`: somebody else has the key now.
    * `leaving`: the key is to go.
    """

    __slots__ = (
        *("draining", "health", "joined", "leaving", "name", "present"),
        *("record", "revision", "settled", "taken", "value"),
    )

    def __init__(self, record: Record, value: bytes) -> None:
        self.name = record.name
        self.record = record
        self.value = value
        """Value that the key holds, or is to hold when it is missing."""
        self.revision = 0
        self.health: Health | None = None
        """A statement that is not written yet; the latest one only."""
        self.settled = False
        """Whether nothing is to be done, as far as known."""
        self.present = False
        """The key is there under our lease, as far as known."""
        self.joined = False
        self.draining = False
        self.taken = False
        self.leaving = False

    # ------------------------------------------------------------------- what is wanted

    def report(self, health: Health) -> bool:
        """State health. False when it changes nothing that is wanted: once draining, always
        draining, so that a good check does not call an instance back that is about to go."""
        if self.leaving or (self.draining and health.status != DRAINING):
            return False
        if health.status is None and self.health is not None:
            # Seen again, and the statement before has not even been written.
            health = Health(self.health.status, self.health.message, health.at)
        self.draining = self.draining or health.status == DRAINING
        self.health = health
        self.settled = self.taken  # It is written when the key is ours again.
        return True

    def replace(self, record: Record, value: bytes) -> None:
        """State the whole record anew, as if it had never been registered: what others wrote
        into it goes, and who has the key loses it."""
        self.record = record
        self.value = value
        self.health = None
        self.draining = False
        self.joined = False
        self.taken = False
        self.settled = False

    def leave(self) -> None:
        """The key is to go. Even one that was never seen: a write without an answer may have
        landed. One that a newer process has is not ours to delete: without its revision the
        guard fails as long as it is there."""
        self.leaving = True
        self.settled = False
        if self.taken:
            self.revision = 0

    # -------------------------------------------------------------------- what is known

    def lost_lease(self) -> None:
        """Take back what hung on a lease, which is lost; what is left is found by the guard."""
        self.revision = 0
        self.present = False
        self.settled = self.leaving
        self.taken = False

    def found(self, seen: Found | None, was_ours: Callable[[int], bool]) -> None:
        """Take over the registry's entry under the key; None: there is none."""
        self.taken = False
        self.settled = False
        # Edited under our lease, it has been there all the time; under a former one, it had been
        # given up when that was lost.
        self.present = self.present and seen is not None and was_ours(seen.lease)
        if seen is None:
            self.revision = 0
            self.settled = self.leaving
            return
        self.revision = seen.revision
        by_hand = seen.lease == 0 and self.joined
        if was_ours(seen.lease) or by_hand:
            if self.joined and is_readable(seen.value):
                self.value = seen.value  # somebody's edit of our record stays
        elif self.joined or self.leaving:
            self.taken = True
            self.settled = True

    # ---------------------------------------------------------------------- what to write

    def plan(self) -> Write:
        """The write that would settle the entry now."""
        if self.leaving:
            return Write(self.name, None, self.revision)
        value = self.value
        if self.health is not None:
            value = with_health(value, self.health) or value
        return Write(self.name, value, self.revision, self.health)

    def wrote(self, write: Write, revision: int) -> bool:
        """The guarded write was done, at `revision`. True when the entry joined by it: for the
        first time, or after it had been missing."""
        if write.value is None:
            self.revision = 0
            self.present = False
            self.settled = True
            return False
        again = not self.present
        self.value = write.value
        self.revision = revision
        self.present = True
        self.joined = True
        self.taken = False
        if self.health is write.health:
            self.health = None
            self.settled = not self.leaving
        return again
