"""Instances in files: what a look finds, and the provider over real files on stepped looks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.registry.base import RegistryError
from proxy.registry.file.look import Seen, joined, look
from proxy.registry.lists import read_record
from proxy.registry.records import Unreadable

A = "users: ['10.0.0.1:80']\n"
B = '{"orders": [{"id": "b", "address": "10.0.0.2", "port": 80}]}'


class Looks:
    """One look after another, each twice, as a file is read once it is the same in two."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: Mapping[str, Seen] = {}

    def __call__(self, times: int = 2) -> list[str]:
        """Ids of the instances, and complaints in brackets."""
        for _ in range(times):
            self.seen = look(str(self.path), self.seen)
        return sorted(_told(key, value) for key, value in joined(self.seen).items())


def _told(key: bytes, value: bytes) -> str:
    try:
        return read_record(key, value)[0].id
    except Unreadable as error:
        return f"({os.path.basename(key.decode())}: {error})"


def test_a_file_is_read_once_two_looks_have_found_it_the_same(tmp_path: Path) -> None:
    path = tmp_path / "instances.yaml"
    path.write_text(A)
    looks = Looks(path)
    assert looks(1) == []
    assert not looks.seen[str(path)].settled
    assert looks(1) == ["10.0.0.1:80"]
    path.write_text(A.replace(":80", ":81"))
    assert looks(1) == ["10.0.0.1:80"]
    assert looks(1) == ["10.0.0.1:81"]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", "is empty, as one that is being written"),
        ("users: ['10.0.0", "line 1: not valid YAML"),
        ("users: 10.0.0.1:80", "has no list under 'users'"),
        ("users: []\nusers: []", "line 2: stands here a second time"),
    ],
)
def test_a_file_that_cannot_be_used_keeps_what_it_held(
    tmp_path: Path, written: str, reason: str
) -> None:
    path = tmp_path / "instances.yaml"
    path.write_text(A)
    looks = Looks(path)
    assert looks() == ["10.0.0.1:80"]
    path.write_text(written)
    [complaint, id_] = looks()
    assert id_ == "10.0.0.1:80"
    assert complaint.startswith(f"(instances.yaml: {reason}")
    assert complaint.endswith("what it held before is used)")
    path.write_text("{}")
    assert looks() == []


def test_a_file_that_never_could_be_read_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text("{")
    looks = Looks(path)
    with pytest.raises(RegistryError, match="is not JSON"):
        looks()


def test_a_file_that_is_gone_is_an_outage(tmp_path: Path) -> None:
    path = tmp_path / "instances.yaml"
    looks = Looks(path)
    with pytest.raises(RegistryError, match="No such file"):
        looks()


def test_files_of_a_directory_are_read_together_and_one_harms_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(A)
    (tmp_path / "b.json").write_text(B)
    (tmp_path / "c.yml").write_text("[")
    (tmp_path / "notes.txt").write_text("[")
    (tmp_path / ".hidden.yaml").write_text("[")
    looks = Looks(tmp_path)
    complaint, *ids = looks()
    assert ids == ["10.0.0.1:80", "b"]
    assert complaint.startswith("(c.yml: line 1")
    (tmp_path / "a.yaml").unlink()
    assert looks()[1:] == ["b"]


def test_a_link_that_leads_nowhere_harms_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(A)
    (tmp_path / "b.json").symlink_to(tmp_path / "target")
    looks = Looks(tmp_path)
    assert looks() == ["(b.json: cannot be read: No such file or directory)", "10.0.0.1:80"]
    (tmp_path / "target").write_bytes(b"\xef\xbb\xbf" + B.encode())  # As Windows begins a text.
    assert looks() == ["10.0.0.1:80", "b"]
    (tmp_path / "target").unlink()
    complaint, *ids = looks()
    assert ids == ["10.0.0.1:80", "b"]
    assert complaint.endswith("No such file or directory; what it held before is used)")
    (tmp_path / "a.yaml").unlink()
    with pytest.raises(RegistryError, match="any more"):
        looks()
    (tmp_path / "a.yaml").write_text(A)
    (tmp_path / "b.json").unlink()
    assert looks() == ["10.0.0.1:80"]


def test_an_instance_that_two_files_have_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(A)
    (tmp_path / "b.yaml").write_text(A)
    assert Looks(tmp_path)() == ["(10.0.0.1:80: another file has it)", "10.0.0.1:80"]


def test_a_directory_whose_files_are_all_gone_is_an_outage(tmp_path: Path) -> None:
    looks = Looks(tmp_path)
    assert looks() == []  # There never were any.
    (tmp_path / "a.yaml").write_text(A)
    looks()
    (tmp_path / "a.yaml").unlink()
    with pytest.raises(RegistryError, match="any more"):
        looks()


def test_a_directory_that_is_swapped_as_kubernetes_does_is_followed(tmp_path: Path) -> None:
    for version, text in (("..1", A), ("..2", A.replace(":80", ":81"))):
        (tmp_path / version).mkdir()
        (tmp_path / version / "users.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "users.yaml").symlink_to("..data/users.yaml")
    looks = Looks(tmp_path)
    assert looks() == ["10.0.0.1:80"]
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    assert looks() == ["10.0.0.1:81"]
