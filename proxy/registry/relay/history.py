"""The records that a relay knows, and the last changes, for followers to go on from. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from proxy.membership import Instance, Membership
from proxy.registry.relay.frames import PARTS, Digest, Frame, key_of, part_of, record_of

KEPT_BYTES: Final = 16 * 2**20
"""Of the last changes, for all followers together: some 60,000 records, which is ten minutes of a
hundred changes a second. Whoever is further behind gets the whole list."""
PIECE: Final = 256
"""Instances in a frame of a list: some 60 KB, which is what a connection has room for."""

Name = tuple[str, str]


class History:
    """Owns the records as they are told, and the frames of the last changes."""

    def __init__(self, kept: int = KEPT_BYTES) -> None:
        self._kept = kept
        self._pools: Mapping[str, tuple[Instance, ...]] = {}
        self._records: list[dict[Name, bytes]] = [{} for _ in range(PARTS)]
        """In parts, as the digest has them."""
        self._digest = Digest()
        self._frames: deque[tuple[str, bytes]] = deque()  # ≤ KEPT_BYTES, see take()
        """Each with the digest before it."""
        self._bytes = 0
        self._first = 0
        """Number of the oldest frame."""
        self._at: dict[str, int] = {}
        """Digest → the frame after it."""
        self._whole: list[bytes] | None = None
        self._lead: tuple[str, list[bytes]] = "", []
        """The last answer of `lead`, and to whom: all who followed one relay ask from one place."""
        self.cluster, self.revision = "", 0

    @property
    def next(self) -> int:
        """Number of the frame that is not there yet."""
        return self._first + len(self._frames)

    def take(self, membership: Membership, cluster: str) -> None:
        """Take over what the registry says now."""
        put: list[tuple[str, str, msgspec.Raw]] = []
        gone: list[Name] = []
        before = str(self._digest)
        for service in {**self._pools, **membership.services}:
            old, new = self._pools.get(service, ()), membership.services.get(service, ())
            if old is new:
                continue
            known = {one.id: one for one in old}
            for one in new:
                if known.pop(one.id, None) is not one:
                    record = record_of(one)
                    if self._set(service, one.id, record):
                        put.append((service, one.id, msgspec.Raw(record)))
            for id_ in known:
                self._drop(service, id_)
                gone.append((service, id_))
        self._pools = membership.services
        self.cluster, self.revision = cluster, membership.revision
        self._whole, self._lead = None, ("", [])
        if put or gone:
            self._keep(before, self._line(put=tuple(put), gone=tuple(gone)))

    def after(self, digest: str) -> int | None:
        """Number of the first frame that whoever knows this has not had; None: that is too long
        ago, or was never so."""
        return self.next if digest == str(self._digest) else self._at.get(digest)

    def since(self, number: int, most: int) -> list[bytes] | None:
        """Frames from this number on, of `most` bytes together, or a single one that is larger;
        None: they are not kept any more."""
        if number < self._first:
            return None
        found: list[bytes] = []
        size = 0
        for at in range(number - self._first, len(self._frames)):
            line = self._frames[at][1]
            size += len(line)
            if found and size > most:
                break
            found.append(line)
        return found

    def whole(self) -> list[bytes]:
        """All there is, as frames; the same list for all who ask before the next change."""
        if self._whole is None:
            self._whole = self._list(range(PARTS))
        return self._whole

    def lead(self, parts: str) -> list[bytes]:
        """Frames that lead somebody whose digest has these parts to all there is: of the parts
        that differ, or everything where those are most of them."""
        if self._lead[0] != parts:
            try:
                differing = self._digest.differing(parts)
            except ValueError:
                differing = []
            few = 0 < len(differing) <= PARTS // 2
            self._lead = parts, self._list(differing, full=False) if few else self.whole()
        return self._lead[1]

    def beat(self) -> bytes:
        """A frame that says that nothing has changed."""
        return self._line()

    # ------------------------------------------------------------------------- private

    def _list(self, parts: Sequence[int], full: bool = True) -> list[bytes]:
        """The records of these parts."""
        found = [
            (*name, msgspec.Raw(record))
            for part in parts
            for name, record in self._records[part].items()
        ]
        return [
            self._line(
                full=full,
                more=at + PIECE < len(found),
                parts=() if full or at else tuple(parts),
                put=tuple(found[at : at + PIECE]),
            )
            for at in range(0, max(1, len(found)), PIECE)
        ]

    def _part(self, service: str, id_: str) -> dict[Name, bytes]:
        return self._records[part_of(key_of(service, id_))]

    def _set(self, service: str, id_: str, record: bytes) -> bool:
        part = self._part(service, id_)
        before = part.get((service, id_))
        if before == record:
            return False
        if before is not None:
            self._digest.remove(service, id_, before)
        self._digest.add(service, id_, record)
        part[service, id_] = record
        return True

    def _drop(self, service: str, id_: str) -> None:
        self._digest.remove(service, id_, self._part(service, id_).pop((service, id_)))

    def _line(
        self,
        *,
        full: bool = False,
        more: bool = False,
        parts: tuple[int, ...] = (),
        put: tuple[tuple[str, str, msgspec.Raw], ...] = (),
        gone: tuple[Name, ...] = (),
    ) -> bytes:
        digest = str(self._digest)
        frame = Frame(
            cluster=self.cluster,
            revision=self.revision,
            digest=digest,
            full=full,
            more=more,
            parts=parts,
            put=put,
            gone=gone,
        )
        return msgspec.json.encode(frame) + b"\n"

    def _keep(self, before: str, line: bytes) -> None:
        self._at[before] = self.next
        self._frames.append((before, line))
        self._bytes += len(line)
        while self._bytes > self._kept and self._frames:
            digest, old = self._frames.popleft()
            if self._at[digest] == self._first:
                del self._at[digest]
            self._first += 1
            self._bytes -= len(old)
