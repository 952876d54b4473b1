"""Laws of an entry against one simulated key, which others edit, delete and take over between
any two of our steps, and whose answers get lost."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from proxy.register.backend import Found
from proxy.register.entry import Entry
from proxy.register.record import Health, Record

START = datetime(2026, 1, 1, tzinfo=UTC)
OURS, FOREIGN = 7, 99


class Key:
    """One key of a registry, with guarded writes."""

    def __init__(self) -> None:
        self.revision = 1
        self.now: Found | None = None

    def put(self, value: bytes, lease: int) -> None:
        self.revision += 1
        self.now = Found(value, self.revision, lease)

    def delete(self) -> None:
        self.revision += 1
        self.now = None

    @property
    def at(self) -> int:
        return self.now.revision if self.now else 0


FOREIGN_VALUE = b'{"address": "10.9.9.9", "port": 1}'


def foreign(key: Key) -> bool:
    """A newer process has the key, and what it wrote."""
    return key.now is not None and (key.now.value, key.now.lease) == (FOREIGN_VALUE, FOREIGN)


def edit(key: Key, label: str) -> None:
    """As an operator does it with a guarded write: keep all, add one label."""
    assert key.now is not None
    document = json.loads(key.now.value)
    document["metadata"][label] = "x"
    key.put(json.dumps(document).encode(), key.now.lease)


def step(entry: Entry, key: Key, lease: int, answer: bool = True) -> None:
    """One guarded write and what is learnt from it."""
    write = entry.plan()
    if key.at != write.revision:
        entry.found(key.now, lease.__eq__)
        return
    if write.value is None:
        key.delete()
    else:
        key.put(write.value, lease)
    if answer:
        entry.wrote(write, key.revision)


def guarded_step(entry: Entry, key: Key, lease: int, answer: bool) -> None:
    """A step; once registered, nothing of ours goes over what a newer process wrote."""
    newer = entry.joined and foreign(key)
    step(entry, key, lease, answer)
    assert not newer or foreign(key)


actions = st.sampled_from(
    [
        *("step", "step", "step", "lost answer", "report", "seen", "check"),
        *("edit", "by hand", "garbage", "delete", "lease lost", "taken", "given up"),
    ]
)


@given(st.lists(actions, max_size=40))
def test_an_entry_settles_and_no_edit_of_others_is_lost(script: list[str]) -> None:
    key = Key()
    record = Record(service="users", id="a", address="10.0.0.1", port=80)
    entry = Entry(record, record.value(START))
    lease, reports = OURS, 0
    labels: set[str] = set()
    """Edits that must survive: made to a record that was there, and not deleted since."""
    for number, action in enumerate(script):
        if action == "step" and not entry.settled:
            guarded_step(entry, key, lease, answer=True)
        elif action == "lost answer" and not entry.settled:
            guarded_step(entry, key, lease, answer=False)
        elif action == "report":
            reports += 1
            at = START + timedelta(seconds=reports)
            assert entry.report(Health("unhealthy" if reports % 2 else "healthy", str(reports), at))
        elif action == "seen":
            assert entry.report(Health(None, "", START + timedelta(seconds=reports)))
        elif action == "edit" and key.now and key.now.lease == lease and entry.joined:
            edit(key, f"label{number}")
            labels.add(f"label{number}")
        elif action == "by hand" and key.now and key.now.lease == lease and entry.joined:
            key.put(key.now.value, 0)  # etcdctl put, without the lease
        elif action == "garbage" and entry.joined:
            key.put(b"\xff not JSON", 0)
            labels.clear()
        elif action == "delete":
            key.delete()
            labels.clear()
        elif action == "taken" and entry.joined:
            key.put(FOREIGN_VALUE, FOREIGN)
            labels.clear()
        elif action == "given up" and foreign(key):
            key.delete()
        elif action == "check" and (key.now is None or key.now.lease != lease):
            entry.found(key.now, lease.__eq__)
        elif action == "lease lost":
            if key.now is not None and key.now.lease == lease:
                key.delete()
                labels.clear()
            lease += 1
            entry.lost_lease()
    if foreign(key):
        entry.found(key.now, lease.__eq__)
        assert entry.taken
        assert entry.settled
        key.delete()
    if key.now is None or key.now.lease != lease:
        entry.found(key.now, lease.__eq__)  # what each keep-alive's check finds
    for _ in range(4):
        if not entry.settled:
            step(entry, key, lease)
    assert entry.settled
    assert entry.joined
    assert not entry.taken
    assert key.now is not None
    assert key.now.lease == lease
    document = json.loads(key.now.value)
    assert (document["address"], document["port"]) == ("10.0.0.1", 80)
    assert labels <= set(document["metadata"])
    if reports:
        assert document["health"]["message"] == str(reports)
        assert document["health"]["status"] == ("unhealthy" if reports % 2 else "healthy")


@given(st.lists(st.sampled_from(["step", "lost answer", "report"]), max_size=6), st.booleans())
def test_a_removed_entry_leaves_nothing_behind_and_takes_nothing_along(
    script: list[str], taken: bool
) -> None:
    key = Key()
    record = Record(service="users", id="a", address="10.0.0.1", port=80)
    entry = Entry(record, record.value(START))
    for action in script:
        if action == "report":
            entry.report(Health("unhealthy", "x", START))
        elif not entry.settled:
            step(entry, key, OURS, answer=action == "step")
    if taken:
        key.put(b"{}", FOREIGN)
    entry.leave()
    for _ in range(3):
        if not entry.settled:
            step(entry, key, OURS)
    assert entry.settled
    assert (key.now is not None) == taken


def test_an_older_registration_is_taken_over_and_a_newer_one_left_alone() -> None:
    key = Key()
    record = Record(service="users", id="a", address="10.0.0.1", port=80)
    key.put(b'{"address": "10.9.9.9", "port": 1, "old": true}', FOREIGN)
    entry = Entry(record, record.value(START))
    step(entry, key, OURS)
    step(entry, key, OURS)
    assert entry.settled
    assert key.now is not None
    assert "old" not in json.loads(key.now.value)
    key.put(b'{"address": "10.9.9.9", "port": 1, "new": true}', FOREIGN)
    entry.report(Health("unhealthy", "x", START))
    step(entry, key, OURS)
    assert entry.taken
    for status in ("unhealthy", "healthy", "unhealthy"):
        entry.report(Health(status, "x", START))
        assert entry.settled
    assert "new" in json.loads(key.now.value)
    entry.found(key.now, lambda one: one == OURS)
    assert entry.settled
    key.delete()  # it went: the check finds nobody
    entry.found(None, lambda one: one == OURS)
    step(entry, key, OURS)
    assert key.now is not None
    assert json.loads(key.now.value)["health"]["message"] == "x"
    # Stated anew, a record takes the key back from whoever has it.
    key.put(b'{"address": "10.9.9.9", "port": 1, "newer": true}', FOREIGN)
    again = record.value(START)
    entry.replace(record, again)
    step(entry, key, OURS)
    step(entry, key, OURS)
    assert (key.now.value, key.now.lease) == (again, OURS)


def test_once_draining_always_draining() -> None:
    record = Record(service="users", id="a", address="10.0.0.1", port=80)
    entry = Entry(record, record.value(START))
    assert entry.report(Health("draining", "", START))
    assert not entry.report(Health("healthy", "", START))
    assert not entry.report(Health(None, "", START))
    key = Key()
    step(entry, key, OURS)
    assert key.now is not None
    assert json.loads(key.now.value)["health"]["status"] == "draining"
    entry.leave()
    assert not entry.report(Health("draining", "", START))


def test_a_sign_of_life_keeps_a_status_that_somebody_else_wrote() -> None:
    key = Key()
    record = Record(service="users", id="a", address="10.0.0.1", port=80)
    entry = Entry(record, record.value(START))
    step(entry, key, OURS)
    assert key.now is not None
    document = json.loads(key.now.value)
    document["health"] = {"status": "maintenance", "message": "disk", "ticket": 5}
    key.put(json.dumps(document).encode(), OURS)
    entry.report(Health(None, "", START + timedelta(hours=1)))
    step(entry, key, OURS)
    step(entry, key, OURS)
    assert json.loads(key.now.value)["health"] == {
        "status": "maintenance",
        "message": "disk",
        "ticket": 5,
        "last_check": "2026-01-01T01:00:00Z",
    }
