"""The snapshot file: written whole or not at all, believed only when it is undamaged."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from proxy.membership import Instance, Membership
from proxy.registry.decorators.snapshot import SnapshotError, decode, encode
from proxy.registry.decorators.snapshot_file import SnapshotFile
from tests.support.manual_provider import save_snapshot

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


def test_a_saved_snapshot_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "pools.json"
    save_snapshot(path, MEMBERSHIP, 1_795_344_000.5)
    found = SnapshotFile(str(path)).load()
    assert found is not None
    assert found.saved_at == 1_795_344_000.5
    assert found.membership.services == MEMBERSHIP.services
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["pools.json"]


def test_without_a_file_there_is_nothing(tmp_path: Path) -> None:
    assert SnapshotFile(str(tmp_path / "pools.json")).load() is None


def test_a_new_one_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "pools.json"
    save_snapshot(path, MEMBERSHIP, 1.0)
    save_snapshot(path, Membership(services={}), 2.0)
    found = SnapshotFile(str(path)).load()
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
def test_a_file_of_anything_else_is_refused_in_plain_words(content: bytes, words: str) -> None:
    with pytest.raises(SnapshotError, match=words):
        decode(content)


def test_a_file_that_cannot_be_read_or_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="cannot be read"):
        SnapshotFile(str(tmp_path)).load()
    with pytest.raises(SnapshotError, match="cannot be written"):
        SnapshotFile(str(tmp_path / "nowhere" / "pools.json")).save(MEMBERSHIP, 1.0)


def test_of_several_proxies_with_one_file_one_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "pools.json"
    one, other = SnapshotFile(str(path)), SnapshotFile(str(path))
    one.save(MEMBERSHIP, 1.0)
    for _ in range(2):
        with pytest.raises(SnapshotError, match="another proxy writes it"):
            other.save(Membership(services={}), 2.0)
        one.save(MEMBERSHIP, 3.0)
    found = other.load()
    assert found is not None
    assert found.saved_at == 3.0
    one.close()  # As it does when it ends, however that comes about.
    other.save(MEMBERSHIP, 4.0)
    with pytest.raises(SnapshotError):
        one.save(MEMBERSHIP, 5.0)
    other.close()


def test_a_file_that_was_removed_or_replaced_by_hand_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "pools.json"
    file = SnapshotFile(str(path))
    file.save(MEMBERSHIP, 1.0)
    path.unlink()
    file.save(MEMBERSHIP, 2.0)
    path.unlink()
    path.write_text("{}")
    file.save(MEMBERSHIP, 3.0)
    found = file.load()
    file.close()
    assert found is not None
    assert found.saved_at == 3.0


def test_proxies_that_begin_to_write_at_once_agree_after_one_turn(tmp_path: Path) -> None:
    path, together = tmp_path / "pools.json", Barrier(5)

    def turn(file: SnapshotFile) -> bool:
        together.wait()
        try:
            file.save(MEMBERSHIP, 1.0)
        except SnapshotError:
            return False
        return True

    with ThreadPoolExecutor(5) as threads:
        for _ in range(10):
            proxies = [SnapshotFile(str(path)) for _ in range(5)]
            together.reset()
            list(threads.map(turn, proxies))
            assert sum(threads.map(turn, proxies)) == 1
            assert sum(threads.map(turn, proxies)) == 1
            for proxy in proxies:
                proxy.close()
            assert [file.name for file in tmp_path.iterdir()] == ["pools.json"]
            path.unlink()


def test_files_a_killed_proxy_left_half_written_are_swept_up(tmp_path: Path) -> None:
    path = tmp_path / "pools.json"
    left, under_way, other = (
        tmp_path / name
        for name in (".pools.json.new.12", ".pools.json.new.34", ".other.json.new.56")
    )
    for file in (left, under_way, other):
        file.write_text("half")
    os.mkfifo(tmp_path / ".pools.json.new.pipe")
    with under_way.open() as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        save_snapshot(path, MEMBERSHIP, 1.0)
    assert not left.exists()
    assert under_way.exists()
    assert other.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_rights_that_are_lost_are_told_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "d" / "pools.json"
    path.parent.mkdir()
    file = SnapshotFile(str(path))
    file.save(MEMBERSHIP, 1.0)
    path.parent.chmod(0o500)
    with pytest.raises(SnapshotError, match=os.strerror(errno.EACCES)):
        file.save(MEMBERSHIP, 2.0)
    path.parent.chmod(0o700)
    found = file.load()
    file.close()
    assert found is not None
    assert found.saved_at == 1.0


def test_unknown_fields_of_a_later_version_are_no_obstacle() -> None:
    content = encode(MEMBERSHIP, 1.0)[:-1] + b',"comment":"x"}'
    assert decode(content).membership.services == MEMBERSHIP.services
