"""The snapshot file: written whole or not at all, believed only when it is undamaged."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from proxy.membership import Instance, Membership
from proxy.registry.snapshot_file import SnapshotError, decode, encode, load, save

INSTANCE = Instance(
    service="users",
    id="a",
    address="10.0.0.1",
    port=80,
    weight=3,
    version="1.2",
    metadata={"zone": "ü"},
    health="draining",
    health_message="x",
)
MEMBERSHIP = Membership(services={"users": (INSTANCE,), "orders": ()}, revision=7)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "pools.json"
    save(path, MEMBERSHIP, 1_795_344_000.5)
    found = load(path)
    assert found is not None
    assert found.saved_at == 1_795_344_000.5
    assert found.membership.services == MEMBERSHIP.services
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["pools.json"]


def test_without_a_file_there_is_nothing(tmp_path: Path) -> None:
    assert load(tmp_path / "pools.json") is None


def test_a_new_one_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "pools.json"
    save(path, MEMBERSHIP, 1.0)
    save(path, Membership(services={}), 2.0)
    found = load(path)
    assert found is not None
    assert found.membership.services == {}


@pytest.mark.parametrize("at", range(0, len(encode(MEMBERSHIP, 1.0)), 7))
def test_a_file_that_is_cut_short_is_refused(at: int) -> None:
    with pytest.raises(SnapshotError):
        decode(encode(MEMBERSHIP, 1.0)[:at])


def test_a_changed_character_is_noticed() -> None:
    with pytest.raises(SnapshotError, match="checksum"):
        decode(encode(MEMBERSHIP, 1.0).replace(b"10.0.0.1", b"10.0.0.2"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a snapshot"),
        (b"\xff\xfe", "is not a snapshot"),
        (b"[]", "is not a snapshot"),
        (b"{}", "is not a snapshot"),
        (encode(MEMBERSHIP, 1.0).replace(b'"format":1', b'"format":2'), "has format 2"),
    ],
)
def test_anything_else_is_refused_in_plain_words(content: bytes, words: str) -> None:
    with pytest.raises(SnapshotError, match=words):
        decode(content)


def test_what_cannot_be_read_or_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="cannot be read"):
        load(tmp_path)
    with pytest.raises(SnapshotError, match="cannot be written"):
        save(tmp_path / "nowhere" / "pools.json", MEMBERSHIP, 1.0)


def test_unknown_fields_of_a_later_version_are_no_obstacle() -> None:
    content = encode(MEMBERSHIP, 1.0)[:-1] + b',"comment":"x"}'
    assert decode(content).membership.services == MEMBERSHIP.services
